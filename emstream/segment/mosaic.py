"""Some labels of a large frame side by side in a small picture, so that work on a few of them does not cost a frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GAP = 8  # px between two labels, and around all


@dataclass(frozen=True, slots=True, eq=False)
class Mosaic:
    """Where the boxes of labels lie in the frame and in the picture."""

    shape: tuple[int, int]
    low: np.ndarray  # (n + 1, 2) int64, first y and x of a label's box in the frame; for those that are not shown 0
    size: np.ndarray  # (n + 1, 2) int64, its height and width
    put: np.ndarray  # (n + 1, 2) int64, first y and x of the box in the picture

    def places(self, label: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Places (k,) in the frame, px -> flat index in the picture; what is beside its label's box comes to its edge."""
        down, across = (
            np.clip(np.rint(v).astype(np.int64) - self.low[label, i], 0, self.size[label, i] - 1)
            + self.put[label, i]
            for i, v in enumerate((y, x))
        )  # fmt: skip
        return np.asarray(down * self.shape[1] + across)


def mosaic(label: np.ndarray, y: np.ndarray, x: np.ndarray, n: int) -> Mosaic:
    """Boxes around the labels' pixels, set in rows, the highest first.

    label, y, x : (k,) int, label 1…n of a pixel and its place in the frame, px; k > 0
    """
    order = np.argsort(label, kind="stable")
    names, first = np.unique(label[order], return_index=True)
    low, size, put = (np.zeros((n + 1, 2), np.int64) for _ in range(3))
    for i, v in enumerate((y, x)):
        low[names, i] = np.minimum.reduceat(v[order], first)
        size[names, i] = np.maximum.reduceat(v[order], first) - low[names, i] + 1
    wide = size[names, 1] + GAP
    width = int(max(np.sqrt(np.sum((size[names, 0] + GAP) * wide)), wide.max())) + GAP
    top, left, high = GAP, GAP, 0
    for name in names[np.argsort(-size[names, 0], kind="stable")].tolist():
        height, across = size[name].tolist()
        if left + across + GAP > width:
            top, left, high = top + high + GAP, GAP, 0
        put[name] = top, left
        left, high = left + across + GAP, max(high, height)
    return Mosaic((top + high + GAP, width), low, size, put)
