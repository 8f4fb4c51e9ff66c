"""From an instance label image to what the network is asked for: foreground, depth, and where it matters most."""

from __future__ import annotations

import cv2
import numpy as np

SEAM = 5.0  # weight of the pixels between two particles that touch


def targets(labels: np.ndarray) -> np.ndarray:
    """labels (y, x) int32 -> (3, y, x) float32: foreground 0/1, depth 0..1, weight >= 1.

    Depth is the distance to the particle's edge, also to a touching neighbour, over its largest one in that particle.
    """
    inside = labels > 0
    value = labels.astype(np.float32)
    square = np.ones((3, 3), np.uint8)
    lowest = cv2.erode(np.where(inside, value, np.float32(1e9)), square)
    seam = inside & (cv2.dilate(value, square) != lowest) & (lowest < 1e9) & inside
    seam &= cv2.dilate(value, square) > lowest
    distance = cv2.distanceTransform((inside & ~seam).view(np.uint8), cv2.DIST_L2, 5) + 0.5 * seam
    deepest = np.zeros(int(labels.max()) + 1, np.float32)
    np.maximum.at(deepest, labels.ravel(), distance.ravel())
    depth = distance / np.maximum(deepest, 1)[labels]
    wide = cv2.dilate(seam.view(np.uint8), np.ones((5, 5), np.uint8))
    return np.stack([inside.astype(np.float32), depth.astype(np.float32), 1 + (SEAM - 1) * wide.astype(np.float32)])
