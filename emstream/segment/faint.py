"""Particles too faint or too small for a threshold on the image: peaks of the band-passed image, scale by scale.

A disc stands out best at the blur that fits it (a matched filter; Lindeberg 1998, doi 10.1023/A:1008045108935). What a
Gaussian random field has of peaks, however correlated, it has of both signs alike. So only an excess of one sign counts as
particles, and the other sign tells how many of the weaker peaks are false.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from emstream.segment.instances import components, renumber
from emstream.segment.scale import enlarge

SCALES = (1.4, 2.0, 2.8, 4.0, 5.6, 8.0)  # px of blur; a disc of diameter d stands out best near d / 3.5
WIDE = 3.0  # the surroundings that are subtracted are blurred by so much more
SURE, FEWEST = 5.0, 4  # robust deviations by which at least so many particles must stand out
LEAST, FALSE = 3.5, 0.08  # fainter ones are taken, too, as long as at most this share of them is false
STAY = 1.0  # robust deviations by which a pixel must change to leave, or join, the particles of the frame before
KNOWN = 1.8  # robust deviations that a particle may be fainter than `peak` where the frame before had one


@dataclass(frozen=True, slots=True)
class Faint:
    """How faint particles are cut out; levels in robust deviations of the band-passed image."""

    sigma: float  # blur, px
    level: float  # at which the edge is drawn
    peak: float  # that a particle's middle reaches
    dark: bool

    def towards(self, other: Faint, share: float) -> Faint:
        """Between the two, `share` of the way; the polarity is the other's."""
        s, v, p = (
            a + share * (b - a)
            for a, b in ((self.sigma, other.sigma), (self.level, other.level), (self.peak, other.peak))
        )
        return Faint(s, v, p, other.dark)


def search(image: np.ndarray, polarity: str = "auto", near: Faint | None = None) -> Faint | None:
    """The scale at which peaks stand out most, of which sign; None when there are no more than noise gives.

    image : (y, x) float32
    near  : what is known from before: only its own scale and those beside it are looked at
    """
    best, found = 0.0, None
    for sigma in SCALES if near is None else (near.sigma / 1.2, near.sigma, near.sigma * 1.2):
        if 8 * sigma > min(image.shape):
            continue
        z = banded(image, sigma)
        heights = {True: peaks(-z, sigma / octave(sigma)), False: peaks(z, sigma / octave(sigma))}
        for dark in (True, False) if polarity == "auto" else (polarity == "dark",):
            mine, other = heights[dark], heights[not dark]
            if (mine > SURE).sum() < max(FEWEST, 4 * (other > SURE).sum()):
                continue
            peak = least_peak(mine, other)
            taken = mine[mine > peak]
            evidence = float(np.sum(taken - LEAST + 1))
            if evidence > best:
                best, found = (
                    evidence,
                    (Faint(sigma, 0.4 * float(np.median(taken)), peak, dark), float(np.median(taken))),
                )
    return None if found is None else fitted(image, *found)


def fitted(image: np.ndarray, faint: Faint, height: float) -> Faint:
    """With the level at which a disc of the size that is found there has its edge. height : of a typical peak"""
    z = standard(image, faint.sigma)
    z = -z if faint.dark else z
    for _ in range(4):
        d = typical_diameter(found_in(z, faint))
        if d <= 0:
            break
        faint = replace(faint, level=edge_share(round(2 * d / faint.sigma) / 2) * height)
    return faint


def labels_of(image: np.ndarray, shape: tuple[int, int], faint: Faint, before: np.ndarray | None) -> np.ndarray:
    """(y, x) int32 labels of `shape`. before : (y, x) bool of `shape`, where the frame before had particles"""
    z = enlarge(standard(image, faint.sigma), shape)
    return found_in(-z if faint.dark else z, faint, before)


