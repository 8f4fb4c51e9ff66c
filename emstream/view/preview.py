"""A frame as a small 8-bit picture, and its labels as outlines: a few milliseconds for each frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from emstream.messages import Rect

Window = tuple[float, float]  # counts that become black and white


@dataclass(frozen=True, slots=True, eq=False)
class Outlines:
    """Closed polygons, one or more for each particle, in 1/65536 of the frame's width and height.

    points   : (m, 2) uint16 (x, y)
    starts   : (n + 1,) int32; polygon i is points[starts[i]:starts[i + 1]]
    particle : (n,) int32 label of the particle that polygon i belongs to
    """

    points: np.ndarray
    starts: np.ndarray
    particle: np.ndarray


def preview(
    pixels: np.ndarray,
    size: int = 512,
    *,
    valid: Rect | None = None,
    window: Window | None = None,
    full: tuple[int, int] | None = None,
) -> tuple[np.ndarray, float, Window]:
    """The frame area-averaged so that its longer side is at most `size`, its grey levels stretched.

    pixels  : (y, x) any real dtype, counts
    valid   : only these pixels decide the stretch; the others become black. Of a frame of `full` (y, x) px
    window  : the stretch of the frame before; followed slowly, so that the picture does not flicker
    returns : (h, w) uint8, px of the frame for one px of the picture, the window (0.5 and 99.5 percentile)
    """
    factor = max(1.0, max(pixels.shape) / size)
    shape = (max(1, round(pixels.shape[0] / factor)), max(1, round(pixels.shape[1] / factor)))
    small = _shrink(pixels, shape)
    y, x = full or pixels.shape
    inside = np.zeros(shape, bool)
    y0, y1, x0, x1 = valid or (0, y, 0, x)
    ky, kx = shape[0] / y, shape[1] / x
    part = (slice(math.ceil(y0 * ky), math.floor(y1 * ky)), slice(math.ceil(x0 * kx), math.floor(x1 * kx)))
    inside[part] = True
    seen = small[part] if small[part].size else small
    window = _follow(window, seen)
    low, high = window
    image = cv2.convertScaleAbs(np.clip(small, low, high) - low, alpha=255.0 / max(high - low, 1e-12))
    if valid is not None:
        image[~inside] = 0
    return image, factor * max(y, x) / max(pixels.shape), window


def _shrink(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Area average as float32; cv2 takes uint8, uint16, int16 and float32, the rest is converted first."""
    if pixels.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        pixels = pixels.astype(np.float32)
    if pixels.dtype.byteorder == ">":
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    if pixels.shape != shape:
        whole = pixels.shape[0] // shape[0]
        if pixels.dtype != np.float32 and whole * shape[0] == pixels.shape[0] and whole * shape[1] == pixels.shape[1]:
            return cv2.resize(pixels, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
        pixels = cv2.resize(pixels.astype(np.float32, copy=False), shape[::-1], interpolation=cv2.INTER_AREA)
    return np.nan_to_num(pixels.astype(np.float32, copy=False))


def _follow(before: Window | None, seen: np.ndarray) -> Window:
    step = max(1, int(math.sqrt(seen.size / 16384)))
    low, high = (float(v) for v in np.percentile(seen[::step, ::step], (0.5, 99.5)))
    high = max(high, low + 1e-6 * max(1.0, abs(low)))
    if before is None:
        return low, high
    old, new = before[1] - before[0], high - low
    if not 0.5 < new / old < 2 or abs(low - before[0]) > old:  # another scene: jump there
        return low, high
    return 0.9 * before[0] + 0.1 * low, 0.9 * before[1] + 0.1 * high


def outlines(labels: np.ndarray, size: int = 1024) -> Outlines:
    """The outer border of every particle.

    labels  : (y, x) integers, 0 = background
    size    : the labels are thinned so that their longer side is at most this
    returns : polygons just inside the border, see Outlines
    """
    from scipy import ndimage  # late: a start is waited for, and can do without

    y, x = labels.shape
    step = max(1, math.ceil(max(y, x) / size))
    small = np.ascontiguousarray(labels[step // 2 :: step, step // 2 :: step], dtype=np.int32)  # middles of step² px
    scale = np.array([65536.0 / x, 65536.0 / y])
    fine = (
        2 if max(y, x) <= 640 else 1
    )  # outlines of twice the pixels lie a quarter of a pixel inside the border, not a half
    polygons: list[np.ndarray] = []
    particle: list[int] = []
    for index, box in enumerate(ndimage.find_objects(small)):
        if box is None:
            continue
        mask = (small[box] == index + 1).view(np.uint8)
        if fine == 2:
            mask = mask.repeat(2, axis=0).repeat(2, axis=1)
        found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        corner = np.array([box[1].start, box[0].start]) * step
        for contour in found:
            every = max(1, min(2 * fine, len(contour) // 12))  # the page draws a smooth curve through them
            polygons.append(((contour[::every, 0] + 0.5) * (step / fine) + corner) * scale)
            particle.append(index + 1)
    lengths = [len(p) for p in polygons]
    points = np.concatenate(polygons) if polygons else np.empty((0, 2))
    return Outlines(
        np.clip(np.round(points), 0, 65535).astype(np.uint16),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        np.array(particle, np.int32),
    )
