"""Is a particle really there? Its outline must be steeper than the frame is elsewhere, whatever the network thinks.

A network finds shapes in noise, too. In a Gaussian random field of any correlation (shot noise, granular film) the slope
along a contour is that of the rest of the field, but for the choice of the contour: 1.0 to 2.4 of the median, measured.
"""

from __future__ import annotations

import cv2
import numpy as np

from emstream.segment.classical import slope
from emstream.segment.faint import blur

STEEP, SPREAD = 1.9, 2.8  # of the frame's median slope: along a long outline, and more for a short one (1/sqrt(px))
ENOUGH = 8000  # px for a median
SCALES = ((2, 1.0), (2, 2.0), (4, 2.0))  # reduced so many times, blurred by so many px of that: 2, 4 and 8 px


def there(labels: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Which labels the image bears out.

    labels  : (y, x) int32 connected components; particles that touch are judged together
    image   : (y, x) float32, in any unit; constant outside the covered area
    returns : (n + 1,) bool by label; [0] is meaningless
    """
    inside = (labels > 0).view(np.uint8)
    y, x = np.nonzero(inside & ~cv2.erode(inside, np.ones((3, 3), np.uint8), borderValue=1))
    at = labels[y, x]
    length = np.maximum(np.bincount(at, minlength=int(labels.max()) + 1), 1)
    best = np.zeros(len(length))
    for by, sigma in SCALES:
        shape = (max(1, image.shape[0] // by), max(1, image.shape[1] // by))
        steep = slope(blur(cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA), sigma))
        step = max(1, int(np.sqrt(steep.size / ENOUGH)))
        usual = max(float(np.median(steep[::step, ::step])), 1e-9)
        found = steep[np.minimum(y // by, shape[0] - 1), np.minimum(x // by, shape[1] - 1)]
        best = np.maximum(best, np.bincount(at, found, minlength=len(length)) / length / usual)
    return best >= STEEP + SPREAD / np.sqrt(length)
