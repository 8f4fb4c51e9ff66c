"""Is a particle really there? Its outline is steeper than the frame is elsewhere, or it stands out as most others do.

A network finds shapes in noise, too. In a Gaussian random field of any correlation (shot noise, granular film) the slope
along a contour is that of the rest of the field, but for the choice of the contour: 1.0 to 2.4 of the median, measured.
A small particle at low dose is no steeper. But where particles are real most of them stand out of the band-passed frame
(a matched filter) by four robust deviations and more; what was found in noise stands out by 2.7 to 3.4, measured.
"""

from __future__ import annotations

import cv2
import numpy as np

from emstream.segment.classical import slope
from emstream.segment.faint import banded, blur
from emstream.segment.listed import Listed

STEEP, SPREAD = 1.9, 2.8  # of the frame's median slope: along a long outline, and more for a short one (1/sqrt(px))
BLURS = (0.7, 1.4, 2.8, 5.6)  # px of half the size
TYPICAL = 4.0  # robust deviations by which most particles stand out where they are real
WEAKEST, ALONE = 3.0, 4.5  # by which a particle must stand out where they do, and where they do not
ENOUGH = 4000  # px for a median
SCALES = ((2, 1.0), (2, 2.0), (4, 2.0))  # reduced so many times, blurred by so many px of that: 2, 4 and 8 px


def there(labels: Listed, image: np.ndarray) -> np.ndarray:
    """Which labels the image bears out.

    labels  : connected components; particles that touch are judged together
    image   : (y, x) float32, in any unit; constant outside the covered area
    returns : (n + 1,) bool by label; [0] is meaningless
    """
    inside = np.zeros(labels.shape, np.uint8)
    inside.ravel()[labels.at] = 1
    within = cv2.erode(inside, np.ones((3, 3), np.uint8), borderValue=1).ravel()[labels.at] > 0
    y, x = np.divmod(labels.at[~within], labels.shape[1])
    at = labels.label[~within]
    length = np.maximum(np.bincount(at, minlength=len(labels.area)), 1)
    best = np.zeros(len(length))
    half = cv2.resize(image, (max(1, image.shape[1] // 2), max(1, image.shape[0] // 2)), interpolation=cv2.INTER_AREA)
    for by, sigma in SCALES:
        small = half
        if by != 2:
            shape = (max(1, image.shape[1] // by), max(1, image.shape[0] // by))
            small = cv2.resize(half, shape, interpolation=cv2.INTER_AREA)
        steep = slope(blur(small, sigma))
        step = max(1, round(np.sqrt(steep.size / ENOUGH)))
        some = steep[::step, ::step].ravel()
        usual = max(float(np.partition(some, len(some) // 2)[len(some) // 2]), 1e-9)  # np.median takes six times longer
        found = steep[np.minimum(y // by, steep.shape[0] - 1), np.minimum(x // by, steep.shape[1] - 1)]
        best = np.maximum(best, np.bincount(at, found, minlength=len(length)) / length / usual)
    ok = best >= STEEP + SPREAD / np.sqrt(length)
    if ok[1:].all():
        return ok
    high = heights(labels, half)
    return ok | (high > (WEAKEST if np.median(high[1:]) > TYPICAL else ALONE))


def heights(labels: Listed, half: np.ndarray) -> np.ndarray:
    """(n + 1,) by how many robust deviations each label stands out, at the blur that fits it best. half : the frame at half its size"""
    y, x = np.divmod(labels.at, labels.shape[1])
    order, first = np.argsort(labels.label, kind="stable"), np.cumsum(labels.area)[:-1]
    best = np.zeros(len(labels.area))
    for sigma in BLURS:
        z = banded(half, sigma)
        down, across = half.shape[0] // z.shape[0], half.shape[1] // z.shape[1]
        at = np.minimum(y // 2 // down, z.shape[0] - 1), np.minimum(x // 2 // across, z.shape[1] - 1)
        values = z[at][order]
        best[1:] = np.maximum(best[1:], np.maximum.reduceat(values, first))
        best[1:] = np.maximum(best[1:], -np.minimum.reduceat(values, first))
    return best
