"""The network: a small U-Net that works at reduced resolution inside and gives maps: foreground, depth, way to the middle."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

MAPS = 4  # foreground, depth, and the way to the particle's middle in y and x
FAR = 32.0  # px; the unit of the way to the middle


class Block(nn.Module):
    """3 x 3 convolution, group norm, ReLU."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(max(1, outside // 8), outside)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)), inplace=True)


class UNet(nn.Module):
    """(n, 1, y, x) normalised frames -> (n, 4, y, x): logits of foreground and depth, and the way (dy, dx) to the middle.

    Depth is the distance to the particle's edge, to a touching neighbour's too, up to `learn.targets.DEEP` px (1 from
    there on, 0 outside): low along the seams where particles touch. (dy, dx) leads from a pixel to the middle of its
    particle, in units of FAR px. y and x must be multiples of `stem`, better of `stride`.
    stem x stem pixels are folded into channels before the first convolution and unfolded after the last one: most of the
    work of a U-Net is at full resolution, and it is not needed to draw an outline to the pixel.
    Group norm, not batch norm: frames come one at a time, and their signal to noise differs a hundredfold (batch norm
    was tried: at 4 e/px it learned far more slowly). The decoder adds instead of concatenating (half the work).

    Ronneberger et al. 2015, doi 10.1007/978-3-319-24574-4_28; Wu & He 2018, doi 10.1007/978-3-030-01261-8_1;
    Shi et al. 2016 (folding), doi 10.1109/CVPR.2016.207; Neven et al. 2019 (the way to the middle),
    doi 10.1109/CVPR.2019.00904.
    """

    def __init__(self, widths: tuple[int, ...] = (48, 96, 160, 224, 256), stem: int = 4) -> None:
        super().__init__()
        self.widths, self.stem = tuple(widths), stem
        self.down = nn.ModuleList(
            nn.Sequential(Block(a, b), Block(b, b)) for a, b in zip((stem**2, *widths[:-1]), widths, strict=True)
        )
        self.across = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(Block(a, a) for a in widths[:-1])
        self.head = nn.Conv2d(widths[0], MAPS * stem**2, 3, padding=1)

    @property
    def stride(self) -> int:
        return int(self.stem * 2 ** (len(self.widths) - 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_unshuffle(x, self.stem)
        kept = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            kept.append(x)
        for i in reversed(range(len(self.up))):
            x = self.up[i](kept[i] + F.interpolate(self.across[i](x), kept[i].shape[2:], mode="bilinear"))
        return F.pixel_shuffle(self.head(x), self.stem)


def build(architecture: dict[str, Any]) -> UNet:
    """The network that `model.json` describes: {"kind": "unet", "widths": [...], "stem": 4}. raises : ValueError, TypeError"""
    if architecture.get("kind") != "unet":
        raise ValueError(f"architecture {architecture.get('kind')!r} is not known")
    widths = tuple(int(w) for w in architecture["widths"])
    if not 2 <= len(widths) <= 8 or not all(8 <= w <= 1024 for w in widths):
        raise ValueError(f"widths {widths} are not 2 to 8 numbers from 8 to 1024")
    stem = int(architecture.get("stem", 2))
    if stem not in (1, 2, 4, 8):
        raise ValueError(f"stem {stem} is not 1, 2, 4 or 8")
    return UNet(widths, stem)


def describe(net: UNet) -> dict[str, Any]:
    """What `build` needs to make the same network again."""
    return {"kind": "unet", "widths": list(net.widths), "stem": net.stem}


def parameters(net: nn.Module) -> int:
    """How many numbers the network has."""
    return sum(p.numel() for p in net.parameters())
