"""A frame looked at against the reference under it: the weighted cross spectrum and what it may be expected to show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emstream.align import weight as w
from emstream.align.grid import Grid
from emstream.align.reference import EMPTY, Canvas, halves
from emstream.messages import Array


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """The weights in force: from the last spectrum, for a reference of about `frames` frames."""

    spectrum: w.Spectrum
    frames: float
    weight: Array  # (gy, gx//2+1) float32, w/N
    spread: Array  # (gy, gx//2+1) float32, (w/N)² N, counted twice where the half-plane stands for two
    info: np.ndarray  # (2, 2) expected information, cells⁻², before the window's share
    height: float  # expected height of the right peak, nats


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One frame against the reference at cell `at`."""

    at: tuple[int, int]
    cross: Array  # (gy, gx//2+1) complex64 log-likelihood spectrum
    noise: float  # standard deviation of the log-likelihood map where nothing matches
    frames: float  # reference frames under the window
    share: float  # how much worse than a full plane of independent cells the window is, >= 1
    cover: float  # share of the window that the reference knows


def make_scale(spectrum: w.Spectrum, frames: float, grid: Grid) -> Scale:
    """Weights and expectations for a reference of `frames` frames."""
    xp = grid.xp
    wn = w.weight(spectrum, frames, grid)
    both = wn * grid.twice
    signal = both * spectrum.signal
    fy, fx = grid.fy[:, None], grid.fx[None]
    sums = xp.stack([(signal * fy * fy).sum(), (signal * fy * fx).sum(), (signal * fx * fx).sum(), signal.sum()])
    a, b, c, height = (float(v) for v in (sums.get() if xp is not np else sums))
    info = (2 * np.pi) ** 2 * np.array([[a, b], [b, c]])
    return Scale(spectrum, frames, wn, both * wn * spectrum.noise, info, height)


def reference_under(canvas: Canvas, at: tuple[int, int], window: Array, grid: Grid) -> tuple[Array, Array, float]:
    """Transform of the windowed reference, its window (gy, gx), and the frames it is worth."""
    xp = grid.xp
    (n0, n1), (d0, d1) = halves(canvas, at, grid)
    den = d0 + d1
    known = den > EMPTY * canvas.gain
    own = window * known
    total = float(own.sum())
    image = (n0 + n1) / xp.maximum(den, EMPTY * canvas.gain)
    mean = (image * own).sum() / max(total, 1e-6)
    frames = float((den * own).sum()) / (canvas.gain * max(float((grid.window * own).sum()), 1e-6))
    return w.transform((image - mean) * own, grid), own, frames


def half_spectra(
    canvas: Canvas, at: tuple[int, int], window: Array, grid: Grid
) -> tuple[Array, Array, tuple[float, float], float]:
    """Transforms of both half references, their frames, and the window's area."""
    xp = grid.xp
    num, den = halves(canvas, at, grid)
    known = (den[0] > EMPTY * canvas.gain) & (den[1] > EMPTY * canvas.gain)
    own = window * known
    norm = max(float(own.sum()), 1e-6)
    flat = max(float((grid.window * own).sum()), 1e-6) * canvas.gain
    out, frames = [], []
    for n, d in zip(num, den):
        image = n / xp.maximum(d, EMPTY * canvas.gain)
        out.append(w.transform((image - (image * own).sum() / norm) * own, grid))
        frames.append(float((d * own).sum()) / flat)
    return out[0], out[1], (frames[0], frames[1]), float((own * own).sum())


def look(canvas: Canvas, at: tuple[int, int], moving: Array, window: Array, scale: Scale, grid: Grid) -> View:
    """The log-likelihood spectrum of a frame (its windowed transform `moving`) at cell `at`."""
    xp = grid.xp
    reference, own, frames = reference_under(canvas, at, window, grid)
    area = max(float((own * window).sum()), 1e-6)
    noise = float((scale.spread * (reference.real**2 + reference.imag**2)).sum()) / area
    own2 = own * own
    share = grid.shape[0] * grid.shape[1] * float((own2 * own2).sum()) / max(float(own2.sum()), 1e-6) ** 2
    cross = reference.conj() * moving * (scale.weight / xp.float32(area))
    cover = float(own.sum()) / max(float(window.sum()), 1e-6)
    return View(at, cross, float(np.sqrt(noise * share)), frames, share, cover)
