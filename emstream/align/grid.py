"""The estimation grid: how a frame is reduced, and the fixed arrays that go with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft

from emstream.messages import Array

HIGH_PASS = 6.0  # cycles per frame: slower variations are the beam's, not the sample's
TAPER = 0.25  # Tukey window
SHARP = 768  # parts a side up to which a CPU has the time to cut them off sharply (1 ms at 512², 6 at 1024²)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Frame (h, w) -> grid (gy, gx) of cells of `bin`² px; frequencies in cycles per cell. Arrays belong to xp.

    Pixels are averaged into parts, `parts` of them on a cell's side, and the parts' image is cut off at the grid's
    highest frequency: plain averages over cells would weaken the fine detail and fold what is finer still onto it.
    """

    frame: tuple[int, int]
    shape: tuple[int, int]
    bin: int
    parts: int
    xp: Any
    fy: Array  # (gy,) float32
    fx: Array  # (gx//2+1,) float32
    twice: Array  # (gx//2+1,) float32: how often a half-plane column counts
    q: Array  # (gy, gx//2+1) float32
    high_pass: Array  # (gy, gx//2+1) float32, 0..1
    ring: Array  # (gy, gx//2+1) intp, index of the ring
    ring_q: np.ndarray  # (n,) float64
    ring_n: np.ndarray  # (n,) float64, full-plane cells in each ring
    ring_weight: Array  # (gy*(gx//2+1),) float32 = twice, flattened
    window: Array  # (gy, gx) float32
    area: float  # sum of window²

    @property
    def fine(self) -> tuple[tuple[int, int], int]:
        """Shape (y, x) of the parts' image, and the px on a part's side."""
        return (self.shape[0] * self.parts, self.shape[1] * self.parts), self.bin // self.parts

    @property
    def pad(self) -> tuple[int, int]:
        """Cells of canvas beyond the frame on each side."""
        return self.shape[0] // 4, self.shape[1] // 4

    def ring_mean(self, power: Array) -> np.ndarray:
        """Mean of (gy, gx//2+1) over rings -> (n,) float64 on the host."""
        s = self.xp.bincount(self.ring.ravel(), (power.ravel() * self.ring_weight), minlength=self.ring_q.size)
        return np.asarray(s.get() if self.xp is not np else s, dtype=np.float64) / self.ring_n


def bin_factor(frame: tuple[int, int], longest: int) -> int:
    """Smallest whole bin that leaves the longest side `longest` cells or fewer, but at least 32 on the short one."""
    b = max(1, -(-max(frame) // longest))
    while b > 1 and min(frame) // b < 32:
        b -= 1
    return b


@lru_cache(maxsize=16)
def make_grid(frame: tuple[int, int], longest: int, xp: Any, taper: float = TAPER) -> Grid:
    """The grid for frames of this shape; made once. `taper` is the share of the window's sides that is not flat."""
    b = bin_factor(frame, longest)
    gy, gx = (int(scipy.fft.prev_fast_len(n // b, real=True)) for n in frame)
    fy = np.fft.fftfreq(gy).astype(np.float32)
    fx = np.fft.rfftfreq(gx).astype(np.float32)
    twice = np.full(fx.size, 2, np.float32)
    twice[0] = 1
    if gx % 2 == 0:
        twice[-1] = 1
    q = np.hypot(fy[:, None], fx[None])
    slow = np.hypot(fy[:, None] * gy, fx[None] * gx) / HIGH_PASS
    n = max(8, min(gy, gx) // 4)
    ring = np.minimum((q / 0.7072 * n).astype(np.intp), n - 1)
    weight = np.broadcast_to(twice, q.shape).ravel().astype(np.float32)
    ring_n = np.bincount(ring.ravel(), weight, n)
    ring_q = np.bincount(ring.ravel(), q.ravel() * weight, n) / np.maximum(ring_n, 1)
    window = np.outer(_tapered(gy, taper), _tapered(gx, taper)).astype(np.float32)
    return Grid(
        frame=frame,
        shape=(gy, gx),
        bin=b,
        parts=next((p for p in (2, 3) if b % p == 0 and (xp is not np or p * max(gy, gx) <= SHARP)), 1),
        xp=xp,
        fy=xp.asarray(fy),
        fx=xp.asarray(fx),
        twice=xp.asarray(twice),
        q=xp.asarray(q),
        high_pass=xp.asarray((1 - np.exp(-(slow**2))).astype(np.float32)),
        ring=xp.asarray(ring),
        ring_q=ring_q,
        ring_n=np.maximum(ring_n, 1),
        ring_weight=xp.asarray(weight),
        window=xp.asarray(window),
        area=float((window.astype(np.float64) ** 2).sum()),
    )


def _tapered(n: int, taper: float) -> np.ndarray:
    """Tukey's window of n points, none of them 0 (scipy's, whose import costs as much as all the rest)."""
    edge = taper * (n + 1) / 2
    k = np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1))
    return np.where(k < edge, 0.5 - 0.5 * np.cos(np.pi * k / edge), 1.0)


def ramp(f: Array, shift: float, xp: Any) -> Array:
    """exp(2πi f·shift) as complex64."""
    return xp.exp((2j * np.pi * shift) * f).astype(xp.complex64)
