"""Procedural frames with exact truth: particles of many looks on granular film, under the noise of a given dose.

Everything is drawn, nothing is copied: weights trained on this owe nothing to anybody's images.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from emstream.simulate.detector import poisson

Rng = np.random.Generator
ROSE = 4.0  # signal to noise of a whole particle that makes it visible


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The ranges that a frame is drawn from."""

    diameter: tuple[float, float] = (4.0, 80.0)  # px
    coverage: tuple[float, float] = (0.02, 0.45)  # of the frame
    dose: tuple[float, float] = (2.0, 200.0)  # e/px
    contrast: tuple[float, float] = (0.12, 0.7)  # of the film's intensity
    film: tuple[float, float] = (0.0, 0.10)  # rms of the film's grain, of its intensity
    touching: float = 0.5  # share of the particles that are set against another one
    empty: float = 0.12  # share of the frames without any particle


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A frame before its exposure."""

    base: np.ndarray  # (y, x) float32, relative intensity, 1 = film
    labels: np.ndarray  # (y, x) int32
    least_dose: float  # e/px below which the particles cannot be told from noise (Rose's criterion)
    look: Look

    def expose(self, rng: Rng) -> np.ndarray:
        """(y, x) float32 e/px: Poisson noise, correlated by the camera's point spread in some frames, widely in a few."""
        low, high = max(self.look.dose[0], self.least_dose), self.look.dose[1]
        image = poisson(_log_uniform(rng, (min(low, high), high)) * np.maximum(self.base, 0.01), rng)
        blurred = rng.random()
        if blurred < 0.45:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(*((0.4, 1.0) if blurred < 0.37 else (1.0, 3.0))))
        return image


def frame(rng: Rng, shape: tuple[int, int], look: Look | None = None) -> tuple[np.ndarray, np.ndarray]:
    """One drawn frame and its truth.

    shape   : (y, x) px
    returns : image (y, x) float32 in e/px, labels (y, x) int32, 1…n
    """
    drawn = scene(rng, shape, look or Look())
    return drawn.expose(rng), drawn.labels


def scene(rng: Rng, shape: tuple[int, int], look: Look) -> Scene:
    """One drawn frame before its exposure, with a grain that leaves the particles visible."""
    contrast = rng.uniform(*look.contrast)
    film = min(rng.uniform(*look.film), 0.35 * contrast)
    labels = np.zeros(shape, np.int32) if rng.random() < look.empty else _place(rng, shape, look)
    base = _shade(rng, _film(rng, shape, film), labels, contrast * (-1 if rng.random() < 0.65 else 1.5))
    base = base * _gradient(rng, shape)
    if rng.random() < 0.1:
        _annotate(rng, base)
    if rng.random() < 0.5:
        base = cv2.GaussianBlur(base, (0, 0), rng.uniform(0.4, 1.2))
    area = np.bincount(labels.ravel())[1:]
    least = (ROSE / contrast) ** 2 / float(np.median(area)) if len(area) else 0.0
    return Scene(base.astype(np.float32), labels, least, look)


def outline(rng: Rng, diameter: float, plain: bool = False) -> np.ndarray:
    """A particle's mask: a superellipse with a rough edge, (m, m) bool with an odd m."""
    aspect = 1.0 if plain else float(np.exp(abs(rng.normal(0, 0.3))))
    a, b = diameter / 2 * np.sqrt(aspect), diameter / 2 / np.sqrt(aspect)
    half = int(np.ceil(1.35 * a * 1.2)) + 1
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    turn = rng.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    power = 2.0 if plain else float(np.exp(rng.uniform(np.log(1.7), np.log(6))))
    rough = 0.0 if plain else rng.uniform(0, 0.12)
    angle = np.arctan2(v, u)
    edge = 1 + sum(rough / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 7))
    return (np.abs(u / a) ** power + np.abs(v / b) ** power) ** (1 / power) < edge


def _place(rng: Rng, shape: tuple[int, int], look: Look) -> np.ndarray:
    """Particles until the coverage is reached: int32 labels; an overlap belongs to the earlier one."""
    labels = np.zeros(shape, np.int32)
    wanted = rng.uniform(*look.coverage) * labels.size
    typical = _log_uniform(rng, look.diameter)
    spread, plain = rng.uniform(0.02, 0.4), rng.random() < 0.3
    allow_touch = look.touching if rng.random() < 0.7 else 0.0
    n, covered = 0, 0.0
    centres: list[tuple[float, float, float]] = []
    for _ in range(400):
        d = float(np.clip(typical * np.exp(rng.normal(0, spread)), look.diameter[0], look.diameter[1]))
        mask = outline(rng, d, plain)
        cy, cx, touch = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), False
        if centres and rng.random() < allow_touch:
            oy, ox, od = centres[rng.integers(len(centres))]
            angle, touch = rng.uniform(0, 2 * np.pi), True
            reach = (d + od) / 2 * rng.uniform(0.85, 1.05)
            cy, cx = oy + reach * np.sin(angle), ox + reach * np.cos(angle)
        area = _stamp(labels, mask, cy, cx, n + 1, gap=0 if touch else 2)
        if area:
            n, covered = n + 1, covered + area
            centres.append((cy, cx, d))
        if covered >= wanted:
            break
    return labels


