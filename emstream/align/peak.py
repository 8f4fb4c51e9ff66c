"""The peak of a log-likelihood map: searched on whole cells, refined by Gauss–Newton on Fourier sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emstream.align.grid import Grid, ramp
from emstream.arrays import fft_namespace, to_host
from emstream.messages import Array


@dataclass(frozen=True, slots=True)
class Peak:
    """Where the log-likelihood is highest: residual displacement (y, x) in cells of the moving image."""

    at: tuple[float, float]
    height: float  # nats
    noise: float  # standard deviation of the map without a match, nats

    @property
    def z(self) -> float:
        return self.height / self.noise if self.noise > 0 else 0.0


def near(
    cross: Array, radius: int, grid: Grid, prior: tuple[np.ndarray, np.ndarray]
) -> tuple[tuple[float, float], float]:
    """Highest log-posterior within ±radius cells -> (lag, its log-likelihood). No inverse transform is made.

    cross : (gy, gx//2+1) complex64, conj(reference) × image × weight
    prior : mean (2,) in cells and inverse covariance (2, 2) of the expected lag
    """
    xp = grid.xp
    lags = np.arange(-radius, radius + 1)
    d = xp.asarray(lags, dtype=xp.float32)
    ey = xp.exp((2j * np.pi) * d[:, None] * grid.fy).astype(xp.complex64)
    ex = xp.exp((2j * np.pi) * grid.fx[:, None] * d).astype(xp.complex64) * grid.twice[:, None]
    likelihood = to_host((ey @ (cross @ ex)).real)
    ry, rx = lags[:, None] - prior[0][0], lags[None] - prior[0][1]
    p = prior[1]
    penalty = (p[0, 0] * ry * ry + 2 * p[0, 1] * ry * rx + p[1, 1] * rx * rx) / 2
    i, j = np.unravel_index(int(np.argmax(likelihood - penalty)), likelihood.shape)
    return (float(lags[i]), float(lags[j])), float(likelihood[i, j])


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
