"""The peak of a log-likelihood map: searched on whole cells, refined by Gauss–Newton on Fourier sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from emstream.align.grid import Grid, ramp
from emstream.arrays import fft_namespace, to_host
from emstream.messages import Array

EIGHT = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def near(
    cross: Array, radius: int, grid: Grid, prior: tuple[np.ndarray, np.ndarray]
) -> tuple[tuple[float, float], float]:
    """Highest log-posterior within ±radius cells -> (lag, its log-likelihood). No inverse transform is made.

    cross : (gy, gx//2+1) complex64, conj(reference) × image × weight
    prior : mean (2,) in cells and inverse covariance (2, 2) of the expected lag
    """
    lags = np.arange(-radius, radius + 1)
    likelihood = likelihoods(cross, radius, grid)
    ry, rx = lags[:, None] - prior[0][0], lags[None] - prior[0][1]
    p = prior[1]

    def penalty(y: Any, x: Any) -> Any:
        return (p[0, 0] * y * y + 2 * p[0, 1] * y * x + p[1, 1] * x * x) / 2

    posterior = likelihood - penalty(ry, rx)
    tops = _tops(posterior, likelihood)
    if len(tops) == 1:
        i, j = tops[0]
        return (float(lags[i]), float(lags[j])), float(likelihood[i, j])
    # several places fit about as well (a lattice): whole cells are too coarse to choose, so each is refined first
    best, found = -np.inf, ((0.0, 0.0), 0.0)
    for i, j in tops:
        at, _, height = refine(cross, (float(lags[i]), float(lags[j])), grid)
        value = height - penalty(at[0] - prior[0][0], at[1] - prior[0][1])
        if value > best:
            best, found = value, (at, height)
    return found


def likelihoods(cross: Array, radius: int, grid: Grid) -> np.ndarray:
    """The log-likelihood at whole-cell lags within ±radius -> (2 radius + 1, 2 radius + 1), on the host."""
    xp = grid.xp
    d = xp.asarray(np.arange(-radius, radius + 1), dtype=xp.float32)
    ey = xp.exp((2j * np.pi) * d[:, None] * grid.fy).astype(xp.complex64)
    ex = xp.exp((2j * np.pi) * grid.fx[:, None] * d).astype(xp.complex64) * grid.twice[:, None]
    return to_host((ey @ (cross @ ex)).real)


def highest(cross: Array, radius: int, grid: Grid) -> tuple[tuple[float, float], float]:
    """The highest log-likelihood within ±radius cells, refined -> (lag, its log-likelihood)."""
    i, j = divmod(int(likelihoods(cross, radius, grid).argmax()), 2 * radius + 1)
    lag, _, height = refine(cross, (float(i - radius), float(j - radius)), grid)
    return lag, height


def _tops(posterior: np.ndarray, likelihood: np.ndarray, most: int = 12) -> list[tuple[int, int]]:
    """Local maxima of the likelihood at least half as high as the highest, the likeliest first."""
    padded = np.pad(likelihood, 1, constant_values=-np.inf)
    ring = np.max([padded[1 + y : padded.shape[0] - 1 + y, 1 + x : padded.shape[1] - 1 + x] for y, x in EIGHT], axis=0)
    index = np.flatnonzero((likelihood >= ring) & (likelihood > 0.5 * max(likelihood.max(), 0)))
    order = index[np.argsort(-posterior.ravel()[index])][:most]
    first = int(np.argmax(posterior))
    picked = [first, *(int(k) for k in order if k != first)] if order.size > 1 else [first]
    return [divmod(k, likelihood.shape[1]) for k in picked]


def wide(cross: Array, radius: tuple[int, int], grid: Grid) -> tuple[tuple[float, float], float]:
    """Highest log-likelihood within ±radius cells (y, x), no prior -> (lag, log-likelihood)."""
    xp, (gy, gx) = grid.xp, grid.shape
    full = fft_namespace(xp).irfft2(cross, s=grid.shape) * (gy * gx)
    ly, lx = np.fft.fftfreq(gy, 1 / gy), np.fft.fftfreq(gx, 1 / gx)
    rows, columns = np.flatnonzero(abs(ly) <= radius[0]), np.flatnonzero(abs(lx) <= radius[1])
    part = full[xp.asarray(rows)][:, xp.asarray(columns)]
    i, j = divmod(int(part.argmax()), columns.size)
    return (float(ly[rows[i]]), float(lx[columns[j]])), float(part[i, j])


def moments(cross: Array, at: tuple[float, float], grid: Grid) -> np.ndarray:
    """Σ f_y^a f_x^b · cross · e^{2πi f·at} over the full plane, a, b = 0..2 -> (3, 3) complex128."""
    xp = grid.xp
    ex = ramp(grid.fx, at[1], xp) * grid.twice
    ey = ramp(grid.fy, at[0], xp)
    right = xp.stack([ex, ex * grid.fx, ex * grid.fx**2], axis=1)
    left = xp.stack([ey, ey * grid.fy, ey * grid.fy**2])
    return to_host(left @ (cross @ right)).astype(np.complex128)


def refine(cross: Array, at: tuple[float, float], grid: Grid) -> tuple[tuple[float, float], np.ndarray, float]:
    """Exact maximum of the continuous log-likelihood next to `at` -> (lag, information (2, 2), height in nats).

    Newton's method on L(δ) = Σ Re cross(f) e^{2πi f·δ}; the information is -∂²L, its inverse the covariance in cells².
    """
    d, begin = np.array(at, dtype=np.float64), np.array(at)
    info, height = np.zeros((2, 2)), 0.0
    for _ in range(8):
        m = moments(cross, (float(d[0]), float(d[1])), grid)
        gradient = -2 * np.pi * np.array([m[1, 0].imag, m[0, 1].imag])
        info = (2 * np.pi) ** 2 * np.array([[m[2, 0].real, m[1, 1].real], [m[1, 1].real, m[0, 2].real]])
        height = float(m[0, 0].real)
        if info[0, 0] <= 0 or np.linalg.det(info) <= 0:
            break
        step = np.clip(np.linalg.solve(info, gradient), -0.7, 0.7)
        if np.abs(d + step - begin).max() > 1.5:
            break
        d = d + step
        if np.abs(step).max() < 1e-4:
            break
    return (float(d[0]), float(d[1])), info, height


def summits(cross: Array, radius: tuple[int, int], grid: Grid, most: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Local maxima of the log-likelihood within ±radius, highest first -> lags (n, 2) cells, heights (n,) nats."""
    xp, (gy, gx) = grid.xp, grid.shape
    full = fft_namespace(xp).irfft2(cross, s=grid.shape) * (gy * gx)
    top = xp.ones(full.shape, bool)
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        top &= (full >= xp.roll(full, shift, (0, 1))) & (full >= xp.roll(full, (-shift[0], -shift[1]), (0, 1)))
    ly, lx = xp.asarray(np.fft.fftfreq(gy, 1 / gy)), xp.asarray(np.fft.fftfreq(gx, 1 / gx))
    top &= (abs(ly) <= radius[0])[:, None] & (abs(lx) <= radius[1])[None]
    index = to_host(xp.flatnonzero(top))
    heights = to_host(full.ravel()[xp.asarray(index)])
    order = np.argsort(-heights)[:most]
    y, x = np.divmod(index[order], gx)
    return np.stack([np.fft.fftfreq(gy, 1 / gy)[y], np.fft.fftfreq(gx, 1 / gx)[x]], axis=1), heights[order].astype(
        float
    )
