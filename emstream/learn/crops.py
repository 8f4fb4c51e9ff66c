"""Few full frames become many unique crops: place, angle, size, mirror, contrast, dose, blur; each knows how it was made.

Where electrons are few, half the crops are of the frame alone and half of it as the daemon shows it: added to those before it.
The whole frame is exposed anew and normalised first, then cut: a crop has the grey scale of its frame, as it will have
when the daemon sees it. A turned crop lies wholly inside what the frame covers, so it has no black corners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from emstream.learn import LearnOptions
from emstream.learn.teacher import Lesson
from emstream.messages import Rect
from emstream.segment import SegmentOptions
from emstream.segment.normalise import normalise

ROW = np.dtype(
    {
        "names": ["y", "x", "angle", "scale", "mirror", "added", "dose", "blur", "gamma", "inverted"],
        "formats": ["f4", "f4", "f4", "f4", "?", "?", "f4", "f4", "f4", "?"],
    }
)
TRIES = 12  # angles and places until a crop fits into the frame and shows what it should
ALONE = 0.5  # share of the crops that show a frame alone where the daemon adds up those before it
THINNEST = 0.15  # of the frame's dose
ENOUGH = 8.0  # counts per px: a frame of no more is not thinned, there would be nothing left to see


@dataclass(frozen=True, slots=True, eq=False)
class CropSet:
    """n crops of one side, and how each was made."""

    images: np.ndarray  # (n, side, side) float16, normalised
    labels: np.ndarray  # (n, side, side) uint16, instances
    weight: np.ndarray  # (n, side, side) uint8, 255 = sure, 0 = nobody knows
    rows: np.ndarray  # (n,) ROW


def crops_of(lesson: Lesson, n: int, options: LearnOptions, seed: Sequence[int]) -> CropSet:
    """n crops of one frame, the same for the same seed; half of them around a particle, so that they show one."""
    rng = np.random.default_rng(list(seed))
    side = options.crop_px
    images, labels = np.zeros((n, side, side), np.float16), np.zeros((n, side, side), np.uint16)
    weight, rows = np.zeros((n, side, side), np.uint8), np.zeros(n, ROW)
    on = np.argwhere((lesson.labels > 0) & (lesson.weight > 0.5))
    rect = lesson.valid
    for k in range(n):
        added = None if lesson.added is None or rng.random() < ALONE else lesson.added
        rows[k]["added"] = added is not None
        exposed = exposure(rng, lesson.image if added is None else added, rect, options.invert, rows[k : k + 1])
        aim = on[rng.integers(len(on))] if len(on) and rng.random() < 0.5 else None
        matrix = placed(rng, rect, side, sizes(rng, options, lesson.image.shape), aim, rows[k : k + 1])
        images[k] = _warp(exposed, matrix, side, cv2.INTER_LINEAR)
        labels[k] = _warp(lesson.labels.astype(np.float32), matrix, side, cv2.INTER_NEAREST)
        weight[k] = np.rint(255 * _warp(lesson.weight, matrix, side, cv2.INTER_LINEAR))
    return CropSet(images, labels, weight, rows)


def sizes(rng: np.random.Generator, options: LearnOptions, shape: Sequence[int]) -> float:
    """A crop's scale: half of them that at which the daemon shows frames of this shape to the network, else any."""
    low, high = options.scale
    if rng.random() < 0.5:
        shown = SegmentOptions().long_side_px
        return min(1.0, shown / max(shape)) if shown else 1.0
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def placed(
    rng: np.random.Generator, rect: Rect, side: int, scale: float, aim: np.ndarray | None, row: np.ndarray
) -> np.ndarray:
    """(2, 3) affine matrix, frame -> crop, for a square that lies inside `rect`; told in `row`.

    A frame that is too small for the crop at this scale is shown whole, and reflected beyond its edges.
    """
    y0, y1, x0, x1 = rect
    for turn in range(TRIES):
        angle = float(rng.uniform(0, 360)) if turn < TRIES - 1 else 90.0 * float(rng.integers(4))
        half = side / scale / 2 * (abs(np.cos(np.deg2rad(angle))) + abs(np.sin(np.deg2rad(angle))))
        if 2 * half <= min(y1 - y0, x1 - x0):
            break
    low, high = np.array([y0 + half, x0 + half]), np.array([y1 - 1 - half, x1 - 1 - half])
    middle = np.array([(y0 + y1) / 2, (x0 + x1) / 2])
    low, high = np.minimum(low, np.where(low > high, middle, low)), np.maximum(high, np.where(low > high, middle, high))
    if aim is None:
        centre = rng.uniform(low, high)
    else:
        centre = np.clip(aim + rng.normal(0, side / scale / 6, 2), low, high)
    mirror = bool(rng.random() < 0.5)
    cos, sin = scale * np.cos(np.deg2rad(angle)), scale * np.sin(np.deg2rad(angle))
    turned = np.array([[cos, sin], [-sin, cos]]) @ np.diag([-1.0 if mirror else 1.0, 1.0])
    row["y"], row["x"], row["angle"], row["scale"], row["mirror"] = centre[0], centre[1], angle, scale, mirror
    return np.hstack([turned, (side / 2 - turned @ centre[::-1])[:, None]])


