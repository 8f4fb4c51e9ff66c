"""What a track does now: its rate of growth and the scatter of its sizes, by least squares that forget the past."""

from __future__ import annotations

import numpy as np

FIELDS = ("r_n", "r_nn", "r_t", "r_tt", "r_d", "r_dt", "r_dd")
"""Sums over the sightings in which a track was whole, each weighted with exp(-age / rate_frames): of the weights w, of
w², t, t², diameter d, t d, d²; t from the last sighting, s."""

_LEAST = 4.0  # effective number of sightings below which no rate is told


def add(tracks: np.ndarray, at: np.ndarray, d: np.ndarray, whole: np.ndarray, time_s: float, frames: float) -> None:
    """One more sighting of tracks[at], in place, before their `last_time_s` and `missed` are set to this frame's.

    d : (k,) px · whole : (k,) bool, others only age · frames : after so many a sighting counts 1/e
    """
    n, nn, t, tt, s, st, ss = (tracks[f][at] for f in FIELDS)
    keep = np.exp(-(tracks["missed"][at] + 1.0) / frames)
    dt = time_s - tracks["last_time_s"][at]
    tt = tt - 2 * dt * t + dt * dt * n
    t, st = t - dt * n, st - dt * s
    now = np.where(whole, 1.0, 0.0)
    fresh = (keep * n + now, keep * keep * nn + now, keep * t, keep * tt, keep * s + now * d, keep * st,
             keep * ss + now * d * d)  # fmt: skip
    for name, value in zip(FIELDS, fresh):
        tracks[name][at] = value


def forget(tracks: np.ndarray, which: np.ndarray) -> None:
    """Start anew, in place: the size jumped, as in a coalescence."""
    for name in FIELDS:
        tracks[name][which] = 0.0


def rates(tracks: np.ndarray) -> dict[str, np.ndarray]:
    """Of each track: growth dR/dt, px/s, its standard error, and the standard deviation of one diameter, px.

    NaN where too few sightings are remembered. Weighted least squares; the error takes the sightings as independent.
    """
    n, nn, t, tt, d, dt, dd = (tracks[f] for f in FIELDS)
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = n * n / nn
        stt, std, sdd = tt - t * t / n, dt - t * d / n, dd - d * d / n
        slope = std / stt
        variance = np.maximum(sdd - slope * std, 0.0) / n * effective / (effective - 2)
        known = (effective >= _LEAST) & (stt > 0)
        variance = np.maximum(variance, 0.0)
        error, scatter = np.sqrt(variance * nn / n / stt), np.sqrt(variance)
    nan = np.where(known, 1.0, np.nan)
    return {"growth": slope / 2 * nan, "growth_error": error / 2 * nan, "diameter_error": scatter * nan}
