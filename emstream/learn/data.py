"""Training crops: a few labelled pictures become many, by crop, turn, scale, gamma, inversion and thinner dose."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from emstream import simulate
from emstream.errors import BadSettings, SourceMissing, UnreadableFile
from emstream.learn import LearnOptions
from emstream.learn import synthetic as drawn
from emstream.learn.targets import targets
from emstream.messages import Rect
from emstream.segment.normalise import normalise
from emstream.simulate.detector import poisson

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
BANK = 160  # procedural scenes at hand; with each batch one is drawn anew at a probability of FRESH
FRESH = 0.25
MOST = 300  # particles in a simulated frame
EMPTY = 0.15  # share of simulated frames that show nothing but film: a network finds particles in noise otherwise
STRETCH = 0.1  # rms of the logarithm of a crop's aspect ratio
UNCOVERED = 0.15  # share of crops with an uncovered border


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A labelled image."""

    name: str
    image: np.ndarray  # (y, x) float32
    labels: np.ndarray  # (y, x) int32, 0 = background; all zero when there are none


def read_pictures(images: Path, labels: Path | None) -> list[Picture]:
    """Every picture of a folder, with the label picture of the same name (instances, or a mask of 0 and 255).

    raises : SourceMissing, UnreadableFile
    """
    files = sorted(p for p in images.iterdir() if p.suffix.lower() in SUFFIXES) if images.is_dir() else []
    if not files:
        raise SourceMissing(f"no pictures in {images}", "a folder of png, tif or jpg files")
    return [Picture(p.name, read_grey(p), _labels_of(p, labels)) for p in files]


def read_grey(path: Path) -> np.ndarray:
    """A picture as (y, x) float32; colours are averaged. raises : UnreadableFile"""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UnreadableFile(f"{path} is no picture that can be read")
    return (image if image.ndim == 2 else image[..., :3].mean(-1)).astype(np.float32)


def _labels_of(path: Path, folder: Path | None) -> np.ndarray:
    if folder is None:
        return np.zeros(read_grey(path).shape, np.int32)
    found = [folder / f"{stem}{s}" for stem in (path.stem, path.stem.replace("image", "label")) for s in SUFFIXES]
    there = [p for p in found if p.is_file()]
    if not there:
        raise SourceMissing(f"no label picture for {path.name} in {folder}", f"expected {found[0].name}")
    labels = cv2.imread(str(there[0]), cv2.IMREAD_UNCHANGED)
    if labels is None:
        raise UnreadableFile(f"{there[0]} is no picture that can be read")
    labels = labels if labels.ndim == 2 else labels[..., 0]
    if set(np.unique(labels)) <= {0, 255}:
        return cv2.connectedComponents((labels > 0).view(np.uint8), connectivity=8)[1]
    return labels.astype(np.int32)


def within(valid: Rect, name: str, image: np.ndarray, labels: np.ndarray) -> Picture:
    """What a frame covers, as a picture: drift's black borders are no film. valid : y0, y1, x0, x1"""
    y0, y1, x0, x1 = valid
    return Picture(name, image[y0:y1, x0:x1], labels[y0:y1, x0:x1])


def split(pictures: Sequence[Picture], share: float) -> tuple[list[Picture], list[Picture]]:
    """Pictures to train on, and to validate on: by the hash of the name, so that it never changes."""
    kept = [int(hashlib.sha256(p.name.encode()).hexdigest()[:8], 16) / 2**32 < share for p in pictures]
    return [p for p, k in zip(pictures, kept, strict=True) if not k], [
        p for p, k in zip(pictures, kept, strict=True) if k
    ]


