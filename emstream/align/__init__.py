"""Where each frame lies on its anchor: shifts between images, a drifting series followed, frames moved.

Light to import. The doors are `register` (one pair), `start` and `follow` (a series, causal, state is a value),
`settle` (its final shifts, some frames later), `solve_series` (a stored series as a whole),
`move` and `covered` (pixels), `dump` and `load` (resume).
Everywhere `shift` is (dy, dx) px so that `scipy.ndimage.shift(frame, shift)` lies on the anchor frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from emstream.errors import BadSettings

if TYPE_CHECKING:
    from emstream.align.later import Settling as Settling
    from emstream.align.later import finish as finish
    from emstream.align.later import resume as resume
    from emstream.align.later import settle as settle
    from emstream.align.later import solve_series as solve_series
    from emstream.align.pair import register as register
    from emstream.align.persist import dump as dump
    from emstream.align.persist import load as load
    from emstream.align.resample import covered as covered
    from emstream.align.resample import move as move
    from emstream.align.resample import whole as whole
    from emstream.align.series import DriftState as DriftState
    from emstream.align.series import follow as follow
    from emstream.align.series import placed as placed
    from emstream.align.series import start as start

Resample = Literal["integer", "bilinear", "cubic", "fourier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignOptions:
    """How a drifting series is followed. Lengths are px of the frame unless said otherwise."""

    enabled: bool = True
    resample: Resample = "integer"  # integer is lossless; the rest of the shift stays in the table
    grid: int = 0  # longest side of the estimation grid; 0 = 256, or 512 on a GPU and from 4096 px on
    memory: int = 200  # frames after which the running reference forgets
    jitter_px: float = 0.5  # expected vibration per axis before it has been learnt
    drift_noise_px: float = 0.02  # change of the drift speed from frame to frame, px per frame
    dilate_px: float = 6.0  # excluded particles are widened by this much
    defects: bool = True  # find hot and dead pixels while running
    dose_low: float = 0.2  # a frame below this share of the running dose is blank
    dose_high: float = 3.0  # … and above this one
    give_up: int = 10  # frames without lock before a new anchor begins
    final_lag: int = 16  # frames seen after a frame before its final shift is fixed; 0 = the shift is final at once
    least_cover: float = 0.2  # share of the anchor frame that must stay covered; below, a new anchor begins

    def __post_init__(self) -> None:
        if self.resample not in ("integer", "bilinear", "cubic", "fourier"):
            raise BadSettings(f"align.resample = {self.resample!r}", "use integer, bilinear, cubic or fourier")
        if self.grid < 0 or 0 < self.grid < 32:
            raise BadSettings(f"align.grid = {self.grid}", "use 0 (automatic) or at least 32")
        if not 0 <= self.final_lag <= 256:
            raise BadSettings(f"align.final_lag = {self.final_lag}", "use 0 (off) to 256 frames")
        if self.memory < 2 or self.give_up < 1:
            raise BadSettings("align.memory must be >= 2 and align.give_up >= 1")
        if not 0 <= self.dose_low < 1 < self.dose_high:
            raise BadSettings("align.dose_low must lie in 0..1 and align.dose_high above 1")
        if self.jitter_px <= 0 or self.drift_noise_px <= 0 or self.dilate_px < 0 or not 0 <= self.least_cover < 1:
            raise BadSettings("align.jitter_px and drift_noise_px must be > 0, dilate_px >= 0, least_cover in 0..1")


@dataclass(frozen=True, slots=True)
class Estimate:
    """Where one frame lies."""

    shift: tuple[float, float]  # (dy, dx) px, onto the anchor frame
    confidence: float  # 0..1: how sure that the shift is right within 1 px
    anchor: int  # 0, then +1 each time a new anchor begins
    status: int  # bits of emstream.messages.Status
    sigma_px: float  # expected error per axis, px rms; inf where only predicted from nothing
    z: float  # height of the correlation peak over its predicted noise; 0 when not measured
    measured: tuple[float, float]  # (dy, dx) px as measured, before the prediction was weighed in
    dose: float  # mean counts per px after dark and gain
    defects: int  # pixels left out as hot or dead
    link: tuple[float, float] | None = None  # on a new anchor: its shift onto the anchor before, None if unknown


_ROOMS = {
    "register": "pair",
    "start": "series",
    "follow": "series",
    "placed": "series",
    "DriftState": "series",
    "move": "resample",
    "covered": "resample",
    "whole": "resample",
    "Settling": "later",
    "settle": "later",
    "finish": "later",
    "resume": "later",
    "solve_series": "later",
    "dump": "persist",
    "load": "persist",
}
__all__ = ["AlignOptions", "Estimate", "Resample", *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(import_module(f"emstream.align.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
