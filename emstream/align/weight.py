"""The best weight of each frequency: a signal-to-noise model fitted to even and odd half references.

With ρ(k) = S(k)/N(k) of one frame and a reference of K frames, the correlation is weighted by

    w(k)/N(k),   w = K ρ / ((K + 1) ρ + 1)

(Hannan and Thomson 1973, generalised correlation, doi:10.1093/biomet/60.1.77; Knapp and Carter 1976,
doi:10.1109/TASSP.1976.1162830). The correlation is then a log-likelihood: its height is in nats and its curvature is
the Fisher information.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emstream.align.grid import Grid
from emstream.arrays import fft_namespace, ndimage_namespace
from emstream.messages import Array

SLOWEST = 0.012  # cycles per cell: slower rings do not enter the fit
FAINTEST = 1e-16  # noise power of a frame in which all pixels are equal; its square must be a number in float32
CAP = 3.0  # standard errors by which the fitted model may exceed a ring's mean
BRAGG = 4.0  # a cell stands out when its 3×3 mean cross power is this many standard errors high …
BRAGG_EARLY = 10.0  # … and this many while the references are of fewer than 8 frames


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Power of one frame's signal and noise, per unit window area (sum of window² = 1)."""

    signal: Array  # (gy, gx//2+1) float32
    noise: Array  # (gy, gx//2+1) float32
    fit: tuple[float, float, float]  # a, p, B of S(q) = exp(a - p ln q - B q²)
    frames: int  # references' frames when it was measured
    lattice: bool = False

    @property
    def snr(self) -> Array:
        return self.signal / self.noise


def from_one(power: Array, area: float, grid: Grid) -> Spectrum:
    """A first guess from the power (gy, gx//2+1) of one windowed frame: what stands above the plateau is signal."""
    rings = grid.ring_mean(power) / area
    fast = grid.ring_q > 0.6 * grid.ring_q.max()
    plateau = max(float(np.median(rings[fast])), 1e-12 * float(rings.max()), FAINTEST)
    error = rings / np.sqrt(grid.ring_n / 2)
    fit = fit_power(grid.ring_q, rings - plateau, error)
    out = _on_grid(fit, np.full(rings.shape, plateau), rings - plateau, error, grid, 1)
    power = power / area
    return _with_bragg(out, power - grid.xp.float32(plateau), power, rings - plateau, error, grid, BRAGG_EARLY)


def from_halves(a: Array, b: Array, frames: tuple[float, float], area: float, grid: Grid, before: Spectrum) -> Spectrum:
    """The spectrum from transforms (gy, gx//2+1) of the two half references, of `frames` frames each."""
    cross, pa, pb = (a * b.conj()).real, abs(a) ** 2, abs(b) ** 2
    c = grid.ring_mean(cross) / area
    ra, rb = grid.ring_mean(pa) / area, grid.ring_mean(pb) / area
    p = (ra + rb) / 2
    error = p / np.sqrt(grid.ring_n / 2)
    noise = ((ra - c) * frames[0] + (rb - c) * frames[1]) / 2
    noise = _smooth_noise(noise, error * sum(frames) / 2, p)
    fit = fit_power(grid.ring_q, c, error, before.fit)
    out = _on_grid(fit, noise, c, error, grid, int(sum(frames)))
    clear = BRAGG if sum(frames) >= 8 else BRAGG_EARLY
    return _with_bragg(out, cross / area, (pa + pb) / (2 * area), c, error, grid, clear)


