"""A frame through the network at several sizes, and its particles put together of all; the same on CPU and GPU."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from emstream.arrays import array_namespace, as_torch, to_host
from emstream.errors import BadImage
from emstream.messages import Array, Labelled, PixelSize, Rect
from emstream.segment import Polarity, SegmentOptions, backend
from emstream.segment.classical import ClassicalState, with_polarity
from emstream.segment.classical import segment as segment_classically
from emstream.segment.film import stands_out
from emstream.segment.instances import cover, drop_small, reach_out, renumber, smallest_area
from emstream.segment.level import at_one_level
from emstream.segment.listed import Listed, listed
from emstream.segment.look import Look, look_at, predict
from emstream.segment.middle import parted
from emstream.segment.model import read_model
from emstream.segment.normalise import normalise, reduce_on_device
from emstream.segment.scale import enlarge, reduce, scaled, working_shape
from emstream.segment.scales import LARGE, finer, specks, typical
from emstream.segment.small import add_small

LEAST_PX = 128  # longer side of the smallest size at which a frame is looked at
SURE = 0.85  # foreground that a particle must reach somewhere
JUDGED_PX = 256  # longer side at which network and classical method are compared


@dataclass(slots=True)
class Judgement:
    """How far the classical method agrees with the network on a series, and what it knows of it."""

    options: SegmentOptions
    frames: int = 0
    agreement: float = float("nan")
    rival: ClassicalState = field(default_factory=ClassicalState)


class Network:
    """A trained network as a Segmenter; its only state is for the judgement."""

    memory: Judgement

    def __init__(self, folder: Path, options: SegmentOptions, device: str = "cpu", threads: int = 0) -> None:
        net, about, self.sha256 = read_model(folder)
        self.name = str(about.get("name", folder.name))
        self.options = options
        self.device = torch.device(device)
        if device == "cpu" and threads > 0:
            torch.set_num_threads(threads)
        self.backend = backend.chosen(options.backend, self.device)
        if self.backend == "openvino":
            self.net, self.dtype = net, torch.float32
            self.run: backend.Call = backend.OpenVino(net, self.sha256, threads)
        else:
            self.dtype = working_dtype(self.device)
            self.net = net.to(self.device, self.dtype)
            for p in self.net.parameters():
                if p.ndim == 4:
                    p.data = p.data.contiguous(memory_format=torch.channels_last)
            self.run = backend.frozen(self.net, self.device, self.dtype)
        # on the CPU two threads look at once; a GPU's recorded graphs write where they wrote before
        self._turn = threading.Lock() if self.device.type == "cuda" else contextlib.nullcontext()
        self.reset()

    def reset(self, polarity: Polarity = "auto") -> None:
        self.memory = Judgement(with_polarity(self.options, polarity))

    def __call__(self, pixels: Array, *, valid: Rect | None = None, pixel_size_nm: PixelSize | None = None) -> Labelled:
        return self.look(pixels, valid=valid, pixel_size_nm=pixel_size_nm)()

    def look(
        self, pixels: Array, *, valid: Rect | None = None, pixel_size_nm: PixelSize | None = None
    ) -> Callable[[], Labelled]:
        if pixels.ndim != 2 or min(pixels.shape) < 8:
            raise BadImage(f"a frame is (y, x) with at least 8 px a side, not {tuple(pixels.shape)}")
        image = self._working_image(pixels)
        shape = (int(pixels.shape[0]), int(pixels.shape[1]))
        first = self._look(image, valid, shape, size(image))
        xp, judgement = array_namespace(pixels), self.memory  # of this series, whichever has its turn later

        def particles() -> Labelled:
            looks = self._looks(image, valid, shape, first)
            labels, foreground = self._particles(looks, shape, valid, pixel_size_nm)
            judge(judgement, image, foreground, scaled(valid, shape, size(image)))
            return Labelled(xp.asarray(labels), self.name, self.sha256, judgement.agreement)

        return particles

    def finite(self, pixels: Array) -> bool:
        """Whether the network gives numbers for a frame."""
        return bool(self._predict(normalise(self._working_image(pixels))).isfinite().all())

    def warm_up(self, shape: tuple[int, int], dtype: str = "uint16") -> None:
        for small in 2 * halvings(working_shape(shape, self.options.long_side_px)):
            self._predict(torch.zeros(small, device=self.device))

    def _look(self, image: Tensor, valid: Rect | None, shape: tuple[int, int], small: tuple[int, int]) -> Look:
        seen = normalise(reduce_on_device(image, small), scaled(valid, shape, small))
        with self._turn:
            return look_at(self.run, seen, self.net.stride, self.dtype, self.options.threshold)

    def _looks(self, image: Tensor, valid: Rect | None, shape: tuple[int, int], first: Look) -> list[Look]:
        """What the network sees from the smallest size to the working size, each twice the one before.

        The smallest is always looked at, those between only where it or the working size shows something large.
        first : at the working size
        """
        *sizes, whole = halvings(size(image))
        looks = {whole: first} | {at: self._look(image, valid, shape, at) for at in sizes[:1]}
        widest = max(largest(seen.whole.area) / max(at) for at, seen in looks.items())
        looks |= {at: self._look(image, valid, shape, at) for at in sizes[1:] if widest * max(at) >= 2 * LARGE}
        return [looks[at] for at in [*sizes, whole] if at in looks]

    def _particles(
        self,
        looks: list[Look],
        shape: tuple[int, int],
        valid: Rect | None,
        pixel_size_nm: PixelSize | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(y, x) int32 labels of `shape`, and the foreground at the working size that they agree with."""
        labels, restless, usual = listed(np.zeros((1, 1), np.int32)), np.zeros(1), 0.0
        for look in looks:
            labels, restless = finer(
                labels, restless, *particles_in(look, self.options), look.foreground, self.options.threshold
            )
            usual = max(2 * usual, typical(labels.area))
            keep = ~specks(labels, look.foreground, usual)
            labels, restless = labels.kept(keep), restless[keep]
        last = looks[-1]
        foreground = last.foreground.copy()
        foreground.ravel()[last.whole.at] = 0
        inside = last.foreground.ravel()[labels.at]
        foreground.ravel()[labels.at] = np.where(inside > self.options.threshold, inside, 1)
        covered = scaled(valid, shape, labels.shape)
        labels, foreground = at_one_level(labels, foreground, last.seen, self.options.threshold, covered)
        if not stands_out(labels, last.seen, covered):
            labels, foreground = labels.kept(np.zeros(len(labels) + 1, bool)), np.zeros_like(foreground)
        if labels.shape == shape:  # a frame that was reduced gathered electrons by that; and large ones leave no time
            labels, foreground = add_small(labels, foreground, last.seen, covered)
        return at_full_size(labels, foreground, shape, self.options, valid, pixel_size_nm), foreground

    def _predict(self, image: Tensor) -> Tensor:
        return predict(self.run, image, self.net.stride, self.dtype)

    def _working_image(self, pixels: Array) -> Tensor:
        """(y, x) float32 on the network's device, at its working size, all finite."""
        shape = working_shape(tuple(pixels.shape), self.options.long_side_px)
        if self.device.type == "cpu":
            return torch.from_numpy(reduce(to_host(pixels), shape))
        return reduce_on_device(as_torch(pixels).to(self.device), shape)


