"""Is a particle really there? Its outline must be steeper than the frame is elsewhere, whatever the network thinks.

A network finds shapes in noise, too. In a Gaussian random field of any correlation (shot noise, granular film) the slope
along a contour is that of the rest of the field, but for the choice of the contour: 1.0 to 2.4 of the median, measured.
"""

from __future__ import annotations

import cv2
import numpy as np

from emstream.segment.classical import slope
from emstream.segment.faint import blur
from emstream.segment.listed import Listed

STEEP, SPREAD = 1.9, 2.8  # of the frame's median slope: along a long outline, and more for a short one (1/sqrt(px))
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
    return best >= STEEP + SPREAD / np.sqrt(length)
