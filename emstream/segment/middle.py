"""Touching particles come apart by where their pixels point: those that name one middle are one particle."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial import cKDTree

from emstream.segment.instances import renumber, shared
from emstream.segment.listed import Listed
from emstream.segment.mosaic import mosaic

INNER = 0.5  # of the network's depth: pixels at least so deep point well, those at the edge do not
AGREED, WITHIN = 0.2, 0.5  # of a component's radius, plus px: rms up to which its pixels name one middle
BLUR = 2.0  # px over which middles are gathered
VOTES = 12.0  # pixels that must name a middle
NEAR = 0.6  # of the radius that two groups of pixels have together: nearer middles are those of one particle
PART = 0.04  # of the largest particle of a component: what is smaller is no particle of its own


def parted(whole: Listed, depth: np.ndarray, way: np.ndarray, split: bool = True) -> tuple[Listed, np.ndarray]:
    """Components -> particles.

    whole   : connected components of the foreground
    depth   : (k,) float32 0..1 for each of their pixels, the network's distance to the nearest edge or seam
    way     : (2, k) float32 px, from each of their pixels to the middle of its particle
    split   : False leaves the components as they are
    returns : particles; one never reaches from one component into another. And (n + 1,): how far apart the middles are
              that its pixels name, rms, in units of its radius: well below .2 for a particle that is seen well; for
              noise, for a piece of a particle, or for several together, more
    """
    deep = depth > INNER
    own = whole.label[deep]
    y, x = (v + w for v, w in zip(np.divmod(whole.at[deep], whole.shape[1]), way[:, deep], strict=True))
    spread, radius = _spread(own, y, x, whole.area)
    doubtful = spread * radius > AGREED * radius + WITHIN
    if not split or not doubtful.any():
        return whole, spread
    label = whole.label.copy()
    some = doubtful[whole.label]
    named = doubtful[own]
    label[some] = _apart(whole.at[some], whole.label[some], deep[some], y[named], x[named], whole)
    keep = np.bincount(label) > 0
    keep[0] = False
    label = np.cumsum(keep)[label].astype(np.int32)
    particles = Listed(whole.at, label, whole.shape, np.bincount(label))
    return particles, _spread(label[deep], y, x, particles.area)[0]


def _apart(
    at: np.ndarray, own: np.ndarray, deep: np.ndarray, y: np.ndarray, x: np.ndarray, whole: Listed
) -> np.ndarray:
    """(k,) labels of the pixels `at` of doubtful components: their component's number, or one above all of those.

    own  : (k,) component
    deep : (k,) bool, whether the pixel names a middle
    y, x : (m,) the middles that they name, px
    """
    small = mosaic(own, *np.divmod(at, whole.shape[1]), len(whole))
    place, namer = small.places(own, *np.divmod(at, whole.shape[1])), own[deep]
    group = middles(y, x, small.places(namer, y, x), small.shape)
    components = np.zeros(small.shape, np.int32)
    components.ravel()[place] = own
    seeds = _seeds(components, place[deep], namer, group)
    return np.asarray(shared(components, seeds, len(whole)).ravel()[place])


def middles(y: np.ndarray, x: np.ndarray, at: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Places that pixels name -> (n,) int, which middle each of them means, from 0.

    Places are gathered as a picture; its peaks are middles, and each place belongs to the nearest one. Two middles are
    one when they are nearer than a particle of both groups' pixels is large: a small one may touch a large one, but it
    does not lie within it.

    y, x : (n,) px, in the frame
    at   : (n,) int64, flat index in a picture of `shape` in which they are gathered
    """
    named = np.bincount(at, minlength=shape[0] * shape[1]).astype(np.float32).reshape(shape)
    named = cv2.GaussianBlur(named, (0, 0), BLUR)
    top = (named >= cv2.dilate(named, np.ones((7, 7), np.uint8))) & (named > VOTES / (2 * np.pi * BLUR**2))
    n, peaks = cv2.connectedComponents(top.view(np.uint8), connectivity=8)
    if n < 3:
        return np.zeros(len(at), np.int64)
    _, zone = cv2.distanceTransformWithLabels((~top).view(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP)
    name = np.zeros(int(zone.max()) + 1, np.int64)  # cv2 numbers the zones in its own order
    name[zone[top]] = peaks[top] - 1
    group = name[zone.ravel()[at]]
    area = np.bincount(group, minlength=n - 1)
    middle = np.stack([np.bincount(group, v, minlength=n - 1) / np.maximum(area, 1) for v in (y, x)], axis=1)
    return _merged(middle, area)[group]


def _merged(middle: np.ndarray, area: np.ndarray) -> np.ndarray:
    """(k, 2) middles and the (k,) px that name them -> (k,) number of the middle that each becomes part of.

    The larger takes the smaller, from the largest on; what was taken takes nothing, so that no chain forms.
    """
    reach2 = NEAR**2 * area / np.pi
    pairs = cKDTree(middle).query_pairs(float(np.sqrt(2 * reach2.max())), output_type="ndarray")
    pairs = pairs[((middle[pairs[:, 0]] - middle[pairs[:, 1]]) ** 2).sum(axis=1) < reach2[pairs].sum(axis=1)]
    pairs = np.where((area[pairs[:, 0]] >= area[pairs[:, 1]])[:, None], pairs, pairs[:, ::-1])
    owner = np.arange(len(area))
    for large, small in pairs[np.argsort(-area[pairs[:, 0]], kind="stable")].tolist():
        if owner[large] == large and owner[small] == small:
            owner[small] = large
    return owner


def _spread(own: np.ndarray, y: np.ndarray, x: np.ndarray, area: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n + 1,) each, by label: rms distance of the places that its pixels name, in radii; its radius, px.

    own, y, x : (k,) label of a pixel, and the place that it names
    area      : (n + 1,) px
    """
    n = len(area)
    votes, spread2 = np.maximum(np.bincount(own, minlength=n), 1), np.zeros(n)
    for v in (y, x):
        mean = np.bincount(own, v, minlength=n) / votes
        spread2 += np.bincount(own, (v - mean[own]) ** 2, minlength=n) / votes
    radius = np.sqrt(np.maximum(area, 1) / np.pi)
    return np.sqrt(spread2) / radius, radius


def _seeds(whole: np.ndarray, at: np.ndarray, own: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(y, x) int32: pixels `at` by component and group, without groups that are a small part of their component."""
    _, number = np.unique(own.astype(np.int64) * (int(group.max()) + 1) + group, return_inverse=True)
    area = np.bincount(number)
    component = np.zeros(len(area), np.int64)
    component[number] = own
    largest = np.zeros(int(whole.max()) + 1)
    np.maximum.at(largest, component, area)
    seeds = np.zeros(whole.shape, np.int32)
    seeds.ravel()[at] = number + 1
    keep = area >= np.maximum(PART * largest[component], 4)
    return renumber(seeds, np.concatenate([[False], keep]))
