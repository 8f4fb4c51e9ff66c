"""Touching particles come apart along the seams that the network sees, and at necks: no watershed, a few milliseconds."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial import cKDTree

from emstream.segment.instances import components

SEAM = 0.8  # of the network's depth: what is less deep is edge or seam
NECK, NECK_WITHIN = 0.78, 0.5  # a neck thinner than this share of the thinner partner's half width parts two particles
CORE = 0.3  # of a particle's half width: as far around its middle it is surely deeper than the rest
SHALLOW, SHALLOW_WITHIN = 3.0, 4.0  # px; what is nowhere deeper than this is never parted


def cores(mask: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """One connected core for each particle of a foreground.

    mask    : (y, x) bool
    depth   : (y, x) float32 0..1, the network's distance to the nearest edge or seam
    returns : (y, x) bool; `instances.grow` gives each pixel to the nearest core of its component

    What lies within the seams that the network sees is parted there; particles too small to have such an inside are
    parted at the necks of their outline alone.
    """
    found = middles(mask & (depth > SEAM), NECK_WITHIN, SHALLOW_WITHIN)
    whole = components(mask)
    has = np.zeros(int(whole.max()) + 1, bool)
    has[whole[found]] = True
    has[0] = True
    return found if has.all() else found | middles(~has[whole], NECK, SHALLOW)


def middles(mask: np.ndarray, neck: float, shallow: float) -> np.ndarray:
    """(y, x) bool -> one connected core for each part of it that necks separate.

    The deepest points (largest distance to the edge) are the parts' middles. Two of them belong together when the mask
    between them is nowhere thinner than `neck` of the thinner one. Nothing is found that is not deeper than `shallow` px.
    """
    depth = cv2.distanceTransform(np.ascontiguousarray(mask).view(np.uint8), cv2.DIST_L2, 5)
    smooth = cv2.GaussianBlur(depth, (0, 0), 1.0)
    top = (smooth >= cv2.dilate(smooth, np.ones((5, 5), np.uint8))) & (depth > shallow)
    n, _, _, centres = cv2.connectedComponentsWithStats(top.view(np.uint8), connectivity=8)
    if n < 3:
        return top
    at = np.rint(centres[1:, ::-1]).astype(int)  # (n, 2) y, x
    height = depth[at[:, 0], at[:, 1]]
    on = height > 0
    at, height = at[on], height[on]
    joined = _together(depth, at, height, neck)
    canvas = np.zeros(mask.shape, np.uint8)
    for (y, x), h in zip(at.tolist(), height.tolist(), strict=True):
        cv2.circle(canvas, (x, y), int(CORE * h), 1, -1)
    for i, j in joined:
        cv2.line(canvas, (int(at[i, 1]), int(at[i, 0])), (int(at[j, 1]), int(at[j, 0])), 1, 1)
    return canvas.view(bool) & mask


def _together(depth: np.ndarray, at: np.ndarray, height: np.ndarray, neck: float) -> np.ndarray:
    """(k, 2) pairs of middles without a neck between them."""
    tree = cKDTree(at)
    pairs = tree.query_pairs(float(2.5 * height.max()), output_type="ndarray")
    if not len(pairs):
        return pairs
    apart = np.linalg.norm(at[pairs[:, 0]] - at[pairs[:, 1]], axis=1)
    pairs = pairs[apart < 1.3 * (height[pairs[:, 0]] + height[pairs[:, 1]])]
    along = np.linspace(0, 1, 17)[None, :, None]
    points = np.rint(at[pairs[:, 0], None] * (1 - along) + at[pairs[:, 1], None] * along).astype(int)
    thinnest = depth[points[..., 0], points[..., 1]].min(axis=1)
    return pairs[thinnest >= neck * np.minimum(height[pairs[:, 0]], height[pairs[:, 1]])]
