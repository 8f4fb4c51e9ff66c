"""The drift as it is expected: constant speed, true vibration, measured shifts weighed in (Kalman 1960).

State per axis: place and speed. A measured shift is place + vibration + noise; vibration is real motion of the image
and has to be corrected, noise has not, so the estimate takes in (P + σ_j²)/(P + σ_j² + R) of the surprise.
doi:10.1115/1.3662552
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

FIRST_SPEED = 1.0  # px per frame per axis: how fast a sample may be expected to drift before it was seen to
BEYOND = 25.0  # squared Mahalanobis distance beyond which a shift is a jump or wrong


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """All in px of the frame and frames of time."""

    mean: np.ndarray  # (4,) y, x, speed y, speed x
    cov: np.ndarray  # (4, 4)
    jitter: float  # vibration variance per axis, px²
    taken: int = 0  # shifts weighed in so far


def start_track(jitter_px: float) -> Track:
    return Track(mean=np.zeros(4), cov=np.diag([1e-6, 1e-6, FIRST_SPEED**2, FIRST_SPEED**2]), jitter=jitter_px**2)


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


def take(t: Track, measured: np.ndarray, noise: np.ndarray) -> tuple[Track, np.ndarray, np.ndarray]:
    """Weigh a measured shift in -> track, best shift (2,), its covariance (2, 2)."""
    mean, cov = expected(t)
    total = cov + noise
    d = measured - mean
    share = np.linalg.solve(total, cov).T
    gain = np.linalg.solve(total, t.cov[:2]).T
    rate = max(0.03, 1 / (t.taken + 4))
    seen = max(float(d @ d) / 2 - float(np.trace(noise + t.cov[:2, :2])) / 2, 1e-4)
    later = replace(
        t,
        mean=t.mean + gain @ d,
        cov=t.cov - gain @ t.cov[:2],
        jitter=(1 - rate) * t.jitter + rate * seen,
        taken=t.taken + 1,
    )
    return later, mean + share @ d, cov - share @ cov


def leap(t: Track, measured: np.ndarray, noise: np.ndarray) -> Track:
    """Start again at a measured shift after a jump; the speed is kept, but less sure: it may have been no jump."""
    cov = t.cov.copy()
    cov[:2], cov[:, :2] = 0, 0
    cov[:2, :2] = noise + t.jitter * np.eye(2)
    cov[2:, 2:] += FIRST_SPEED**2 * np.eye(2)
    return replace(t, mean=np.concatenate([measured, t.mean[2:]]), cov=cov)
