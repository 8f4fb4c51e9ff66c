"""The historical baseline: a tiny autoencoder that simplifies a frame until Otsu's threshold can cut it.

Horwath et al. (MLforEM, 2022) train 1 -> 2 -> 8 -> 2 -> 1 channels, 7 x 7, convolution, ReLU, batch norm, 1,803 numbers,
to reproduce the frame, and hope that it cannot reproduce the noise. It can: without pooling the output correlates with
the input at .98 and more, and ReLU leaves one to three of its ten inner channels dead. With a pooled, sparse code and
leaky units it has to simplify. Not the default for either reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emstream.arrays import array_namespace, to_host
from emstream.errors import BadImage, ModelBroken
from emstream.messages import Array, Labelled, PixelSize, Rect
from emstream.segment import Polarity, SegmentOptions
from emstream.segment.bases import AtOnce
from emstream.segment.classical import above, otsu, polarity, with_polarity
from emstream.segment.instances import components, cover, drop_small, smallest_area
from emstream.segment.normalise import normalise

KERNEL = 7
CHANNELS = (2, 8)


class Autoencoder(nn.Module):
    """(n, 1, y, x) frames in 0..1 -> (n, 1, y, x) the same, simplified.

    pools : how often the code is pooled 2 x 2, 0 = as the seed did; y and x must be multiples of `stride`
    leaky : slope of the units below 0; 0 = ReLU, as the seed did
    """

    def __init__(self, channels: tuple[int, int] = CHANNELS, pools: int = 0, leaky: float = 0.0) -> None:
        super().__init__()
        self.channels, self.pools, self.leaky = tuple(channels), pools, leaky
        a, b = self.channels
        steps = ((1, a), (a, b), (b, a), (a, 1))
        self.conv = nn.ModuleList(nn.Conv2d(i, o, KERNEL, padding=KERNEL // 2) for i, o in steps)
        self.norm = nn.ModuleList(nn.BatchNorm2d(o) for _, o in steps)
        self.code: Tensor | None = None  # of the last batch, for a criterion that wants it sparse

    @property
    def stride(self) -> int:
        return int(2**self.pools)

    def _block(self, k: int, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv[k](x), self.leaky)
        return torch.as_tensor(self.norm[k](x))

    def forward(self, x: Tensor) -> Tensor:
        x = self._block(1, self._block(0, x))
        for _ in range(self.pools):
            x = F.avg_pool2d(x, 2)
        self.code = x
        for _ in range(self.pools):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
        return self._block(3, self._block(2, x))


def unit(image: Tensor) -> Tensor:
    """A normalised frame (mean 0, deviation 1) as 0..1: what the autoencoder sees and gives."""
    return (image / 6 + 0.5).clamp(0, 1)


def dead_channels(net: Autoencoder) -> int:
    """Inner channels that give nothing any more: their running variance is 0."""
    spread = [torch.as_tensor(norm.running_var) for norm in list(net.norm)[:3]]
    return sum(int((v < 1e-8).sum()) for v in spread)


def from_published(state: Mapping[str, Tensor]) -> Autoencoder:
    """The network of a checkpoint that the seed's authors published, from its model_state_dict.

    `module.` of DataParallel is stripped; of the eight layers that one of the files declares only the first two and the
    last two were ever used, the others are ignored; transposed convolutions (stride 1) become convolutions.
    Load the file with torch.load(..., weights_only=True), never otherwise: emstream itself reads no pickle.

    raises : ModelBroken
    """
    tensors = {k.removeprefix("module."): v for k, v in state.items()}
    kernels = [k for k, v in tensors.items() if v.ndim == 4]
    norms = [k.removesuffix("running_mean") for k in tensors if k.endswith("running_mean")]
    if len(kernels) < 4 or len(norms) < 4:
        raise ModelBroken(f"{len(kernels)} convolutions and {len(norms)} norms", "four of each are needed")
    a, b = int(tensors[kernels[0]].shape[0]), int(tensors[kernels[1]].shape[0])
    net = Autoencoder((a, b))
    new: dict[str, Tensor] = {}
    for k, (kernel, norm) in enumerate(zip((*kernels[:2], *kernels[-2:]), (*norms[:2], *norms[-2:]), strict=True)):
        weight, wanted = tensors[kernel].float(), net.state_dict()[f"conv.{k}.weight"].shape
        if weight.shape != wanted and weight.shape[:2] == (wanted[1], wanted[0]):
            weight = weight.transpose(0, 1).flip(2, 3)
        if weight.shape != wanted:
            raise ModelBroken(f"{kernel} is {tuple(weight.shape)}", f"{tuple(wanted)} is needed")
        new[f"conv.{k}.weight"] = weight.contiguous()
        new[f"conv.{k}.bias"] = tensors.get(kernel.removesuffix("weight") + "bias", torch.zeros(wanted[0])).float()
        for name in ("weight", "bias", "running_mean", "running_var"):
            new[f"norm.{k}.{name}"] = tensors[norm + name].float()
    try:
        net.load_state_dict(new, strict=False)
    except RuntimeError as problem:
        raise ModelBroken(f"the checkpoint does not fit: {problem}") from problem
    return net.eval()


def build(architecture: dict[str, Any]) -> Autoencoder:
    """The network that `model.json` describes: {"kind": "autoencoder", "channels": [2, 8], "pools": 0, "leaky": 0.0}.

    raises : ValueError, TypeError
    """
    channels = tuple(int(c) for c in architecture["channels"])
    pools, leaky = int(architecture.get("pools", 0)), float(architecture.get("leaky", 0.0))
    if len(channels) != 2 or not all(1 <= c <= 64 for c in channels) or not 0 <= pools <= 5:
        raise ValueError(f"channels {channels} and pools {pools} are not two numbers from 1 to 64, and 0 to 5")
    return Autoencoder((channels[0], channels[1]), pools, leaky)


def describe(net: Autoencoder) -> dict[str, Any]:
    """What `build` needs to make the same network again."""
    return {"kind": "autoencoder", "channels": list(net.channels), "pools": net.pools, "leaky": net.leaky}


class Simplifier(AtOnce):
    """An autoencoder as a Segmenter: simplified, cut at Otsu's level, labelled. No state but a series' polarity."""

    def __init__(self, net: Autoencoder, name: str, sha256: str, options: SegmentOptions) -> None:
        self.net, self.name, self.sha256, self.options = net.eval(), name, sha256, options
        self.memory = options

    def __call__(self, pixels: Array, *, valid: Rect | None = None, pixel_size_nm: PixelSize | None = None) -> Labelled:
        if pixels.ndim != 2 or min(pixels.shape) < 8:
            raise BadImage(f"a frame is (y, x) with at least 8 px a side, not {tuple(pixels.shape)}")
        image = np.nan_to_num(to_host(pixels).astype(np.float32))
        simple = simplified(self.net, image, valid)
        y0, y1, x0, x1 = valid or (0, image.shape[0], 0, image.shape[1])
        inside = simple[y0:y1, x0:x1]
        level = otsu(np.ascontiguousarray(inside))
        dark = polarity(inside, level) if self.memory.polarity == "auto" else self.memory.polarity == "dark"
        labels = components(cover(above(simple, level, dark), valid))
        labels = drop_small(labels, smallest_area(self.options, pixel_size_nm))
        return Labelled(array_namespace(pixels).asarray(labels), self.name, self.sha256)

    def warm_up(self, shape: tuple[int, int], dtype: str = "uint16") -> None:
        self(np.zeros(shape, dtype))

    def reset(self, polarity: Polarity = "auto") -> None:
        self.memory = with_polarity(self.options, polarity)


@torch.inference_mode()
def simplified(net: Autoencoder, image: np.ndarray, valid: Rect | None = None) -> np.ndarray:
    """(y, x) float32 -> what the network makes of it, (y, x) float32 stretched to 0..1."""
    x = unit(normalise(torch.from_numpy(np.ascontiguousarray(image, np.float32)), valid))
    extra = [-n % net.stride for n in x.shape]
    out = net(F.pad(x[None, None], (0, extra[1], 0, extra[0]), mode="replicate"))[0, 0, : x.shape[0], : x.shape[1]]
    found = np.asarray(out.numpy())
    low, high = np.percentile(found[::3, ::3], (0.5, 99.5))
    return np.clip((found - low) / max(float(high - low), 1e-9), 0, 1).astype(np.float32)
