"""How particles grow, shrink and stand to each other: rates, the critical radius, the coarsening law."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import curve_fit
from scipy.spatial import cKDTree

from emstream.errors import BadImage


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


def critical_radius(radius: np.ndarray, rate: np.ndarray) -> Critical:
    """R* and K of diffusion-limited Ostwald ripening, R² dR/dt = K (R / R* - 1), from many particles at one time.

    Lifshitz and Slyozov, J Phys Chem Solids 19:35 (1961); Wagner, Z Elektrochem 65:581 (1961). The law is a straight
    line in R: R² dR/dt = -K + (K / R*) R, fitted by least squares; the error of R* follows from the covariance of
    intercept and slope.

    radius, rate : (n,) R and dR/dt of each particle; the units of the result follow from theirs
    returns      : NaN throughout with fewer than three particles or none that differ in radius
    """
    good = np.isfinite(radius) & np.isfinite(rate)
    r, v = radius[good], radius[good] ** 2 * rate[good]
    if len(r) < 3 or np.ptp(r) == 0:
        return Critical(math.nan, math.nan, math.nan, math.nan)
    design = np.column_stack((np.ones_like(r), r))
    (a, b), *_ = np.linalg.lstsq(design, v)
    left = v - design @ (a, b)
    covariance = np.linalg.inv(design.T @ design) * float(left @ left) / max(len(r) - 2, 1)
    if b == 0:
        return Critical(math.nan, math.nan, float(-a), math.sqrt(covariance[0, 0]))
    gradient = np.array([-1 / b, a / b**2])  # of R* = -a / b
    error = math.sqrt(max(float(gradient @ covariance @ gradient), 0.0))
    return Critical(float(-a / b), error, float(-a), math.sqrt(covariance[0, 0]))


def coarsening(time_s: np.ndarray, mean_radius: np.ndarray) -> Coarsening:
    """Exponent n of <R>^n - R0^n = K t: 3 for diffusion (LSW), 2 for interfaces (Wagner), 4 on surfaces.

    Lifshitz and Slyozov (1961), Wagner (1961); on supports Chakraverty, J Phys Chem Solids 28:2401 (1967). It is fitted
    by nonlinear least squares with n in 1..12; the error is the fit's standard error, which takes the points as
    independent: means over the same particles are not, so it is a lower bound. The law knows no coalescence: leave such
    stretches out.

    time_s, mean_radius : (n,), n >= 5; times from any origin
    raises : BadImage with fewer than five points or when the radius does not grow at all
    """
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
    places = np.column_stack((y, x))
    distance = np.asarray(cKDTree(places).query(places, k=2)[0])
    return distance[:, 1]


def clustering(y: np.ndarray, x: np.ndarray, area: float) -> float:
    """Mean nearest-neighbour distance over that of random places, 0.5 / sqrt(density): below 1 they cluster.

    Clark and Evans, Ecology 35:445 (1954). area : of the field of view, (unit of y and x)². NaN with fewer than two.
    """
    if len(y) < 2 or area <= 0:
        return math.nan
    return float(nearest_neighbours(y, x).mean() / (0.5 / math.sqrt(len(y) / area)))
