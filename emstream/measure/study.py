"""A run's tables in a few laws and numbers with their uncertainty: what a paper would say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from emstream.errors import BadImage
from emstream.measure.exchange import Exchange, Shares, exchange, growth_paths, shares
from emstream.measure.kinetics import Coarsening, coarsening

DRAWN = 11.0  # px, diameter from which an outline is drawn alike at all sizes: below, a radius is a few pixels
MOST_TIMES = 400  # of the mean radius that the law is fitted to
MOST_ROWS = 400_000  # of the particles table that are looked at; longer runs are thinned evenly in time


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """Lengths in `unit`, times in s."""

    unit: str  # nm or px
    paths: Exchange  # from every particle's own growth: what to believe with hundreds of particles
    mean: Coarsening | None  # from the mean radius, as usual; None when it does not grow
    shares: Shares
    growth: Mapping[str, np.ndarray]  # dR/dt of each track against R: see `exchange.growth_paths`
    scatter: float  # median standard deviation of one radius, from what tracks do between neighbouring frames

    def told(self) -> dict[str, tuple[float, float, str]]:
        """Each number as (value, standard error, unit), NaN where unknown: for reports and scripts."""
        p, s, nan = self.paths, self.shares, float("nan")
        out = {
            "coarsening exponent, from single particles": (p.exponent, p.exponent_error, ""),
            "ripening constant K, from single particles": (p.rate, p.rate_error, f"{self.unit}ⁿ/s"),
            "volume gained by ripening": (s.ripened, nan, f"{self.unit}³"),
            "volume gained by coalescence": (s.coalesced, nan, f"{self.unit}³"),
            "share of coalescence": (s.coalesced_share, s.share_error, ""),
            "one radius, standard deviation": (self.scatter, nan, self.unit),
        }
        if self.mean is not None:
            out["coarsening exponent, from the mean radius"] = (self.mean.exponent, self.mean.exponent_error, "")
        return out


def study_run(
    particles: Mapping[str, Any],
    events: Mapping[str, Any],
    kinetics: Mapping[str, Any] | None = None,
    pixel: float | None = None,
) -> Study:
    """The kinetics of a run from its tables, also while it grows; pure, so that the page and scripts call it alike.

    particles, events, kinetics : the run's tables (pandas frames or mappings of columns), calibrated or not. Without
    the kinetics table the mean radius is the plain mean over what no border cuts
    pixel : side of a pixel in the tables' unit: smaller particles than `DRAWN` are not fitted. None = 1 for px; for nm not
    known, and all are
    """
    unit = "nm" if "diameter_nm" in particles else "px"
    pixel = pixel if pixel is not None else float(unit == "px")
    frame = np.asarray(particles["frame"])
    frames = np.unique(frame)
    every = max(1, -(-len(frame) // MOST_ROWS))
    use = np.isin(frame, frames[::every]) if every > 1 else np.ones(len(frame), bool)
    frame = frame[use]
    track, time_s, radius, cut = (
        np.asarray(particles[n])[use] for n in ("track", "time_s", f"diameter_{unit}", "touches_border")
    )
    radius, cut = radius / 2, cut.astype(bool)
    kinds = np.asarray(events["kind"]).astype(str)
    jumps = np.isin(kinds, ("coalescence", "split"))
    breaks = np.column_stack((np.asarray(events["track"])[jumps], np.asarray(events["frame"])[jumps]))
    whole = ~cut & (track >= 0)
    rows = track[whole], frame[whole] // every, time_s[whole], radius[whole]
    breaks[:, 1] //= every
    return Study(
        unit=unit,
        paths=exchange(*rows, breaks, settle=max(2, 10 // every), smallest=DRAWN / 2 * pixel),
        mean=_mean_law(kinetics, unit, frame[whole], time_s[whole], radius[whole]),
        shares=shares(track, frame, radius, cut, events),
        growth=growth_paths(*rows, max(4, len(frames) // every // 12)),
        scatter=_scatter(*rows),
    )


def _mean_law(
    kinetics: Mapping[str, Any] | None, unit: str, frame: np.ndarray, time_s: np.ndarray, radius: np.ndarray
) -> Coarsening | None:
    if kinetics is not None and len(kinetics["frame"]):
        t, mean = np.asarray(kinetics["time_s"]), np.asarray(kinetics[f"mean_radius_{unit}"])
    else:
        _, at, count = np.unique(frame, return_inverse=True, return_counts=True)
        t, mean = np.bincount(at, time_s) / count, np.bincount(at, radius) / count
    pick = np.unique(np.linspace(0, len(t) - 1, min(len(t), MOST_TIMES)).astype(int)) if len(t) else np.empty(0, int)
    try:
        return coarsening(t[pick], mean[pick])
    except (BadImage, RuntimeError):  # too short, or nothing grows, or no law fits
        return None


def _scatter(track: np.ndarray, frame: np.ndarray, time_s: np.ndarray, radius: np.ndarray) -> float:
    """sqrt of the mean of (r0 - 2 r1 + r2)² / 6 over three sightings in a row, robust: steady growth cancels."""
    order = np.lexsort((frame, track))
    track, frame, r = track[order], frame[order], radius[order]
    same = (track[2:] == track[:-2]) & (frame[2:] == frame[:-2] + 2)
    bend = np.abs(r[:-2] - 2 * r[1:-1] + r[2:])[same]
    return float(1.4826 * np.median(bend) / np.sqrt(6)) if len(bend) else float("nan")
