"""Curves of a run in bounded memory: every frame has its slot, a long run is thinned evenly."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from emstream.view.shown import Shown, summary

_ALIGNED = ("time_s", "shift_y", "shift_x", "confidence", "speed")
_MEASURED = ("particles", "density", "median", "q10", "q90", "growth", "growth_error", "area_fraction", "agreement")
COLUMNS = (*_ALIGNED, *_MEASURED)
PER_OCTAVE = 8  # bins of the size distribution: each 9 % wider than the one before, the same for every run
EDGES = 2.0 ** (np.arange(0, 12 * PER_OCTAVE + 1) / PER_OCTAVE)  # px
MOST_TIMES = 240  # columns of the distribution as it is told


class History:
    """Columns of float64 over frames; at most `capacity` points.

    Point i stands for frames i·stride … (i+1)·stride − 1 and holds the newest of them that was added; the stride
    doubles when the run outgrows the capacity. Frames may come out of order and twice: what was aligned first and
    measured later fills the same point. Lengths are px, `speed` and `growth` px/s, `density` px⁻²; `status` holds the
    bits of all of a point's frames.
    """

    def __init__(self, capacity: int = 4096) -> None:
        self.capacity, self.stride, self.version = max(16, capacity), 1, 0
        self._lock = threading.Lock()
        self._frame = np.full(self.capacity, -1, np.int64)
        self._columns = {name: np.full(self.capacity, np.nan) for name in COLUMNS}
        self._status = np.zeros(self.capacity, np.int64)
        self._sizes = np.zeros((self.capacity, len(EDGES) - 1), np.uint16)  # particles in each bin
        self._sized = np.zeros(self.capacity, bool)  # whether those are known
        self._changed = np.zeros(self.capacity, np.int64)  # version at which a point last changed
        self._measured = np.full(self.capacity, -1, np.int64)  # the frame that the measured columns come from

    def add(self, shown: Shown) -> None:
        """The frame's numbers; what it does not know (not segmented) leaves what is there."""
        row: dict[str, float] = {
            "time_s": shown.time_s,
            "shift_y": shown.shift[0],
            "shift_x": shown.shift[1],
            "confidence": shown.confidence,
            "speed": shown.drift_speed,
        }
        if shown.count is None:
            self.put(shown.frame, row, shown.status)
            return
        diameters = shown.whole_diameters()
        sizes = summary(diameters)
        row |= {
            "particles": shown.count,
            "density": shown.density,
            "growth": shown.pace.rate,
            "growth_error": shown.pace.error,
            "area_fraction": shown.area_fraction,
            "agreement": shown.agreement,
            **{k: sizes[k] for k in ("median", "q10", "q90")},
        }
        self.put(shown.frame, row, shown.status, binned(diameters))

    def put(
        self,
        frame: int,
        row: Mapping[str, float],
        status: int = 0,
        sizes: np.ndarray | None = None,
        *,
        keep: bool = False,
    ) -> None:
        """The values of one frame (any of COLUMNS, `time_s` among them), its Status bits, its `binned` diameters.

        keep : a point that is this frame's already, and was measured if `row` is, stays as it is
        """
        with self._lock:
            self._put(frame, row, status, sizes, keep)

    def _put(self, frame: int, row: Mapping[str, float], status: int, sizes: np.ndarray | None, keep: bool) -> None:
        while frame // self.stride >= self.capacity:
            self._thin()
        i = frame // self.stride
        if keep and frame == self._frame[i] and ("particles" not in row or frame == self._measured[i]):
            return
        self.version += 1
        self._changed[i] = self.version
        self._status[i] |= status
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
            self._sizes[i], self._sized[i] = (0, False) if sizes is None else (sizes, True)

    def points(self, of: range) -> list[int]:
        """Frames among `of` that points stand on whose sizes are not known, in order."""
        with self._lock:
            inside = (self._measured >= of.start) & (self._measured < of.stop) & ~self._sized
            return [int(f) for f in self._measured[inside]]

    def size(self, frame: int, row: Mapping[str, float], sizes: np.ndarray) -> None:
        """Sizes of a frame whose other numbers are known; nothing when its point stands for another frame by now."""
        with self._lock:
            i = frame // self.stride
            if self._measured[i] != frame:
                return
            self.version += 1
            self._changed[i] = self.version
            for name, value in row.items():
                self._columns[name][i] = value
            self._sizes[i], self._sized[i] = sizes, True

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
            if names is _MEASURED:
                self._sizes[:half] = self._sizes[: 2 * half].reshape(half, 2, -1)[rows, later]
                self._sizes[half:] = 0
                self._sized[:half] = self._sized[: 2 * half].reshape(half, 2)[rows, later]
                self._sized[half:] = False
        self._status[:half] = self._status[0 : 2 * half : 2] | self._status[1 : 2 * half : 2]
        self._status[half:] = 0
        for key in (self._frame, self._measured):
            key[:half] = key[: 2 * half].reshape(-1, 2).max(axis=1)
            key[half:] = -1
        self._changed[:half], self._changed[half:] = self.version, 0

    def since(self, version: int = 0, stride: int = 0) -> dict[str, Any]:
        """Points that changed after `version`, for a reader that knows the curves at `stride`; all when it is another.

        returns : JSON: version, stride, reset (throw away what you have), frame […], status […], a list for each of
                  COLUMNS (None where unknown). A point replaces the one with the same frame // stride.
        """
        with self._lock:
            return self._since(version, stride)

    def _since(self, version: int, stride: int) -> dict[str, Any]:
        reset = stride != self.stride or version > self.version or version <= 0
        which = np.flatnonzero((self._changed > (0 if reset else version)) & (self._frame >= 0))
        out: dict[str, Any] = {"version": self.version, "stride": self.stride, "reset": reset}
        out["frame"] = self._frame[which].tolist()
        out["status"] = self._status[which].tolist()
        for name in COLUMNS:
            values = self._columns[name][which].tolist()
            if name == "time_s":
                out[name] = [round(v, 3) if math.isfinite(v) else None for v in values]
            else:
                out[name] = [float(f"{v:.6g}") if math.isfinite(v) else None for v in values]
        return out

    def distribution(self) -> dict[str, Any]:
        """How the sizes change: particles in each bin of diameters, a mean over the frames of each stretch of time.

        returns : JSON: edges (px, one more than there are bins; only the bins that were ever filled),
                  frame and time_s of each stretch's last frame, counts: a list over bins for each stretch
        """
        with self._lock:
            which = np.flatnonzero(self._sized)
            sizes, frame, time_s = self._sizes[which], self._measured[which], self._columns["time_s"][which]
        if not len(which):
            return {"edges": [], "frame": [], "time_s": [], "counts": []}
        begins = np.unique(np.linspace(0, len(which), min(MOST_TIMES, len(which)) + 1).astype(int))[:-1]
        n = np.diff(np.append(begins, len(which)))
        filled = np.flatnonzero(sizes.any(axis=0))
        low, high = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
        means = np.add.reduceat(sizes[:, low:high].astype(np.float64), begins, axis=0) / n[:, None]
        last = np.append(begins[1:], len(which)) - 1
        return {
            "edges": np.round(EDGES[low : high + 1], 4).tolist(),
            "frame": frame[last].tolist(),
            "time_s": [round(v, 3) if math.isfinite(v) else None for v in time_s[last].tolist()],
            "counts": np.round(means, 2).tolist(),
        }


def binned(diameters: np.ndarray) -> np.ndarray:
    """Particles in each bin of EDGES, (bins,) uint16; what is smaller or larger than all bins is in the outermost."""
    place = np.floor(np.log2(np.maximum(diameters, 1.0)) * PER_OCTAVE).astype(int)
    return np.bincount(np.minimum(place, len(EDGES) - 2), minlength=len(EDGES) - 1).astype(np.uint16)
