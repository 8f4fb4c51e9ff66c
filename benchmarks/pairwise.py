"""A pairwise banded solver after the description of SpyDE's drift correction (Direct Electron), to be compared with.

Written anew from its documentation (spyde/drift/translation.py as of e47f75d), numbers and order of steps as told there:
frames binned by a whole number, at least 2, to some 256 px; mean taken off; Tukey window 0.35; each spectrum weighted
with W = q^0.75 exp(-(q/0.5)²) (1 - exp(-(q/0.08)²)), q in cycles per binned px, so that a correlation has W²; every pair
of frames up to 48 apart correlated, the highest peak within ±32 px refined to 1/8 px by small Fourier matrices; positions
by least squares over the pairs, frame 0 fixed, three passes of bisquare weights (c = 4.685, scale 1.4826 times the median
residual and at least 0.02 px, weights at least 0.001), the first weights from the causal medians.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from scipy.linalg import solveh_banded
from scipy.signal.windows import tukey

BAND, SEARCH, STEPS, GRID = 48, 32.0, 8, 256
PASSES, C, LEAST_SCALE, LEAST_WEIGHT = 3, 4.685, 0.02, 1e-3


def solve(frames: list[np.ndarray], band: int = BAND, squared: bool = True) -> np.ndarray:
    """Shifts (t, 2) px. squared : the weight on both spectra of a pair, as it is told; False: on their product once."""
    b = max(2, max(frames[0].shape) // GRID)
    n, m = (s // b for s in frames[0].shape)
    window = np.outer(tukey(n, 0.35), tukey(m, 0.35)).astype(np.float32)
    q = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(m)[None])
    weight = q**0.75 * np.exp(-((q / 0.5) ** 2)) * (1 - np.exp(-((q / 0.08) ** 2)))
    weight = (weight if squared else np.sqrt(weight)).astype(np.float32)
    spectra = []
    for f in frames:
        small = f[: n * b, : m * b].astype(np.float32).reshape(n, b, m, b).mean(axis=(1, 3))
        spectra.append(scipy.fft.rfft2((small - small.mean()) * window) * weight)
    t, median = len(frames), np.zeros((len(frames), 2))
    pairs, found = [], []
    for j in range(1, t):
        own = range(max(0, j - band), j)
        moved = np.array([_peak(spectra[i] * spectra[j].conj(), (n, m), b) for i in own])
        median[j] = np.median(median[own] + moved, axis=0)
        pairs += [(i, j) for i in own]
        found.append(moved)
    i, j = np.array(pairs).T
    d = np.concatenate(found)
    at = median
    for _ in range(1 + PASSES):
        at = _least_squares(i, j, d, _bisquare(at[j] - at[i] - d), t, band)
    return at


def _peak(cross: np.ndarray, shape: tuple[int, int], b: int) -> tuple[float, float]:
    """What is to be added to the second frame, px: the highest correlation within ±SEARCH px, to 1/STEPS px.

    Around it small Fourier matrices, twice finer each time at most eightfold (Guizar-Sicairos).
    """
    n, m = shape
    full = scipy.fft.irfft2(cross, s=shape)
    r = int(SEARCH / b)
    near = np.roll(full, (r, r), (0, 1))[: 2 * r + 1, : 2 * r + 1]
    y, x = (float(v) - r for v in np.unravel_index(near.argmax(), near.shape))
    fy, fx = np.fft.fftfreq(n), np.fft.rfftfreq(m)
    twice = np.full(m // 2 + 1, 2.0)
    twice[0] = 1
    if m % 2 == 0:
        twice[-1] = 1
    fineness, reached = float(STEPS * b), 1.0
    while reached < fineness:
        step = min(fineness, reached * 8)
        half = int(np.ceil(1.5 * step / reached)) // 2
        steps = np.arange(-half, half + 1) / step
        left = np.exp(2j * np.pi * (y + steps)[:, None] * fy)
        right = np.exp(2j * np.pi * fx[:, None] * (x + steps)) * twice[:, None]
        i, j = np.unravel_index((left @ (cross @ right)).real.argmax(), (len(steps), len(steps)))
        y, x, reached = y + steps[i], x + steps[j], step
    return y * b, x * b


def _bisquare(rest: np.ndarray) -> np.ndarray:
    far = np.hypot(*rest.T)
    u = far / (C * max(1.4826 * float(np.median(far)), LEAST_SCALE))
    return np.maximum(np.where(u < 1, (1 - u**2) ** 2, 0), LEAST_WEIGHT)


def _least_squares(i: np.ndarray, j: np.ndarray, d: np.ndarray, w: np.ndarray, t: int, band: int) -> np.ndarray:
    """Positions (t, 2), the first at nought, from weighted differences d = position j - position i."""
    u = min(band, max(t - 2, 0))
    matrix, right = np.zeros((u + 1, t)), np.zeros((t, 2))
    for k, sign in ((i, -1), (j, 1)):
        np.add.at(matrix[u], k, w)
        np.add.at(right, k, sign * w[:, None] * d)
    inner = i > 0
    np.add.at(matrix, (u - (j - i)[inner], j[inner]), -w[inner])
    return np.vstack((np.zeros((1, 2)), solveh_banded(matrix[:, 1:], right[1:])))
