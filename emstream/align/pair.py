"""One image laid on another: the shift between two, by the same likelihood as a series, from coarse to fine."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from emstream.align import peak
from emstream.align import weight as w
from emstream.align.clean import coarsen, reduce
from emstream.align.confidence import confidence
from emstream.align.grid import Grid, make_grid
from emstream.arrays import array_namespace
from emstream.errors import BadImage
from emstream.messages import Array

COARSE = 256  # cells of the grid on which the peak is searched
FINE = 1024  # cells at most of the grid on which it is refined
ROUNDS = 4


def register(reference: Array, moving: Array) -> tuple[np.ndarray, float]:
    """Shift that lays `moving` on `reference`.

    reference, moving : (y, x) of one shape, any real dtype, at least 16 px a side; numpy or cupy; not changed
    returns : shift (2,) float64 (dy, dx) px so that scipy.ndimage.shift(moving, shift) lies on reference;
              confidence 0..1 that it is right within 1 px
    raises  : BadImage
    Reliable up to about a third of the frame. On a lattice many shifts fit equally well: the smallest of them is
    returned, and the confidence says that others fit.
    """
    xp = array_namespace(reference, moving)
    a, b = _checked(reference, moving, xp)
    at, sure_peak = _coarse(a, b, xp)
    shift, sigma = at, math.inf
    for _ in range(ROUNDS):
        before = shift
        shift, sigma = _fine(a, b, before, xp)
        if np.abs(shift - before).max() < 0.005:
            break
    return shift, float(sure_peak * confidence(sigma, 0.0, 1.0))


def _checked(reference: Array, moving: Array, xp: Any) -> tuple[Array, Array]:
    for name, a in (("reference", reference), ("moving image", moving)):
        if getattr(a, "ndim", 0) != 2:
            raise BadImage(f"the {name} has {getattr(a, 'ndim', 0)} dimensions", "one (y, x) image is needed")
        if min(a.shape) < 16:
            raise BadImage(f"the {name} is {tuple(a.shape)}", "at least 16 px a side are needed")
    if reference.shape != moving.shape:
        raise BadImage(f"shapes differ: {tuple(reference.shape)} and {tuple(moving.shape)}", "crop or pad one of them")
    out = []
    for name, a in (("reference", reference), ("moving image", moving)):
        if not (xp.issubdtype(a.dtype, xp.number) or a.dtype == bool) or xp.issubdtype(a.dtype, xp.complexfloating):
            raise BadImage(f"the {name} is of dtype {a.dtype}", "real numbers are needed")
        f = xp.asarray(a).astype(xp.float32)
        good = xp.isfinite(f)
        if not bool(good.all()):
            if float(good.mean()) < 0.5:
                raise BadImage(f"the {name} is mostly not finite")
            f = xp.where(good, f, f[good].mean())
        f = f - f.mean()
        spread = float(f.std())
        if not 0 < spread < math.inf:
            raise BadImage(f"the {name} has the same value everywhere", "nothing to register")
        out.append(f / xp.float32(spread))
    return out[0], out[1]


def _matched(a: Array, b: Array, grid: Grid) -> tuple[Array, w.Spectrum, float, float]:
    """Log-likelihood spectrum of two images on a grid, their spectrum, its map's noise, and the window's share."""
    xp = grid.xp
    window = grid.window
    spectra = []
    for image in (a, b):
        x = coarsen(reduce(image, grid), grid)
        x = x - (x * window).sum() / window.sum()
        spectra.append(w.transform(x * window, grid))
    power = (abs(spectra[0]) ** 2 + abs(spectra[1]) ** 2) / 2
    s = w.from_one(power, grid.area, grid)
    weight = w.weight(s, 1.0, grid)
    cross = spectra[0].conj() * spectra[1] * (weight / xp.float32(grid.area))
    w4 = float((window**4).sum())
    share = grid.shape[0] * grid.shape[1] * w4 / grid.area**2
    noise = float((weight**2 * s.noise * abs(spectra[0]) ** 2 * grid.twice).sum()) / grid.area
    return cross, s, math.sqrt(noise * share), share


def _coarse(a: Array, b: Array, xp: Any) -> tuple[np.ndarray, float]:
    """Whole-cell shift (2,) px from everything within half a frame, and how sure the peak is the only one."""
    grid = make_grid(tuple(a.shape), COARSE, xp)
    cross, _, noise, _ = _matched(a, b, grid)
    (gy, gx), reach = grid.shape, (grid.shape[0] // 2 - 1, grid.shape[1] // 2 - 1)
    lags, heights = peak.summits(cross, reach, grid)
    limit = math.sqrt(2 * math.log(gy * gx)) + 1
    equal = heights > heights[0] - 3 * math.sqrt(2) * noise
    best = lags[equal][np.argmin((lags[equal] ** 2).sum(axis=1))]
    z = float(heights[0]) / max(noise, 1e-30)
    return -best * grid.bin, confidence(0.0, z, limit) / int(equal.sum())


def _fine(a: Array, b: Array, shift: np.ndarray, xp: Any) -> tuple[np.ndarray, float]:
    """The shift refined on the part that both images show: both cropped at the shift found so far."""
    dy, dx = (math.floor(s + 0.5) for s in shift)
    h, v = a.shape
    y0, y1, x0, x1 = max(0, dy), min(h, h + dy), max(0, dx), min(v, v + dx)
    if min(y1 - y0, x1 - x0) < 16:
        return shift, math.inf
    grid = make_grid((y1 - y0, x1 - x0), FINE, xp)
    cross, _, _, share = _matched(a[y0:y1, x0:x1], b[y0 - dy : y1 - dy, x0 - dx : x1 - dx], grid)
    radius = max(2, math.ceil(2 * a.shape[0] / (COARSE * grid.bin)))
    rest = np.array([dy, dx])
    lag, _ = peak.near(cross, min(radius, min(grid.shape) // 2 - 1), grid, (np.zeros(2), np.zeros((2, 2))))
    fine, info, _ = peak.refine(cross, lag, grid)
    if np.linalg.det(info) <= 0:
        return shift, math.inf
    sigma = math.sqrt(share * float(np.trace(np.linalg.inv(info))) / 2) * grid.bin
    return rest - np.array(fine) * grid.bin, sigma
