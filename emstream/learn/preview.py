"""Pictures of the best and the worst results: outlines of what was found (cyan) and of the truth (red)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emstream.learn.data import Picture

FOUND, TRUTH = (255, 220, 0), (40, 40, 255)  # BGR


def write_previews(
    out: Path, segment: Callable[[np.ndarray], np.ndarray], pictures: Sequence[Picture], numbers: dict[str, Any]
) -> list[Path]:
    """best.png and worst.png in `out`: the pictures that `numbers` names, side by side."""
    known = {p.name: p for p in pictures}
    written = []
    for kind in ("best", "worst"):
        panels = [panel(known[n].image, segment(known[n].image), known[n].labels) for n in numbers.get(kind, [])]
        if panels:
            written.append(out / f"{kind}.png")
            cv2.imwrite(str(written[-1]), np.hstack(panels))
    return written


def panel(image: np.ndarray, found: np.ndarray, truth: np.ndarray, side: int = 320) -> np.ndarray:
    """(side, side, 3) uint8: the image with both outlines; the rest of the square is black."""
    low, high = np.percentile(image, (0.5, 99.5))
    grey = np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    ratio = side / max(image.shape)
    shape = (max(1, round(image.shape[1] * ratio)), max(1, round(image.shape[0] * ratio)))
    colour = cv2.cvtColor(cv2.resize(grey, shape, interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2BGR)
    for labels, ink in ((truth, TRUTH), (found, FOUND)):
        small = cv2.resize(labels.astype(np.float32), shape, interpolation=cv2.INTER_NEAREST)
        edge = cv2.dilate(small, np.ones((3, 3), np.uint8)) != small
        colour[edge & (small == 0)] = ink
        colour[edge & (small > 0)] = ink
    out = np.zeros((side, side, 3), np.uint8)
    out[: colour.shape[0], : colour.shape[1]] = colour
    return out
