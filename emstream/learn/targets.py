"""From an instance label image to what the network is asked for: foreground, depth, and where it matters most."""

from __future__ import annotations

import cv2
import numpy as np

DEEP = 5.0  # px from a particle's edge on which the depth grows
SEAM = 5.0  # weight of the pixels between two particles that touch


def targets(labels: np.ndarray) -> np.ndarray:
    """labels (y, x) int32 -> (3, y, x) float32: foreground 0/1, depth 0..1, weight >= 1.

    Depth is the distance to the particle's edge, also to a touching neighbour, over DEEP px, and at most 1. It is local
    on purpose: how far the particle's middle is would need a network that sees the whole particle.
    """
    inside = labels > 0
    value = labels.astype(np.float32)
    square = np.ones((3, 3), np.uint8)
    lowest = cv2.erode(np.where(inside, value, np.float32(1e9)), square)
    seam = inside & (cv2.dilate(value, square) != lowest) & (lowest < 1e9) & inside
    seam &= cv2.dilate(value, square) > lowest
    distance = cv2.distanceTransform((inside & ~seam).view(np.uint8), cv2.DIST_L2, 5) + 0.5 * seam
    depth = np.minimum(distance / DEEP, 1)
    wide = cv2.dilate(seam.view(np.uint8), np.ones((5, 5), np.uint8))
    return np.stack([inside.astype(np.float32), depth.astype(np.float32), 1 + (SEAM - 1) * wide.astype(np.float32)])
