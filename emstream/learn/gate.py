"""The promotion gate: a new model goes live only if it is better than the old one where nobody drew a label.

Three checks on frames that were not trained on, none of which the training can flatter:
  consistency  the masks of two consecutive frames, laid on each other, overlap: what is there stays there. What the
               frame's neighbours show and neither mask does counts against it: who sees little is consistent, too
  agreement    the mask overlaps with what the frame's neighbours in time show, whose noise is not the frame's
  inserted     particles drawn into the frame, as strong and as large as its own, are found with their outline
and Dice where frames are labelled by hand. A model that sees everything, or nothing, is consistent and may agree with a
teacher that was wrong, too; it does not outline what was inserted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from emstream.learn.evaluate import overlap
from emstream.learn.labels import Labels
from emstream.learn.lessons import sides
from emstream.learn.material import Material, opened, others
from emstream.learn.teacher import SIDES, lesson
from emstream.messages import Rect
from emstream.segment.instances import cover
from emstream.segment.model import read_model
from emstream.segment.scale import reduce

Segment = Callable[[np.ndarray], np.ndarray]
CHECKS = ("consistency", "agreement", "inserted")
SLACK = 0.02  # by so much, or by what the mean gains, a single check may be worse: who sees nothing is consistent
TIE = 0.002  # a mean that is better by less is no reason to change a model
WEAK, STRONG = 0.12, 0.6  # contrast of what is inserted
INSERTED = 12  # particles, at most
LEAST_PX = 16  # a side of what a frame covers, to look at it


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A frame to be judged on."""

    image: np.ndarray  # (y, x) as the camera wrote it
    valid: Rect
    taught: np.ndarray | None  # (y, x) bool, what its neighbours show; None when it has none
    after: np.ndarray | None  # (y, x) the next frame …
    covered: Rect  # … what of it the camera saw …
    by: tuple[float, float]  # … and by how much it must be moved to lie on this one
    altered: np.ndarray  # (y, x) the frame with particles drawn into it
    discs: np.ndarray  # (n, 3) y, x, radius of these
    truth: np.ndarray | None  # (y, x) int32 labels drawn by hand


def trial(material: Material, frame: int, labels: Labels, incumbent: str, reach: int, seed: int) -> Trial:
    """All that is needed to judge models on one frame. incumbent : folder of the network that is asked what neighbours show"""
    with opened(material) as read:
        image = read(frame)
        shape = (int(image.shape[0]), int(image.shape[1]))
        valid = material.valid(frame, shape)
        shown = others(material, read, frame, reach)
        after, covered, by = _next(material, read, frame)
    net = read_model(Path(incumbent))[0]
    seen = image.astype(np.float32) if shown is None else np.nan_to_num(reduce(shown, shape))
    made = lesson("", reduce(image, shape), seen, net, valid, SIDES if shown is None else sides(net, seen, valid))
    rng = np.random.default_rng((seed, frame))
    altered, discs = inserted(rng, image, made.labels, valid)
    return Trial(
        image,
        valid,
        None if shown is None else made.labels > 0,
        after,
        covered,
        by,
        altered,
        discs,
        labels.read(material, frame),
    )


def _next(
    material: Material, read: Callable[[int], np.ndarray], frame: int
) -> tuple[np.ndarray | None, Rect, tuple[float, float]]:
    nobody: Rect = (0, 0, 0, 0)
    later = [i for i in material.frames if i > frame]
    if material.at is None or not later or later[0] > frame + 3:
        return None, nobody, (0.0, 0.0)
    j = later[0]
    if material.anchor is not None and material.anchor[j] != material.anchor[frame]:
        return None, nobody, (0.0, 0.0)
    dy, dx = material.at[j] - material.at[frame]
    after = read(j)
    return after, material.valid(j, (int(after.shape[0]), int(after.shape[1]))), (float(dy), float(dx))


