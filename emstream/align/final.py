"""Final shifts: banded robust least squares over what was measured before and after each frame; arrays in, arrays out.

A frame's shift is a smooth path plus true vibration; a measured shift has noise on top:

    m_i = p_i + v_i + n_i,   v_i ~ (0, σ_j²),   n_i ~ (0, R_i),   p_{i+1} - 2 p_i + p_{i-1} ~ (0, (2/3) σ_a²)

which is the model of `track` (Kalman 1960), looked at from both sides in time (Rauch, Tung and Striebel 1965,
doi:10.2514/3.3166) and solved as one banded system. Frames far off the path count less (Huber 1964,
doi:10.1214/aoms/1177703732), the vibration is learnt from the residuals (EM).

Keyframes, means of some frames, may be linked over longer lags (1, 2, 4, 8 …): such links correct the slow error of the
running reference before the path is laid through it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solveh_banded

from emstream.errors import BadSettings

FAR = 3.0  # Mahalanobis distance (2 degrees of freedom) from which a residual counts less
ROUNDS = 6
BELIEF = 16.0  # frames that the vibration learnt before is worth
TETHER = 1e-6  # px⁻²: what holds a frame that nothing was measured of to the shift that it was moved with
ANY_SPEED = 1.0  # px per frame: how fast a sample may drift when nothing else is known


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """Keyframe `b` seen against keyframe `a`: how much more `b` has to be shifted than it was."""

    a: int
    b: int
    shift: np.ndarray  # (2,) px
    noise: np.ndarray  # (2, 2) px²


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    """The final shifts and what they rest on."""

    shift: np.ndarray  # (t, 2) float64 px
    path: np.ndarray  # (t, 2) float64 px, without vibration
    jitter: float  # px², vibration variance per axis
    weight: np.ndarray  # (t,) 0..1, how far each measured shift counted for the path


def solve(
    measured: np.ndarray,
    noise: np.ndarray,
    *,
    causal: np.ndarray,
    jitter_px: float,
    drift_noise_px: float,
    breaks: np.ndarray | None = None,
    links: Sequence[Link] = (),
    keyframe: int = 32,
    walk_px: float = 0.05,
) -> Solved:
    """All shifts of a series, or of a window of it, at once; time and memory grow with t alone.

    measured : (t, 2) px, what is not finite was not measured
    noise    : (t, 2, 2) px², covariance of each
    causal   : (t, 2) px, what stands where nothing is known
    jitter_px, drift_noise_px : vibration per axis as known before; change of speed, px per frame per frame
    breaks   : (t,) bool: the stage jumped, or a new canvas began, between the frame before and this one
    links    : between keyframes, which are `keyframe` frames long; `walk_px` is how far the shifts of one keyframe may
               be off those of the next one
    raises   : BadSettings when the shapes differ
    """
    t = len(measured)
    if measured.shape != (t, 2) or noise.shape != (t, 2, 2) or causal.shape != (t, 2):
        raise BadSettings(
            f"measured {measured.shape}, noise {noise.shape}, causal {causal.shape}", "(t, 2), (t, 2, 2), (t, 2) needed"
        )
    known = np.isfinite(measured).all(axis=1) & np.isfinite(noise).all(axis=(1, 2))
    gap = np.zeros(t, bool) if breaks is None else np.asarray(breaks, bool)
    m = np.where(known[:, None], measured, causal)
    if links:
        m = m + corrections(links, -(-t // keyframe), keyframe, t, walk_px) * known[:, None]
    r = np.where(known[:, None, None], noise, np.eye(2))
    smooth = _smoothness(t, gap, drift_noise_px)
    jitter, weight = jitter_px**2, known.astype(float)
    path = m
    for _ in range(ROUNDS):
        total = np.linalg.inv(r + jitter * np.eye(2))
        path = _laid(smooth, total * weight[:, None, None], m, causal)
        off = m - path
        far = np.sqrt(np.einsum("ti,tij,tj->t", off, total, off))
        weight = np.where(known, np.minimum(1.0, FAR / np.maximum(far, 1e-12)), 0.0)
        jitter = _vibration(off, r, weight, jitter, jitter_px**2)
    return Solved(np.where(known[:, None], path + _shaken(m - path, r, weight, jitter)[0], path), path, jitter, weight)


def corrections(links: Sequence[Link], n: int, keyframe: int, t: int, walk_px: float) -> np.ndarray:
    """What has to be added to each frame's shift (t, 2) so that the keyframes agree; its mean is nought.

    links : between n keyframes of `keyframe` frames; each distrusted as far as it is off the others
    """
    centre = (np.arange(n) + 0.5) * keyframe - 0.5
    c = _agreement(links, n, walk_px)
    c -= c.mean(axis=0)
    return np.stack([np.interp(np.arange(t), centre, c[:, axis]) for axis in (0, 1)], axis=1)


def agreed(links: Sequence[Link], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Where n keyframes lie, by the links between them.

    links   : `shift` of each is where b's canvas lies on a's; a < b
    returns : (n, 2) px, the first of each group at nought; (n,) int64, which group each belongs to: nothing links two
              groups. Groups are numbered in the order of their first keyframes
    """
    group, first = np.arange(n), np.zeros((n, 2))
    for link in sorted(links, key=lambda link: (link.b, link.b - link.a)):  # the nearest that is linked leads
        if group[link.b] == link.b:
            group[link.b], first[link.b] = group[link.a], first[link.a] + link.shift
    for link in links:  # groups that only a later link joins
        a, b = group[link.a], group[link.b]
        if a != b:
            low, high = min(a, b), max(a, b)
            moved = first[link.a] + link.shift - first[link.b]
            first[group == high] += moved if high == b else -moved
            group[group == high] = low
    if links:
        rest = [Link(k.a, k.b, k.shift - (first[k.b] - first[k.a]), k.noise) for k in links]
        first = first + _agreement(rest, n, math.inf)
    names, number = np.unique(group, return_inverse=True)
    return first - first[names][number], number.astype(np.int64)


