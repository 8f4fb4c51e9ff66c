"""The aligned running reference: even and odd frames summed on a canvas that is fixed to the sample.

The canvas near the view is two arrays a half; what the view leaves behind is kept in pages, so that a sample that
drifts away and comes back finds its own place again. Values are never changed in place: every step makes a new Canvas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from emstream.align.grid import Grid
from emstream.messages import Array

PAGE = 64  # cells a side
MOST_PAGES = 2048  # the oldest are dropped beyond this
EMPTY = 0.02  # less weight than this counts as nothing known

Page = tuple[Array, Array]  # num (2, PAGE, PAGE), den (2, PAGE, PAGE)


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """Sums in cells of the grid; canvas cell (0, 0) lies at `origin` of the anchor frame."""

    num: tuple[Array, Array]  # (my, mx) float32 each: even, odd
    den: tuple[Array, Array]
    origin: tuple[int, int]
    count: int = 0  # frames admitted
    gain: float = 1.0  # weight of the next frame: it grows, which is how the old is forgotten
    pages: Mapping[tuple[int, int], Page] = field(default_factory=dict)


def blank_canvas(grid: Grid) -> Canvas:
    xp = grid.xp
    shape = tuple(n + 2 * p for n, p in zip(grid.shape, grid.pad))
    zero = xp.zeros(shape, xp.float32)
    return Canvas(num=(zero, zero), den=(zero, zero), origin=(-grid.pad[0], -grid.pad[1]))


def halves(canvas: Canvas, at: tuple[int, int], grid: Grid) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """num and den (gy, gx) of the two halves under a frame at cell `at` of the anchor frame; weights as of now."""
    y, x = at[0] - canvas.origin[0], at[1] - canvas.origin[1]
    cut = np.s_[y : y + grid.shape[0], x : x + grid.shape[1]]
    return (canvas.num[0][cut], canvas.num[1][cut]), (canvas.den[0][cut], canvas.den[1][cut])


def admit(canvas: Canvas, at: tuple[int, int], image: Array, weight: Array, grid: Grid, memory: int) -> Canvas:
    """One more frame: `image` = weight × contrast (gy, gx), laid at cell `at`; it goes to the half whose turn it is."""
    canvas = roomy(canvas, at, grid)
    y, x = at[0] - canvas.origin[0], at[1] - canvas.origin[1]
    cut = np.s_[y : y + grid.shape[0], x : x + grid.shape[1]]
    half = canvas.count % 2
    gain = grid.xp.float32(canvas.gain)
    num, den = canvas.num[half].copy(), canvas.den[half].copy()
    num[cut] += image * gain
    den[cut] += weight * gain
    grown = canvas.gain * (1 + 1 / memory) if canvas.count >= memory else canvas.gain
    canvas = replace(
        canvas,
        num=(num, canvas.num[1]) if half == 0 else (canvas.num[0], num),
        den=(den, canvas.den[1]) if half == 0 else (canvas.den[0], den),
        count=canvas.count + 1,
        gain=grown,
    )
    return _rescaled(canvas) if grown > 1e3 else canvas


def roomy(canvas: Canvas, at: tuple[int, int], grid: Grid) -> Canvas:
    """The canvas moved, where needed, so that a frame at cell `at` lies on it; what leaves goes to pages."""
    y, x = at[0] - canvas.origin[0], at[1] - canvas.origin[1]
    my, mx = canvas.num[0].shape
    if 0 <= y <= my - grid.shape[0] and 0 <= x <= mx - grid.shape[1]:
        return canvas
    pages = _to_pages(canvas, grid)
    origin = (at[0] - grid.pad[0], at[1] - grid.pad[1])
    return _from_pages(canvas, pages, origin, grid)


def _to_pages(canvas: Canvas, grid: Grid) -> dict[tuple[int, int], Page]:
    xp, pages = grid.xp, dict(canvas.pages)
    num, den = xp.stack(canvas.num), xp.stack(canvas.den)
    for key, inner, outer in _overlaps(canvas.origin, num.shape[1:]):
        piece = den[:, outer[0], outer[1]]
        if not bool((piece > 0).any()):
            continue
        page_num, page_den = (a.copy() for a in pages.pop(key, (xp.zeros((2, PAGE, PAGE), xp.float32),) * 2))
        page_num[:, inner[0], inner[1]] = num[:, outer[0], outer[1]]
        page_den[:, inner[0], inner[1]] = piece
        pages[key] = (page_num, page_den)
    return dict(list(pages.items())[-MOST_PAGES:])


def _from_pages(canvas: Canvas, pages: Mapping[tuple[int, int], Page], origin: tuple[int, int], grid: Grid) -> Canvas:
    xp, shape = grid.xp, canvas.num[0].shape
    num, den = xp.zeros((2, *shape), xp.float32), xp.zeros((2, *shape), xp.float32)
    for key, inner, outer in _overlaps(origin, shape):
        if key in pages:
            num[:, outer[0], outer[1]] = pages[key][0][:, inner[0], inner[1]]
            den[:, outer[0], outer[1]] = pages[key][1][:, inner[0], inner[1]]
    return replace(canvas, num=(num[0], num[1]), den=(den[0], den[1]), origin=origin, pages=pages)


def _overlaps(
    origin: tuple[int, int], shape: tuple[int, ...]
) -> list[tuple[tuple[int, int], tuple[slice, slice], tuple[slice, slice]]]:
    """Pages under a canvas: (page, slices inside the page, slices inside the canvas)."""
    axes = []
    for o, n in zip(origin, shape):
        parts = []
        for p in range(o // PAGE, (o + n - 1) // PAGE + 1):
            a, b = max(p * PAGE, o), min((p + 1) * PAGE, o + n)
            parts.append((p, slice(a - p * PAGE, b - p * PAGE), slice(a - o, b - o)))
        axes.append(parts)
    return [((py, px), (iy, ix), (oy, ox)) for py, iy, oy in axes[0] for px, ix, ox in axes[1]]


def _rescaled(canvas: Canvas) -> Canvas:
    s = 1 / canvas.gain
    return replace(
        canvas,
        num=(canvas.num[0] * s, canvas.num[1] * s),
        den=(canvas.den[0] * s, canvas.den[1] * s),
        pages={k: (n * s, d * s) for k, (n, d) in canvas.pages.items()},
        gain=1.0,
    )
