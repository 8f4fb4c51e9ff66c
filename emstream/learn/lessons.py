"""One frame becomes one lesson, on any worker: read, shown by its neighbours, taught or labelled by hand, kept as a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from emstream.learn import LearnOptions
from emstream.learn.material import Material, as_shown, opened, others
from emstream.learn.teacher import SIDES, Lesson, believe, lesson
from emstream.messages import Rect
from emstream.segment.listed import components_of
from emstream.segment.model import read_model
from emstream.segment.scale import reduce, scaled, working_shape
from emstream.segment.scales import typical
from emstream.segment.unet import UNet

LONG_SIDE = 512  # px; larger frames are taught and learned at this size
FINE = (512, 384)  # px: sizes at which small particles are looked at
LARGE = 30.0  # px at 384: typical diameter from which smaller sizes show more
BY_HAND = "by hand"


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a lesson without opening it."""

    source: int  # which input
    frame: int
    name: str
    path: str
    agreement: float
    method: str
    sealed: bool  # kept for validation

    @property
    def by_hand(self) -> bool:
        return self.method == BY_HAND


def make(
    material: Material, source: int, frame: int, sealed: bool, labels: np.ndarray | None, teacher: str, folder: str,
    options: LearnOptions,
) -> Record:  # fmt: skip
    """The lesson of one frame, as a file in `folder`.

    labels  : (y, x) int, drawn by hand, -1 = not known; None = the teacher makes them
    teacher : folder of the model that teaches; "" = nobody (an autoencoder learns from the frame alone)
    """
    path, name = Path(folder) / f"{source}-{frame}.npz", material.frame_name(frame)
    if path.exists():  # of a training that was cut off
        made = again(path)
        return Record(source, frame, name, str(path), made.agreement, made.method, sealed)
    torch.set_num_threads(max(1, options.threads))
    with opened(material) as read:
        pixels = read(frame)
        shown = others(material, read, frame, options.neighbours) if labels is None and teacher else None
        added = as_shown(material, read, frame) if teacher else None
    shape = (int(pixels.shape[0]), int(pixels.shape[1]))
    small = working_shape(shape, LONG_SIDE)
    image = _counts(pixels, small)
    valid = scaled(material.valid(frame, shape), shape, small)
    if labels is not None:
        made = drawn_by_hand(name, image, labels, valid)
    elif not teacher:
        whole = valid or (0, small[0], 0, small[1])
        made = Lesson(name, image, np.zeros(small, np.int32), np.ones(small, np.float32), whole, 1.0, "none")
    else:
        net = _teacher(teacher)
        seen = image if shown is None else reduce(shown, small)
        made = lesson(name, image, seen, net, valid, SIDES if shown is None else sides(net, seen, valid))
    if added is not None:
        made = replace(made, added=_counts(added, small))
    keep(path, made)
    return Record(source, frame, name, str(path), made.agreement, made.method, sealed)


def sides(net: UNet, image: np.ndarray, valid: Rect | None) -> Sequence[int]:
    """At which sizes the network is asked: fine ones for small particles, coarse ones for large."""
    y0, y1, x0, x1 = valid or (0, image.shape[0], 0, image.shape[1])
    image = image[y0:y1, x0:x1]
    foreground = believe(net, image, (384,))[0]
    ratio = 384 / max(image.shape)
    return SIDES if ratio * typical(components_of(foreground > 0.5).area) > LARGE else FINE


def drawn_by_hand(name: str, image: np.ndarray, labels: np.ndarray, valid: Rect | None) -> Lesson:
    """A lesson from drawn labels, at the image's size; pixels of label -1 count nothing."""
    small = cv2.resize(labels.astype(np.float32), image.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(np.int32)
    weight = (small >= 0).astype(np.float32)
    rect = valid or (0, image.shape[0], 0, image.shape[1])
    inside = np.zeros_like(weight)
    inside[rect[0] : rect[1], rect[2] : rect[3]] = 1
    return Lesson(name, image, np.maximum(small, 0), weight * inside, rect, 1.0, BY_HAND)


def _counts(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(y, x) float32 of `shape`; counts of an integer camera are summed, not averaged, so that they stay counts."""
    image = reduce(pixels, shape)
    if image.shape == pixels.shape or pixels.dtype.kind not in "iu":
        return image
    return np.rint(image * (pixels.size / image.size)).astype(np.float32)


def keep(path: Path, made: Lesson) -> None:
    """The lesson as an .npz without pickled objects."""
    about = np.array([made.agreement, *made.valid], np.float64)
    part = path.with_name(f"{path.stem}.part.npz")
    added: dict[str, Any] = {} if made.added is None else {"added": made.added}
    np.savez(
        part, image=made.image, **added, labels=made.labels.astype(np.uint16), weight=made.weight.astype(np.float16), about=about,
        text=np.array([made.name, made.method]),
    )  # fmt: skip
    os.replace(part, path)


def again(path: str | Path) -> Lesson:
    """A lesson that was kept."""
    with np.load(path, allow_pickle=False) as f:
        name, method = (str(t) for t in f["text"])
        y0, y1, x0, x1 = (int(v) for v in f["about"][1:])
        return Lesson(
            name, f["image"], f["labels"].astype(np.int32), f["weight"].astype(np.float32), (y0, y1, x0, x1),
            float(f["about"][0]), method, f.get("added"),
        )  # fmt: skip


@lru_cache(maxsize=2)
def _teacher(folder: str) -> UNet:
    return read_model(Path(folder))[0]


def worth_learning(records: Sequence[Record], drop: float) -> list[Record]:
    """Records without the share `drop` of those taught that agree worst; what was drawn by hand stays."""
    taught = sorted((r for r in records if not r.by_hand), key=lambda r: -r.agreement)
    kept = {id(r) for r in taught[: max(1, round(len(taught) * (1 - drop)))]}
    return [r for r in records if r.by_hand or id(r) in kept]


def told(records: Sequence[Record]) -> Mapping[str, Any]:
    """What the provenance says of the lessons."""
    methods: dict[str, int] = {}
    for r in records:
        methods[r.method] = methods.get(r.method, 0) + 1
    mean = float(np.mean([r.agreement for r in records])) if records else float("nan")
    return {"lessons": len(records), "agreement": round(mean, 4), "methods": methods}
