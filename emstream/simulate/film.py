"""The support: a granular carbon film, and moving it by a fraction of a pixel without changing it."""

from __future__ import annotations

import numpy as np

TAPS = 16  # of the fractional delay; with BAND below, off by less than 1e-3 of the film's contrast
BAND = 0.40  # cycles/px; the film holds nothing finer, so that a shift by interpolation is a shift in truth
MARGIN = TAPS // 2


def granular_film(shape: tuple[int, int], grain_px: float, rng: np.random.Generator) -> np.ndarray:
    """Amorphous granularity: periodic, mean 0, rms 1.

    shape    : (y, x) px
    grain_px : size of the finest grains, px
    returns  : (y, x) float32

    Amplitude over spatial frequency q: 1/q · exp(-(grain q)²) · exp(-(0.004/q)²), nothing beyond `BAND`.
    """
    qy = np.fft.fftfreq(shape[0])[:, None]
    qx = np.fft.rfftfreq(shape[1])[None, :]
    q = np.hypot(qy, qx)
    q[0, 0] = 1e-6
    amplitude = np.exp(-((q * grain_px) ** 2) - (0.004 / q) ** 2) / q
    roll_off = np.clip((BAND - q) / 0.08, 0.0, 1.0)
    amplitude *= 0.5 - 0.5 * np.cos(np.pi * roll_off)
    film = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * amplitude, s=shape)
    return (film / film.std()).astype(np.float32)


def shifted_crop(film: np.ndarray, start: tuple[float, float], shape: tuple[int, int]) -> np.ndarray:
    """The film seen through a window at a real-valued position: out[y, x] = film(start_y + y, start_x + x).

    film    : (Y, X) float32, periodic, band-limited to `BAND`
    start   : (y, x) px of the window's first pixel in the film, any real numbers
    shape   : (y, x) px of the window
    returns : (y, x) float32
    """
    import cv2

    whole = np.floor(start).astype(int)
    rows, columns = (np.arange(w - MARGIN, w + n + MARGIN) % m for w, n, m in zip(whole, shape, film.shape))
    seen = film[rows[:, None], columns] if _wraps(rows) or _wraps(columns) else _window(film, rows, columns)
    down, across = (fractional_delay(s - w) for s, w in zip(start, whole))
    anchor = (TAPS // 2 - 1, TAPS // 2 - 1)
    moved = cv2.sepFilter2D(seen, cv2.CV_32F, across, down, anchor=anchor, borderType=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(moved[MARGIN:-MARGIN, MARGIN:-MARGIN])


def _wraps(at: np.ndarray) -> bool:
    return bool(at[-1] - at[0] != len(at) - 1)


def _window(film: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return film[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def fractional_delay(fraction: float) -> np.ndarray:
    """Taps w (TAPS,) with Σ w[k] f(k - TAPS/2 + 1) = f(fraction), 0 <= fraction < 1: a Kaiser-windowed sinc."""
    at = np.arange(TAPS) - TAPS // 2 + 1 - fraction
    window = np.i0(6.0 * np.sqrt(np.clip(1.0 - (at / (TAPS / 2)) ** 2, 0.0, 1.0)))
    taps = np.sinc(at) * window
    return taps / taps.sum()
