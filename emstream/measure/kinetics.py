"""How particles grow, shrink and stand to each other: rates, the critical radius, the coarsening law."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from emstream.errors import BadImage
from emstream.messages import Rect

_BEYOND = 6.0  # times the median deviation (about four standard deviations): such rates are left out


@dataclass(frozen=True, slots=True)
class Rate:
    """A slope with its standard error, in radius units per second."""

    slope: float
    error: float


@dataclass(frozen=True, slots=True)
class Critical:
    """The radius that neither grows nor shrinks, and the rate constant of the exchange, with standard errors."""

    radius: float
    radius_error: float
    rate: float  # K, radius³ per second
    rate_error: float


@dataclass(frozen=True, slots=True)
class Coarsening:
    """The law R^n - R0^n = K t, with standard errors."""

    exponent: float  # n
    exponent_error: float
    rate: float  # K, radius^n per second
    start: float  # R0


def growth_rate(time_s: np.ndarray, radius: np.ndarray) -> Rate:
    """dR/dt of one track: ordinary least squares, error = sqrt(sum of squares left / (n - 2) / sum (t - mean t)²).

    NaN values are left out; NaN is returned with fewer than two different times, and as error with fewer than three
    points.
    """
    good = np.isfinite(time_s) & np.isfinite(radius)
    t, r = time_s[good] - time_s[good].mean() if good.any() else time_s[good], radius[good]
    spread = float((t * t).sum())
    if len(t) < 2 or spread == 0:
        return Rate(math.nan, math.nan)
    slope = float((t * r).sum() / spread)
    left = r - r.mean() - slope * t
    return Rate(slope, math.sqrt(float((left * left).sum()) / (len(t) - 2) / spread) if len(t) > 2 else math.nan)


def critical_radius(
    radius: np.ndarray, rate: np.ndarray, error: np.ndarray | None = None, exponent: float = 3.0
) -> Critical:
    """R* and K of Ostwald ripening, R^(n-1) dR/dt = K (R / R* - 1), from many particles at one time.

    n = 3, diffusion: Lifshitz and Slyozov, J Phys Chem Solids 19:35 (1961); n = 2, interfaces: Wagner, Z Elektrochem
    65:581 (1961). The law is a straight line in R: -K + (K / R*) R, fitted by least squares; the errors follow from the
    covariance of intercept and slope, that of R* = K / slope to first order.

    radius, rate : (n,) R and dR/dt of each particle; the units of the result follow from theirs
    error        : (n,) standard errors of the rates; None = as large for R^(n-1) dR/dt of each
    returns      : NaN throughout with fewer than three particles or none that differ in radius; R* and its error NaN
                   when the line does not rise: small particles do not feed large ones
    """
    good = np.isfinite(radius) & np.isfinite(rate)
    if error is not None:
        good &= np.isfinite(error) & (error > 0)
    scale = radius[good] ** (exponent - 1)
    r, v = radius[good], scale * rate[good]
    if len(r) < 3 or np.ptp(r) == 0:
        return Critical(math.nan, math.nan, math.nan, math.nan)
    if error is None:
        w = np.ones_like(r)
    else:  # an error of nearly nothing, of few sightings that happened to agree, must not decide alone
        w = 1 / (scale * np.maximum(error[good], np.median(error[good]) / 2))
    for last in (False, True):
        a11, a12, a22 = float((w * w).sum()), float((w * w * r).sum()), float((w * w * r * r).sum())
        b1, b2 = float((w * w * v).sum()), float((w * w * r * v).sum())
        det = a11 * a22 - a12 * a12
        if det <= 0:
            return Critical(math.nan, math.nan, math.nan, math.nan)
        a, b = (a22 * b1 - a12 * b2) / det, (a11 * b2 - a12 * b1) / det
        left = w * (v - a - b * r)
        if error is not None and not last:  # what jumps (a coalescence that nobody has told of yet) is no ripening
            w = np.where(np.abs(left) <= _BEYOND * max(float(np.median(np.abs(left))), 1e-12), w, 0.0)
    noise = float(left @ left) / max(int((w > 0).sum()) - 2, 1) / det
    va, vb, cab = a22 * noise, a11 * noise, -a12 * noise
    if b <= 0:
        return Critical(math.nan, math.nan, float(-a), math.sqrt(va))
    variance = va / b**2 + a**2 / b**4 * vb - 2 * a / b**3 * cab
    return Critical(float(-a / b), math.sqrt(max(variance, 0.0)), float(-a), math.sqrt(va))


def coarsening(time_s: np.ndarray, mean_radius: np.ndarray) -> Coarsening:
    """Exponent n of <R>^n - R0^n = K t: 3 for diffusion (LSW), 2 for interfaces (Wagner), 4 on surfaces.

    Lifshitz and Slyozov (1961), Wagner (1961); on supports Chakraverty, J Phys Chem Solids 28:2401 (1967). It is fitted
    by nonlinear least squares with n in 1..12; the error is the fit's standard error, which takes the points as
    independent: means over the same particles are not, so it is a lower bound. The law knows no coalescence: leave such
    stretches out.

    time_s, mean_radius : (n,), n >= 5; times from any origin
    raises : BadImage with fewer than five points or when the radius does not grow at all
    """
    from scipy.optimize import curve_fit  # late: a start is waited for, and can do without

    good = np.isfinite(time_s) & np.isfinite(mean_radius)
    t, r = np.asarray(time_s[good], np.float64), np.asarray(mean_radius[good], np.float64)
    if len(t) < 5 or np.ptp(t) == 0:
        raise BadImage(f"a coarsening law needs five different times, there are {len(t)}", "measure more frames")
    if np.polyfit(t, r, 1)[0] <= 0:
        raise BadImage("the mean radius does not grow: there is no coarsening law to fit", "choose another stretch")
    t, unit_t, unit_r = (t - t[0]), float(np.ptp(t)), float(r.mean())

    def law(u: np.ndarray, start: float, k: float, n: float) -> np.ndarray:
        return np.maximum(start**n + k * u, 1e-12) ** (1 / n)

    first = float(r[: max(len(r) // 10, 1)].mean()) / unit_r
    last = float(r[-max(len(r) // 10, 1) :].mean()) / unit_r
    guess = (first, max(last**3 - first**3, 1e-3), 3.0)
    bounds = ((1e-3, 1e-9, 1.0), (10.0, np.inf, 12.0))
    best, covariance = curve_fit(law, t / unit_t, r / unit_r, p0=guess, bounds=bounds, max_nfev=20_000)
    start, k, n = (float(v) for v in best)
    return Coarsening(n, math.sqrt(float(covariance[2, 2])), k * unit_r**n / unit_t, start * unit_r)


def nearest_neighbours(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Distance of each particle's centre to the nearest other one, (n,), in the unit of y and x; NaN when alone."""
    if len(y) < 2:
        return np.full(len(y), np.nan)
    from scipy.spatial import cKDTree

    places = np.column_stack((y, x))
    distance = np.asarray(cKDTree(places).query(places, k=2)[0])
    return distance[:, 1]


def spacing(y: np.ndarray, x: np.ndarray, window: Rect) -> tuple[float, float]:
    """Mean nearest-neighbour distance in a window, and that over its value for random places, 0.5 / sqrt(density).

    Clark and Evans, Ecology 35:445 (1954): below 1 the particles cluster, a square lattice has 2. Only particles farther
    than 1 / sqrt(density) from the window's border are asked: of those elsewhere the nearest neighbour may lie outside
    (of random places, 4 % have none within that distance).

    y, x : (n,) centres, px · window : (y0, y1, x0, x1) px. NaN with fewer than two, or none far enough inside
    """
    y0, y1, x0, x1 = window
    area = float(max(0, y1 - y0) * max(0, x1 - x0))
    if len(y) < 2 or area == 0:
        return math.nan, math.nan
    guard = math.sqrt(area / len(y))
    inside = np.minimum(np.minimum(y - y0, y1 - 1 - y), np.minimum(x - x0, x1 - 1 - x)) >= guard
    if not inside.any():
        return math.nan, math.nan
    mean = float(nearest_neighbours(y, x)[inside].mean())
    return mean, mean / (0.5 * guard)
