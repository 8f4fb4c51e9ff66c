"""What the sightings of a track add up to: both its ends, and sums over time; parts of a track add up to the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from emstream.measure.roster import FIRST, growth

EXTENT = 3  # sightings at a track's end whose median size stands for it
_AT = ("frame", "label", "time_s", "y", "x", "diameter")  # told of the first and the last sighting
_SUMS = ("whole", "sum_t", "sum_tt", "sum_d", "sum_dt", "sum_dd")  # over the sightings in which it was whole


def summed(sightings: Mapping[str, np.ndarray], track: np.ndarray) -> dict[str, np.ndarray]:
    """One row for each track, in rising order.

    sightings : columns of the particles table, px, in any order · track : (n,) of each row, -1 = none
    returns   : track, frames (how many sightings), first_… and last_… of frame, label, time_s, y, x, diameter,
                first_areas and last_areas (k, FIRST) from the end inwards, NaN where there are fewer, cut (k,) bool
                by the border once, and sums of time t since the first sighting, s, and diameter d, px
    """
    order = np.lexsort((sightings["frame"], track))
    order = order[track[order] >= 0]
    own = track[order]
    first, last, index = _runs(own)
    cut = sightings["touches_border"][order].astype(bool)
    time_s, d = sightings["time_s"][order], sightings["diameter"][order]
    t = time_s - time_s[first][index]
    weight = np.where(cut, 0.0, 1.0)
    sums = [np.bincount(index, weight * v, len(first)) for v in (1.0, t, t * t, d, d * t, d * d)]
    area, inside = sightings["area"][order].astype(float), np.arange(FIRST)
    forth, back = first[:, None] + inside, last[:, None] - inside
    ends = {
        f"{end}_{name}": sightings[name][order][at] for end, at in (("first", first), ("last", last)) for name in _AT
    }
    return ends | {
        "track": own[first],
        "frames": last - first + 1,
        "first_areas": np.where(forth <= last[:, None], area[np.minimum(forth, last[:, None])], np.nan),
        "last_areas": np.where(back >= first[:, None], area[np.maximum(back, first[:, None])], np.nan),
        "cut": np.bincount(index, cut, len(first)) > 0,
        **dict(zip(_SUMS, sums)),
    }


def added(parts: Mapping[str, np.ndarray], to: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of `summed` that are parts of the same track become one, in rising order of `to`; in time they follow each other.

    to : (n,) the track of each part
    """
    order = np.lexsort((parts["first_frame"], to))
    p = {name: v[order] for name, v in parts.items()}
    own = to[order]
    first, last, index = _runs(own)
    if len(first) == len(own):
        return p | {"track": own}
    late = p["first_time_s"] - p["first_time_s"][first][index]
    n, t, d = p["whole"], p["sum_t"], p["sum_d"]
    p["sum_tt"] = p["sum_tt"] + 2 * late * t + late * late * n
    p["sum_t"], p["sum_dt"] = t + late * n, p["sum_dt"] + late * d
    out = {name: v[first if name.startswith("first_") else last] for name, v in p.items()}
    for name in ("frames", "cut", *_SUMS):
        out[name] = np.bincount(index, p[name], len(first)).astype(p[name].dtype)
    for k in np.flatnonzero(last > first):
        some = slice(first[k], last[k] + 1)
        out["first_areas"][k] = _ends(p["first_areas"][some])
        out["last_areas"][k] = _ends(p["last_areas"][some][::-1])
    return out | {"track": own[first]}


def rows_of(parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of the tracks table, inner names, px, but for `began`, `ended` and `other_track`, from those of `summed`."""
    slope, error, mean, scatter = growth(*(parts[name] for name in _SUMS))
    ends = {f"{end}_{name}": parts[f"{end}_{name}"] for end in ("first", "last") for name in _AT if name != "label"}
    return {
        "track": parts["track"],
        **ends,
        "frames": parts["frames"],
        "mean_diameter": mean,
        "growth": slope,
        "growth_error": error,
        "diameter_error": scatter,
        "touched_border": parts["cut"],
    }


def size(areas: np.ndarray) -> np.ndarray:
    """(k,) px²: the median area at an end, from first_areas or last_areas; of fewer than EXTENT the innermost counts again."""
    filled = areas[:, :EXTENT].copy()
    for k in range(1, filled.shape[1]):
        filled[:, k] = np.where(np.isnan(filled[:, k]), filled[:, k - 1], filled[:, k])
    return np.asarray(np.median(filled, axis=1))


def begun_with(first_areas: np.ndarray) -> np.ndarray:
    """(k,) px²: the area with which a track began, as `roster.sight` tells it: of fewer than FIRST the first counts again."""
    return np.asarray(np.median(np.where(np.isnan(first_areas), first_areas[:, :1], first_areas), axis=1))


def _runs(own: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each run of equal numbers begins and ends, and the run of each."""
    first = np.flatnonzero(np.diff(own, prepend=own[:1] - 1))
    last = np.append(first[1:], len(own)) - 1 if len(own) else first
    return first, last, np.repeat(np.arange(len(first)), last - first + 1)


def _ends(areas: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    known = np.concatenate(areas)
    known = known[~np.isnan(known)][:FIRST]
    return np.append(known, np.full(FIRST - len(known), np.nan))