def found_in(z: np.ndarray, faint: Faint, before: np.ndarray | None = None) -> np.ndarray:
    """Components above the level that reach the peak somewhere, or nearly where one was before."""
    if before is not None:
        z = z + np.where(before, np.float32(STAY), np.float32(-STAY))
    labels = components(z > faint.level)
    top = np.zeros(int(labels.max()) + 1, bool)
    top[labels[z > (faint.peak if before is None else faint.peak - STAY)]] = True
    if before is not None:
        top[labels[before & (z > faint.peak + STAY - KNOWN)]] = True
    return renumber(labels, top)


def standard(image: np.ndarray, sigma: float) -> np.ndarray:
    """The image blurred, without its surroundings, in robust standard deviations; (y, x) float32."""
    shape = (int(image.shape[0]), int(image.shape[1]))
    return enlarge(banded(image, sigma), shape)


def banded(image: np.ndarray, sigma: float) -> np.ndarray:
    """`standard`, on a grid of every `octave(sigma)` px."""
    step = octave(sigma)
    if step > 1:
        image = cv2.resize(image, (image.shape[1] // step, image.shape[0] // step), interpolation=cv2.INTER_AREA)
    band = blur(image, sigma / step) - blur(image, WIDE * sigma / step)
    some = band[:: max(1, int(np.sqrt(band.size / 30_000))), :: max(1, int(np.sqrt(band.size / 30_000)))]
    middle, deviation = robust(some)
    return (band - np.float32(middle)) / np.float32(max(deviation, 1e-9))


def robust(values: np.ndarray) -> tuple[float, float]:
    """Median, and the standard deviation by the median of absolute deviations from it."""
    middle = float(np.median(values))
    return middle, 1.4826 * float(np.median(np.abs(values - middle)))


def pixel_noise(image: np.ndarray, thin: int, counts: np.ndarray) -> float:
    """Deviation of one pixel's noise, by how much it differs from the next one in its row.

    counts : (y, x) bool of every `thin`-th pixel, which of them are asked
    """
    beside = image[::thin, 1::thin]
    pairs = np.s_[:, : beside.shape[1]]
    return robust((beside - image[::thin, ::thin][pairs])[counts[pairs]])[1] / 2**0.5


def octave(sigma: float) -> int:
    """px: how coarse a grid still shows what is left after a blur of `sigma` px."""
    return 1 if sigma < 2.7 else 2 if sigma < 5.4 else 4


def peaks(z: np.ndarray, sigma: float) -> np.ndarray:
    """Heights of the local maxima above LEAST."""
    side = 2 * int(np.ceil(1.5 * sigma)) + 1
    top = (z >= cv2.dilate(z, np.ones((side, side), np.uint8))) & (z > LEAST)
    return z[top]


def least_peak(mine: np.ndarray, other: np.ndarray) -> float:
    """The height above which at most FALSE of the peaks are noise: as many as the other sign has there."""
    for peak in np.arange(LEAST, SURE, 0.25):
        if (other > peak).sum() <= FALSE * (mine > peak).sum():
            return float(peak)
    return SURE


def typical_diameter(labels: np.ndarray) -> float:
    """Median equivalent diameter, px; 0 without particles."""
    area = np.bincount(labels.ravel())[1:]
    return float(np.sqrt(4 / np.pi * np.median(area))) if len(area) else 0.0


@lru_cache(maxsize=64)
def edge_share(ratio: float) -> float:
    """What the band-passed image of a disc is at its edge, relative to its middle. ratio : diameter / sigma"""
    sigma = 4.0
    half = int(2 * WIDE * sigma + ratio * sigma)
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    edge = ratio * sigma / 2
    disc = np.clip(edge + 0.5 - np.hypot(yy, xx), 0, 1).astype(np.float32)
    line = (blur(disc, sigma) - blur(disc, WIDE * sigma))[half, half:]
    return float(np.clip(np.interp(edge, np.arange(len(line)), line) / line.max(), 0.15, 0.85))


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian of `sigma` px."""
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
