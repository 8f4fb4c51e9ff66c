"""A frame through the network at one size: normalised, multiplied, and what it shows of it, as far as it is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emstream.segment.listed import Listed, components_of
from emstream.segment.normalise import pad
from emstream.segment.unet import FAR


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What the network saw, and made of it; on the host."""

    seen: np.ndarray  # (y, x) float32, normalised
    foreground: np.ndarray  # (y, x) float32, 0..1
    whole: Listed  # components of the foreground
    depth: np.ndarray  # (k,) float32, 0..1 for each of their pixels: its distance to the nearest edge or seam
    way: np.ndarray  # (2, k) float32 px, from each of their pixels to the middle of its particle: dy, dx


@torch.inference_mode()
def predict(net: Callable[[Tensor], Tensor], image: Tensor, stride: int, dtype: torch.dtype) -> Tensor:
    """(y, x) float32 normalised image -> (4, y, x) on its device: logits of foreground and depth, (dy, dx) over FAR."""
    x = pad(image, stride).to(dtype).contiguous(memory_format=torch.channels_last)
    return net(x)[0, :, : image.shape[0], : image.shape[1]]


@torch.inference_mode()
def look_at(net: Callable[[Tensor], Tensor], image: Tensor, stride: int, dtype: torch.dtype, threshold: float) -> Look:
    """What the network makes of a normalised image (y, x) float32.

    Only the foreground is a whole picture; depth and way are asked for at its pixels alone, a tenth of all.
    """
    maps = predict(net, image, stride, dtype)
    foreground = maps[0].float().contiguous().sigmoid_().cpu().numpy()
    whole = components_of(foreground > threshold)
    at = torch.from_numpy(whole.at).to(maps.device)
    y, x = at.div(whole.shape[1], rounding_mode="floor"), at.remainder(whole.shape[1])
    points = maps.permute(1, 2, 0)[y, x, 1:].float().cpu()
    depth, way = points[:, 0].sigmoid().numpy(), (points[:, 1:].T * FAR).contiguous().numpy()
    return Look(image.cpu().numpy(), foreground, whole, depth, way)