def inserted(
    rng: np.random.Generator, image: np.ndarray, labels: np.ndarray, valid: Rect
) -> tuple[np.ndarray, np.ndarray]:
    """The frame with discs drawn into its empty parts, as strong and as large as its own particles.

    Dark ones take each electron away with a fixed probability, bright ones add Poisson ones: the noise is that of a
    real particle.

    labels  : (y, x) int32, where particles are
    returns : (y, x) of the image's dtype; (n, 3) y, x, radius
    """
    y0, y1, x0, x1 = valid
    mask = labels > 0
    area = np.bincount(labels.ravel())[1:]
    area = area[area > 0]
    radius = float(np.clip(np.sqrt(np.median(area) / np.pi) if len(area) else 8.0, 3.0, min(mask.shape) / 12))
    contrast = _contrast(image, mask)
    out, discs = image.astype(np.float64), []
    free = np.zeros(mask.shape, np.uint8)
    free[y0:y1, x0:x1] = ~cv2.dilate(mask.view(np.uint8), np.ones((3, 3), np.uint8)).view(bool)[y0:y1, x0:x1]
    for _ in range(INSERTED):
        room = cv2.distanceTransform(cv2.copyMakeBorder(free, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 3)[
            1:-1, 1:-1
        ]
        r = radius * float(rng.uniform(0.8, 1.25))
        places = np.argwhere(room > r + 3)
        if not len(places):
            break
        y, x = places[rng.integers(len(places))] + rng.uniform(-0.5, 0.5, 2)
        discs.append((y, x, r))
        yy, xx = np.ogrid[: mask.shape[0], : mask.shape[1]]
        soft = np.clip(r + 0.5 - np.hypot(yy - y, xx - x), 0, 1)
        out = _drawn(rng, out, 1 + contrast * soft, image.dtype.kind in "iu")
        free[np.hypot(yy - y, xx - x) < r + 3] = 0
    if image.dtype.kind in "iu":
        out = np.clip(out, *(np.iinfo(image.dtype).min, np.iinfo(image.dtype).max))
    return out.astype(image.dtype), np.array(discs).reshape(-1, 3)


def _drawn(rng: np.random.Generator, image: np.ndarray, factor: np.ndarray, counts: bool) -> np.ndarray:
    """The image with its expectation times `factor`."""
    if not counts or float(image.min()) < 0:
        return np.asarray(image * factor)
    less = np.clip(factor, 0, 1)
    kept = np.where(less < 1, rng.binomial(image.astype(np.int64), less), image)
    more = cv2.GaussianBlur(image, (0, 0), 2.0) * np.maximum(factor - 1, 0)
    return np.asarray(kept + np.where(more > 0, rng.poisson(more), 0))


def _contrast(image: np.ndarray, mask: np.ndarray) -> float:
    """Of the particles against what is around them, -1 … ; within WEAK … STRONG."""
    core = cv2.erode(mask.view(np.uint8), np.ones((3, 3), np.uint8)).view(bool)
    wide = cv2.dilate(mask.view(np.uint8), np.ones((9, 9), np.uint8)).view(bool)
    ring = wide & ~cv2.dilate(mask.view(np.uint8), np.ones((3, 3), np.uint8)).view(bool)
    if core.sum() < 16 or ring.sum() < 16:
        return -2 * WEAK
    inside, outside = float(image[core].mean()), float(image[ring].mean())
    found = inside / outside - 1 if outside > 0 else -2 * WEAK
    return float(np.copysign(np.clip(abs(found), WEAK, STRONG), found))


def examine(segment: Segment, trials: Sequence[Trial]) -> dict[str, float]:
    """Means of all checks over trials; a check that no trial allows is missing. `score` = mean of the label-free ones."""
    seen: dict[str, list[float]] = {}
    for t in trials:
        mask = _mask(segment, t.image, t.valid)
        if t.after is not None:
            seen.setdefault("consistency", []).append(_consistent(mask, _mask(segment, t.after, t.covered), t))
        if t.taught is not None:
            y0, y1, x0, x1 = t.valid
            seen.setdefault("agreement", []).append(overlap(mask[y0:y1, x0:x1], t.taught[y0:y1, x0:x1])[0])
        if len(t.discs):
            seen.setdefault("inserted", []).append(_outlined(_mask(segment, t.altered, t.valid), t.discs))
        if t.truth is not None:
            known = t.truth >= 0
            seen.setdefault("dice", []).append(overlap(mask & known, (t.truth > 0) & known)[1])
    means = {k: round(float(np.mean(v)), 4) for k, v in seen.items()}
    free = [means[k] for k in CHECKS if k in means]
    return {**means, "score": round(float(np.mean(free)), 4) if free else float("nan"), "frames": len(trials)}


def _mask(segment: Segment, image: np.ndarray, valid: Rect) -> np.ndarray:
    """(y, x) bool; only what the frame covers is shown: drift's black borders are no film."""
    y0, y1, x0, x1 = valid
    mask = np.zeros(image.shape, bool)
    if min(y1 - y0, x1 - x0) >= LEAST_PX:
        mask[y0:y1, x0:x1] = np.asarray(segment(np.ascontiguousarray(image[y0:y1, x0:x1]))) > 0
    return mask


def _consistent(mask: np.ndarray, after: np.ndarray, t: Trial) -> float:
    matrix = np.array([[1, 0, t.by[1]], [0, 1, t.by[0]]], np.float64)
    size = (mask.shape[1], mask.shape[0])
    moved = cv2.warpAffine(after.view(np.uint8), matrix, size, flags=cv2.INTER_NEAREST).view(bool)
    there = cover(np.ones(mask.shape, bool), t.covered).view(np.uint8)
    both = cv2.warpAffine(there, matrix, size, flags=cv2.INTER_NEAREST).view(bool)
    inside = cover(both, t.valid)
    either = (mask | moved) if t.taught is None else (mask | moved | t.taught)
    either &= inside
    return float((mask & moved & inside).sum() / either.sum()) if either.any() else 1.0


def _outlined(mask: np.ndarray, discs: np.ndarray) -> float:
    """Mean IoU of each inserted disc with what was found within twice its radius."""
    each = []
    for y, x, r in discs:
        y0, y1 = int(max(y - 2 * r, 0)), int(y + 2 * r) + 2
        x0, x1 = int(max(x - 2 * r, 0)), int(x + 2 * r) + 2
        part = mask[y0:y1, x0:x1]
        yy, xx = np.ogrid[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]]
        away = np.hypot(yy - y, xx - x)
        each.append(overlap(part & (away < 1.6 * r + 1), away < r)[0])
    return float(np.mean(each))


