"""All particles of one frame together: how many, how large, how far apart, what they exchange; live, and per run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from emstream.measure.kinetics import critical_radius, spacing
from emstream.measure.recent import rates
from emstream.measure.roster import BEGAN, volume
from emstream.measure.window import mean_of, quantiles_of, weights
from emstream.messages import Rect

COUNTED = ("nucleation", "dissolution", "coalescence", "split", "detachment")  # in this order in a tally
RIPENED, COALESCED = len(COUNTED), len(COUNTED) + 1


def no_tally() -> np.ndarray:
    """How often each of `COUNTED` happened, then the volume gained by ripening and by coalescence, px³."""
    return np.zeros(len(COUNTED) + 2)


def ripened(tracks: np.ndarray, pending: np.ndarray) -> np.ndarray:
    """Volume that each track gained since it was first seen and that did not come by coalescence, px³, never negative.

    V = 4 / (3 sqrt(pi)) area^(3/2), the sphere of that projected area. A nucleus begins with nothing; a particle that
    was cut by the border tells nothing. pending : coalescences not yet believed; what they brought does not count.
    """
    begin = np.where(tracks["began"] == BEGAN.index("nucleation"), 0.0, volume(tracks["first_area"]))
    gain = volume(np.median(tracks["areas"], axis=1)) - begin - tracks["absorbed"]
    if len(pending) and len(tracks):
        order = np.argsort(tracks["track"])
        at = order[np.minimum(np.searchsorted(tracks["track"], pending["into"], sorter=order), len(tracks) - 1)]
        known = tracks["track"][at] == pending["into"]
        np.subtract.at(gain, at[known], volume(pending["area_gone"][known]))
    believed = (tracks["touched_border"] == 0) & (tracks["began"] > 0)
    return np.where(believed, np.maximum(gain, 0.0), 0.0)


def ensemble(
    columns: Mapping[str, np.ndarray], valid: Rect, tracks: np.ndarray, pending: np.ndarray, tally: np.ndarray
) -> dict[str, Any]:
    """One row of the kinetics table, px; NaN where there is nothing to take a number from.

    columns : of `particles` · valid : what the frame covers · tracks, pending, tally : of the linker's state after it

    count_error : of the segmentation: sqrt(particles that are expected and not seen + those seen and not yet believed)
    density     : Σ w over the particles that are not cut, w = 1 / ((H - d)(W - d)) for a window of H × W px: each counts
                  for how seldom it would be uncut (Miles and Lantuéjoul; Serra, Image Analysis and Mathematical
                  Morphology, 1982, p. 246), so that no number depends on how much of the canvas the drift leaves;
                  its error is sqrt(Σ w²), as of independent particles, with the segmentation's share added
    mean_radius and quantiles : weighted so; error = standard deviation / sqrt(effective number)
    thickness   : volume of spheres per covered area; constant while matter is kept
    critical_radius : see `kinetics.critical_radius`, over the tracks' recent rates
    neighbour, clustering : see `kinetics.spacing`
    nucleations … coalesced : since the run began: events told, and volume gained by ripening and by coalescence, px³
    """
    area = max(0, valid[1] - valid[0]) * max(0, valid[3] - valid[2])
    cut = columns["touches_border"].astype(bool)
    r, n = columns["diameter"][~cut] / 2, len(cut)
    w = weights(2 * r, valid)
    joined = np.isin(tracks["track"], pending["gone"])
    unseen = int(((tracks["missed"] > 0) & (tracks["began"] > 0) & ~joined).sum())
    doubtful = int(((tracks["missed"] == 0) & (tracks["began"] == 0)).sum())
    error = math.sqrt(unseen + doubtful)
    density = float(w.sum())
    mean, spread, mean_error = mean_of(r, w)
    q10, median, q90 = quantiles_of(r, w, (0.1, 0.5, 0.9))
    now = rates(tracks)
    seen = (tracks["missed"] == 0) & np.isfinite(now["growth"]) & (tracks["at_edge"] == 0)
    critical = critical_radius(tracks["last_diameter"][seen] / 2, now["growth"][seen], now["growth_error"][seen])
    neighbour, clustering = spacing(columns["y"], columns["x"], valid)
    return {
        "covered": float(area),
        "count": n,
        "count_error": error,
        "density": density,
        "density_error": math.hypot(math.sqrt(float((w * w).sum())) or 1 / max(area, 1), density * error / max(n, 1)),
        "mean_radius": mean,
        "mean_radius_error": mean_error,
        "radius_spread": spread,
        "radius_q10": q10,
        "median_radius": median,
        "radius_q90": q90,
        "thickness": float((w * 4 / 3 * np.pi * r**3).sum()),
        "critical_radius": critical.radius,
        "critical_radius_error": critical.radius_error,
        "neighbour": neighbour,
        "clustering": clustering,
        **{_plural(kind): int(tally[i]) for i, kind in enumerate(COUNTED)},
        "ripened": float(tally[RIPENED] + ripened(tracks, pending).sum()),
        "coalesced": float(tally[COALESCED]),
    }


def _plural(kind: str) -> str:
    return f"{kind}s"
