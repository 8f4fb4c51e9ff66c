"""Particles left out: labels of the frame before, in aligned coordinates, as a soft mask over this frame's cells."""

from __future__ import annotations

import math

import cv2
import numpy as np

from emstream.align.grid import Grid
from emstream.align.resample import whole
from emstream.arrays import ndimage_namespace
from emstream.errors import BadImage
from emstream.messages import Array

LEAST = 0.1  # share of the window that must stay; else the mask is not used


def frame_mask(exclude: Array, shift: np.ndarray, dilate_px: float, grid: Grid) -> Array | None:
    """What may vote: (gy, gx) float32, 0 on excluded cells and around them, 1 elsewhere; None when too little stays.

    exclude : (y, x) bool in aligned coordinates
    shift   : (2,) predicted px: an aligned pixel a is the frame's pixel a - shift
    raises  : BadImage
    """
    if tuple(exclude.shape) != grid.frame:
        raise BadImage(f"the excluded pixels are {tuple(exclude.shape)}, frames are {grid.frame}")
    xp, (gy, gx), b = grid.xp, grid.shape, grid.bin
    dy, dx = whole((float(shift[0]), float(shift[1])))
    step = b // 2 if b % 2 == 0 else b  # a cell is looked at in 2 x 2 places; what is finer is widened away anyway
    ys = np.arange(step // 2, gy * b, step) + dy
    xs = np.arange(step // 2, gx * b, step) + dx
    h, w = grid.frame
    picked = exclude[xp.asarray(np.clip(ys, 0, h - 1))][:, xp.asarray(np.clip(xs, 0, w - 1))]
    picked = picked & xp.asarray((ys >= 0) & (ys < h))[:, None] & xp.asarray((xs >= 0) & (xs < w))[None]
    if b // step == 2:
        picked = picked[::2] | picked[1::2]
        picked = picked[:, ::2] | picked[:, 1::2]
    mask = _widened(picked, math.ceil(dilate_px / b), grid)
    return mask if float((mask * grid.window).sum()) > LEAST * float(grid.window.sum()) else None


def _widened(cells: Array, radius: int, grid: Grid) -> Array:
    size = 2 * radius + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    if grid.xp is np:
        wide = cv2.dilate(cells.astype(np.uint8), disc)
        return cv2.blur((1 - wide).astype(np.float32), (3, 3))
    nd = ndimage_namespace(grid.xp)
    wide = nd.maximum_filter(cells.astype(grid.xp.uint8), footprint=grid.xp.asarray(disc > 0), mode="constant")
    return nd.uniform_filter((1 - wide).astype(grid.xp.float32), 3)
