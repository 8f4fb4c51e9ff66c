"""Labels without a hand: what a network believes over turns, sizes and contrasts, and the classical mask that fits it.

The label of a frame is half the mask chosen by agreement, half the belief itself, or more of the belief where no mask
agrees with it well; a pixel counts by how far that is from one half. The agreement of both tells, without any label, how good the lesson is (correlation with the true IoU about .5
on mixed micrographs): the worst lessons are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from emstream.learn.candidates import candidates
from emstream.messages import Rect
from emstream.segment.instances import cover
from emstream.segment.listed import components_of
from emstream.segment.middle import parted
from emstream.segment.normalise import normalise, pad
from emstream.segment.scale import working_shape
from emstream.segment.unet import FAR, MAPS, UNet

SIDES = (448, 288, 192)  # px: longer side at which the frame is shown to the network
MASK = 0.5  # share of the classical mask in the label, where both agree well
DOUBT, TRUST = 0.3, 0.6  # agreements at which the mask has no say, and its full one


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """A frame and what is to be learned from it."""

    name: str
    image: np.ndarray  # (y, x) float32, counts where the camera counted
    labels: np.ndarray  # (y, x) int32, 0 = background
    weight: np.ndarray  # (y, x) float32 0..1, how sure each pixel is; 0 where the frame covers nothing
    valid: Rect  # y0, y1, x0, x1: what the frame covers
    agreement: float = 1.0  # of mask and belief, 0..1; 1 for labels drawn by hand
    method: str = ""  # what made the mask
    added: np.ndarray | None = None  # (y, x) float32, with the frames before it, where the daemon adds them up


def lesson(
    name: str, image: np.ndarray, shown: np.ndarray, net: UNet, valid: Rect | None = None, sides: Sequence[int] = SIDES
) -> Lesson:
    """What `net` and the classical methods teach about a frame.

    image : (y, x) float32, the frame that the student will see
    shown : (y, x) float32, what the teacher sees: the frame itself, or better its neighbours in time without it,
            whose noise is independent of the frame's
    valid : y0, y1, x0, x1 that both cover
    """
    y0, y1, x0, x1 = valid or (0, image.shape[0], 0, image.shape[1])
    belief = np.zeros((MAPS, *image.shape), np.float32)
    belief[:, y0:y1, x0:x1] = believe(net, shown[y0:y1, x0:x1], sides)
    mask = np.zeros(image.shape, bool)
    found = candidates(shown[y0:y1, x0:x1], belief[0, y0:y1, x0:x1])
    mask[y0:y1, x0:x1] = found[0].mask
    share = MASK * float(np.clip((found[0].agreement - DOUBT) / (TRUST - DOUBT), 0, 1))
    label = share * mask + (1 - share) * belief[0]
    foreground = cover(label > 0.5, valid)
    weight = np.zeros(image.shape, np.float32)
    weight[y0:y1, x0:x1] = 2 * np.abs(label - 0.5)[y0:y1, x0:x1]
    whole = components_of(foreground)
    depth, *way = belief[1:].reshape(MAPS - 1, -1)[:, whole.at]
    labels = parted(whole, depth, np.stack(way))[0].picture()
    return Lesson(name, image, labels, weight, (y0, y1, x0, x1), found[0].agreement, found[0].method)


@torch.inference_mode()
def believe(net: UNet, image: np.ndarray, sides: Sequence[int] = SIDES) -> np.ndarray:
    """(y, x) float32 -> (4, y, x) float32: foreground and depth, 0..1, way (dy, dx) to the middle, px.

    The foreground is the mean over sizes, mirrors and contrasts; the others, lengths in px, that of the largest size.
    """
    height, width = image.shape
    total, rest = np.zeros(image.shape, np.float32), np.zeros((MAPS - 1, *image.shape), np.float32)
    shown = sorted({min(s, max(image.shape)) for s in sides}, reverse=True)
    for side in shown:
        shape = working_shape((height, width), side)
        small = torch.from_numpy(cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA))
        maps = [cv2.resize(m, (width, height), interpolation=cv2.INTER_LINEAR) for m in _views(net, normalise(small))]
        total += maps[0]
        if side == shown[0]:
            rest[:] = maps[1:]
            rest[1] *= height / shape[0]
            rest[2] *= width / shape[1]
    return np.concatenate([total[None] / len(shown), rest])


def _views(net: UNet, image: Tensor) -> np.ndarray:
    """(y, x) normalised -> (4, y, x): the mean over the image, its mirrors, and their negatives; the way in its px."""
    total = torch.zeros((MAPS, *image.shape))
    for mirror in ((), (0,), (1,), (0, 1)):
        seen = image.flip(mirror)
        for sign in (1, -1):
            with torch.autocast("cpu", torch.bfloat16, enabled=fast()):
                x = pad(sign * seen, net.stride).contiguous(memory_format=torch.channels_last)
                maps = net(x)[0, :, : image.shape[0], : image.shape[1]].float()
            maps = torch.cat([maps[:2].sigmoid(), maps[2:] * FAR]).flip([d + 1 for d in mirror])
            for d in mirror:
                maps[2 + d] *= -1
            total += maps
    return np.asarray((total / 8).numpy())


def fast() -> bool:
    """bfloat16 in hardware, as in `fit`."""
    from emstream.learn.fit import fast_bfloat16

    return fast_bfloat16()
