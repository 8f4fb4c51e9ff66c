"""Who feeds whom: the ripening law fitted to every particle's own path, and how much went by coalescence instead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from emstream.measure.roster import volume

EXPONENTS = np.arange(1.2, 6.01, 0.05)  # those that are tried
REPEATS = 60  # of the bootstrap
FEWEST = 30  # steps of paths without which no law is fitted
_BLOCKS = 12  # into how many blocks the run is cut, at most
_BEYOND = 4.0  # robust standard deviations; steps farther off are left out


@dataclass(frozen=True, slots=True)
class Exchange:
    """dR/dt = K / R^(n-1) (R / R* - 1), with standard errors; NaN where the paths do not tell."""

    exponent: float  # n
    exponent_error: float
    rate: float  # K, radius^n per second
    rate_error: float
    steps: int  # of paths that were used


@dataclass(frozen=True, slots=True)
class Shares:
    """Where the volume that growing particles gained came from, with the standard error of the share."""

    ripened: float  # one atom at a time, radius unit³
    coalesced: float  # by coalescence
    coalesced_share: float  # coalesced / (ripened + coalesced), 0..1; NaN when nothing grew
    share_error: float


def exchange(
    track: np.ndarray,
    frame: np.ndarray,
    time_s: np.ndarray,
    radius: np.ndarray,
    breaks: np.ndarray,
    *,
    settle: int = 10,
    smallest: float = 0.0,
    seed: int = 0,
) -> Exchange:
    """The coarsening exponent from how particles of different size grow and shrink, coalescences left out.

    Mean-field ripening, dR/dt = K / R^(n-1) (R / R* - 1) (n = 3: Lifshitz and Slyozov, J Phys Chem Solids 19:35, 1961;
    n = 2: Wagner, Z Elektrochem 65:581, 1961; n = 4: Chakraverty, J Phys Chem Solids 28:2401, 1967), is linear in R^n:
    d(R^n)/dt = n K (R / R* - 1). For each n the differences of the block means of R^n along each path are fitted to the
    integral of the right side by least squares with K and a factor of R* free, R* ~ Σ R^(4-n) / Σ R^(3-n) over all
    particles of a frame, as the conservation of volume asks; the n with the least squares, in units of R, is the
    exponent. Individual paths carry far more than the mean radius does (compare Simonsen et al., J Am Chem Soc
    132:7968, 2010). Errors: bootstrap over the paths.

    track, frame, time_s, radius : (n,) rows of the particles that no border cuts, in any order and unit
    breaks   : (k, 2) track and frame at which its size jumped; `settle` frames around are left out
    smallest : radius from which a path is fitted; smaller ones only feed the others (all, where too few are larger)
    """
    order = np.lexsort((frame, track))
    track, frame, time_s, radius = (np.asarray(a)[order] for a in (track, frame, time_s, radius))
    steady = _steady(track, frame, breaks, settle)
    frames, at = np.unique(frame, return_inverse=True)
    length = max(4, len(frames) // _BLOCKS)
    order = steady[radius[steady] >= smallest]
    block, pair, owner = _blocks(track[order], frame[order], length)
    if len(pair) < FEWEST:
        order = steady
        block, pair, owner = _blocks(track[order], frame[order], length)
    if len(pair) < FEWEST:
        return Exchange(math.nan, math.nan, math.nan, math.nan, len(pair))
    r, count = radius[order], np.bincount(block)
    place = np.arange(len(block)) - np.concatenate(([0], np.cumsum(count)))[block]
    rising = (place + 0.5) / count[block]
    mean_t = np.bincount(block, time_s[order]) / count
    a, b = pair, pair + 1
    span = mean_t[b] - mean_t[a]
    fits = np.empty((len(EXPONENTS), 3, len(pair)))  # y, x1, x2 of y = (K / c) x1 + K x2, in units of R
    for i, n in enumerate(EXPONENTS):
        critical = np.bincount(at, radius ** (4 - n)) / np.bincount(at, radius ** (3 - n))
        q = r / critical[at[order]]
        up, down = np.bincount(block, q * rising), np.bincount(block, q * (1 - rising))
        weight = (count[a] + count[b]) / 2
        scale = n * np.sqrt((np.bincount(block, r ** (2 * n - 2)) / count)[[a, b]].mean(axis=0))
        mean = np.bincount(block, r**n) / count
        fits[i] = (mean[b] - mean[a]) / scale, n * (up[a] + down[b]) / weight * span / scale, -n * span / scale
    weight = np.minimum(count[a], count[b]).astype(np.float64)
    for _ in range(2):
        best, k, left = _least(fits, weight)
        spread = 1.4826 * float(np.median(np.abs(left[weight > 0])))
        weight = np.where(np.abs(left) <= _BEYOND * max(spread, 1e-12), weight, 0.0)
    best, k, _ = _least(fits, weight)
    names, path = np.unique(owner, return_inverse=True)
    rng = np.random.default_rng(seed)
    again = np.array([_least(fits, weight * rng.poisson(1.0, len(names))[path])[:2] for _ in range(REPEATS)])
    return Exchange(best, float(again[:, 0].std()), k, float(again[:, 1].std()), int((weight > 0).sum()))


def _steady(track: np.ndarray, frame: np.ndarray, breaks: np.ndarray, settle: int) -> np.ndarray:
    """Rows (sorted by track and frame) that are not near a jump of their track's size."""
    good = np.ones(len(track), bool)
    for who, when in np.asarray(breaks).reshape(-1, 2):
        low, high = np.searchsorted(track, who), np.searchsorted(track, who, side="right")
        near = frame[low:high] - when
        good[low:high] &= (near < -1) | (near > settle)
    return np.flatnonzero(good)


