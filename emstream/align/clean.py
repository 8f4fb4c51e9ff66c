"""Counts made clean: dark, gain and defects out, the frame reduced to the grid, its dose judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from emstream.align.defects import Defects, find_defects, make_defects
from emstream.align.grid import Grid, ramp
from emstream.arrays import fft_namespace, to_host
from emstream.errors import BadImage
from emstream.messages import Array

STRIP_BYTES = 1 << 20  # a strip of float32 rows that stays in a core's cache
DOSES = 15  # frames in the running median of the dose
PATIENCE = 10  # blank frames in a row after which the new dose is believed


@dataclass(frozen=True, slots=True, eq=False)
class Cleaner:
    """What is known of the detector and of the dose so far."""

    dark: Array | None  # (y, x) float32 counts
    gain: Array | None  # (y, x) float32, multiplies
    known: np.ndarray  # (n,) int64 flat indices of defects that were given
    defects: Defects | None
    total: Array | None  # (y, x) float32 running sum of raw counts
    summed: int = 0  # frames in `total`
    seen: int = 0
    doses: tuple[float, ...] = ()
    blanks: int = 0  # blank frames in a row


def start_cleaner(grid: Grid, dark: Array | None, gain: Array | None, defects: Array | None) -> Cleaner:
    """raises : BadImage when dark, gain or defects do not have the frame's shape."""
    xp = grid.xp
    for name, a in (("dark", dark), ("gain", gain), ("defects", defects)):
        if a is not None and tuple(a.shape) != grid.frame:
            raise BadImage(f"the {name} reference is {tuple(a.shape)}, frames are {grid.frame}", "same (y, x) needed")
    known = np.flatnonzero(to_host(defects)) if defects is not None else np.empty(0, np.int64)
    return Cleaner(
        dark=None if dark is None else xp.asarray(dark, dtype=xp.float32),
        gain=None if gain is None else xp.asarray(gain, dtype=xp.float32),
        known=known,
        defects=make_defects(known, grid),
        total=None,
    )


def clean(c: Cleaner, pixels: Array, grid: Grid, *, find: bool) -> tuple[Cleaner, Array, float]:
    """One frame on the grid, and what it taught about the detector.

    pixels  : (y, x) any real dtype
    returns : cleaner, (gy, gx) float32 mean counts per px, dose (mean counts per px of the grid)
    """
    if find:
        c = _learn(c, pixels, grid)
    x = reduce(pixels, grid, c.dark, c.gain)
    if c.defects is not None:
        x = c.defects.repair(x, _corrected(pixels, c, grid.xp))
    dose = float(x.mean())
    if not np.isfinite(dose):
        good = grid.xp.isfinite(x)
        if not bool(good.any()):
            raise BadImage("the frame holds no finite pixel")
        dose = float(x[good].mean())
        x = grid.xp.where(good, x, grid.xp.float32(dose))
    return c, coarsen(x, grid), dose