def promoted(student: Mapping[str, Any], incumbent: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the student replaces the incumbent, and why, in words. Both as `examine` gives them."""
    if "dice" in student and student["dice"] < incumbent["dice"] - TIE:
        return False, f"on labelled frames its Dice is {student['dice']:.3f}, the old model's {incumbent['dice']:.3f}"
    better = student["score"] - incumbent["score"]
    worse = [k for k in CHECKS if k in student and student[k] < incumbent[k] - max(SLACK, better)]
    if worse:
        told = ", ".join(f"{k} {student[k]:.3f} against {incumbent[k]:.3f}" for k in worse)
        return False, f"it is worse where no label is needed to see it: {told}"
    if "dice" in student and student["dice"] > incumbent["dice"] + TIE:
        return True, f"on labelled frames its Dice is {student['dice']:.3f}, the old model's {incumbent['dice']:.3f}"
    if not better > TIE:
        return False, f"its checks are no better: {student['score']:.3f} against {incumbent['score']:.3f}"
    return True, f"its checks are better: {student['score']:.3f} against {incumbent['score']:.3f}"


def examine_model(model: str, trials: Sequence[Trial], threads: int) -> dict[str, float]:
    """`examine` for a model folder, `default` or `classical`, with the daemon's own settings, each frame on its own."""
    from emstream.segment import SegmentOptions, load

    torch.set_num_threads(max(1, threads))
    segmenter = load(SegmentOptions(model=model, judge_every=0), threads=threads)

    def segment(image: np.ndarray) -> np.ndarray:
        return np.asarray(segmenter(image).labels)

    return examine(segment, trials)
