"""Is a particle really there? Its outline must be steeper than the frame is elsewhere, whatever the network thinks.

A network finds shapes in noise, too. In a Gaussian random field of any correlation (shot noise, granular film) the slope
along a contour is that of the rest of the field, but for the choice of the contour: 1.2 to 2.5 of the median, measured.
"""

from __future__ import annotations

import cv2
import numpy as np

from emstream.segment.classical import blur, slope

STEEP, SPREAD = 1.5, 6.0  # of the frame's median slope: along a long outline, and more for a short one (1/sqrt(px))
SCALES = (1.0, 2.0)  # px of the halved image: the slope is seen at 2 and 4 px blur


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
    half = cv2.resize(image, (max(1, image.shape[1] // 2), max(1, image.shape[0] // 2)), interpolation=cv2.INTER_AREA)
    y, x = np.minimum(y // 2, half.shape[0] - 1), np.minimum(x // 2, half.shape[1] - 1)
    best = np.zeros(len(length))
    for scale in SCALES:
        steep = slope(blur(half, scale))
        usual = max(float(np.median(steep[::2, ::2])), 1e-9)
        best = np.maximum(best, np.bincount(at, steep[y, x], minlength=len(length)) / length / usual)
    return best >= STEEP + SPREAD / np.sqrt(length)
