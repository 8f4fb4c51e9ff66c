"""Hot and dead pixels: found in the detector's running sum, and taken out of the grid's parts of cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from emstream.align.grid import Grid
from emstream.arrays import ndimage_namespace, to_host
from emstream.messages import Array

SIGMAS = 7.0  # how far off its surroundings, in units of the noise …
CONTRAST = 0.15  # … plus this share of the surroundings …
ISOLATED = 2.5  # … and so many times further off than the third of its 24 neighbours: what optics blur is never so
MOST = 0.01  # a map with more than this share of the pixels is no map of defects
AROUND = np.array([(y, x) for y in range(-2, 3) for x in range(-2, 3) if (y, x) != (0, 0)])


@dataclass(frozen=True, slots=True, eq=False)
class Defects:
    """Defects as sparse corrections of the means that a frame is first reduced to; (gy, gx) is `Grid.fine`'s shape."""

    pixels: np.ndarray  # (n,) int64 flat indices in the frame
    index: Array  # (m,) those inside the grid, on the device
    cell: Array  # (m,) their cell
    good: Array  # (gy*gx,) float32, good pixels in each cell
    dead: Array  # (d,) cells without a good pixel
    around: Array  # (d, 24) cells around them
    weight: Array  # (d, 24) float32, which of those count; rows sum to 1
    cell_pixels: int
    xp: Any

    def repair(self, x: Array, at: Callable[[Array], Array]) -> Array:
        """Cells as the mean of their good pixels; cells without any as the mean of those around.

        x  : (gy, gx) float32 means over all pixels
        at : flat pixel indices -> counts as they went into x
        """
        bad = self.xp.bincount(self.cell, at(self.index), minlength=x.size).astype(x.dtype)
        flat = (x.ravel() * self.cell_pixels - bad) / self.xp.maximum(self.good, 1)
        if self.dead.size:
            flat[self.dead] = (flat[self.around] * self.weight).sum(axis=1)
        return flat.reshape(x.shape)


def make_defects(pixels: np.ndarray, grid: Grid) -> Defects | None:
    """The corrections for a list of flat pixel indices (n,); None when none lies inside the grid."""
    ((gy, gx), b), xp = grid.fine, grid.xp
    y, x = np.divmod(pixels, grid.frame[1])
    inside = (y < gy * b) & (x < gx * b)
    if not inside.any():
        return None
    cell = (y[inside] // b) * gx + x[inside] // b
    good = b * b - np.bincount(cell, minlength=gy * gx)
    dead = np.flatnonzero(good == 0)
    cy, cx = (dead[:, None] // gx + AROUND[:, 0], dead[:, None] % gx + AROUND[:, 1])
    around = np.clip(cy, 0, gy - 1) * gx + np.clip(cx, 0, gx - 1)
    weight = (good[around] > 0).astype(np.float32)
    weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1)
    return Defects(
        pixels=pixels,
        index=xp.asarray(pixels[inside]),
        cell=xp.asarray(cell),
        good=xp.asarray(good.astype(np.float32)),
        dead=xp.asarray(dead),
        around=xp.asarray(around),
        weight=xp.asarray(weight),
        cell_pixels=b * b,
        xp=xp,
    )


def find_defects(total: Array, xp: Any, *, counting: bool) -> np.ndarray:
    """Flat indices (n,) of pixels that stand out alone in a sum of raw frames.

    total    : (y, x) float32, sum of frames
    counting : whether the frames were integers: their noise is then at least Poisson's
    """
    if min(total.shape) < 16:
        return np.empty(0, np.int64)
    local = _local_mean(total, xp)
    sample = to_host(local.ravel()[:: max(1, total.size >> 16)])
    floor = 1.0 if counting else 0.1 * max(float(np.median(sample)), 0.0) + 1e-12
    noise = xp.sqrt(xp.maximum(local, 0) + floor)
    off = total - local
    spread = to_host((off / noise).ravel()[:: max(1, total.size >> 16)])
    scale = float(np.subtract(*np.percentile(spread, (84.13, 15.87)))) / 2
    scale = max(scale, 1.0) if counting else max(scale, 1e-9)
    limit = SIGMAS * scale * noise + CONTRAST * abs(local)
    candidates = to_host(xp.flatnonzero(abs(off) > 0.9 * limit))
    if not 0 < candidates.size <= MOST * total.size:
        return np.empty(0, np.int64)
    y, x = np.divmod(candidates, total.shape[1])
    yy = _reflect(y[:, None] + AROUND[:, 0], total.shape[0])
    xx = _reflect(x[:, None] + AROUND[:, 1], total.shape[1])
    near = np.sort(to_host(total[xp.asarray(yy), xp.asarray(xx)]).astype(np.float64), axis=1)
    base = np.median(near, axis=1)
    own = to_host(total.ravel()[xp.asarray(candidates)]) - base
    third = np.where(own > 0, near[:, -3] - base, near[:, 2] - base)
    limit = SIGMAS * scale * np.sqrt(np.maximum(base, 0) + floor) + CONTRAST * abs(base)
    return candidates[(abs(own) > limit) & (abs(own) > ISOLATED * abs(third))]


def _local_mean(total: Array, xp: Any) -> Array:
    if xp is np:
        return cv2.blur(total, (7, 7), borderType=cv2.BORDER_REFLECT)
    return ndimage_namespace(xp).uniform_filter(total, 7)


def _reflect(i: np.ndarray, n: int) -> np.ndarray:
    i = np.abs(i)
    return np.where(i >= n, 2 * n - 2 - i, i)
