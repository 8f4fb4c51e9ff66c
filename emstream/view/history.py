"""Curves of a run in bounded memory: every frame has its slot, a long run is thinned evenly."""

from __future__ import annotations

from typing import Any

import numpy as np

from emstream.view.shown import Shown, summary

COLUMNS = (
    "time_s", "shift_y", "shift_x", "confidence", "speed", "particles", "median", "q10", "q90", "area_fraction",
    "agreement",
)  # fmt: skip
_ALIGNED, _MEASURED = COLUMNS[:5], COLUMNS[5:]


class History:
    """Columns of float64 over frames; at most `capacity` points.

    Point i stands for frames i·stride … (i+1)·stride − 1 and holds the newest of them that was added; the stride
    doubles when the run outgrows the capacity. Frames may come out of order and twice: what was aligned first and
    measured later fills the same point. Lengths are px, `speed` px/s.
    """

    def __init__(self, capacity: int = 4096) -> None:
        self.capacity, self.stride, self.version = max(16, capacity), 1, 0
        self._frame = np.full(self.capacity, -1, np.int64)
        self._columns = {name: np.full(self.capacity, np.nan) for name in COLUMNS}
        self._changed = np.zeros(self.capacity, np.int64)  # version at which a point last changed
        self._measured = np.full(self.capacity, -1, np.int64)  # the frame that the measured columns come from

    def add(self, shown: Shown) -> None:
        """The frame's numbers; what it does not know (not segmented) leaves what is there."""
        row = {
            "time_s": shown.time_s,
            "shift_y": shown.shift[0],
            "shift_x": shown.shift[1],
            "confidence": shown.confidence,
            "speed": shown.drift_speed,
        }
        if shown.count is not None:
            sizes = summary(shown.diameters)
            row |= {
                "particles": shown.count,
                "area_fraction": shown.area_fraction,
                "agreement": shown.agreement,
                **{k: sizes[k] for k in ("median", "q10", "q90")},
            }
        self.put(shown.frame, row)

    def put(self, frame: int, row: dict[str, float]) -> None:
        """The values of one frame (any of COLUMNS, `time_s` among them)."""
        while frame // self.stride >= self.capacity:
            self._thin()
        i = frame // self.stride
        self.version += 1
        self._changed[i] = self.version
        if frame >= self._frame[i]:
            same, self._frame[i] = frame == self._frame[i], frame
            for name in _ALIGNED:
                value = row.get(name, np.nan)
                if not (same and np.isnan(value)):
                    self._columns[name][i] = value
        if "particles" in row and frame >= self._measured[i]:
            self._measured[i] = frame
            for name in _MEASURED:
                self._columns[name][i] = row.get(name, np.nan)

    def _thin(self) -> None:
        """Each two points become one: the later one where it exists."""
        half = self.capacity // 2
        self.stride *= 2
        self.version += 1
        rows = np.arange(half)
        for names, key in ((_ALIGNED, self._frame), (_MEASURED, self._measured)):
            later = np.where(key[: 2 * half].reshape(-1, 2)[:, 1] >= 0, 1, 0)
            for name in names:
                column = self._columns[name]
                column[:half] = column[: 2 * half].reshape(-1, 2)[rows, later]
                column[half:] = np.nan
        for key in (self._frame, self._measured):
            key[:half] = key[: 2 * half].reshape(-1, 2).max(axis=1)
            key[half:] = -1
        self._changed[:half], self._changed[half:] = self.version, 0

    def since(self, version: int = 0, stride: int = 0) -> dict[str, Any]:
        """Points that changed after `version`, for a reader that knows the curves at `stride`; all when it is another.

        returns : JSON: version, stride, reset (throw away what you have), frame […], a list for each of COLUMNS
                  (None where unknown). A point replaces the one with the same frame // stride.
        """
        reset = stride != self.stride or version > self.version or version <= 0
        which = np.flatnonzero((self._changed > (0 if reset else version)) & (self._frame >= 0))
        out: dict[str, Any] = {"version": self.version, "stride": self.stride, "reset": reset}
        out["frame"] = self._frame[which].tolist()
        for name in COLUMNS:
            values = self._columns[name][which]
            digits = 3 if name == "time_s" else 5
            out[name] = [round(v, digits) if np.isfinite(v) else None for v in values.tolist()]
        return out
