"""What classical methods propose for one frame: many grey-level images, each cut where it fits best what is believed.

A label-free training needs masks that are sharp and follow the frame itself. No classical method is safe on its own (a
fixed sigma gives an IoU of .6 to .98 on the same series), but for each of them one level is best, and a map of what a
network believes is good enough to choose method and level, though not to be the mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from emstream.segment.classical import halfway, slope, stretched, thinned
from emstream.segment.faint import blur
from emstream.segment.instances import components, drop_small, fill_holes

SIGMAS = (0.7, 1.0, 1.5, 2.2, 3.2, 4.5, 6.5)  # px
BLOCKS = (31, 61, 121)  # px: the local mean that a local threshold is set against
LEVELS = 256
CLUSTERS = 3
TRIED = 8  # grey images whose masks are made, of those that agree most
EDGE_SIGMA = 1.5  # px of blur at which edges are looked for
SMALLEST = 12.0  # px²
OWN_SIGMAS = (1.0, 2.0)  # px
REACH = 4  # px
BAND = 7  # px: half of it on either side of a believed edge is not believed


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A mask, how it was made, and how far it agrees with what was believed, 0..1."""

    method: str
    mask: np.ndarray  # (y, x) bool
    agreement: float


def greys(image: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Named images whose level sets are candidates: blurred at several scales, plain and less their local mean.

    image : (y, x) float32
    """
    flat = stretched(image)
    for sigma in SIGMAS:
        smooth = blur(flat, sigma)
        yield f"blur {sigma:g}", smooth
        for block in BLOCKS:
            if block > 4 * sigma and block < max(image.shape):
                mean = cv2.blur(smooth, (block, block), borderType=cv2.BORDER_REFLECT)
                yield f"blur {sigma:g} less mean {block}", smooth - mean


def best_level(grey: np.ndarray, belief: np.ndarray, inside: np.ndarray | None = None) -> tuple[float, bool, float]:
    """The threshold of an image that agrees most with a belief, at once for all levels and both polarities.

    grey, belief : (y, x) float32; belief 0..1
    inside       : (y, x) bool, the pixels that count; None = all
    returns      : level, dark (the mask is what lies below), soft IoU
    """
    every = 2 if grey.size > 40_000 else 1  # enough to choose by
    grey, belief = grey[::every, ::every], belief[::every, ::every]
    inside = None if inside is None else inside[::every, ::every]
    g, p = (grey.ravel(), belief.ravel()) if inside is None else (grey[inside], belief[inside])
    low, high = np.percentile(thinned(grey), (0.2, 99.8))
    step = max(float(high - low), 1e-9) / (LEVELS - 2)
    bins = np.clip((g - low) / step + 1, 0, LEVELS - 1).astype(np.int32)
    count = np.cumsum(np.bincount(bins, minlength=LEVELS)).astype(float)
    mass = np.cumsum(np.bincount(bins, p, minlength=LEVELS))
    total, n = mass[-1], count[-1]
    below = mass / np.maximum(total + count - mass, 1e-9)
    above = (total - mass) / np.maximum(total + (n - count) - (total - mass), 1e-9)
    k, j = int(np.argmax(below[:-1])), int(np.argmax(above[:-1]))
    dark = below[k] >= above[j]
    at = k if dark else j
    return float(low + at * step), bool(dark), float(max(below[k], above[j]))


def candidates(
    image: np.ndarray, belief: np.ndarray, inside: np.ndarray | None = None, smallest: float = SMALLEST
) -> list[Candidate]:
    """Masks of one frame, best first: what agrees most with the belief and runs along the image's edges.

    image    : (y, x) float32, any unit
    belief   : (y, x) float32 0..1, what a network thinks
    inside   : (y, x) bool, the pixels that the frame covers; nothing is found elsewhere
    smallest : px² below which nothing is kept
    """
    found = []
    for name, grey in greys(image):
        level, dark, agreement = best_level(grey, belief, inside)
        found.append((agreement, name, grey, level, dark))
    found.sort(key=lambda f: -f[0])
    made = []
    for _, name, grey, level, dark in found[:TRIED]:
        made.append((name, grey <= level if dark else grey > level))
        half = halfway(grey, level)
        made.append((f"{name}, half height", grey <= half if dark else grey > half))
    made += [(f"clusters {i}", mask) for i, mask in enumerate(clustered(image, belief))]
    made += [("watershed", seeded(image, belief))]
    made += [(f"own level, blur {sigma:g}", own_levels(image, belief, sigma)) for sigma in OWN_SIGMAS]
    steep = slope(blur(stretched(image), EDGE_SIGMA))
    out = []
    for name, mask in made:
        mask = tidy(mask if inside is None else mask & inside, smallest)
        out.append((edge(mask, steep), Candidate(name, mask, soft_iou(belief, mask, inside))))
    steepest = max(e for e, _ in out)
    return [c for _, c in sorted(out, key=lambda x: -x[1].agreement * np.sqrt(x[0] / max(steepest, 1e-9)))]


def edge(mask: np.ndarray, steep: np.ndarray) -> float:
    """Mean slope of the image along the mask's outline: an outline beside the real edge runs where it is flat."""
    rim = mask & ~cv2.erode(mask.view(np.uint8), np.ones((3, 3), np.uint8), borderValue=1).view(bool)
    return float(steep[rim].mean()) if rim.any() else 0.0


def own_levels(image: np.ndarray, belief: np.ndarray, sigma: float) -> np.ndarray:
    """Each believed particle cut at half the height of its own edge: particles of different contrast share no level.

    Half height is between the mean inside and the mean of the ring around it, REACH px beyond the believed outline.
    """
    smooth = blur(stretched(image), sigma)
    whole = components(belief > 0.5)
    wide = whole.astype(np.float32)
    square = np.ones((3, 3), np.uint8)
    for _ in range(REACH):
        wide = np.where(wide > 0, wide, cv2.dilate(wide, square))
    near = wide
    for _ in range(REACH):
        wide = np.where(wide > 0, wide, cv2.dilate(wide, square))
    near_label, ring = near.astype(np.int32), np.where(near > 0, 0, wide).astype(np.int32)
    n = int(whole.max()) + 1
    core = np.where(cv2.erode((whole > 0).view(np.uint8), square).view(bool), whole, 0)
    inside, outside = _means(core, smooth, n), _means(ring, smooth, n)
    inside = np.where(np.isfinite(inside), inside, _means(whole, smooth, n))
    level, dark = ((inside + outside) / 2)[near_label], (inside < outside)[near_label]
    return np.asarray((near_label > 0) & np.where(dark, smooth < level, smooth > level))


def _means(labels: np.ndarray, image: np.ndarray, n: int) -> np.ndarray:
    """(n,) mean of the image over each label; NaN where there is no pixel."""
    count = np.bincount(labels.ravel(), minlength=n)
    total = np.bincount(labels.ravel(), image.ravel(), minlength=n)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def clustered(image: np.ndarray, belief: np.ndarray) -> list[np.ndarray]:
    """k-means on grey level at three scales and roughness: the union of clusters that agrees most. [] = no contrast."""
    flat = stretched(image)
    layers = [blur(flat, 1.0), blur(flat, 3.0), blur(flat, 8.0)]
    layers.append(cv2.sqrt(blur((flat - blur(flat, 2.0)) ** 2, 3.0)))
    features = np.stack([(f - f.mean()) / max(float(f.std()), 1e-6) for f in layers], -1).reshape(-1, len(layers))
    features = features.astype(np.float32)
    some = features[:: max(1, len(features) // 8000)]
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 1e-3)
    _, _, centres = cv2.kmeans(some, CLUSTERS, None, stop, 2, cv2.KMEANS_PP_CENTERS)
    far = ((features[:, None] - centres[None]) ** 2).sum(-1)
    of = far.argmin(1).reshape(image.shape)
    unions = [np.isin(of, [i for i in range(CLUSTERS) if bits >> i & 1]) for bits in range(1, 2**CLUSTERS - 1)]
    return [max(unions, key=lambda m: soft_iou(belief, m))]


def seeded(image: np.ndarray, belief: np.ndarray) -> np.ndarray:
    """Watershed of the gradient from what is surely particle and surely not (Beucher & Meyer 1993): edges where they are steep."""
    markers = np.zeros(image.shape, np.int32)
    for name, sure in ((2, belief > 0.8), (1, belief < 0.2)):  # a band around the belief's edge is left to the image
        markers[cv2.erode(sure.view(np.uint8), np.ones((BAND, BAND), np.uint8)).view(bool)] = name
    if not (markers == 1).any() or not (markers == 2).any():
        return belief > 0.5
    steep = slope(blur(stretched(image), 1.5))
    eight_bit = cv2.convertScaleAbs(steep, alpha=255 / max(float(np.percentile(steep, 99.5)), 1e-9))
    return np.asarray(cv2.watershed(cv2.merge([eight_bit] * 3), markers) == 2)


def tidy(mask: np.ndarray, smallest: float) -> np.ndarray:
    """The mask without specks, neither of particle nor of hole."""
    kept = drop_small(components(mask), smallest) > 0
    return fill_holes(kept, smallest)


def soft_iou(belief: np.ndarray, mask: np.ndarray, inside: np.ndarray | None = None) -> float:
    """Overlap of a map 0..1 with a mask, 0..1; both empty = 1."""
    p, m = (belief, mask) if inside is None else (belief[inside], mask[inside])
    both = float(p[m].sum())
    either = float(p.sum()) + float(m.sum()) - both
    return both / either if either > 0.5 else 1.0
