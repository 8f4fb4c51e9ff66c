"""Between a frame's own pixels and the smaller ones that a method works on."""

from __future__ import annotations

import cv2
import numpy as np

from emstream.messages import Rect


def working_shape(shape: tuple[int, int], long_side: int) -> tuple[int, int]:
    """The frame's shape, reduced so that its longer side is at most `long_side` px; 0 = not reduced."""
    ratio = long_side / max(shape) if long_side else 1.0
    return shape if ratio >= 1 else (max(8, round(shape[0] * ratio)), max(8, round(shape[1] * ratio)))


def reduce(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """An image (y, x) of any dtype as float32 of `shape`, by area average; what is not finite becomes the median."""
    if image.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        image = image.astype(np.float32)
    if image.dtype == np.float32 and not np.isfinite(image).all():
        finite = image[np.isfinite(image)]
        image = np.where(np.isfinite(image), image, np.median(finite) if finite.size else np.float32(0))
    if shape != image.shape:
        half = (image.shape[0] // 2, image.shape[1] // 2)
        if image.shape[0] % 2 == image.shape[1] % 2 == 0 and shape[0] <= half[0] and shape[1] <= half[1]:
            image = cv2.resize(image, half[::-1], interpolation=cv2.INTER_AREA)  # a fast path of cv2, the rest is small
        image = cv2.resize(np.ascontiguousarray(image), shape[::-1], interpolation=cv2.INTER_AREA)
    return image.astype(np.float32, copy=False)


def enlarge(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A map (y, x) at the frame's shape, bilinear."""
    return image if image.shape == shape else cv2.resize(image, shape[::-1], interpolation=cv2.INTER_LINEAR)


def scaled(valid: Rect | None, shape: tuple[int, int], small: tuple[int, int]) -> Rect | None:
    """The rectangle in the pixels of a reduced image; None = all of it, also where next to nothing is covered."""
    if valid is None or valid == (0, shape[0], 0, shape[1]):
        return None
    down, across = small[0] / shape[0], small[1] / shape[1]
    y0, y1 = int(np.ceil(valid[0] * down)), int(valid[1] * down)
    x0, x1 = int(np.ceil(valid[2] * across)), int(valid[3] * across)
    return (y0, y1, x0, x1) if y1 - y0 >= 8 and x1 - x0 >= 8 else None
