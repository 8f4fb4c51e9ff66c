"""Small particles beside large ones in a noisy frame: what the network passes over, found by a matched filter.

A network that has seen dirt and grain beside large particles takes a dot there for that. Where noise, not structure, hides
the dots, there is a better rule: the frame without the particles that are known is band-passed at three scales, and a peak
counts that is higher than what noise gives. Noise has peaks of both signs alike, so those of the wrong sign tell how
many of the right one are false. Structure beside the particles has both signs, too, and so silences the search.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import cv2
import numpy as np

from emstream.messages import Rect
from emstream.segment.faint import edge_share
from emstream.segment.instances import cover
from emstream.segment.listed import Listed

SCALES = ((1.5, 13), (2.5, 21), (3.5, 29))  # px: blur, for discs of some 5, 9 and 13 px; side of what is subtracted
LEAST, MOST = (
    4.5,
    9.0,
)  # robust deviations of a peak: from where on it is looked at, and up to where it is asked for more
CHANCE, FALSE = 1, 0.08  # share of the peaks that may be false; so many of the wrong sign are chance
NOISY = 0.35  # pixel noise, of the particles' contrast: in clearer frames the network sees what there is
STRONG, STRONGEST = 0.4, 1.6  # of the known particles' contrast
BESIDE = 3  # px around known particles that are left alone
KNOWN = 4  # particles that must be known to compare with
LARGEST = 14.0  # px, equivalent diameter: a larger one is not what is looked for here
SMALLEST = 3.0  # px
TYPICAL = 3.6  # diameter over blur of what a scale finds
RESPONSE = float(1 - np.exp(-(TYPICAL**2) / 8))  # what is left of its contrast at its middle
NEAR = 7  # px: side of the square in which a peak is the highest
THIN = 6  # px between those that medians are taken of


def add_small(
    labels: Listed, foreground: np.ndarray, image: np.ndarray, valid: Rect | None = None
) -> tuple[Listed, np.ndarray]:
    """Labels and foreground with the small particles that stand out of the noise; as they are where there is none.

    labels     : particles that are known
    foreground : (y, x) float32 0..1; 1 where particles are added
    image      : (y, x) float32, normalised
    valid      : the covered pixels
    """
    if len(labels) < KNOWN:
        return labels, foreground
    known = np.zeros(labels.shape, np.uint8)
    known.ravel()[labels.at] = 1
    square = np.ones((2 * BESIDE + 1,) * 2, np.uint8)
    free = cover(cv2.dilate(known, square) == 0, valid)
    some = np.flatnonzero(free[::THIN, ::THIN])
    if len(some) < free.size / THIN**2 / 20:
        return labels, foreground
    film = float(np.median(thin(image)[some]))
    contrast = float(np.median(image.ravel()[labels.at[::3]])) - film
    flat = (image - np.float32(film)) * (free * np.float32(-1 if contrast < 0 else 1))
    bands: list[np.ndarray] = []
    for sigma, side in SCALES:
        smooth = cv2.GaussianBlur(flat, (0, 0), sigma)
        if not bands and robust(thin(flat)[some] - thin(smooth)[some]) < NOISY * abs(contrast):
            return labels, foreground
        bands.append(smooth - cv2.blur(flat, (side, side)))
    found = peaks(bands, free, some, abs(contrast))
    return (labels, foreground) if found is None else joined(labels, foreground, found)


def thin(image: np.ndarray) -> np.ndarray:
    """Every n-th pixel in both directions, flat: enough for a median."""
    return image[::THIN, ::THIN].ravel()


def robust(values: np.ndarray) -> float:
    """Standard deviation by the median of absolute deviations."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def peaks(bands: Sequence[np.ndarray], free: np.ndarray, some: np.ndarray, contrast: float) -> np.ndarray | None:
    """(y, x) bool: around each peak that is none of noise, at the scale that shows it best, down to its edge.

    bands   : the band-passed image at each of SCALES
    free    : (y, x) bool, where peaks are looked for
    some    : which of its thinned pixels are free
    returns : None when there are none
    """
    z = [band / np.float32(max(robust(thin(band)[some]), 1e-9)) for band in bands]
    most, least = reduce(np.maximum, z), reduce(np.minimum, z)
    square = np.ones((NEAR, NEAR), np.uint8)
    at = np.flatnonzero((most > LEAST) & (most == cv2.dilate(most, square)) & free)
    under = np.flatnonzero((least < -LEAST) & (least == cv2.erode(least, square)) & free)
    at = at[most.ravel()[at] > height_of(most.ravel()[at], -least.ravel()[under], int(free.sum()))]
    seen = RESPONSE * contrast
    found = None
    for (_, side), band, height in zip(SCALES, bands, z, strict=True):
        top = at[height.ravel()[at] == most.ravel()[at]]
        value = band.ravel()[top]
        top = top[(value > STRONG * seen) & (value < STRONGEST * seen)]
        if len(top):
            of = np.zeros(band.shape, np.float32)
            of.ravel()[top] = band.ravel()[top]
            of = cv2.dilate(of, np.ones((side, side), np.uint8))
            here = free & (of > 0) & (band > edge_share(TYPICAL) * of)
            found = here if found is None else found | here
    return found


def height_of(mine: np.ndarray, other: np.ndarray, pixels: int) -> float:
    """Above which height peaks are believed, in robust deviations; inf when none is.

    mine, other : heights of the peaks of the right and of the wrong sign
    pixels      : where they were looked for
    """
    heights = np.arange(LEAST, MOST, 0.125)
    false = FALSE * (len(mine) - np.searchsorted(np.sort(mine), heights, "right"))
    chance = len(other) - np.searchsorted(np.sort(other), heights, "right")
    fine = (false > 0) & (chance <= np.maximum(CHANCE, false)) & (of_noise(heights, pixels) <= false)
    return float(heights[fine][0]) if fine.any() else float("inf")


def of_noise(height: np.ndarray, pixels: int) -> np.ndarray:
    """Peaks above a height that white noise of so many pixels has after the blurs (Adler, Geometry of Random Fields, 1981)."""
    density = sum(1 / (2 * sigma**2) for sigma, _ in SCALES)
    return np.asarray(pixels * density * height * np.exp(-(height**2) / 2) / (2 * np.pi) ** 1.5)


def joined(labels: Listed, foreground: np.ndarray, found: np.ndarray) -> tuple[Listed, np.ndarray]:
    """The labels, and those parts of a mask that have the size of small particles as further ones."""
    n, parts, stats, _ = cv2.connectedComponentsWithStats(found.view(np.uint8), connectivity=8)
    area = stats[:, cv2.CC_STAT_AREA]
    keep = (area >= np.pi / 4 * SMALLEST**2) & (area <= np.pi / 4 * LARGEST**2)
    keep[0] = False
    if n < 2 or not keep.any():
        return labels, foreground
    new = np.flatnonzero(keep[parts.ravel()])
    number = (np.cumsum(keep) + len(labels)).astype(np.int32)
    at = np.concatenate([labels.at, new])
    order = np.argsort(at, kind="stable")
    label = np.concatenate([labels.label, number[parts.ravel()[new]]])[order]
    foreground = foreground.copy()
    foreground.ravel()[new] = 1
    return Listed(at[order], label, labels.shape, np.concatenate([labels.area, area[keep]])), foreground
