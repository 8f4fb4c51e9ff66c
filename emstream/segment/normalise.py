"""What the network sees: a frame reduced to its working size, outliers clipped, mean 0 and deviation 1."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from emstream.messages import Rect


def normalise(image: Tensor, valid: Rect | None = None) -> Tensor:
    """(y, x) float32 -> the same, clipped to its percentiles .5 and 99.5, mean 0, deviation 1; 0 outside `valid`.

    Always over the whole covered frame, never over a tile, so that one frame has one scale.
    """
    inside = image if valid is None else image[valid[0] : valid[1], valid[2] : valid[3]]
    step = max(1, int(np.sqrt(inside.numel() / 40000)))
    ordered = inside[::step, ::step].flatten().sort().values
    low, high = ordered[int(0.005 * (len(ordered) - 1))], ordered[int(0.995 * (len(ordered) - 1))]
    inside = inside.clamp(low, high)
    inside = (inside - inside.mean()) / inside.std().clamp(min=1e-6)
    if valid is None:
        return inside
    out = torch.zeros_like(image)
    out[valid[0] : valid[1], valid[2] : valid[3]] = inside
    return out


def reduce(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A host image (y, x) of any dtype as float32 of `shape`, by area average."""
    if image.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        image = image.astype(np.float32)
    if shape != image.shape:
        image = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)
    return image.astype(np.float32, copy=False)


def reduce_on_device(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """The same for a tensor on a device."""
    image = image.float()
    return image if shape == tuple(image.shape) else F.interpolate(image[None, None], shape, mode="area")[0, 0]


def working_shape(shape: tuple[int, int], long_side: int) -> tuple[int, int]:
    """The frame's shape, reduced so that its longer side is at most `long_side` px; 0 = not reduced."""
    ratio = long_side / max(shape) if long_side else 1.0
    return shape if ratio >= 1 else (max(8, round(shape[0] * ratio)), max(8, round(shape[1] * ratio)))


def pad(image: Tensor, stride: int) -> Tensor:
    """(y, x) -> (1, 1, Y, X) with Y and X the next multiples of `stride`, by reflection where there is room."""
    extra = [-n % stride for n in image.shape]
    mode = "reflect" if all(e < n for e, n in zip(extra, image.shape, strict=True)) else "replicate"
    return F.pad(image[None, None], (0, extra[1], 0, extra[0]), mode=mode)
