"""What every frame of a run covers: the part of the picture that has no black borders."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emstream.align import covered
from emstream.messages import Rect
from emstream.store.run import Run

LEAST = 0.25  # of the frame; below, the frames that drifted farthest are left out


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """The rectangle, and the frames that cover it."""

    rect: Rect
    frames: np.ndarray  # (n,) int
    left_out: int  # frames that would have made the rectangle smaller than LEAST of the frame


def common(run: Run) -> Crop:
    """The largest rectangle that all frames cover; frames that drifted too far to share a useful one are left out."""
    shifts = run.column("shift")
    shifts = np.where(np.isfinite(shifts), shifts, 0.0)
    frames = np.arange(len(shifts))
    area = run.shape[0] * run.shape[1]
    while True:
        y0, y1, x0, x1 = _intersection(run.shape, shifts[frames])
        if (y1 > y0 and x1 > x0 and (y1 - y0) * (x1 - x0) >= LEAST * area) or len(frames) == 1:
            return Crop((y0, y1, x0, x1), frames, len(shifts) - len(frames))
        far = np.abs(shifts[frames] - np.median(shifts[frames], axis=0)).max(axis=1)
        drop = max(1, len(frames) // 50)
        frames = frames[np.sort(np.argsort(far, kind="stable")[: max(1, len(frames) - drop)])]


def _intersection(shape: tuple[int, int], shifts: np.ndarray) -> Rect:
    low, high = shifts.min(axis=0), shifts.max(axis=0)
    a = covered(shape, (float(low[0]), float(low[1])))
    b = covered(shape, (float(high[0]), float(high[1])))
    return max(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), min(a[3], b[3])
