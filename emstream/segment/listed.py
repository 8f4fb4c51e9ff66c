"""Labels as the list of their pixels: mostly a tenth of a frame's, and so a tenth of the work."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import DTypeLike


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """The pixels of n labels, in the order of the frame."""

    at: np.ndarray  # (k,) int64, flat index in the frame
    label: np.ndarray  # (k,) int32, 1…n
    shape: tuple[int, int]
    area: np.ndarray  # (n + 1,) px by label; [0] is 0

    def __len__(self) -> int:
        return len(self.area) - 1

    def kept(self, keep: np.ndarray) -> Listed:
        """Those labels for which `keep` (n + 1,) is true, numbered 1…m; [0] is meaningless."""
        if keep[1:].all():
            return self
        keep = keep & (self.area > 0)
        stays = keep[self.label]
        number = np.cumsum(keep).astype(np.int32)
        area = np.concatenate([[0], self.area[keep]])
        return Listed(self.at[stays], number[self.label[stays]], self.shape, area)

    def picture(self, kind: DTypeLike = np.int32) -> np.ndarray:
        """(y, x) of the labels, 0 elsewhere."""
        image: np.ndarray = np.zeros(self.shape, kind)
        image.ravel()[self.at] = self.label
        return image

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(y, x) -> (n + 1,) float64, mean of the values over each label; [0] is 0."""
        total = np.bincount(self.label, values.ravel()[self.at], minlength=len(self.area))
        return np.asarray(total / np.maximum(self.area, 1))


def listed(labels: np.ndarray, n: int = 0, inside: np.ndarray | None = None) -> Listed:
    """A label image (y, x) of 1…n as a list. n : at least so many; inside : (y, x) bool, labels > 0, when it is known"""
    at = np.flatnonzero(labels if inside is None else inside)
    label = labels.ravel()[at].astype(np.int32, copy=False)
    area = np.bincount(label, minlength=n + 1)
    return Listed(at, label, (int(labels.shape[0]), int(labels.shape[1])), area)


def components_of(mask: np.ndarray) -> Listed:
    """Connected components (8 neighbours) of a boolean (y, x) mask."""
    mask = np.ascontiguousarray(mask)
    return listed(cv2.connectedComponents(mask.view(np.uint8), connectivity=8)[1], inside=mask)