def judge(of: Judgement, image: Tensor, foreground: np.ndarray, valid: Rect | None) -> None:
    """Every now and then: how far the classical method agrees, at a small size."""
    every, threshold = of.options.judge_every, of.options.threshold
    of.frames += 1
    if every == 0 or (of.frames - 1) % every:
        return
    shape = working_shape(size(image), JUDGED_PX)
    coarse = scaled(valid, size(image), shape)
    rival, of.rival = segment_classically(reduce(image.cpu().numpy(), shape), of.rival, of.options, coarse)
    if of.rival.frames == 0 and bool((foreground > threshold).any()):
        of.agreement = float("nan")  # the classical method sees nothing here, and can judge nothing
        return
    of.agreement = soft_iou(cv2.resize(foreground, shape[::-1], interpolation=cv2.INTER_AREA), rival > 0)


def size(image: Tensor) -> tuple[int, int]:
    """(y, x) of an image."""
    return int(image.shape[0]), int(image.shape[1])


def halvings(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """The sizes at which a frame may be looked at: …, a quarter, half of it, the whole."""
    sizes = [shape]
    while max(sizes[0]) >= 2 * LEAST_PX and min(sizes[0]) >= 64:
        sizes.insert(0, (sizes[0][0] // 2, sizes[0][1] // 2))
    return sizes


def largest(area: np.ndarray) -> float:
    """Equivalent diameter of the largest label, px; 0 when there is none."""
    return float(np.sqrt(4 / np.pi * area[1:].max(initial=0)))


def working_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it, else float32."""
    if device.type == "cpu":
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32


def particles_in(look: Look, options: SegmentOptions) -> tuple[Listed, np.ndarray]:
    """What was seen at one size -> particles, and (n + 1,) how far their pixels disagree."""
    keep = _sure(look.whole, look.foreground)
    stays = keep[look.whole.label]
    return parted(look.whole.kept(keep), look.depth[stays], look.way[:, stays], options.split)


def at_full_size(
    labels: Listed,
    foreground: np.ndarray,
    shape: tuple[int, int],
    options: SegmentOptions,
    valid: Rect | None = None,
    pixel_size_nm: PixelSize | None = None,
) -> np.ndarray:
    """Particles and foreground at the working size -> (y, x) int32 labels of `shape`; nothing outside `valid`."""
    least = smallest_area(options, pixel_size_nm)
    if labels.shape == shape:
        whole = labels.picture()
        return drop_small(np.where(cover(whole > 0, valid), whole, 0), least)
    by = shape[0] * shape[1] / (labels.shape[0] * labels.shape[1])
    labels = labels.kept(labels.area >= least / by)
    nearest = cv2.resize(reach_out(labels), shape[::-1], interpolation=cv2.INTER_NEAREST)
    eight_bit = enlarge(cv2.convertScaleAbs(foreground, alpha=255), shape)  # four times faster than in float32
    mask = cover(eight_bit > int(255 * options.threshold), valid)
    area = np.bincount(nearest.ravel()[np.flatnonzero(mask)].astype(np.int64), minlength=len(labels) + 1)
    full = cv2.copyTo(nearest, mask.view(np.uint8)).astype(np.int32)
    return full if (area[1:] >= max(least, 1)).all() else renumber(full, area >= max(least, 1))


def _sure(labels: Listed, foreground: np.ndarray) -> np.ndarray:
    """(n + 1,) bool: which particles the network is sure of somewhere, not only inclined to everywhere."""
    sure = np.zeros(len(labels.area), bool)
    sure[labels.label[foreground.ravel()[labels.at] >= SURE]] = True
    return sure


def soft_iou(probability: np.ndarray, mask: np.ndarray) -> float:
    """Overlap of a map 0..1 with a mask, 0..1; both empty = 1."""
    both = float(np.minimum(probability, mask).sum())
    either = float(np.maximum(probability, mask).sum())
    return both / either if either > 0.5 else 1.0
