"""The contact sheet: what the training sees, at one glance; a column of crops with their labels' outlines."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from emstream.store import dataset

ACROSS, DOWN, SIDE = 12, 8, 128  # crops, and px of each
INK, UNSURE = (60, 200, 255), (200, 80, 200)  # BGR: outline of the labels; tint of what nobody is sure of


def contact_sheet(path: Path, out: Path) -> None:
    """A PNG of crops spread evenly over the data set, each with the outlines of its labels; unsure pixels are tinted."""
    pixels, rows = dataset.read(path)
    n = len(pixels["images"])
    chosen = np.unique(np.linspace(0, n - 1, min(n, ACROSS * DOWN)).astype(int))
    panels = [_panel(pixels["images"][k], pixels["labels"][k], pixels["weight"][k], _told(rows, k)) for k in chosen]
    panels += [np.zeros((SIDE, SIDE, 3), np.uint8)] * (-len(panels) % ACROSS)
    lines = [np.hstack(panels[i : i + ACROSS]) for i in range(0, len(panels), ACROSS)]
    cv2.imwrite(str(out), np.vstack(lines))


def _told(rows: dict[str, np.ndarray], k: int) -> str:
    return f"{rows['source'][k]}:{rows['frame'][k]} x{rows['scale'][k]:.2f} {100 * rows['dose'][k]:.0f}%"


def _panel(image: np.ndarray, labels: np.ndarray, weight: np.ndarray, text: str) -> np.ndarray:
    grey = np.clip(image.astype(np.float32) * 42 + 128, 0, 255).astype(np.uint8)
    colour = cv2.cvtColor(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2BGR)
    small = cv2.resize(labels.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    sure = cv2.resize(weight, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    if labels.any():
        unsure = sure < 100
        colour[unsure] = (0.7 * colour[unsure] + 0.3 * np.array(UNSURE)).astype(np.uint8)
        colour[cv2.erode(small, np.ones((3, 3), np.uint8)) != small] = INK
    cv2.putText(colour, text, (2, SIDE - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.32, (255, 255, 255), 1, cv2.LINE_AA)
    colour[-1], colour[:, -1] = 0, 0
    return colour
