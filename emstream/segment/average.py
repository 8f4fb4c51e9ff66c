"""A frame of few electrons is looked at together with those before it: the newest aligned frames are added up.

Causal, and a function of the stored frames alone: live, after a restart or over an archive the same frames are added. What
it costs is time: n frames added show the scene as it was (n - 1) / 2 frames before.

Where their number is chosen (`segment.average_frames = 0`), it follows from two measurements on the sums of blocks of
8 × 8 px: how much they differ from one frame to the next tells the dose (Poisson: variance = mean), and where the newest
frame differs from those before it by more than that, something moved, and fewer frames are added.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any
from weakref import ref

import numpy as np
from scipy.ndimage import uniform_filter1d

from emstream.arrays import array_namespace, to_host
from emstream.messages import Aligned, Array, Rect, Status

MOST = 6  # frames that are added at most where their number is chosen; and how far back is looked in any case
WANTED = 20.0  # electrons that shall come together in a pixel of what the segmenter sees
BLOCK = 8  # px a side of the blocks that are compared
ROWS = 32  # rows of blocks that are compared; the rest of a larger frame is left out
FEWEST = 64  # blocks for a judgement
APART = 4.0  # deviations by which a block must differ to have changed
BAND = 64  # rows that are added up at once on a CPU: its cache holds them
BESIDE = 9  # blocks in a row whose mean is what lies beside
GONE = 0.05  # share of what is shown that may have gone
CLIP, LEAST = 8.0, 0.05  # deviations that count at most; and what is shown at least, of the noise's square
STRUCTURE, SHARE = 0.1, 0.1  # of the blocks that show anything (at most .1 of all) so many may have changed
CHANCE = 1  # changed block that means nothing
PAUSE_S, PAUSE = 1.0, 5.0  # a step in time longer than that, and than so many usual ones, is a break
NOT_FOUND = Status.REJECTED | Status.BLANK | Status.LATE  # frames that are looked at alone, and added to no other


class Seen:
    """A frame as the segmenter is given it.

    aligned : the frame
    pixels  : (y, x) of it, dark and gain taken into account
    """

    def __init__(self, aligned: Aligned, pixels: Array) -> None:
        self.aligned, self.pixels = aligned, pixels
        self._dose: tuple[Callable[[], Seen | None], float] = (lambda: None, float("inf"))  # of a frame not kept alive

    @cached_property
    def highest(self) -> float:
        return float(self.pixels.max())

    @cached_property
    def relief(self) -> np.ndarray:
        """(rows, columns) float32: blocks at the same places of the canvas in every frame, over what is beside them, - 1.

        NaN where the frame covers nothing, and where it is dark.
        """
        xp, (ny, nx) = array_namespace(self.pixels), (n // BLOCK for n in self.pixels.shape)
        step = max(1, ny // ROWS)
        rows = self.pixels[: ny * BLOCK, : nx * BLOCK].reshape(ny, BLOCK, nx * BLOCK)[::step]
        sums = to_host(rows.sum(axis=1, dtype=xp.float32).reshape(len(rows), nx, BLOCK).sum(axis=2))
        y0, y1, x0, x1 = self.aligned.valid
        y, x = np.arange(ny)[::step, None] * BLOCK, np.arange(nx)[None] * BLOCK
        inside = (y >= y0) & (y + BLOCK <= y1) & (x >= x0) & (x + BLOCK <= x1) & np.isfinite(sums)
        mean = float(sums[inside].mean()) if inside.any() else 0.0
        if mean <= 0:
            return np.full(sums.shape, np.nan, np.float32)
        beside = uniform_filter1d(np.where(inside, sums, np.float32(mean)), BESIDE, axis=1, mode="nearest")
        inside &= beside > 0.01 * mean
        return np.divide(sums, beside, where=inside, out=np.full_like(sums, np.nan)) - 1

    def dose(self, older: Seen) -> float:
        """Electrons a pixel, by how much blocks differ from those of a frame before; inf where that tells nothing.

        The variance of a block's relative difference is 2 / (electrons in the block), both frames' noise together.
        """
        if self._dose[0]() is not older:
            d = self.relief - older.relief
            d = d[np.isfinite(d)]
            deviation = 0.0
            if len(d) >= FEWEST:
                middle = float(np.median(d))
                most = (
                    3 * 1.4826 * float(np.median(np.abs(d - middle)))
                )  # where something moved does not count for more
                deviation = float(np.clip(d, middle - most, middle + most).std()) / np.sqrt(1 - 1 / BESIDE)
            self._dose = ref(older), 2 / (BLOCK**2 * deviation**2) if deviation > 0 else float("inf")
        return self._dose[1]


def reach(average: int) -> int:
    """How many frames before it may have a say in what is added to a frame. average : the setting"""
    return 0 if average == 1 else max(MOST, average) - 1


def together(seen: Sequence[Seen], average: int, long_side_px: int = 0) -> Sequence[Seen]:
    """Which frames are added up, oldest first; the last is the frame itself.

    seen         : the frame and up to `reach(average)` before it, in the run's order
    average      : how many; 0 = so many that `WANTED` electrons come together in a pixel that the segmenter sees, none that
                   shows another scene
    long_side_px : of what the segmenter sees: a larger frame is reduced to it, which gathers electrons too; 0 = never
    """
    if average == 1 or len(seen) < 2:
        return seen[-1:]
    fit = _unbroken(seen)
    if average:
        return fit[-average:]
    longer = max(seen[-1].pixels.shape)
    return fit[-_number(fit, max(1.0, longer / (long_side_px or longer)) ** 2) :]


def added(seen: Sequence[Seen]) -> Array:
    """The sum of frames over the last one's covered pixels, (y, x): where fewer cover a pixel, it counts for more.

    In the frames' own dtype or one that holds the sum; a single frame is returned as it is.
    """
    last = seen[-1]
    if len(seen) == 1:
        return last.pixels
    xp, n = array_namespace(last.pixels), len(seen)
    total = xp.empty(last.pixels.shape, _dtype(seen))
    height = BAND if xp is np else len(total)
    for top in range(0, len(total), height):
        total[top : top + height] = last.pixels[top : top + height]
        band = common(last.aligned.valid, (top, top + height, 0, total.shape[1]))
        for s in seen[:-1]:
            y0, y1, x0, x1 = common(band, s.aligned.valid)
            total[y0:y1, x0:x1] += s.pixels[y0:y1, x0:x1]
    valid = inside = last.aligned.valid
    for s in seen[:-1]:
        inside = common(inside, s.aligned.valid)
    for part in _around(valid, inside):
        y0, y1, x0, x1 = part
        count = xp.ones((y1 - y0, x1 - x0), xp.float32)
        for s in seen[:-1]:
            a0, a1, b0, b1 = common(part, s.aligned.valid)
            count[a0 - y0 : a1 - y0, b0 - x0 : b1 - x0] += 1
        more = total[y0:y1, x0:x1] * (n / count)
        total[y0:y1, x0:x1] = xp.rint(more) if total.dtype.kind == "u" else more
    return total


def common(a: Rect, b: Rect) -> Rect:
    """What two rectangles share; (0, 0, 0, 0) when that is nothing."""
    y0, y1, x0, x1 = max(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), min(a[3], b[3])
    return (y0, y1, x0, x1) if y1 > y0 and x1 > x0 else (0, 0, 0, 0)


def _number(seen: Sequence[Seen], gathered: float) -> int:
    """How many of the newest frames are added. gathered : pixels of theirs that become one"""
    doses = [b.dose(a) for a, b in itertools.pairwise(seen)]
    if not doses:
        return 1
    usual = float(np.median(doses))
    most = int(min(MOST, len(seen), max(1, round(WANTED / (usual * gathered))))) if usual > 0 else 1
    if most == 1:
        return 1
    reliefs = np.array([s.relief for s in seen])
    noise = float(np.sqrt((1 - 1 / BESIDE) / (BLOCK**2 * usual)))  # of one frame's block
    gone, error = changed(reliefs, noise)
    for n in range(most, 1, -1):
        if gone[n - 1] <= GONE + 2 * error[n - 1] and not _leapt(reliefs[-n:], noise):
            return n
    return 1


def changed(reliefs: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """The share of what a frame shows that another one no longer shows, (n,) by how far apart they are; its error.

    reliefs : (n, rows, columns) · noise : deviation of a block

    The mean square of the difference of frames k apart is 2 N + 2 S g(k), with N the noise, S the mean square of what is shown and
    g what has gone. g rises from 0 at once, and N is what a line through it leaves at k = 0.
    """
    both = np.isfinite(reliefs).all(axis=0)
    r = reliefs[:, both]
    n = len(r)
    if r.shape[1] < FEWEST:
        return np.full(n, np.inf), np.zeros(n)
    most = CLIP * noise
    d = np.array([0.0, *(float((np.clip(r[k:] - r[:-k], -most, most) ** 2).mean()) for k in range(1, n))])
    slope = max(0.0, (d[-1] - d[1]) / (n - 2)) if n > 2 else 0.0
    d[0] = max(0.0, d[1] - slope)
    shown = max(float(r.var(axis=1).mean()) - d[0] / 2, LEAST * noise**2)
    error = 2 * d / np.sqrt(r.shape[1] * np.maximum(n - np.arange(n), 1))  # as of a Gaussian's square, the line's too
    return (d - d[0]) / (2 * shown), error / (2 * shown)


def _leapt(reliefs: np.ndarray, noise: float) -> bool:
    """Whether the newest frame differs clearly from those before it somewhere."""
    before = reliefs[:-1].mean(axis=0)
    d, shown = np.abs(reliefs[-1] - before), np.abs(before)
    n = len(reliefs) - 1
    places = np.isfinite(d)
    leapt = int((d[places] > APART * noise * np.sqrt(1 + 1 / n)).sum())
    structure = int((shown[places] > APART * noise / np.sqrt(n)).sum())
    return leapt > CHANCE + SHARE * min(structure, STRUCTURE * places.sum())


def _unbroken(seen: Sequence[Seen]) -> Sequence[Seen]:
    """The frame and those before it that show the same scene in one go: one anchor, no jump, no break in time."""
    last = seen[-1].aligned
    if last.status & NOT_FOUND:
        return seen[-1:]
    steps = np.diff([s.aligned.frame.time_s for s in seen if not s.aligned.status & Status.LATE])
    pause = max(PAUSE_S, PAUSE * float(np.median(steps))) if len(steps) else 0.0
    kept, jumped = [seen[-1]], last.status & Status.JUMP
    for s in reversed(seen[:-1]):
        if jumped or s.aligned.anchor != last.anchor:
            break
        jumped = s.aligned.status & Status.JUMP
        if s.aligned.status & NOT_FOUND:
            continue
        if kept[0].aligned.frame.time_s - s.aligned.frame.time_s > pause:
            break
        kept.insert(0, s)
    return kept


def _dtype(seen: Sequence[Seen]) -> Any:
    """uint16 as long as it holds the sum: it is added and reduced faster."""
    dtype = seen[-1].pixels.dtype
    if dtype == np.uint8 or (
        dtype == np.uint16 and len(seen) * max(s.highest for s in seen) <= np.iinfo(np.uint16).max
    ):
        return np.uint16
    return np.float32


def _around(outer: Rect, inner: Rect) -> list[Rect]:
    """The strips of a rectangle that another one in it leaves."""
    y0, y1, x0, x1 = outer
    a0, a1, b0, b1 = inner
    if a1 <= a0 or b1 <= b0:
        return [outer]
    strips = [(y0, a0, x0, x1), (a1, y1, x0, x1), (a0, a1, x0, b0), (a0, a1, b1, x1)]
    return [s for s in strips if s[1] > s[0] and s[3] > s[2]]