def _stamp(labels: np.ndarray, mask: np.ndarray, cy: float, cx: float, number: int, gap: int) -> int:
    """Write a particle where nothing is yet; its area in px, 0 when there is no room (nothing is written then)."""
    half = mask.shape[0] // 2
    y, x = round(cy) - half, round(cx) - half
    y0, y1 = max(y, 0), min(y + mask.shape[0], labels.shape[0])
    x0, x1 = max(x, 0), min(x + mask.shape[1], labels.shape[1])
    if y1 <= y0 or x1 <= x0:
        return 0
    part, there = mask[y0 - y : y1 - y, x0 - x : x1 - x], labels[y0:y1, x0:x1]
    inside = int(part.sum())
    taken = (
        cv2.dilate((there > 0).view(np.uint8), np.ones((2 * gap + 1,) * 2, np.uint8)).view(bool) if gap else there > 0
    )
    if inside < 4 or (part & taken).sum() > (0 if gap else 0.25 * inside):
        return 0
    new = part & (there == 0)
    there[new] = number
    return int(new.sum())


def _shade(rng: Rng, base: np.ndarray, labels: np.ndarray, contrast: float) -> np.ndarray:
    """The film with the particles in it: flat, domed, ringed or textured, each a little stronger or weaker."""
    n = int(labels.max())
    if n == 0:
        return base
    inside = labels > 0
    depth = cv2.distanceTransform(inside.view(np.uint8), cv2.DIST_L2, 3)
    deepest = np.zeros(n + 1, np.float32)
    np.maximum.at(deepest, labels.ravel(), depth.ravel())
    relative = depth / np.maximum(deepest, 1)[labels]
    strength = np.clip(1 + rng.normal(0, rng.uniform(0, 0.35), n + 1), 0.35, 2).astype(np.float32)[labels]
    kind = rng.integers(5)
    profile = np.ones_like(base)
    if kind == 1:  # a sphere's thickness
        profile = 0.35 + 0.65 * np.sqrt(np.clip(1 - (1 - relative) ** 2, 0, 1))
    elif kind == 2:  # a bright or dark rim
        profile = 0.55 + 0.45 * np.exp(-((relative / 0.3) ** 2))
    elif kind == 3:  # diffraction contrast: fringes, and grains of their own strength
        phase = _grain(rng, base.shape, rng.uniform(2, 10))
        profile = 1 + 0.35 * np.clip(phase, -2, 2)
    elif kind == 4:  # lit from a side
        y, x = np.mgrid[0 : base.shape[0], 0 : base.shape[1]].astype(np.float32)
        turn, wave = rng.uniform(0, 2 * np.pi), rng.uniform(8, 60)
        profile = 1 + 0.3 * np.sin((x * np.cos(turn) + y * np.sin(turn)) / wave * 2 * np.pi)
    soft = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), rng.uniform(0.35, 1.0))
    halo = 0.0
    if rng.random() < 0.3:  # Fresnel fringe or surface layer outside the edge
        wide = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), rng.uniform(1, 4))
        halo = rng.uniform(-0.5, 0.5) * (wide - soft) * ~inside
    field = cv2.GaussianBlur((strength * profile * inside).astype(np.float32), (0, 0), 0.5)
    field = np.where(inside, np.maximum(field, 0.2), soft * 0.8) if rng.random() < 0.5 else field
    return base * np.clip(1 + contrast * (field + halo), 0.03, None)


def _film(rng: Rng, shape: tuple[int, int], rms: float) -> np.ndarray:
    """The support: intensity 1 with grain on one or two scales, sometimes with structure of low frequency."""
    base = 1 + rms * _grain(rng, shape, _log_uniform(rng, (1.5, 25)))
    if rng.random() < 0.4:
        base += 0.5 * rms * _grain(rng, shape, _log_uniform(rng, (1, 6)))
    if rng.random() < 0.25:
        base += rng.uniform(0.03, 0.15) * _grain(rng, shape, rng.uniform(30, 90))
    return base.astype(np.float32)


def _grain(rng: Rng, shape: tuple[int, int], size: float) -> np.ndarray:
    """A Gaussian random field of mean 0 and rms 1, with correlation length `size` px."""
    step = max(1, int(size / 4))
    small = rng.standard_normal((shape[0] // step + 8, shape[1] // step + 8), dtype=np.float32)
    small = cv2.GaussianBlur(small, (0, 0), size / step / 2)
    grain = cv2.resize(small, (small.shape[1] * step, small.shape[0] * step))[: shape[0], : shape[1]]
    return (grain - grain.mean()) / max(float(grain.std()), 1e-6)


def _gradient(rng: Rng, shape: tuple[int, int]) -> np.ndarray:
    """Uneven illumination: a plane and a bowl, mean about 1."""
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None]
    if rng.random() < 0.4:
        return np.ones(shape, np.float32)
    a, b, c = rng.normal(0, 0.08), rng.normal(0, 0.08), rng.normal(0, 0.06)
    return np.clip(1 + a * y + b * x + c * (y**2 + x**2), 0.3, None).astype(np.float32)


def _annotate(rng: Rng, image: np.ndarray) -> None:
    """A scale bar or letters, as on exported pictures: no particles. Drawn in place."""
    high = float(rng.choice([0.0, 2.0]))
    y, x = int(rng.integers(image.shape[0])), int(rng.integers(image.shape[1]))
    length = int(rng.integers(10, max(11, image.shape[1] // 3)))
    ink = np.zeros(image.shape, np.uint8)
    ink[y : y + int(rng.integers(2, 8)), x : x + length] = 255
    text = f"{rng.integers(1, 500)} nm"
    cv2.putText(ink, text, (x, max(y - 4, 8)), cv2.FONT_HERSHEY_SIMPLEX, float(rng.uniform(0.3, 0.8)), 255, 1)
    image[ink > 127] = high


def _log_uniform(rng: Rng, span: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(np.log(span[0]), np.log(span[1]))))