def fit_power(
    q: np.ndarray, power: np.ndarray, error: np.ndarray, begin: tuple[float, float, float] | None = None
) -> tuple[float, float, float] | None:
    """Weighted Gauss–Newton fit of S(q) = exp(a - p ln q - B q²), p in -1..6, B >= 0, to ring means (n,).

    The power is not clipped, so that noise averages out and does not pass as signal. None when nothing stands out.
    """
    use = (q > SLOWEST) & (error > 0)
    x, y, s = q[use], power[use], error[use]
    basis = np.stack([np.ones_like(x), -np.log(x), -(x**2)], axis=1)
    clear = y > 2 * s
    if clear.sum() < 4:
        return begin
    w = y[clear] / s[clear]
    c = np.linalg.lstsq(basis[clear] * w[:, None], np.log(y[clear]) * w, rcond=None)[0]
    c[1:] = np.clip(c[1:], (-1, 0), (6, np.inf))
    for _ in range(15):
        model = np.exp(np.clip(basis @ c, -80, 80))
        j = model[:, None] * basis / s[:, None]
        h = j.T @ j
        h += 1e-9 * np.trace(h) * np.eye(3) + 1e-300 * np.eye(3)
        step = np.clip(np.linalg.solve(h, j.T @ ((y - model) / s)), (-0.5, -0.5, -50), (0.5, 0.5, 50))
        c = c + step
        c[1:] = np.clip(c[1:], (-1, 0), (6, np.inf))
        if np.abs(step).max() < 1e-4:
            break
    return float(c[0]), float(c[1]), float(c[2])


def weight(s: Spectrum, frames: float, grid: Grid) -> Array:
    """w/N (gy, gx//2+1) float32 for a reference of `frames` frames and unit window area; high-passed."""
    rho = s.signal / s.noise
    k = np.float32(frames)
    return k * rho / (((k + 1) * rho + 1) * s.noise) * grid.high_pass


def transform(image: Array, grid: Grid) -> Array:
    """Real transform (gy, gx) -> (gy, gx//2+1) complex64."""
    return fft_namespace(grid.xp).rfft2(image)


def _on_grid(
    fit: tuple[float, float, float] | None,
    noise: np.ndarray,
    power: np.ndarray,
    error: np.ndarray,
    grid: Grid,
    frames: int,
) -> Spectrum:
    """Rings on the grid. The model never says more than the ring itself allows: it is bad far from where it was fitted."""
    xp = grid.xp
    q = np.maximum(grid.ring_q, 1e-3)
    if fit is None:
        signal = 1e-3 * noise * np.exp(-((q / 0.1) ** 2))
        fit = (float(np.log(np.maximum(signal[0], 1e-300))), 0.0, 100.0)
    else:
        signal = np.exp(np.clip(fit[0] - fit[1] * np.log(q) - fit[2] * q**2, -80, 80))
    signal = np.minimum(signal, np.maximum(power, 0) + CAP * error)
    noise = np.maximum(noise, 1e-7 * signal.max())
    on = [xp.asarray(a.astype(np.float32))[grid.ring] for a in (np.maximum(signal, 1e-30), noise)]
    return Spectrum(signal=on[0], noise=on[1], fit=fit, frames=frames)


def _smooth_noise(noise: np.ndarray, error: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Noise of rings where it can be told from the signal, carried on to the rings where it cannot."""
    smooth = np.convolve(np.pad(noise, 2, mode="edge"), np.ones(5) / 5, "valid")
    sure = smooth > 2 * error / np.sqrt(5)
    if not sure.any():
        return np.full(noise.shape, max(float(np.median(smooth)), 1e-9 * float(power.max()), FAINTEST))
    i = np.arange(noise.size)
    return np.interp(i, i[sure], smooth[sure])


def _with_bragg(
    s: Spectrum, cross: Array, power: Array, c: np.ndarray, error: np.ndarray, grid: Grid, least: float
) -> Spectrum:
    """Where single cells stand out (Bragg peaks), their own power replaces the ring's fit."""
    xp, nd = grid.xp, ndimage_namespace(grid.xp)
    here = nd.uniform_filter(cross, 3, mode="wrap")
    spread = nd.uniform_filter(power, 9, mode="wrap") / 3
    clear = (here > least * spread) & (here > 4 * s.signal) & (grid.high_pass > 0.5)
    if int(clear.sum()) < 4:
        return s
    ring = xp.asarray(np.maximum(c - error, 1e-30).astype(np.float32))[grid.ring]
    signal = xp.maximum(xp.minimum(ring, s.signal), xp.where(clear, here, 0))
    return Spectrum(signal=signal, noise=s.noise, fit=s.fit, frames=s.frames, lattice=True)
