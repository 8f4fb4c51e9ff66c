"""What the crash tests write: frames of planted pixels, told apart byte by byte, as a source that can be read again."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from emstream.messages import Origin

SHAPE = (300, 8)  # tall enough for a second pyramid level
FRAMES = 24


@lru_cache(maxsize=256)
def pixels(i: int) -> np.ndarray:
    """Frame i: (y, x) uint16, no two alike, no pixel 0."""
    image = np.random.default_rng(i).integers(1, 4000, SHAPE).astype(np.uint16)
    image.flags.writeable = False
    return image


def labels(i: int) -> np.ndarray:
    """Its labels."""
    image = np.zeros(SHAPE, np.int32)
    image[i % 30 : i % 30 + 5, 3:7] = 1
    image[42:45, 0 : 2 + i % 6] = 2
    return image


def final_shift(i: int) -> tuple[float, float]:
    """Where it turns out to lie, once later ones were seen."""
    return i / 4 + 0.125, 0.5 - i / 8


def origin(i: int, settled: bool = False) -> Origin:
    """Eight frames a file, which grows while it is read; `settled` when all of it is there."""
    last = 7 if settled else i % 8
    return Origin(f"cam/{i // 8}.mrc", i % 8, 1000 * (last + 1), 1_000_000 + 8 * (i // 8) + last, 40 + i // 8)
