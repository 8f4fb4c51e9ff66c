"""The drift as it is expected: constant speed, true vibration, measured shifts weighed in (Kalman 1960).

State per axis: place and speed. A measured shift is place + vibration + noise; vibration is real motion of the image
and has to be corrected, noise has not, so the estimate takes in (P + σ_j²)/(P + σ_j² + R) of the surprise.
doi:10.1115/1.3662552
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

FIRST_SPEED = 1.0  # px per frame per axis: how fast a sample may be expected to drift before it was seen to
UNLEARNT_PX = 4.0  # vibration per axis that a first surprise may turn out to be; shrinks as vibration is learnt
FORGET = 0.97  # of what is known of the vibration, per frame
TRUST = 3.0  # surprises, of no noise, that the first idea of the vibration is worth
LEAN = 1 / 3  # share of the newest in the mean of surprises
LEANING = 13.0  # squared Mahalanobis distance of that mean from zero that chance rarely reaches
LEAST_JITTER = 2.5e-3  # px²
CLEAR = 0.04  # px²: a vibration is told from noise of this variance
BEYOND = 25.0  # squared Mahalanobis distance beyond which a shift is a jump or wrong


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """All in px of the frame and frames of time."""

    mean: np.ndarray  # (4,) y, x, speed y, speed x
    cov: np.ndarray  # (4, 4)
    jitter: float  # vibration variance per axis, px²
    known: float = 0.0  # surprises of no noise that `jitter` is worth
    taken: int = 0  # shifts weighed in so far
    lean: tuple[float, float] = (0.0, 0.0)  # px: the last few surprises' mean; not zero where the speed is wrong


def start_track(jitter_px: float) -> Track:
    return Track(
        mean=np.zeros(4), cov=np.diag([1e-6, 1e-6, FIRST_SPEED**2, FIRST_SPEED**2]), jitter=jitter_px**2, known=TRUST
    )


def predict(t: Track, drift_noise: float, dt: float = 1.0) -> Track:
    """The state `dt` frames later; the speed wanders by `drift_noise` px/frame per frame."""
    f = np.eye(4)
    f[0, 2] = f[1, 3] = dt
    q = drift_noise**2 * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
    noise = np.zeros((4, 4))
    noise[np.ix_((0, 2), (0, 2))] = noise[np.ix_((1, 3), (1, 3))] = q
    return replace(t, mean=f @ t.mean, cov=f @ t.cov @ f.T + noise)


def expected(t: Track) -> tuple[np.ndarray, np.ndarray]:
    """Mean (2,) and covariance (2, 2) of the next true shift."""
    return t.mean[:2], t.cov[:2, :2] + t.jitter * np.eye(2)


def surprise(t: Track, measured: np.ndarray, noise: np.ndarray) -> float:
    """Squared Mahalanobis distance of a measured shift (2,) with covariance noise (2, 2)."""
    mean, cov = expected(t)
    d = measured - mean
    return float(d @ np.linalg.solve(cov + noise, d))


def unheard_of(t: Track, measured: np.ndarray, noise: np.ndarray) -> bool:
    """Whether a shift is a jump even if the vibration, of which few frames told so far, is stronger than believed."""
    return surprise(replace(t, jitter=t.jitter + UNLEARNT_PX**2 / (t.taken + 1)), measured, noise) >= BEYOND


def take(t: Track, measured: np.ndarray, noise: np.ndarray) -> tuple[Track, np.ndarray, np.ndarray]:
    """Weigh a measured shift in -> track, best shift (2,), its covariance (2, 2)."""
    mean, cov = expected(t)
    total = cov + noise
    d = measured - mean
    share = np.linalg.solve(total, cov).T
    gain = np.linalg.solve(total, t.cov[:2]).T
    later = replace(_learnt(t, d, noise), mean=t.mean + gain @ d, cov=t.cov - gain @ t.cov[:2])
    return _turned(later, d, total), mean + share @ d, cov - share @ cov


def _turned(t: Track, surprise: np.ndarray, total: np.ndarray) -> Track:
    """The speed made less sure where surprises lean one way: the sample turns faster than `drift_noise` foresees."""
    lean = (1 - LEAN) * np.array(t.lean) + LEAN * surprise
    spread = total * LEAN / (2 - LEAN)
    if t.taken < 4 or float(lean @ np.linalg.solve(spread, lean)) < LEANING:
        return replace(t, lean=(float(lean[0]), float(lean[1])))
    cov = t.cov.copy()
    cov[2:, 2:] += float(lean @ lean) * np.eye(2)
    return replace(t, cov=cov, lean=(0.0, 0.0))


def leap(t: Track, measured: np.ndarray, noise: np.ndarray, *, learn: bool = False) -> Track:
    """Start again at a measured shift after a jump; the speed is kept, but less sure: it may have been no jump.

    learn : take it for vibration that is stronger than believed
    """
    if learn:
        t = _learnt(t, measured - t.mean[:2], noise)
    cov = t.cov.copy()
    cov[:2], cov[:, :2] = 0, 0
    cov[:2, :2] = noise + t.jitter * np.eye(2)
    cov[2:, 2:] += FIRST_SPEED**2 * np.eye(2)
    return replace(t, mean=np.concatenate([measured, t.mean[2:]]), cov=cov)


def _learnt(t: Track, surprise: np.ndarray, noise: np.ndarray) -> Track:
    """The vibration as one more surprise (2,) px shows it; a surprise that noise explains tells little, and weighs little.

    What noise and drift do not explain may be negative, and stays so in the mean: cut at zero, noise would pass as
    vibration.
    """
    explained = float(np.trace(noise + t.cov[:2, :2])) / 2
    apart = surprise - np.array(t.lean)  # a wrong speed is no vibration
    seen = float(apart @ apart) / 2 * (1 - LEAN / 2) - explained
    worth = ((t.jitter + CLEAR) / (explained + t.jitter + CLEAR)) ** 2
    known = t.known * FORGET
    total = known + worth
    return replace(
        t, jitter=max((known * t.jitter + worth * seen) / total, LEAST_JITTER), known=total, taken=t.taken + 1
    )