def coarsen(x: Array, grid: Grid) -> Array:
    """The parts' image (`Grid.fine`) on the grid (gy, gx) float32, sharply cut off at the grid's highest frequency."""
    if grid.parts == 1:
        return x
    fft, (gy, gx) = fft_namespace(grid.xp), grid.shape
    full = fft.fft(fft.rfft(x, axis=1)[:, : gx // 2 + 1], axis=0)
    kept = grid.xp.concatenate([full[: (gy + 1) // 2], full[full.shape[0] - gy // 2 :]])
    to_middle = (grid.parts - 1) / 2 / grid.parts  # cells from a cell's first part to its middle
    kept *= ramp(grid.fy, to_middle, grid.xp)[:, None] * ramp(grid.fx, to_middle, grid.xp)
    return fft.irfft2(kept, s=grid.shape) * grid.xp.float32(1 / grid.parts**2)


def is_blank(c: Cleaner, dose: float, low: float, high: float) -> tuple[Cleaner, bool]:
    """Whether the dose is far off the running median; after `PATIENCE` such frames the new dose is believed."""
    if c.doses:
        usual = float(np.median(c.doses))
        if (usual > 0 and not low * usual <= dose <= high * usual) and c.blanks < PATIENCE:
            return replace(c, blanks=c.blanks + 1), True
    kept = () if c.blanks >= PATIENCE else c.doses[-(DOSES - 1) :]
    return replace(c, doses=(*kept, dose), blanks=0), False


def reduce(pixels: Array, grid: Grid, dark: Array | None = None, gain: Array | None = None) -> Array:
    """Means over the parts of the grid's cells, after dark and gain: (y, x) -> `Grid.fine` float32. Exact for integers."""
    if grid.xp is np:
        return _reduce_in_strips(pixels, grid, dark, gain)
    (gy, gx), b = grid.fine
    x = pixels[: gy * b, : gx * b]
    if dark is not None or gain is not None:
        x = x.astype(grid.xp.float32)
        x = x if dark is None else x - dark[: gy * b, : gx * b]
        x = x if gain is None else x * gain[: gy * b, : gx * b]
    if b == 1:
        return x.astype(grid.xp.float32)
    return x.reshape(gy, b, gx, b).mean(axis=(1, 3), dtype=grid.xp.float32)


def _reduce_in_strips(pixels: np.ndarray, grid: Grid, dark: np.ndarray | None, gain: np.ndarray | None) -> np.ndarray:
    (gy, gx), b = grid.fine
    if b >= 4 and dark is None and gain is None and pixels.dtype in (np.uint8, np.uint16, np.float32):
        return _reduce_rows_first(pixels, gy, gx, b)
    out = np.empty((gy, gx), np.float32)
    rows = max(1, STRIP_BYTES // (4 * gx * b * b))
    buffer = np.empty((min(rows, gy) * b, gx * b), np.float32)
    for top in range(0, gy, rows):
        n = min(rows, gy - top)
        y = slice(top * b, (top + n) * b)
        strip = buffer[: n * b]
        np.copyto(strip, pixels[y, : gx * b], casting="unsafe")
        if dark is not None:
            strip -= dark[y, : gx * b]
        if gain is not None:
            strip *= gain[y, : gx * b]
        if b == 1:
            out[top : top + n] = strip
        else:
            cv2.resize(strip, (gx, n), dst=out[top : top + n], interpolation=cv2.INTER_AREA)
    return out


def _reduce_rows_first(pixels: np.ndarray, gy: int, gx: int, b: int) -> np.ndarray:
    """Rows are added up as they are, without a float copy of the frame: a third of the time at 4096²."""
    out = np.empty((gy, gx), np.float32)
    rows = max(1, STRIP_BYTES // (16 * gx * b))
    buffer = np.empty((min(rows, gy), gx * b), np.float32)
    for top in range(0, gy, rows):
        n = min(rows, gy - top)
        total = buffer[:n]
        total[:] = 0
        for k in range(b):
            cv2.accumulate(pixels[top * b + k : (top + n) * b : b, : gx * b], total)
        cv2.resize(total, (gx, n), dst=out[top : top + n], interpolation=cv2.INTER_AREA)
    out *= np.float32(1 / b)
    return out


def _corrected(pixels: Array, c: Cleaner, xp: Any) -> Any:
    """A function: flat indices -> counts after dark and gain."""

    def at(index: Array) -> Array:
        v = pixels.ravel()[index].astype(xp.float32)
        v = v if c.dark is None else v - c.dark.ravel()[index]
        return v if c.gain is None else v * c.gain.ravel()[index]

    return at


def _learn(c: Cleaner, pixels: Array, grid: Grid) -> Cleaner:
    """Add the frame to the detector's running sum; look for defects at 1, 2, 4, 8, 16 frames, then every 32."""
    xp, seen = grid.xp, c.seen + 1
    every = max(1, pixels.size >> 18)  # large frames are summed more rarely once the first 16 are in
    if seen > 16 and seen % every:
        return replace(c, seen=seen)
    total = pixels.astype(xp.float32) if c.total is None else c.total + pixels
    n = c.summed + 1
    c = replace(c, seen=seen, total=total, summed=n)
    if n in (1, 2, 4, 8, 16) or n % 32 == 0:
        found = find_defects(total, xp, counting=bool(xp.issubdtype(pixels.dtype, xp.integer)))
        c = replace(c, defects=make_defects(np.union1d(found, c.known), grid))
        if n >= 64:  # forget slowly, so that what turns bad later is found too
            c = replace(c, total=total * xp.float32(0.5), summed=n // 2)
    return c