def _blocks(track: np.ndarray, frame: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Block of each row; blocks that the next one follows without a gap on the same track; the track of those."""
    gap = np.diff(frame, prepend=frame[:1] - 10**6) > 3
    begins = (np.diff(track, prepend=-1) != 0) | gap
    path = np.cumsum(begins) - 1
    place = np.arange(len(track)) - np.flatnonzero(begins)[path]
    block = np.cumsum(begins | (place % length == 0)) - 1
    first = np.flatnonzero(np.diff(block, prepend=-1))
    same = path[first][1:] == path[first][:-1]
    enough = np.bincount(block) >= max(3, length // 2)
    pair = np.flatnonzero(same & enough[1:] & enough[:-1])
    return block, pair, track[first][pair]


def _least(fits: np.ndarray, weight: np.ndarray) -> tuple[float, float, np.ndarray]:
    """The exponent with the least squares (by a parabola through the three lowest), K, what is left of each step."""
    y, x1, x2 = fits[:, 0], fits[:, 1], fits[:, 2]
    a11, a12, a22 = ((w * weight).sum(axis=1) for w in (x1 * x1, x1 * x2, x2 * x2))
    b1, b2 = (x1 * y * weight).sum(axis=1), (x2 * y * weight).sum(axis=1)
    det = np.maximum(a11 * a22 - a12 * a12, 1e-300)
    p, k = (a22 * b1 - a12 * b2) / det, (a11 * b2 - a12 * b1) / det
    left = y - p[:, None] * x1 - k[:, None] * x2
    chi2 = (left * left * weight).sum(axis=1)
    i = int(np.argmin(chi2))
    if not 0 < i < len(EXPONENTS) - 1:
        return float(EXPONENTS[i]), float(k[i]), left[i]
    low, mid, high = chi2[i - 1 : i + 2]
    shift = 0.5 * (low - high) / max(low - 2 * mid + high, 1e-300)
    n = EXPONENTS[i] + shift * (EXPONENTS[1] - EXPONENTS[0])
    return float(n), float(np.interp(n, EXPONENTS, k)), left[i]


def growth_paths(
    track: np.ndarray, frame: np.ndarray, time_s: np.ndarray, radius: np.ndarray, length: int
) -> dict[str, np.ndarray]:
    """dR/dt of each track against R: least squares over stretches of `length` sightings without a gap.

    returns : columns track, frame (the middle one), time_s, radius (mean), growth and its standard error, in the units
              that were given per second; stretches of fewer than max(3, length / 2) sightings are left out
    """
    order = np.lexsort((frame, track))
    track, frame, time_s, r = (np.asarray(a)[order] for a in (track, frame, time_s, radius))
    if not len(track):
        return {n: np.empty(0) for n in ("track", "frame", "time_s", "radius", "growth", "growth_error")}
    block, _, _ = _blocks(track, frame, length)
    n = np.bincount(block).astype(np.float64)
    first = np.flatnonzero(np.diff(block, prepend=-1))
    mean_t, mean_r = np.bincount(block, time_s) / n, np.bincount(block, r) / n
    t, d = time_s - mean_t[block], r - mean_r[block]
    tt, tr, rr = (np.bincount(block, v) for v in (t * t, t * d, d * d))
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = tr / tt
        error = np.sqrt(np.maximum(rr - slope * tr, 0.0) / (n - 2) / tt)
    keep = (n >= max(3, length // 2)) & (tt > 0)
    middle = frame[first + (n // 2).astype(int)]
    columns = {"track": track[first], "frame": middle, "time_s": mean_t, "radius": mean_r, "growth": slope}
    return {name: v[keep] for name, v in {**columns, "growth_error": error}.items()}


def shares(
    track: np.ndarray,
    frame: np.ndarray,
    radius: np.ndarray,
    cut: np.ndarray,
    events: Mapping[str, Any],
    *,
    ends: int = 5,
    seed: int = 0,
) -> Shares:
    """How much of the volume that growing particles gained came by ripening, and how much by coalescence.

    V = 4/3 pi R³ at both ends of a track (median of `ends` sightings; nothing before a nucleation). What a track gained
    beyond what it absorbed is ripening; of a track that lost there is nothing to count: that is where it came from.
    Tracks that the border cuts are left out. Error: bootstrap over the tracks.

    track, frame, radius, cut : (n,) rows of the particles table, any order · events : of the events table
    """
    order = np.lexsort((frame, track))
    order = order[np.asarray(track)[order] >= 0]
    own, r, cut = (np.asarray(a)[order] for a in (track, radius, cut))
    if not len(own):
        return Shares(0.0, 0.0, math.nan, math.nan)
    first = np.flatnonzero(np.diff(own, prepend=-1))
    last = np.append(first[1:], len(own)) - 1
    inside = np.arange(ends)
    begin = _volume(np.median(r[np.minimum(first[:, None] + inside, last[:, None])], axis=1))
    end = _volume(np.median(r[np.maximum(last[:, None] - inside, first[:, None])], axis=1))
    names = own[first]
    kinds = np.asarray(events["kind"]).astype(str)
    ours, theirs = np.asarray(events["track"]), np.asarray(events["other_track"])
    begin[np.isin(names, ours[kinds == "nucleation"])] = 0.0
    merged = np.flatnonzero((kinds == "coalescence") & np.isin(ours, names) & np.isin(theirs, names))
    into, gone = np.searchsorted(names, ours[merged]), np.searchsorted(names, theirs[merged])
    absorbed = np.bincount(into, end[gone], len(names))
    touched = np.bincount(np.repeat(np.arange(len(names)), last - first + 1), cut) > 0
    fit = ~touched & (last - first + 1 >= ends)
    gain = np.where(fit, np.maximum(end - begin - absorbed, 0.0), 0.0)
    absorbed = np.where(touched, 0.0, absorbed)
    again = np.random.default_rng(seed).poisson(1.0, (REPEATS, len(names)))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (again @ absorbed) / (again @ (absorbed + gain))
    total = float((absorbed + gain).sum())
    return Shares(
        float(gain.sum()),
        float(absorbed.sum()),
        float(absorbed.sum()) / total if total > 0 else math.nan,
        float(np.nanstd(share)) if total > 0 else math.nan,
    )


def _volume(radius: np.ndarray) -> np.ndarray:
    return volume(np.pi * radius**2)
