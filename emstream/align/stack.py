"""Frames laid on each other where they were found to lie, and each compared with all the others.

What a series that is whole allows and a live one does not: a finer grid, a window that hardly tapers (how far a frame
moves within it is known already), and a reference of the frames before and after, without the frame itself. The
comparison is that of `view`: Hannan and Thomson's weight (doi:10.1093/biomet/60.1.77), a log-likelihood in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from emstream.align import peak
from emstream.align import weight as w
from emstream.align.grid import Grid, make_grid, ramp
from emstream.align.reference import EMPTY, Canvas
from emstream.align.search import LEAP
from emstream.align.view import Scale, half_spectra, look, make_scale
from emstream.arrays import fft_namespace
from emstream.messages import Array

FINEST = 512  # cells of the longer side
TAPER = 0.05  # of the window
THIN = 0.25  # of the frames that the densest cell has: cells with fewer are not compared
NINTHS = 9  # parts in which a mask is told
MARGIN = 2  # cells around what is laid down, for places that are found a little further off


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """What is compared of a frame."""

    spectrum: (
        Array | Callable[[], Array]
    )  # (gy, gx//2+1) complex64, transform of window × mask × contrast, or its maker
    mask: Array | None  # what may vote, of `packed`; None: everything

    def moving(self) -> Array:
        """(gy, gx//2+1) complex64: the spectrum, made now when it was not kept."""
        return self.spectrum() if callable(self.spectrum) else self.spectrum

    def window(self, grid: Grid) -> Array:
        """(gy, gx) float32: the grid's window, less what may not vote."""
        return grid.window if self.mask is None else grid.window * _unpacked(self.mask, grid)


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Where a frame was found to lie; px."""

    measured: np.ndarray  # (2,), NaN when it was not
    noise: np.ndarray  # (2, 2), infinite when it was not
    z: float = 0.0
    limit: float = 1.0


NOTHING = Placed(np.full(2, np.nan), np.full((2, 2), np.inf))


def fine_grid(shape: tuple[int, int], longest: int, xp: object) -> Grid:
    """The grid of a series that is whole: `longest` cells, or FINEST."""
    return make_grid(shape, longest or FINEST, xp, TAPER)


def sight(contrast: Array, mask: Array | None, grid: Grid) -> Sight:
    """contrast (gy, gx) on the grid; mask (gy, gx) 0..1, what may vote, or None."""
    votes = None if mask is None else packed(mask, grid)
    return Sight(spectrum(contrast, votes, grid), votes)


def spectrum(contrast: Array, votes: Array | None, grid: Grid) -> Array:
    """(gy, gx//2+1) complex64 of a contrast (gy, gx); votes: `Sight.mask`."""
    window = Sight(contrast, votes).window(grid)
    x = (contrast - (contrast * window).sum() / grid.xp.maximum(window.sum(), 1e-6)) * window
    return w.transform(x, grid)


def packed(mask: Array, grid: Grid) -> Array:
    """(gy, gx) 0..1 in ninths, which is what a mask smoothed over 3 × 3 cells has; two cells in a byte."""
    ninths = grid.xp.zeros(grid.shape[0] * grid.shape[1] + 1 & ~1, grid.xp.uint8)
    ninths[: mask.size] = (mask * grid.xp.float32(NINTHS) + grid.xp.float32(0.5)).ravel()
    return ninths[::2] | ninths[1::2] << 4


def _unpacked(votes: Array, grid: Grid) -> Array:
    ninths = grid.xp.empty((votes.size, 2), grid.xp.float32)
    ninths[:, 0], ninths[:, 1] = votes & 15, votes >> 4
    return (ninths.ravel()[: grid.shape[0] * grid.shape[1]] / grid.xp.float32(NINTHS)).reshape(grid.shape)


def laid(sights: Sequence[Sight | None], places: np.ndarray, grid: Grid, begin: Canvas | None = None) -> Canvas:
    """The sum of frames, even and odd ones apart.

    places : (n, 2) px, where each lies; NaN for one that is left out
    begin  : a canvas of `roomy_for`, which is added to; None = one as large as these frames need
    """
    canvas = roomy_for(places, grid) if begin is None else begin
    count = canvas.count
    for i, (s, place) in enumerate(zip(sights, places)):
        if s is None or not np.isfinite(place).all():
            continue
        at, rest = cell_of(place, grid)
        y, x = at[0] - canvas.origin[0], at[1] - canvas.origin[1]
        cut = np.s_[y : y + grid.shape[0], x : x + grid.shape[1]]
        canvas.num[i % 2][cut] += _moved(s.moving(), rest, grid)
        canvas.den[i % 2][cut] += s.window(grid)
        count += 1
    return Canvas(num=canvas.num, den=canvas.den, origin=canvas.origin, count=count)


def roomy_for(places: np.ndarray, grid: Grid) -> Canvas:
    """An empty canvas on which frames at these places (n, 2) px, and a little beyond, find room."""
    cells = places[np.isfinite(places).all(axis=1)] / grid.bin
    low = np.floor(cells.min(axis=0) + 0.5).astype(int) - MARGIN if len(cells) else np.zeros(2, int)
    high = np.floor(cells.max(axis=0) + 0.5).astype(int) + MARGIN if len(cells) else np.zeros(2, int)
    shape = tuple(int(n + b - a) for n, a, b in zip(grid.shape, low, high))
    zeros = [grid.xp.zeros(shape, grid.xp.float32) for _ in range(4)]
    return Canvas(num=(zeros[0], zeros[1]), den=(zeros[2], zeros[3]), origin=(int(low[0]), int(low[1])))


def solid(canvas: Canvas, grid: Grid) -> Canvas:
    """The canvas without the cells that few frames show: what is there has another noise, and edges of its own."""
    xp = grid.xp
    most = max(float((canvas.den[0] + canvas.den[1]).max()), 1e-6)
    thick = (canvas.den[0] >= THIN / 2 * most) & (canvas.den[1] >= THIN / 2 * most)
    den = tuple(xp.where(thick, d, xp.float32(0)) for d in canvas.den)
    return replace(canvas, den=(den[0], den[1]))


def first_scale(canvas: Canvas, place: np.ndarray, grid: Grid) -> Scale | None:
    """The weights that the two halves of a canvas give, seen by a frame at `place` px; None when they show nothing."""
    at, _ = cell_of(place, grid)
    canvas = solid(canvas, grid)
    a, b, frames, area = half_spectra(canvas, at, grid.window, grid)
    if min(frames) < 0.5 or area < 1e-3 * grid.area:
        return None
    power = (abs(a) ** 2 * frames[0] + abs(b) ** 2 * frames[1]) / 2
    powers = w.from_halves(a, b, frames, area, grid, w.from_one(power, area, grid))
    return make_scale(powers, max(1.0, sum(frames) - 1), grid)


def compared(
    s: Sight,
    place: np.ndarray,
    canvas: Canvas,
    scale: Scale,
    grid: Grid,
    *,
    own: bool,
    reach: int = 2,
    worth: float = 1.0,
    least: float = 0.1,
) -> Placed:
    """A frame against what lies under it.

    place : (2,) px, where it is thought to lie
    own   : whether it is itself part of the canvas, laid at `place`; that is taken out
    reach : cells within which it is looked for; more than 2: and everywhere, in case it fits far better there
    worth : how many frames it is the mean of; the scale's noise is that of the mean
    least : share of its window that must have something under it
    """
    at, rest = cell_of(place, grid)
    window = s.window(grid)
    num, den = under(canvas, at, grid)
    if not bool((den > EMPTY).any()):
        return NOTHING
    dense = den >= THIN * float(den.max())
    moving = s.moving()
    if own:
        num, den = num - _moved(moving, rest, grid), den - window
    den = grid.xp.where(dense, den, grid.xp.float32(0))
    blank = grid.xp.broadcast_to(grid.xp.zeros((1, 1), grid.xp.float32), grid.shape)
    others = Canvas(num=(num, blank), den=(den, blank), origin=at, count=canvas.count)
    view = look(others, at, moving, window, scale, grid)
    frames = view.frames / worth
    if frames < 0.01 or view.cover < least:
        return NOTHING
    if not 0.8 < frames / scale.frames < 1.25:
        scale = make_scale(scale.spectrum, frames, grid)
        view = look(others, at, moving, window, scale, grid)
    lag = (float(rest[0]), float(rest[1]))
    limit = math.sqrt(2 * math.log((2 * reach + 1) ** 2)) + 1
    if reach > 2:
        radius = min(reach, min(grid.shape) // 2 - 1)
        lag, height = peak.near(view.cross, radius, grid, (rest, np.eye(2) / reach**2))
        far = (grid.shape[0] * 3 // 8, grid.shape[1] * 3 // 8)
        lag2, height2 = peak.wide(view.cross, far, grid)
        limit2 = math.sqrt(2 * math.log(4 * far[0] * far[1])) + 1
        if height2 > limit2 * view.noise and height2 > max(height, 0.0) + LEAP:
            again = (np.array(at) - np.array(lag2)) * grid.bin
            found = compared(s, again, canvas, scale, grid, own=False, worth=worth, least=least)
            return replace(found, limit=limit2)
    fine, _, height = peak.refine(view.cross, lag, grid)
    noise = view.share * np.linalg.inv(scale.info + 1e-9 * np.eye(2)) * grid.bin**2
    return Placed((np.array(at) - np.array(fine)) * grid.bin, noise, height / max(view.noise, 1e-30), limit)


def under(canvas: Canvas, at: tuple[int, int], grid: Grid) -> tuple[Array, Array]:
    """num and den (gy, gx) of a canvas under a frame at cell `at`; nought where the canvas does not reach."""
    size, top = canvas.num[0].shape, (at[0] - canvas.origin[0], at[1] - canvas.origin[1])
    low = [max(0, t) for t in top]
    high = [min(n, t + g) for n, t, g in zip(size, top, grid.shape)]
    num, den = grid.xp.zeros(grid.shape, grid.xp.float32), grid.xp.zeros(grid.shape, grid.xp.float32)
    if all(h > b for h, b in zip(high, low)):
        inside = np.s_[low[0] : high[0], low[1] : high[1]]
        out = np.s_[low[0] - top[0] : high[0] - top[0], low[1] - top[1] : high[1] - top[1]]
        num[out] = canvas.num[0][inside] + canvas.num[1][inside]
        den[out] = canvas.den[0][inside] + canvas.den[1][inside]
    return num, den


def cell_of(place: np.ndarray, grid: Grid) -> tuple[tuple[int, int], np.ndarray]:
    """The cell next to a place (2,) px, and what is missing to it, in cells."""
    cells = place / grid.bin
    at = (math.floor(cells[0] + 0.5), math.floor(cells[1] + 0.5))
    return at, np.array(at) - cells


def _moved(moving: Array, rest: np.ndarray, grid: Grid) -> Array:
    """window × contrast (gy, gx) of a sight, moved by the part of a cell that its place is off the cell."""
    xp = grid.xp
    ramped = moving * ramp(grid.fy, float(rest[0]), xp)[:, None] * ramp(grid.fx, float(rest[1]), xp)
    return fft_namespace(xp).irfft2(ramped, s=grid.shape)
