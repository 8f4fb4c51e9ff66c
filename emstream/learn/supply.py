"""Batches for the training loop: crops of the data set, and among them procedural frames, so that nothing is unlearned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from emstream.learn import LearnOptions
from emstream.learn.crops import CropSet
from emstream.learn.targets import targets
from emstream.segment.autoencoder import unit


class Replay(Protocol):
    """Batches with exact truth."""

    def batch(self) -> tuple[Tensor, Tensor]: ...


class Mixed:
    """An endless supply: a share of each batch is replay, the rest are crops, turned and mirrored anew.

    Batch k of a seed is always the same but for the replay: a training that was cut off goes on with the batches that
    it would have seen.
    """

    def __init__(self, crops: CropSet, options: LearnOptions, step: int, replay: Callable[[], Replay] | None) -> None:
        self.crops, self.options, self.step = crops, options, step
        self.share = options.drawn if replay is not None else 0.0
        self.replay = replay() if replay is not None and self.share > 0 else None
        self.kept: list[tuple[Tensor, Tensor]] = []

    def batch(self) -> tuple[Tensor, Tensor]:
        """(n, 1, y, x) normalised crops, (n, c, y, x) targets as `learn.targets` makes them."""
        rng = np.random.default_rng((self.options.seed, 7, self.step))
        self.step += 1
        pairs = [
            self._replayed() if self.replay is not None and rng.random() < self.share else self._crop(rng)
            for _ in range(self.options.batch)
        ]
        return torch.stack([i for i, _ in pairs])[:, None], torch.stack([t for _, t in pairs])

    def _crop(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        k, turns, mirror = int(rng.integers(len(self.crops.images))), int(rng.integers(4)), rng.random() < 0.5
        image, labels, weight = (
            np.rot90(a[k, :, ::-1] if mirror else a[k], turns)
            for a in (self.crops.images, self.crops.labels, self.crops.weight)
        )
        wanted = targets(np.ascontiguousarray(labels).astype(np.int32))
        wanted[2] *= weight.astype(np.float32) / 255
        return torch.from_numpy(np.ascontiguousarray(image).astype(np.float32)), torch.from_numpy(wanted)

    def _replayed(self) -> tuple[Tensor, Tensor]:
        assert self.replay is not None
        if not self.kept:
            images, wanted = self.replay.batch()
            self.kept = list(zip(images[:, 0], wanted, strict=True))
        return self.kept.pop()


class Frames:
    """Batches for an autoencoder: crops in 0..1, and the same again as what is wanted."""

    def __init__(self, crops: CropSet, options: LearnOptions, step: int) -> None:
        self.crops, self.options, self.step = crops, options, step

    def batch(self) -> tuple[Tensor, Tensor]:
        """(n, 1, y, x) twice."""
        rng = np.random.default_rng((self.options.seed, 8, self.step))
        self.step += 1
        chosen = rng.integers(len(self.crops.images), size=self.options.batch)
        images = [np.rot90(self.crops.images[k], int(rng.integers(4))).astype(np.float32) for k in chosen]
        x = unit(torch.from_numpy(np.ascontiguousarray(np.stack(images))))[:, None]
        return x, x