def _agreement(links: Sequence[Link], n: int, walk_px: float) -> np.ndarray:
    """Places (n, 2) px near nought at which the links disagree least; each distrusted as far as it is off the others."""
    c, weight = np.zeros((n, 2)), np.ones(len(links))
    info = np.linalg.inv(np.array([link.noise for link in links]))
    a, b = np.array([link.a for link in links]), np.array([link.b for link in links])
    d = np.array([link.shift for link in links])
    width = 2 * max(1, int(np.abs(b - a).max())) + 1
    for _ in range(ROUNDS):
        ab, rhs = np.zeros((width + 1, 2 * n)), np.zeros(2 * n)
        ab[0] += TETHER
        if math.isfinite(walk_px):
            for k in range(n - 1):
                _couple(ab, rhs, k, k + 1, np.eye(2) / walk_px**2, np.zeros(2))
        for k in range(len(links)):
            _couple(ab, rhs, int(a[k]), int(b[k]), info[k] * weight[k], d[k])
        c = solveh_banded(ab, rhs, lower=True).reshape(n, 2)
        off = c[b] - c[a] - d
        far = np.sqrt(np.einsum("li,lij,lj->l", off, info, off))
        weight = np.minimum(1.0, FAR / np.maximum(far, 1e-12))
    return c


def _couple(ab: np.ndarray, rhs: np.ndarray, a: int, b: int, info: np.ndarray, d: np.ndarray) -> None:
    """Add (c_b - c_a - d)ᵀ info (c_b - c_a - d) to the lower band of the normal equations."""
    for s, i in ((a, -1.0), (b, 1.0)):
        rhs[2 * s : 2 * s + 2] += i * (info @ d)
        for u, j in ((a, -1.0), (b, 1.0)):
            for y in (0, 1):
                for x in (0, 1):
                    row, column = 2 * s + y, 2 * u + x
                    if row >= column:
                        ab[row - column, column] += i * j * info[y, x]


def _smoothness(t: int, gap: np.ndarray, drift_noise_px: float) -> np.ndarray:
    """Lower band (5, 2t) of the path's own normal equations: second differences, none across a gap."""
    ab = np.zeros((5, 2 * t))
    ab[0] += TETHER
    whole = ~gap
    joined = whole[1:].astype(float) / ANY_SPEED**2  # frame i with i + 1
    bend = (whole[1:-1] & whole[2:]).astype(float) / (2 / 3 * drift_noise_px**2)  # i, i + 1, i + 2
    for axis in (0, 1):
        diagonal, one, two = ab[0, axis::2], ab[2, axis::2], ab[4, axis::2]
        diagonal[:-1] += joined
        diagonal[1:] += joined
        one[:-1] -= joined
        diagonal[:-2] += bend
        diagonal[1:-1] += 4 * bend
        diagonal[2:] += bend
        one[:-2] -= 2 * bend
        one[1:-1] -= 2 * bend
        two[:-2] += bend
    return ab


def _laid(smooth: np.ndarray, info: np.ndarray, m: np.ndarray, causal: np.ndarray) -> np.ndarray:
    """The path (t, 2) through measured shifts with information (t, 2, 2)."""
    ab = smooth.copy()
    ab[0, ::2] += info[:, 0, 0]
    ab[0, 1::2] += info[:, 1, 1]
    ab[1, ::2] += info[:, 0, 1]
    rhs = np.einsum("tij,tj->ti", info, m) + TETHER * causal
    return np.asarray(solveh_banded(ab, rhs.ravel(), lower=True)).reshape(-1, 2)


def _shaken(off: np.ndarray, r: np.ndarray, weight: np.ndarray, jitter: float) -> tuple[np.ndarray, np.ndarray]:
    """Vibration (t, 2) of each frame, and what stays uncertain of it (t, 2, 2); a frame far off shook more."""
    own = jitter / np.maximum(weight, 1e-3)[:, None, None] * np.eye(2)
    share = own @ np.linalg.inv(r + own)
    return np.einsum("tij,tj->ti", share, off), own - share @ own


def _vibration(off: np.ndarray, r: np.ndarray, weight: np.ndarray, jitter: float, before: float) -> float:
    """One step of EM for the vibration's variance per axis."""
    v, rest = _shaken(off, r, np.ones(len(off)), jitter)
    seen = ((v**2).sum(axis=1) + rest[:, 0, 0] + rest[:, 1, 1]) / 2
    return float((weight * seen).sum() + BELIEF * before) / float(weight.sum() + BELIEF)
