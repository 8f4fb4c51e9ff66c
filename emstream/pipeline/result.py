"""What the loop tells of a frame, and the keeper that a lane hands everything to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from emstream.messages import Aligned, Frame, Labelled, Measured, PixelSize
from emstream.pipeline.steps import Tables


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Result:
    """What the loop tells of one frame, after the store has it; `labelled` and `measured` follow later or never."""

    run: str
    frame: int  # in the run, from 0
    aligned: Aligned
    drift_speed: float  # px/s
    labelled: Labelled | None = None
    measured: Measured | None = None
    final: bool = True  # false for the newest frame that is shown before its tracks are known


class Keeper(Protocol):
    """Where a lane's results go: the store's write-behind queue, or memory. Calls keep their order.

    What `labels`, `state` and `close` are given is called once, in that order, behind the loop: the network's maps are
    taken apart there, particles are measured and tracked, while the loop aligns the next frames and looks at them.
    """

    name: str
    stored: int  # frames that the run had when it was opened
    pixel_size_nm: PixelSize | None  # of the run; single frames may not know it

    def reserve(self, frames: Sequence[Frame]) -> list[int | None]: ...
    def frame(self, slot: int, aligned: Aligned, keep_raw: bool, drift_speed: float) -> None: ...
    def finals(self, shifts: Mapping[int, tuple[float, float]]) -> None: ...
    def labels(self, measure: Callable[[], tuple[Result, Tables | None]], nbytes: int) -> None: ...
    def state(self, make: Callable[[], Mapping[str, np.ndarray]]) -> None: ...
    def saved_state(self) -> Mapping[str, np.ndarray] | None: ...
    def waiting(self, first: int) -> list[int]: ...
    def read(self, slot: int) -> Aligned: ...
    def read_labels(self, slot: int) -> Labelled: ...
    def drop_rows_from(self, frame: int, living: np.ndarray, next_track: int) -> None: ...
    def close(self, last: Callable[[], Tables]) -> None: ...
