"""Small particles beside large ones in a noisy frame: what the network passes over, found by a matched filter.

A network that has seen dirt and grain beside large particles takes a dot there for that. Where noise, not structure, hides
the dots, there is a better rule: the frame without the particles that are known is band-passed at three scales, and a peak
counts that is higher than what noise gives. Noise has peaks of both signs alike, so those of the wrong sign tell how
many of the right one are false. Structure beside the particles has both signs, too, and so silences the search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from typing import TypeAlias

import cv2
import numpy as np

from emstream.messages import Rect
from emstream.segment.faint import edge_share, pixel_noise, robust
from emstream.segment.instances import cover
from emstream.segment.listed import Listed

# px a side of the cells; blur and side of what is subtracted, cells: for discs of some 5, 9 and 13 px
SCALES = ((1, ((1.5, 13),)), (2, ((1.25, 11), (1.75, 15))))
LEAST, MOST = 4.5, 9.0  # robust deviations of a peak: from where on it is looked at, up to where it is asked for more
CHANCE, FALSE = 1, 0.08  # peaks of the wrong sign that are chance; share of the right ones that may be false
NOISY = 0.35  # pixel noise, of the particles' contrast: in clearer frames the network sees what there is
STRONG, STRONGEST = 0.4, 1.6  # of the known particles' contrast
BESIDE = 3  # px around known particles that are left alone
KNOWN = 4  # particles that must be known to compare with
LARGEST = 14.0  # px, equivalent diameter: a larger one is not what is looked for here
SMALLEST = 3.0  # px
TYPICAL = 3.6  # diameter over blur of what a scale finds
RESPONSE = float(1 - np.exp(-(TYPICAL**2) / 8))  # what is left of its contrast at its middle
NEAR = 6  # px: half a side of the square in which a peak is the highest, and in which its particle lies twice
THIN = 6  # px between those that medians are taken of
Scales: TypeAlias = tuple[tuple[float, int], ...]


def add_small(
    labels: Listed, foreground: np.ndarray, image: np.ndarray, valid: Rect | None = None
) -> tuple[Listed, np.ndarray]:
    """Labels and foreground with the small particles that stand out of the noise; as they are where there is none.

    labels     : particles that are known
    foreground : (y, x) float32 0..1; 1 where particles are added
    image      : (y, x) float32, normalised
    valid      : the covered pixels
    """
    if len(labels) < KNOWN or min(image.shape) < 8 * NEAR:
        return labels, foreground
    known = np.zeros(labels.shape, np.uint8)
    known.ravel()[labels.at] = 1
    free = cover(cv2.dilate(known, np.ones((2 * BESIDE + 1,) * 2, np.uint8)) == 0, valid)
    some = free[::THIN, ::THIN]
    if some.mean() < 0.05:
        return labels, foreground
    film = float(np.median(image[::THIN, ::THIN][some]))
    contrast = float(np.median(image.ravel()[labels.at[::3]])) - film
    both = some.copy()  # a pixel and the one beside it
    both[:, : free[:, 1::THIN].shape[1]] &= free[::THIN, 1::THIN]
    if contrast == 0 or pixel_noise(image, THIN, both) < NOISY * abs(
        contrast
    ):  # 0: what is known is no darker than film
        return labels, foreground
    flat = (image - np.float32(film)) * (free * np.float32(-1 if contrast < 0 else 1))
    found: list[tuple[float, np.ndarray]] = []
    for cell, scales in SCALES:
        size = (image.shape[1] // cell, image.shape[0] // cell)
        cells = flat if cell == 1 else cv2.resize(flat, size, interpolation=cv2.INTER_AREA)
        empty = free if cell == 1 else cv2.resize(free.view(np.uint8), size, interpolation=cv2.INTER_NEAREST).view(bool)
        found += particles(cells, empty, cell, scales, abs(contrast), image.shape)
    return joined(labels, foreground, [at for _, at in sorted(found, key=lambda f: -f[0])], free)


def particles(
    cells: np.ndarray, free: np.ndarray, cell: int, scales: Scales, contrast: float, shape: tuple[int, ...]
) -> Iterator[tuple[float, np.ndarray]]:
    """Of each peak that is none of noise its height, and its pixels (flat index) at the scale that shows it best.

    cells : (y, x) float32, the film at 0, particles positive, nothing where it is not free
    free  : (y, x) bool, where peaks are looked for
    shape : of the picture whose cells of `cell` px a side they are
    """
    step, reach = max(THIN // cell, 1), NEAR // cell
    some = free[::step, ::step]
    bands = [cv2.GaussianBlur(cells, (0, 0), sigma) - cv2.blur(cells, (side, side)) for sigma, side in scales]
    z = [band / np.float32(max(robust(band[::step, ::step][some])[1], 1e-9)) for band in bands]
    most, least = reduce(np.maximum, z), reduce(np.minimum, z)
    square = np.ones((reach // 2 * 2 + 1,) * 2, np.uint8)
    at = np.flatnonzero((most > LEAST) & (most == cv2.dilate(most, square)) & free)
    under = np.flatnonzero((least < -LEAST) & (least == cv2.erode(least, square)) & free)
    noise = partial(of_noise, pixels=int(free.sum()), sigmas=[sigma for sigma, _ in scales])
    at = at[most.ravel()[at] > height_of(most.ravel()[at], -least.ravel()[under], noise)]
    for y, x in np.stack(np.divmod(at, most.shape[1]), 1).tolist():
        band = bands[max(range(len(z)), key=lambda k: float(z[k][y, x]))]
        height = float(band[y, x])
        if not STRONG < height / (RESPONSE * contrast) < STRONGEST:
            continue
        y0, x0 = max(y - 2 * reach, 0), max(x - 2 * reach, 0)
        part = band[y0 : y + 2 * reach + 1, x0 : x + 2 * reach + 1]
        if cell > 1:
            part = cv2.resize(part, (cell * part.shape[1], cell * part.shape[0]), interpolation=cv2.INTER_LINEAR)
        of = cv2.connectedComponents((part > edge_share(TYPICAL) * height).view(np.uint8), connectivity=8)[1]
        py, px = np.nonzero(of == of[cell * (y - y0) + cell // 2, cell * (x - x0) + cell // 2])
        yield float(most[y, x]), (cell * y0 + py) * shape[1] + cell * x0 + px


def height_of(mine: np.ndarray, other: np.ndarray, noise: Callable[[np.ndarray], np.ndarray]) -> float:
    """Above which height peaks are believed, in robust deviations; inf when none is.

    mine, other : heights of the peaks of the right and of the wrong sign
    noise       : how many above a height noise alone has
    """
    heights = np.arange(LEAST, MOST, 0.125)
    false = FALSE * (len(mine) - np.searchsorted(np.sort(mine), heights, "right"))
    chance = len(other) - np.searchsorted(np.sort(other), heights, "right")
    fine = (false > 0) & (chance <= np.maximum(CHANCE, false)) & (noise(heights) <= false)
    return float(heights[fine][0]) if fine.any() else float("inf")


def of_noise(height: np.ndarray, pixels: int, sigmas: Sequence[float]) -> np.ndarray:
    """Peaks above a height that white noise of so many pixels has after blurs (Adler, Geometry of Random Fields, 1981)."""
    density = sum(1 / (2 * sigma**2) for sigma in sigmas)
    return np.asarray(pixels * density * height * np.exp(-(height**2) / 2) / (2 * np.pi) ** 1.5)


def joined(
    labels: Listed, foreground: np.ndarray, new: list[np.ndarray], room: np.ndarray
) -> tuple[Listed, np.ndarray]:
    """The labels, and those of the new particles, the surest first, that have the size of small ones and room."""
    taken: list[np.ndarray] = []
    seen = np.zeros(0, np.int64)
    for at in new:
        mine = at[room.ravel()[at]]
        if not np.isin(mine, seen).any() and np.pi / 4 * SMALLEST**2 <= len(mine) <= np.pi / 4 * LARGEST**2:
            taken.append(mine)
            seen = np.concatenate([seen, mine])
    if not taken:
        return labels, foreground
    number = np.repeat(np.arange(len(taken), dtype=np.int32) + len(labels) + 1, [len(t) for t in taken])
    at = np.concatenate([labels.at, seen])
    order = np.argsort(at, kind="stable")
    label = np.concatenate([labels.label, number])[order].astype(np.int32)
    foreground = foreground.copy()
    foreground.ravel()[seen] = 1
    return Listed(at[order], label, labels.shape, np.concatenate([labels.area, [len(t) for t in taken]])), foreground