class Crops:
    """An endless supply of batches; deterministic for a seed. `stream` sets where it stands after a restart."""

    def __init__(
        self, pictures: Sequence[Picture], options: LearnOptions, stream: int = 0, look: drawn.Look | None = None
    ) -> None:
        self.options = options
        self.look = look or drawn.Look()
        self.rng = np.random.default_rng((options.seed, stream))
        self.pyramids = [_pyramid(p) for p in pictures]
        self.scenes: list[drawn.Scene] = []
        self.share = options.drawn if pictures else 1.0

    def batch(self) -> tuple[Tensor, Tensor]:
        """(n, 1, y, x) normalised crops, (n, 5, y, x) targets: foreground, depth, weight, way to the middle."""
        self._draw_scene()
        pairs = [self._one() for _ in range(self.options.batch)]
        return torch.stack([i for i, _ in pairs])[:, None], torch.from_numpy(np.stack([t for _, t in pairs]))

    def _one(self) -> tuple[Tensor, np.ndarray]:
        image, labels = self._drawn() if self.rng.random() < self.share else self._cut()
        tensor = torch.from_numpy(np.ascontiguousarray(image))
        if self.rng.random() > UNCOVERED:
            return normalise(tensor), targets(labels)
        n = self.options.crop_px  # as a frame that drift has moved partly out of the canvas
        y0, x0 = (int(v) for v in self.rng.integers(0, n // 4, 2))
        y1, x1 = (int(v) for v in self.rng.integers(3 * n // 4, n + 1, 2))
        inside = np.zeros_like(labels)
        inside[y0:y1, x0:x1] = labels[y0:y1, x0:x1]
        return normalise(tensor, (y0, y1, x0, x1)), targets(inside)

    def _draw_scene(self) -> None:
        if self.share <= 0 or (len(self.scenes) >= BANK and self.rng.random() > FRESH):
            return
        side = int(1.3 * self.options.crop_px)
        if self.rng.random() < self.options.simulated:
            new = simulated(self.rng, side) or drawn.scene(self.rng, (side, side), self.look)
        else:
            new = drawn.scene(self.rng, (side, side), self.look)
        if len(self.scenes) < BANK:
            self.scenes.append(new)
        else:
            self.scenes[self.rng.integers(BANK)] = new

    def _drawn(self) -> tuple[np.ndarray, np.ndarray]:
        s = self.scenes[self.rng.integers(len(self.scenes))]
        n = self.options.crop_px
        y, x = self.rng.integers(0, s.base.shape[0] - n + 1, 2)
        cut = drawn.Scene(s.base[y : y + n, x : x + n], s.labels[y : y + n, x : x + n], s.least_dose, s.look)
        image, labels = cut.expose(self.rng), cut.labels
        if self.rng.random() < self.options.invert:
            image = -image
        return turned(self.rng, image, labels)

    def _cut(self) -> tuple[np.ndarray, np.ndarray]:
        pyramid = self.pyramids[self.rng.integers(len(self.pyramids))]
        image, labels = warped(self.rng, pyramid, self.options.crop_px, self.options.scale)
        return disturbed(self.rng, image, self.options.invert), labels


def simulated(rng: np.random.Generator, side: int) -> drawn.Scene | None:
    """A frame of the simulated microscope before its exposure; None when the particles that were drawn do not fit."""
    small = float(np.exp(rng.uniform(np.log(3.5), np.log(22))))
    large = min(small * float(np.exp(rng.uniform(0.2, 2.6))), 80.0)
    low = float(rng.uniform(0.08, 0.35))
    empty = rng.random() < EMPTY
    settings: dict[str, Any] = dict(
        shape=(side, side),
        particles=0 if empty else min(MOST, int(rng.uniform(0.02, 0.25) * side**2 / (small * large)) + 1),
        diameter=(small, large),
        contrast=(low, low + float(rng.uniform(0.05, 0.2))),
        polarity="dark" if rng.random() < 0.65 else "bright",
        film=float(rng.uniform(0, 0.2) if empty else rng.uniform(0, 0.4) * low),
        grain_px=float(rng.uniform(2, 8 if empty else 5)),
        dome=float(rng.uniform(0, 0.8)),
        facets=float(rng.uniform(0, 0.6)),
        roughness=float(rng.uniform(0, 0.06)),
        seed=int(rng.integers(1 << 31)),
    )
    try:
        movie = simulate.movie(1, **settings)
    except BadSettings:
        return None
    labels = movie.labels(0)
    area = np.bincount(np.unique(labels, return_inverse=True)[1].ravel())[1:]
    least = (drawn.ROSE / low) ** 2 / float(np.median(area)) if len(area) else 0.0
    return drawn.Scene(movie.clean(0), labels, least, drawn.Look())


def _pyramid(picture: Picture) -> list[Picture]:
    """The picture at full and at half size, so that a small scale does not alias."""
    image, labels = picture.image, picture.labels
    shape = (image.shape[1] // 2, image.shape[0] // 2)
    half = Picture(
        picture.name,
        cv2.resize(image, shape, interpolation=cv2.INTER_AREA),
        cv2.resize(labels.astype(np.float32), shape, interpolation=cv2.INTER_NEAREST).astype(np.int32),
    )
    return [picture, half]


def warped(
    rng: np.random.Generator, pyramid: list[Picture], side: int, scale: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """A square crop of `side` px from a random place, at a random angle and scale, a little wider or higher.

    Beyond the picture's edges the image is reflected and the labels are -1, not known.
    """
    size = float(np.exp(rng.uniform(*np.log(scale))))
    picture, size = (pyramid[0], size) if size > 0.6 else (pyramid[1], 2 * size)
    height, width = picture.image.shape
    angle = rng.uniform(0, 360) if rng.random() < 0.5 else 90.0 * rng.integers(4)
    room = side / size / 2
    cy = rng.uniform(min(room, height / 2), max(height - room, height / 2))
    cx = rng.uniform(min(room, width / 2), max(width - room, width / 2))
    matrix = cv2.getRotationMatrix2D((float(cx), float(cy)), float(angle), size)
    stretch = np.exp(rng.normal(0, STRETCH))
    matrix[0] *= stretch
    matrix[1] /= stretch
    matrix[:, 2] = side / 2 - matrix[:, :2] @ (cx, cy)
    image = cv2.warpAffine(picture.image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    labels = cv2.warpAffine(
        picture.labels.astype(np.float32), matrix, (side, side), flags=cv2.INTER_NEAREST, borderValue=-1.0
    ).astype(np.int32)
    return turned(rng, image, labels)


def turned(rng: np.random.Generator, image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same, turned by a multiple of 90 degrees and mirrored at random."""
    k, mirror = int(rng.integers(4)), rng.random() < 0.5
    image, labels = np.rot90(image, k), np.rot90(labels, k)
    if mirror:
        image, labels = image[:, ::-1], labels[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def disturbed(rng: np.random.Generator, image: np.ndarray, invert: float) -> np.ndarray:
    """Other exposures of the same crop: gamma, inversion, a gradient, blur, and the noise of a thinner dose."""
    low, high = float(image.min()), float(image.max())
    image = (image - low) / max(high - low, 1e-6)
    image = image ** float(np.exp(rng.normal(0, 0.3)))
    if rng.random() < invert:
        image = 1 - image
    if rng.random() < 0.3:
        y, x = np.mgrid[-1 : 1 : image.shape[0] * 1j, -1 : 1 : image.shape[1] * 1j]
        image = image + rng.normal(0, 0.12) * y + rng.normal(0, 0.12) * x
    if rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5))
    if rng.random() < 0.5:
        dose = float(np.exp(rng.uniform(np.log(15), np.log(300))))
        floor = rng.uniform(0.05, 0.6)
        image = poisson(dose * np.maximum(floor + (1 - floor) * image, 0), rng) / dose
    return image.astype(np.float32)