def _warp(image: np.ndarray, matrix: np.ndarray, side: int, how: int) -> np.ndarray:
    return cv2.warpAffine(image, matrix, (side, side), flags=how, borderMode=cv2.BORDER_REFLECT)


def exposure(rng: np.random.Generator, image: np.ndarray, rect: Rect, invert: float, row: np.ndarray) -> np.ndarray:
    """The frame as another exposure would show it, (y, x) float32 normalised over `rect`, 0 outside; told in `row`."""
    y0, y1, x0, x1 = rect
    inside = image[y0:y1, x0:x1]
    row["dose"], row["blur"], row["gamma"] = 1.0, 0.0, 1.0
    least = float(np.clip(ENOUGH / max(float(inside.mean()), 1e-6), THINNEST, 1))
    if least < 1 and rng.random() < 0.5:
        share = float(np.exp(rng.uniform(np.log(least), 0)))
        row["dose"], inside = share, thinned(rng, inside, share)
    if rng.random() < 0.25:
        row["blur"] = sigma = float(rng.uniform(0.4, 1.2))
        inside = cv2.GaussianBlur(inside, (0, 0), sigma)
    low, high = np.percentile(inside[::3, ::3], (0.1, 99.9))
    if high > low and rng.random() < 0.5:
        row["gamma"] = gamma = float(np.exp(rng.normal(0, 0.25)))
        inside = np.clip((inside - low) / (high - low), 0, 1) ** gamma
    if rng.random() < invert:
        row["inverted"], inside = True, -inside
    out = np.zeros(image.shape, np.float32)
    out[y0:y1, x0:x1] = normalise(torch.from_numpy(np.ascontiguousarray(inside, np.float32))).numpy()
    return out


def thinned(rng: np.random.Generator, counts: np.ndarray, share: float) -> np.ndarray:
    """The same frame at `share` of its dose, (y, x) float32: each count is kept with that probability.

    Exact for counted electrons: binomial thinning of a Poisson variable is one. What is not counts (not whole, or
    negative) gets the noise that would be added if it were.
    """
    rest = np.maximum(counts, 0)
    if float(counts.min()) >= 0 and np.array_equal(counts[::7], np.rint(counts[::7])) and float(counts.max()) < 1 << 24:
        return rng.binomial(counts.astype(np.int64), share).astype(np.float32)
    noise = rng.standard_normal(counts.shape, dtype=np.float32) * np.sqrt(rest * share * (1 - share))
    return np.asarray(counts * share + noise, np.float32)
