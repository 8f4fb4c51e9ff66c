"""Coarser levels of one frame: 2x2 means for pixels, every second one for labels."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

_CV2 = ("uint8", "uint16", "int16", "float32", "float64")


def halved(image: np.ndarray) -> np.ndarray:
    """(y, x) -> (ceil(y/2), ceil(x/2)), means of 2x2, same dtype; an odd edge counts its last pixels twice."""
    y, x = image.shape
    if y % 2 or x % 2:
        image = np.pad(image, ((0, y % 2), (0, x % 2)), mode="edge")
    if image.dtype.name in _CV2:
        return cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    wide = np.float64 if image.dtype.kind == "f" else np.int64
    total: np.ndarray = np.add.reduce([image[i::2, j::2].astype(wide) for i in (0, 1) for j in (0, 1)])
    return (total / 4 if wide is np.float64 else total // 4).astype(image.dtype)


def levels(image: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """The image and its coarser levels, `count` in all."""
    yield image
    for _ in range(count - 1):
        image = halved(image)
        yield image


def label_levels(labels: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """(y, x) labels and every second, fourth … pixel of them, `count` in all."""
    for level in range(count):
        yield np.ascontiguousarray(labels[:: 2**level, :: 2**level])
