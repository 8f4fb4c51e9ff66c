"""The scenes that alignment is measured on: two families of movies with known shifts, and the bound that noise sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.signal.windows import tukey

from emstream import simulate


@dataclass(frozen=True)
class Scene:
    """Frames made one by one, and what an aligner should find."""

    frames: Callable[[], Iterator[np.ndarray]]
    shift: np.ndarray  # (t, 2) px
    clean: np.ndarray  # (y, x) frame 0 without noise, mean 1
    dose: float
    labels: Callable[[int], np.ndarray] | None = None
    hot: np.ndarray = field(default_factory=lambda: np.zeros((1, 1)))


def path(kind: str, t: int, seed: int) -> np.ndarray:
    """Where the content lies, (t, 2) px."""
    r = np.random.default_rng((seed, 77))
    steps, noise = np.arange(t)[:, None], r.standard_normal((t, 2))
    if kind == "vibration":
        return steps * 0.1 + 3 / np.sqrt(2) * noise
    if kind == "steady":
        return steps * 1.6 * np.array([0.8, 0.6]) + 0.3 * noise
    if kind == "tour":  # 1.5 frame widths of 512 px away, and back
        return 768 * np.sin(np.pi * steps / (t - 1)) * np.array([0.8, 0.6]) + 0.3 * noise
    angle = r.uniform(0, 2 * np.pi)
    way = steps * (0.5 if kind == "lattice" else 0.3) * np.array([np.sin(angle), np.cos(angle)])
    way = way + 0.3 * noise
    if kind == "jump":
        way[t // 2 :] += (45.6, -34.2)
    return way


def simulated(t: int, seed: int, kind: str = "", fade: bool = False, **settings: Any) -> Scene:
    """A movie of `emstream.simulate`; `fade`: half of the particles lose their contrast until the end."""
    if kind:
        settings["trajectory"] = path(kind, t, seed)
    movie = simulate.movie(t, seed=seed, **settings)

    def fading() -> Iterator[np.ndarray]:
        half = np.random.default_rng(seed).permutation(len(movie.contrast))[::2]
        for i in range(t):
            contrast = movie.contrast.copy()
            contrast[half] *= 1 - i / (t - 1)
            yield replace(movie, contrast=contrast).frame(i)

    frames = fading if fade else lambda: iter(movie)
    return Scene(frames, movie.shift, movie.clean(0), movie.dose, movie.labels, movie.hot)


def shifted_in_fourier(
    t: int, seed: int, kind: str = "", dose: float = 4.0, hot: float = 0.0, gain_rms: float = 0.0, n: int = 512
) -> Scene:
    """The second family: a periodic scene of film and particles, moved by phase ramps, cut and counted."""
    r, m = np.random.default_rng(seed), n + 256
    f = np.fft.fftfreq(m)
    q = np.hypot(f[:, None], f[None])
    q[0, 0] = 1e-6
    film = np.fft.ifft2(np.fft.fft2(r.standard_normal((m, m))) * np.exp(-((3 * q) ** 2) - (0.004 / q) ** 2) / q).real
    image = 1 + 0.04 * film / film.std()
    y, x = np.mgrid[:m, :m]
    for _ in range(int(40 * (m / 768) ** 2)):
        (cy, cx), radius, contrast = r.uniform(0, m, 2), r.uniform(6, 22), r.uniform(0.08, 0.25)
        far = np.hypot((y - cy + m / 2) % m - m / 2, (x - cx + m / 2) % m - m / 2)
        image *= 1 - contrast / (1 + np.exp((far - radius) / 1.2))
    image = np.clip(image, 0.05, None) / image.mean()
    way = path(kind or "drift", t, seed)
    way -= way[0]
    spectrum, fx = np.fft.rfft2(image), np.fft.rfftfreq(m)
    gain = 1 + gain_rms * r.standard_normal((n, n))
    bad = np.zeros(n * n)
    where = r.choice(n * n, round(hot * n * n), replace=False)
    bad[where] = r.exponential(20 * max(dose, 0.2), where.size)

    def clean(i: int) -> np.ndarray:
        ramp = np.exp(-2j * np.pi * (f[:, None] * way[i, 0] + fx[None] * way[i, 1]))
        return np.clip(np.fft.irfft2(spectrum * ramp, s=(m, m))[128 : 128 + n, 128 : 128 + n], 0.01, None)

    def frames() -> Iterator[np.ndarray]:
        noise = np.random.default_rng((seed, 99))
        for i in range(t):
            yield noise.poisson(dose * clean(i) * gain + bad.reshape(n, n)).astype(np.uint16)

    return Scene(frames, -way, clean(0), dose, hot=bad.reshape(n, n))


def lattice(t: int, seed: int, dose: float, period: float = 11.3, n: int = 512) -> Scene:
    """Nothing but a crystal: every cell looks like the next."""
    way = path("lattice", t, seed)
    way -= way[0]
    y, x = np.mgrid[:n, :n].astype(np.float32)
    k = np.float32(2 * np.pi / period)

    def clean(i: int) -> np.ndarray:
        u, v = y - np.float32(way[i, 0]), x - np.float32(way[i, 1])
        return 1 + 0.12 * (np.cos(k * (0.98 * u + 0.2 * v)) + np.cos(k * (-0.2 * u + 0.98 * v)))

    def frames() -> Iterator[np.ndarray]:
        noise = np.random.default_rng((seed, 99))
        for i in range(t):
            yield noise.poisson(dose * clean(i)).astype(np.uint16)

    return Scene(frames, -way, clean(0), dose)


def bound(clean: np.ndarray, dose: float, frames: float) -> float:
    """Least 2-D rms error, px, against a reference of `frames` frames of the same dose (no prediction helps).

    Cramér–Rao for generalised correlation: I = Σ (2π f)² K ρ² / ((K + 1) ρ + 1), ρ = signal over noise power
    (Hannan and Thomson 1973, doi:10.1093/biomet/60.1.77).
    """
    n, m = clean.shape
    window = np.outer(tukey(n, 0.25), tukey(m, 0.25))
    contrast = clean / clean.mean() - 1
    contrast = (contrast - (contrast * window).sum() / window.sum()) * window
    rho = dose * np.abs(np.fft.fft2(contrast)) ** 2 / (window**2).sum()
    weight = frames * rho**2 / ((frames + 1) * rho + 1)
    fy, fx = np.fft.fftfreq(n)[:, None], np.fft.fftfreq(m)[None]
    sums = [(2 * np.pi) ** 2 * float((weight * a).sum()) for a in (fy * fy, fy * fx, fx * fx)]
    return float(np.sqrt(np.trace(np.linalg.inv([[sums[0], sums[1]], [sums[1], sums[2]]]))))
