"""What the page shows of one frame, and what the daemon says of itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emstream.messages import Aligned, Labelled, Measured, PixelSize, Rect, Status
from emstream.view.growth import UNKNOWN, Pace

NO_SIZES = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Shown:
    """One frame as the page shows it. Cheap to make: the arrays are only referred to, and must not change later.

    A frame that is not segmented (yet) has `count` None, no labels and no diameters.
    """

    run: str
    frame: int  # in the run, from 0
    time_s: float  # absolute, seconds since 1970, as the camera says
    pixels: np.ndarray  # (y, x) aligned frame, any real dtype, in main memory; or a coarser level of it
    full: tuple[int, int] | None = None  # (y, x) px of the frame itself, when `pixels` are a coarser level
    label_image: np.ndarray | None = None  # (y, x) integers, 0 = background; of any level
    pixel_size_nm: PixelSize | None = None
    valid: Rect | None = None  # what the frame covers; None = all of it
    shift: tuple[float, float] = (0.0, 0.0)  # (dy, dx) px onto the anchor
    confidence: float = math.nan  # 0..1
    anchor: int = 0
    status: int = 0  # Status bits
    drift_speed: float = math.nan  # px/s
    count: int | None = None
    area_fraction: float = math.nan  # 0..1
    labels: np.ndarray | None = None  # (n,) int: which label each diameter belongs to
    diameters: np.ndarray = field(default_factory=lambda: NO_SIZES)  # (n,) px, equivalent
    tracks: np.ndarray | None = None  # (n,) int: the same particle has the same number in every frame; -1 = none
    areas: np.ndarray | None = None  # (n,) px²
    places: np.ndarray | None = None  # (n, 2) px: y, x of the centroids, in the aligned frame
    whole: np.ndarray | None = None  # (n,) bool: not cut by the border; the others are left out of size statistics
    growth: np.ndarray | None = None  # (n,) px/s: dR/dt lately, NaN when not known
    growth_error: np.ndarray | None = None  # (n,) px/s: its standard error
    pace: Pace = UNKNOWN  # the mean of dR/dt over all tracks
    events: tuple[Mapping[str, Any], ...] = ()  # what is now known to have happened; inner names of the events table
    agreement: float = math.nan  # 0..1, how far two ways of segmenting agree
    model: str = ""
    captured_at: float = 0.0  # wall clock at which the camera's file got the frame

    @classmethod
    def of(
        cls,
        run: str,
        frame: int,
        aligned: Aligned,
        labelled: Labelled | None = None,
        measured: Measured | None = None,
        drift_speed: float = math.nan,
    ) -> Shown:
        """A frame of the loop; its arrays must be in main memory. drift_speed : px/s, NaN when not known."""
        columns = measured.particles if measured is not None else {}
        return cls(
            run=run,
            frame=frame,
            time_s=aligned.frame.time_s,
            pixels=aligned.pixels,
            label_image=labelled.labels if labelled is not None else None,
            pixel_size_nm=aligned.frame.pixel_size_nm,
            valid=aligned.valid,
            shift=aligned.shift,
            confidence=aligned.confidence,
            anchor=aligned.anchor,
            status=int(aligned.status),
            drift_speed=drift_speed,
            count=measured.count if measured is not None else None,
            area_fraction=measured.area_fraction if measured is not None else math.nan,
            labels=np.asarray(columns["label"]) if "label" in columns else None,
            diameters=np.asarray(columns.get("diameter", NO_SIZES), np.float32),
            tracks=np.asarray(columns["track"]) if "track" in columns else None,
            areas=whereabouts(columns)[0],
            places=whereabouts(columns)[1],
            whole=None if "touches_border" not in columns else ~np.asarray(columns["touches_border"], bool),
            events=measured.events if measured is not None else (),
            agreement=labelled.agreement if labelled is not None else math.nan,
            model=labelled.model if labelled is not None else "",
            captured_at=aligned.frame.closed_at,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) px of the frame."""
        return self.full or (int(self.pixels.shape[0]), int(self.pixels.shape[1]))

    @property
    def nm_per_px(self) -> float | None:
        """Geometric mean of the pixel size; None when unknown."""
        return None if self.pixel_size_nm is None else math.sqrt(self.pixel_size_nm[0] * self.pixel_size_nm[1])

    def sizes(self) -> np.ndarray:
        """Diameters in nm, in px when the pixel size is unknown."""
        return self.diameters * (self.nm_per_px or 1.0)

    def whole_diameters(self) -> np.ndarray:
        """(m,) px: of the particles that the border does not cut."""
        return self.diameters if self.whole is None else self.diameters[self.whole]

    @property
    def covered_px(self) -> int:
        """Pixels that the frame covers."""
        y0, y1, x0, x1 = self.valid or (0, self.shape[0], 0, self.shape[1])
        return max(0, y1 - y0) * max(0, x1 - x0)

    @property
    def density(self) -> float:
        """Particles per px² of covered area, one cut by the border counts half; NaN when not segmented."""
        if self.count is None or not self.covered_px:
            return math.nan
        cut = 0 if self.whole is None else len(self.whole) - int(self.whole.sum())
        return (self.count - 0.5 * cut) / self.covered_px

    def numbers(self, limit: int = 5000) -> dict[str, Any]:
        """The frame as JSON: what `/api/latest` promises. NaN becomes None; at most `limit` diameters."""
        nm, sizes = self.nm_per_px, self.sizes()
        over = summary(self.whole_diameters() * (nm or 1.0))
        return {
            "run": self.run,
            "frame": self.frame,
            "time_s": self.time_s,
            "captured_at": self.captured_at or None,
            "shape": list(self.shape),
            "pixel_size_nm": list(self.pixel_size_nm) if self.pixel_size_nm else None,
            "valid": list(self.valid) if self.valid else None,
            "shift_px": [finite(self.shift[0]), finite(self.shift[1])],
            "confidence": finite(self.confidence),
            "anchor": self.anchor,
            "status": [str(bit.name).lower() for bit in Status if self.status & bit],
            "drift_speed_px_per_s": finite(self.drift_speed),
            "drift_speed_nm_per_s": finite(self.drift_speed * nm) if nm else None,
            "particles": self.count,
            "density": self._density(),
            "area_fraction": finite(self.area_fraction),
            "growth": self._growth(),
            "agreement": finite(self.agreement),
            "model": self.model or None,
            "sizes": {
                "unit": "nm" if nm else "px",
                "whole": None if self.count is None else len(self.whole_diameters()),
                **{name: finite(value) for name, value in over.items()},
                "diameters": np.round(sizes[:limit].astype(float), 3).tolist(),
                "labels": None if self.labels is None else self.labels[:limit].tolist(),
                "tracks": None if self.tracks is None else self.tracks[:limit].tolist(),
                **self._whereabouts(limit),
            },
        }

    def _density(self) -> dict[str, Any] | None:
        """Number density with its counting error, sqrt(N) / area: particles that lie at random (Poisson)."""
        if self.count is None or not self.covered_px:
            return None
        k = 1.0 if self.nm_per_px is None else 1e6 / self.nm_per_px**2
        error = math.sqrt(self.count) / self.covered_px
        return {"value": self.density * k, "error": error * k, "unit": "/px²" if self.nm_per_px is None else "/µm²"}

    def _growth(self) -> dict[str, Any]:
        """Mean dR/dt over the particles that are followed, its standard error over them, and how many they are."""
        k = self.nm_per_px or 1.0
        return {
            "rate": finite(self.pace.rate * k),
            "error": finite(self.pace.error * k),
            "particles": self.pace.particles,
            "unit": "px/s" if self.nm_per_px is None else "nm/s",
        }

    def _whereabouts(self, limit: int) -> dict[str, Any]:
        """areas (unit²), y, x (unit), growth (unit/s) of the particles, in their order; None where not measured."""
        py, px = self.pixel_size_nm or (1.0, 1.0)
        y, x = (None, None) if self.places is None else (self.places[:limit, 0] * py, self.places[:limit, 1] * px)
        columns = {"areas": None if self.areas is None else self.areas[:limit] * (py * px), "y": y, "x": x}
        out = {k: None if v is None else np.round(np.asarray(v, float), 3).tolist() for k, v in columns.items()}
        k = self.nm_per_px or 1.0
        for name, rates in (("growth", self.growth), ("growth_error", self.growth_error)):
            out[name] = None if rates is None else [
                float(f"{v:.4g}") if math.isfinite(v) else None for v in (rates[:limit] * k).tolist()
            ]  # fmt: skip
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonStatus:
    """What the daemon says of itself; the page shows it, `/api/status` serves it."""

    state: str = "starting"  # starting | waiting | streaming | catching up | paused | draining | stopped | stored
    seen: int = 0  # frames, since the start
    committed: int = 0
    segmented: int = 0
    quarantined: int = 0
    skipped: int = 0
    lost: int = 0
    pending: int = 0  # found but not committed yet
    backlog: int = 0  # committed but not segmented yet
    fps: float = 0.0  # frames committed per second, lately
    lag_s: float = 0.0  # from the camera's write to commit, lately
    queue_bytes: Mapping[str, int] = field(default_factory=dict)
    free_bytes: int | None = None
    free_s: float | None = None  # until the disk is full, at this rate
    watch_up: bool = True
    device: str = "cpu"
    model: str = ""
    model_sha256: str = ""
    model_fits: bool = True  # false: model and classical method disagree, over many frames
    agreement: float | None = None  # of the two, lately, 0..1
    warnings: tuple[str, ...] = ()


def whereabouts(columns: Mapping[str, Any]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """`areas` and `places` of a `Shown` from the columns of its particles; None when they lack them."""
    if not {"area", "y", "x"} <= columns.keys():
        return None, None
    return np.asarray(columns["area"]), np.stack([columns["y"], columns["x"]], axis=1)


def finite(value: float | None) -> float | None:
    """The number for JSON, which has no NaN."""
    return float(value) if value is not None and math.isfinite(value) else None


def summary(sizes: np.ndarray) -> dict[str, float]:
    """median, mean, q10, q90 of sizes, and the standard error of the mean; NaN when there are too few."""
    if sizes.size == 0:
        return dict.fromkeys(("median", "mean", "mean_error", "q10", "q90"), math.nan)
    q10, median, q90 = np.quantile(sizes, (0.1, 0.5, 0.9))
    error = float(sizes.std(ddof=1)) / math.sqrt(sizes.size) if sizes.size > 1 else math.nan
    return {
        "median": float(median),
        "mean": float(sizes.mean()),
        "mean_error": error,
        "q10": float(q10),
        "q90": float(q90),
    }
