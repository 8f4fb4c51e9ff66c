"""What is remembered of one living track, and the row that it leaves in the tracks table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from emstream.measure import recent

HISTORY = 8  # latest areas remembered: smoothing, and dissolution against detachment
BEGAN = ("unconfirmed", "start", "edge", "nucleation", "split")
ENDED = ("", "end", "edge", "dissolution", "detachment", "coalescence", "lost")

_INTEGERS = ("track", "first_frame", "last_frame", "frames", "gone_frame", "other_track", "parent")
_SMALL = ("label", "missed", "origin", "began", "ended", "at_edge", "touched_border", "whole")
_FLOATS = ("first_time_s", "last_time_s", "gone_time", "first_y", "first_x", "y", "x", "area", "last_area")
_MORE = (
    "first_diameter",
    "last_diameter",
    "sum_t",
    "sum_tt",
    "sum_d",
    "sum_dt",
    "sum_dd",
    "first_area",
    "absorbed",
    "major",
)
FIRST = 5  # sightings whose median area is that with which a track began
TRACK = np.dtype(
    [(n, np.int64) for n in _INTEGERS]
    + [(n, np.int32) for n in _SMALL]
    + [(n, np.float64) for n in _FLOATS + _MORE + recent.FIELDS]
    + [("areas", np.float64, (HISTORY,))]
)
"""label: in the newest frame, 0 = not seen there · area: median of the latest areas, px² · origin: what it will have
begun as once believed · parent: the track it split from · absorbed: volume that came by coalescence, px³ · sums over the frames in which it was whole, t from its first
frame, d = diameter · the codes of began, origin and ended index `BEGAN` and `ENDED`."""


def volume(area: np.ndarray) -> np.ndarray:
    """Of the sphere whose projection has this area: 4 / (3 sqrt(pi)) area^(3/2), px³."""
    return np.asarray(4 / (3 * np.sqrt(np.pi)) * area**1.5)


def sight(
    tracks: np.ndarray,
    at: np.ndarray,
    columns: Mapping[str, np.ndarray],
    j: np.ndarray,
    frame: int,
    time_s: float,
    rate_frames: float,
) -> None:
    """Writes what was seen into tracks[at], in place: row j of `columns`."""
    recent.add(tracks, at, columns["diameter"][j], ~columns["touches_border"][j].astype(bool), time_s, rate_frames)
    seen = tracks[at]
    seen["label"], seen["missed"], seen["last_frame"], seen["last_time_s"] = columns["label"][j], 0, frame, time_s
    seen["frames"] += 1
    seen["y"], seen["x"], seen["last_area"] = columns["y"][j], columns["x"][j], columns["area"][j]
    d = seen["last_diameter"] = columns["diameter"][j]
    seen["major"] = columns.get("major", columns["diameter"])[j]
    seen["at_edge"] = columns["touches_border"][j]
    seen["touched_border"] |= seen["at_edge"]
    seen["areas"] = np.roll(seen["areas"], 1, axis=1)
    seen["areas"][:, 0] = columns["area"][j]
    a, b, c = (seen["areas"][:, k] for k in range(3))
    seen["area"] = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))  # the median of three, fast
    young = seen["frames"] <= FIRST
    if young.any():
        seen["first_area"][young] = np.median(seen["areas"][young, :FIRST], axis=1)
    whole, t = seen["at_edge"] == 0, time_s - seen["first_time_s"]
    for name, value in (
        ("whole", 1),
        ("sum_t", t),
        ("sum_tt", t * t),
        ("sum_d", d),
        ("sum_dt", d * t),
        ("sum_dd", d * d),
    ):
        seen[name] += np.where(whole, value, 0).astype(seen[name].dtype)
    tracks[at] = seen


def new_tracks(
    first: int,
    columns: Mapping[str, np.ndarray],
    j: np.ndarray,
    origin: np.ndarray,
    frame: int,
    time_s: float,
    rate_frames: float,
) -> np.ndarray:
    """Tracks numbered from `first` for the rows j of `columns`."""
    tracks = np.zeros(len(j), TRACK)
    tracks["track"] = first + np.arange(len(j))
    tracks["first_frame"], tracks["first_time_s"], tracks["last_time_s"] = frame, time_s, time_s
    tracks["first_y"], tracks["first_x"] = columns["y"][j], columns["x"][j]
    tracks["first_diameter"] = columns["diameter"][j]
    tracks["origin"], tracks["other_track"], tracks["parent"] = origin, -1, -1
    tracks["areas"] = columns["area"][j][:, None]
    sight(tracks, np.arange(len(j)), columns, j, frame, time_s, rate_frames)
    return tracks


def track_table(tracks: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of the tracks table, inner names, px: slope and standard error of the radius by least squares."""
    slope, error, mean, scatter = growth(
        tracks["whole"], *(tracks[f"sum_{name}"] for name in ("t", "tt", "d", "dt", "dd"))
    )
    same = ("track", "first_frame", "last_frame", "first_time_s", "last_time_s", "frames", "first_y", "first_x")
    return {name: tracks[name] for name in same} | {
        "last_y": tracks["y"],
        "last_x": tracks["x"],
        "first_diameter": tracks["first_diameter"],
        "last_diameter": tracks["last_diameter"],
        "mean_diameter": mean,
        "growth": slope,
        "growth_error": error,
        "diameter_error": scatter,
        "began": np.array(BEGAN)[tracks["began"]],
        "ended": np.array(ENDED)[tracks["ended"]],
        "other_track": tracks["other_track"],
        "touched_border": tracks["touched_border"] > 0,
    }


def growth(
    n: np.ndarray, t: np.ndarray, tt: np.ndarray, d: np.ndarray, dt: np.ndarray, dd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """dR/dt, its standard error, the mean diameter and the standard deviation of one diameter about the straight line,
    from sums over time t and diameter d."""
    with np.errstate(divide="ignore", invalid="ignore"):
        stt, std, sdd = tt - t * t / n, dt - t * d / n, dd - d * d / n
        slope = np.where((n >= 2) & (stt > 0), std / stt, np.nan)
        left = np.maximum(sdd - slope * std, 0.0)
        scatter = np.where(n >= 3, np.sqrt(left / (n - 2)), np.nan)
        return slope / 2, scatter / np.sqrt(stt) / 2, d / n, scatter
