"""The detector: its MTF, its fixed pattern, its hot pixels, and the counting of electrons."""

from __future__ import annotations

import numpy as np

FEW = 8.0  # e/px; below, the exact inversion is used, above, the expansion of the quantile
BLOCK = 1 << 15  # pixels at once; they stay in the cache


def fixed_pattern(shape: tuple[int, int], rms: float, rng: np.random.Generator) -> np.ndarray:
    """Sensitivity of each pixel: (y, x) float32 around 1."""
    return np.clip(1.0 + rms * rng.standard_normal(shape), 0.05, None).astype(np.float32)


def hot_pixels(shape: tuple[int, int], fraction: float, dose: float, rng: np.random.Generator) -> np.ndarray:
    """Extra counts per frame: (y, x) float32, 0 for good pixels; hot ones far above the dose."""
    out = np.zeros(shape, np.float32)
    where = rng.choice(out.size, round(fraction * out.size), replace=False)
    out.flat[where] = max(dose, 0.2) * (2.0 + 20.0 * rng.exponential(size=len(where)))
    return out


def blur(image: np.ndarray, mtf: float) -> np.ndarray:
    """The image behind a Gaussian MTF that is `mtf` (0..1) at Nyquist: (y, x) float32."""
    import cv2

    q = (np.arange(256) + 0.5) / 512
    taps = np.cos(2 * np.pi * np.outer(np.arange(-10, 11), q)) @ mtf ** (4 * q**2)
    taps /= taps.sum()
    return cv2.sepFilter2D(image, cv2.CV_32F, taps, taps, borderType=cv2.BORDER_REFLECT)


def poisson(expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Independent Poisson numbers with the given means.

    expected : (y, x) float32, >= 0
    returns  : (y, x) float32, whole numbers

    Below 8: inversion of the distribution. Above: the normal quantile expanded to order 1/mean, which misses the true
    quantile in fewer than 1 of 100 draws, by one (Giles, ACM TOMS 42:7, 2016, Q_N2).
    """
    flat = np.ascontiguousarray(expected, np.float32).ravel()
    out = np.empty_like(flat)
    for start in range(0, flat.size, BLOCK):
        part = slice(start, start + BLOCK)
        out[part] = _block(flat[part], rng)
    return out.reshape(expected.shape)


def _block(mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    few = mean < FEW
    if np.count_nonzero(few) * 2 > mean.size:
        out = _by_inversion(np.minimum(mean, FEW), rng)
        rest = ~few
    else:
        out = _by_quantile(np.maximum(mean, FEW), rng)
        rest = few
    if rest.any():
        out[rest] = rng.poisson(mean[rest])
    return out


def _by_quantile(mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    z = rng.standard_normal(mean.shape, dtype=np.float32)
    root = np.sqrt(mean)
    square = z * z
    out = square * np.float32(1 / 72)
    out += np.float32(1 / 36)
    out /= root
    out *= -z  # -(z/36 + z³/72)/√mean
    out += root * z
    last = square * np.float32(1 / 270)
    last += np.float32(7 / 810)
    last *= square
    last -= np.float32(8 / 405)
    last /= mean
    out += last
    square *= np.float32(1 / 6)
    out += square
    out += mean
    out += np.float32(1 / 3)
    return np.maximum(np.floor(out, out=out), 0.0, out=out)


def _by_inversion(mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    u = rng.random(mean.shape, dtype=np.float32)
    chance = np.exp(-mean)
    below = chance.copy()
    out = np.zeros(mean.shape, np.uint8)
    more = np.empty(mean.shape, bool)
    top = float(mean.max())
    for k in range(1, int(top + 6.0 * np.sqrt(top) + 6.0)):
        np.greater(u, below, out=more)
        out += more.view(np.uint8)
        chance *= mean
        chance *= np.float32(1 / k)
        below += chance
    return out.astype(np.float32)
