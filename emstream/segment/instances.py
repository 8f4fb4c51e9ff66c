"""From masks to numbered particles: label, take apart by seeds, drop what is small or not covered, number without gaps."""

from __future__ import annotations

import cv2
import numpy as np

from emstream.messages import PixelSize, Rect
from emstream.segment import SegmentOptions
from emstream.segment.listed import Listed


def smallest_area(options: SegmentOptions, pixel_size_nm: PixelSize | None) -> float:
    """px² below which a component is no particle, from `min_diameter_px` and `min_diameter_nm`."""
    px = options.min_diameter_px
    if pixel_size_nm is not None and options.min_diameter_nm > 0:
        px = max(px, options.min_diameter_nm / float(np.sqrt(pixel_size_nm[0] * pixel_size_nm[1])))
    return float(np.pi / 4 * px**2)


def components(mask: np.ndarray) -> np.ndarray:
    """Connected components (8 neighbours) of a boolean (y, x) mask: int32, 1…n."""
    return cv2.connectedComponents(np.ascontiguousarray(mask).view(np.uint8), connectivity=8)[1]


def cover(mask: np.ndarray, valid: Rect | None) -> np.ndarray:
    """The mask, false outside `valid` (y0, y1, x0, x1)."""
    if valid is None:
        return mask
    y0, y1, x0, x1 = valid
    inside = np.zeros_like(mask)
    inside[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
    return inside


def renumber(labels: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """labels int (y, x); keep (n + 1,) bool by label: those kept are numbered 1…m, all others become 0."""
    keep = keep.copy()
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[labels]


def drop_small(labels: np.ndarray, min_area: float) -> np.ndarray:
    """Labels without those of fewer than `min_area` px, numbered 1…m."""
    return renumber(labels, np.bincount(labels.ravel()) >= min_area)


def fill_holes(mask: np.ndarray, largest: float) -> np.ndarray:
    """The mask with its holes of at most `largest` px filled (a ring of particles stays a ring)."""
    outside = components(~mask)
    area = np.bincount(outside.ravel(), minlength=2)
    edge = np.concatenate([outside[0], outside[-1], outside[:, 0], outside[:, -1]])
    fill = area <= largest
    fill[np.unique(edge)] = False
    fill[0] = False
    return mask | fill[outside]


def shared(whole: np.ndarray, seeds: np.ndarray, n: int) -> np.ndarray:
    """Take components apart by seeds: each pixel goes to the nearest seed of its own component.

    whole   : (y, x) int32 connected components, up to n
    seeds   : (y, x) int32; pixels of one number are one particle and lie in one component. A component without a seed
              stays one particle.
    returns : (y, x) int32: the component's number where it has at most one seed, else n + the seed's
    """
    on = np.flatnonzero(seeds)
    owner = np.zeros(int(seeds.max()) + 1, np.int64)  # the component that a seed lies in
    owner[seeds.ravel()[on]] = whole.ravel()[on]
    per_component = np.bincount(owner[1:], minlength=n + 1)
    if per_component.max(initial=0) < 2:
        return whole
    inside = np.flatnonzero((per_component > 1)[whole])
    nearest, at = _nearest(seeds, on, inside), whole.ravel()[inside]
    first = np.zeros(n + 1, np.int64)
    first[owner[:0:-1]] = np.arange(len(owner) - 1, 0, -1)  # for pixels whose nearest seed is another component's
    labels = whole.copy()
    labels.ravel()[inside] = np.where(owner[nearest] == at, nearest, first[at]) + n
    return labels


def reach_out(labels: Listed) -> np.ndarray:
    """(y, x) labels that spread by a pixel into the background: what their enlarged edges can cover."""
    image = labels.picture(np.uint16 if len(labels) < 1 << 16 else np.float32)  # cv2 dilates no int32
    wide = cv2.dilate(image, np.ones((3, 3), np.uint8))
    wide.ravel()[labels.at] = labels.label
    return wide


def _nearest(seeds: np.ndarray, on: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """For the pixels `inside` (flat indices) the number of the nearest seed; `on` are the seeds' own pixels."""
    _, zone = cv2.distanceTransformWithLabels(
        (seeds == 0).view(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    name = np.zeros(int(zone.max()) + 1, seeds.dtype)  # cv2 numbers the pixels in its own order
    name[zone.ravel()[on]] = seeds.ravel()[on]
    return np.asarray(name[zone.ravel()[inside]])
