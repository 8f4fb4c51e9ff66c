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
    step = max(1, int(np.sqrt(inside.numel() / 6000)))
    some = inside[::step, ::step].flatten()
    ends = [int(share * (len(some) - 1)) for share in (0.005, 0.995)]
    if image.device.type == "cpu":  # the same, several times faster than torch
        low, high = np.partition(some.numpy(), ends)[ends].tolist()
        inside = inside.clamp(low, high)
        mean, deviation = (float(v[0, 0]) for v in cv2.meanStdDev(inside.numpy()))
        inside.sub_(mean).div_(max(deviation, 1e-6))
    else:
        low, high = some.sort().values[ends]
        inside = inside.clamp(low, high)
        spread, middle = torch.std_mean(inside, correction=0)
        inside.sub_(middle).div_(spread.clamp(min=1e-6))
    if valid is None:
        return inside
    out = torch.zeros_like(image)
    out[valid[0] : valid[1], valid[2] : valid[3]] = inside
    return out


def reduce_on_device(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """`scale.reduce` for a tensor on a device."""
    image = image.float()
    if not bool(torch.isfinite(image.sum())):
        middle = image[torch.isfinite(image)].median() if bool(torch.isfinite(image).any()) else image.new_zeros(())
        image = torch.where(torch.isfinite(image), image, middle)
    return image if shape == tuple(image.shape) else F.interpolate(image[None, None], shape, mode="area")[0, 0]


def pad(image: Tensor, stride: int) -> Tensor:
    """(y, x) -> (1, 1, Y, X) with Y and X the next multiples of `stride`, by reflection where there is room."""
    extra = [-n % stride for n in image.shape]
    mode = "reflect" if all(e < n for e, n in zip(extra, image.shape, strict=True)) else "replicate"
    return F.pad(image[None, None], (0, extra[1], 0, extra[0]), mode=mode)
