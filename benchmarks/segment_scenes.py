"""Simulated frames with exact labels that the segmentation is judged on: sizes alone and mixed, touching, nothing moving."""

from __future__ import annotations

import numpy as np

from emstream import simulate
from emstream.learn.data import Picture
from emstream.simulate.detector import poisson
from emstream.simulate.film import granular_film
from emstream.simulate.shapes import Disc, draw, draw_labels, draw_outline

SIDE = 512  # px
FRAMES = 4  # for each seed


def mixed(dose: float, contrast: tuple[float, float], seed: int) -> list[Picture]:
    """40 dark particles from 5 to 60 px in one frame, log-normal between (the simulator's own sizes)."""
    return [still(dose, diameter=(5, 60), contrast=contrast, seed=1000 * seed + i) for i in range(FRAMES)]


def one_size(diameter: float, dose: float, seed: int) -> list[Picture]:
    """Dark particles of contrast .3 to .5 that are all about as large."""
    n = int(min(80, 0.08 * SIDE**2 / diameter**2)) + 1
    sizes = (0.8 * diameter, 1.2 * diameter)
    return [still(dose, diameter=sizes, contrast=(0.3, 0.5), particles=n, seed=100 * seed + i) for i in range(FRAMES)]


def still(dose: float, seed: int, **settings: object) -> Picture:
    """One frame of the simulated microscope."""
    movie = simulate.movie(1, (SIDE, SIDE), dose=dose, seed=seed, **settings)  # type: ignore[arg-type]
    return Picture(f"{seed}", movie.frame(0).astype(np.float32), numbered(movie.labels(0)))


def touching(dose: float, seed: int) -> list[Picture]:
    """60 particles of 14 to 50 px, contrast .2 to .4; 30 % of them touch another one, overlapping by up to 8 %."""
    return [_touching(dose, np.random.default_rng((seed, i))) for i in range(FRAMES)]


def flickering(dose: float, seed: int, frames: int = 12) -> np.ndarray:
    """(t, y, x) of a scene in which only the electrons change: 40 particles of 8 to 40 px, contrast .3 to .5."""
    return simulate.movie(
        frames, (SIDE, SIDE), dose=dose, drift_per_frame=(0, 0), jitter=0, contrast=(0.3, 0.5), seed=seed
    ).frames


def numbered(labels: np.ndarray) -> np.ndarray:
    """The same labels, 1…n without gaps."""
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


def _touching(dose: float, rng: np.random.Generator) -> Picture:
    discs: list[Disc] = []
    pairs = 9  # 18 of 60 particles touch
    for k in range(60 - pairs):
        for _ in range(2000):
            r = np.exp(rng.uniform(np.log(7), np.log(25), 2))
            y, x, turn = *rng.uniform(25, SIDE - 25, 2), rng.uniform(0, 2 * np.pi)
            apart = (r[0] + r[1]) * rng.uniform(0.92, 1.0)
            new = [Disc(len(discs), y, x, r[0])]
            if k < pairs:
                new.append(Disc(len(discs) + 1, y + apart * np.sin(turn), x + apart * np.cos(turn), r[1]))
            if all(np.hypot(a.y - b.y, a.x - b.x) > a.radius + b.radius + 4 for a in new for b in discs):
                discs += new
                break
    outlines = [draw_outline(0.3, 0.03, rng) for _ in discs]
    image = np.maximum(1 + 0.04 * granular_film((SIDE, SIDE), 3.0, rng)[:SIDE, :SIDE], 0.05).astype(np.float32)
    draw(image, discs, outlines, -rng.uniform(0.2, 0.4, len(discs)), 0.5, 0.3)
    labels = numbered(draw_labels((SIDE, SIDE), discs, outlines))
    return Picture("touching", poisson(np.float32(dose) * image, rng), labels)
