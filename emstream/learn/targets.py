"""From an instance label image to what the network is asked for: foreground, depth, way to the middle, and weights."""

from __future__ import annotations

import cv2
import numpy as np

from emstream.segment.unet import FAR

DEEP = 5.0  # px from a particle's edge on which the depth grows
SEAM = 5.0  # weight of the pixels between two particles that touch
SMALL, MOST = 14.0, 3.0  # px; a particle n times smaller than SMALL weighs n times as much, up to MOST times


def targets(labels: np.ndarray) -> np.ndarray:
    """labels (y, x) int32, -1 = not known -> (5, y, x) float32: foreground 0/1, depth 0..1, weight, dy, dx.

    Depth is the distance to the particle's edge, also to a touching neighbour, over DEEP px, and at most 1: local on
    purpose, it is right for a particle that is only half in the picture, too. (dy, dx) leads from a pixel to the middle
    of what is seen of its particle, in units of FAR px; 0 on the background.
    Weight is 1, more at small particles, SEAM between particles that touch, 0 where nothing is known.
    """
    unknown = labels < 0
    labels = np.maximum(labels, 0)
    inside = labels > 0
    value = labels.astype(np.float32)
    square = np.ones((3, 3), np.uint8)
    lowest = cv2.erode(np.where(inside, value, np.float32(1e9)), square)
    seam = inside & (cv2.dilate(value, square) > lowest) & (lowest < 1e9)
    distance = cv2.distanceTransform((inside & ~seam).view(np.uint8), cv2.DIST_L2, 5) + 0.5 * seam
    out = np.empty((5, *labels.shape), np.float32)
    out[0] = inside
    out[1] = np.minimum(distance / DEEP, 1)
    area = np.maximum(np.bincount(labels.ravel()), 1)
    weight = np.clip(SMALL / np.sqrt(4 / np.pi * area), 1, MOST).astype(np.float32)
    weight[0] = 1
    wide = np.ones((5, 5), np.uint8)
    out[2] = np.maximum(cv2.dilate(weight[labels], wide), SEAM * cv2.dilate(seam.view(np.uint8), wide))
    out[2][unknown] = 0
    out[3:] = _to_the_middle(labels)
    return out


def _to_the_middle(labels: np.ndarray) -> np.ndarray:
    """(2, y, x) float32: (dy, dx) to the centroid of the pixel's label, over FAR; 0 on the background."""
    flat = labels.ravel()
    on = np.flatnonzero(flat)
    out = np.zeros((2, flat.size), np.float32)
    if len(on):
        at = flat[on]
        area = np.maximum(np.bincount(at), 1)
        for k, place in enumerate(np.divmod(on, labels.shape[1])):
            out[k, on] = ((np.bincount(at, place) / area)[at] - place) / FAR
    return out.reshape(2, *labels.shape)
