"""One frame at several sizes: a large particle is best seen small, a small one large; each is taken where it is seen best."""

from __future__ import annotations

import cv2
import numpy as np

from emstream.segment.instances import renumber
from emstream.segment.listed import Listed, listed

LARGE = 16.0  # px, diameter from which a particle may be taken from the coarser of two sizes
CALM = 0.8  # by how much its pixels must agree better there
MISSING = 0.4  # disagreement that counts where the finer size sees nothing
EDGE = 2  # px on either side of such a particle's outline that the finer size decides on
THERE = 0.5  # share of a finer particle that may be covered by a coarser one
FAINT = ((0.15, 0.85), (0.25, 0.8))  # a particle smaller than so much of the typical one must be as sure as that


def finer(
    coarse: Listed,
    calm: np.ndarray,
    fine: Listed,
    restless: np.ndarray,
    foreground: np.ndarray,
    threshold: float,
) -> tuple[Listed, np.ndarray]:
    """Each particle from the size at which its pixels agree better about its middle; edges from the finer size.

    coarse, calm   : labels at about half the size, and (n + 1,) how far their pixels disagree
    fine, restless : the same of the finer size
    foreground     : (y, x) float32 0..1 of the finer size
    returns        : labels, and (n + 1,) how far their pixels disagree
    """
    large = coarse.area >= np.pi / 4 * LARGE**2
    if not large.any():
        return fine, restless
    small = coarse.picture(np.float32)
    big = cv2.resize(small, fine.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(np.int32)
    area = np.maximum(np.bincount(big.ravel(), minlength=len(large)), 1)
    other = np.full(fine.shape, MISSING, np.float32)
    other.ravel()[fine.at] = restless.astype(np.float32)[fine.label]
    large &= calm <= CALM * np.bincount(big.ravel(), other.ravel(), minlength=len(large)) / area
    if not large.any():
        return fine, restless
    big = renumber(big, large).astype(np.float32)
    square = np.ones((2 * EDGE + 1,) * 2, np.uint8)
    wide = cv2.dilate(big, square)
    edge = wide != cv2.erode(big, square)
    big = np.where(edge & (foreground > threshold), np.where(big > 0, big, wide), np.where(edge, 0, big)).astype(
        np.int32
    )
    covered = np.bincount(fine.label[big.ravel()[fine.at] > 0], minlength=len(fine.area))
    beside = covered < THERE * fine.area
    beside[0] = False
    n = int(large.sum())
    rest = fine.kept(beside).picture()
    together = np.where(big > 0, big, np.where(rest > 0, rest + n, 0)).astype(np.int32)
    calm = np.concatenate([[0.0], calm[large], restless[beside]])
    return listed(together, len(calm) - 1), calm


def specks(labels: Listed, foreground: np.ndarray, usual: float) -> np.ndarray:
    """(n + 1,) bool, which labels are far smaller than the frame's `usual` diameter (px) and not very sure.

    A network takes the grain of a large particle, or of what is around it, for particles now and then.
    """
    d = np.sqrt(4 / np.pi * labels.area)
    small = d < max(share for share, _ in FAINT) * usual
    small[0] = False
    faint = np.zeros(len(d), bool)
    if small.any():
        sure = labels.mean(foreground)
        for share, least in FAINT:
            faint |= small & (d < share * usual) & (sure < least)
    return faint


def typical(area: np.ndarray) -> float:
    """(n + 1,) px by label -> area-weighted mean of the equivalent diameters, px; 0 when there are no particles."""
    area = area[1:].astype(float)
    return float(np.sum(area * np.sqrt(4 / np.pi * area)) / area.sum()) if len(area) else 0.0
