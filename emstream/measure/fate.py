"""Births, splits, coalescences and deaths: what may be believed, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from emstream.measure import MeasureOptions
from emstream.measure.match import Overlaps
from emstream.measure.roster import BEGAN, ENDED, new_tracks, volume
from emstream.messages import Rect

MERGE = np.dtype(
    [(n, np.int64) for n in ("into", "gone", "frame", "age")]
    + [(n, np.float64) for n in ("time_s", "y", "x", "area_into", "area_gone", "cover", "major")]
)
"""A coalescence not yet believed: `gone` into `into`; areas before it, px²; cover: part of `gone` that the new label
of `into` covers; age: linked frames since, itself included; major: long axis of that label when it was new, px."""

_COVERED = 0.5  # an old particle is inside a new one when this much of it is
_TOUCHED = 0.05  # less than this is no contact
_SHRUNK = 0.6  # below this part of its largest recent area a particle was dissolving before it went
_ROUND_PX = 1.0  # a joint label that is less longer than the sphere is round already
Event = dict[str, Any]


def born(
    tracks: np.ndarray,
    columns: Mapping[str, np.ndarray],
    to_new: np.ndarray,
    shared: Overlaps,
    frame: int,
    time_s: float,
    covered: tuple[Rect | None, Rect],
    first: int,
    options: MeasureOptions,
) -> np.ndarray:
    """Tracks for the particles that no track claimed; `origin` tells what they will be once believed.

    tracks  : as they were before this frame, indexed by shared.old · to_new : their new particle or -1
    covered : what the frame before covered, None = there was none, and what this one covers
    first   : number of the first new track
    """
    free = np.ones(len(columns["label"]), bool)
    free[to_new[to_new >= 0]] = False
    j = np.flatnonzero(free)
    before, now = covered
    if before is None:
        return new_tracks(first, columns, j, np.full(len(j), BEGAN.index("start")), frame, time_s, options.rate_frames)
    parent = np.full(len(columns["label"]), -1)
    within = shared.pixels >= _COVERED * columns["area"][shared.new]
    parent[shared.new[within]] = tracks["track"][shared.old[within]]
    parent = parent[j]
    reach = options.search_px + columns["diameter"][j] / 2
    near = _near_edge(columns["y"][j], columns["x"][j], reach, (before, now)) | columns["touches_border"][j]
    origin = np.where(near, BEGAN.index("edge"), BEGAN.index("nucleation"))
    origin[parent >= 0] = BEGAN.index("split")
    new = new_tracks(first, columns, j, origin, frame, time_s, options.rate_frames)
    new["parent"] = parent
    return new


def _near_edge(y: np.ndarray, x: np.ndarray, reach: np.ndarray, covered: tuple[Rect, ...]) -> np.ndarray:
    """Whether the border of one of the covered areas is within reach, or the place is not covered at all."""
    near = np.zeros(len(y), bool)
    for y0, y1, x0, x1 in covered:
        near |= np.minimum(np.minimum(y - y0, y1 - 1 - y), np.minimum(x - x0, x1 - 1 - x)) < reach
    return near


def confirm_births(tracks: np.ndarray, options: MeasureOptions) -> list[Event]:
    """Tracks seen often enough are believed, in place; nucleations and splits become events."""
    events: list[Event] = []
    ripe = (tracks["began"] == 0) & (tracks["frames"] >= options.confirm) & (tracks["missed"] == 0)
    ripe |= (tracks["began"] == 0) & (np.isin(tracks["origin"], (BEGAN.index("start"), BEGAN.index("edge"))))
    for i in np.flatnonzero(ripe):
        t = tracks[i]
        tracks["began"][i] = t["origin"]
        kind = BEGAN[t["origin"]]
        if kind == "nucleation":
            events.append(_event(kind, t["track"], -1, t["first_frame"], t["first_time_s"], t["first_y"], t["first_x"]))
        elif kind == "split":
            tracks["other_track"][i] = t["parent"]
            events.append(
                _event(kind, t["parent"], t["track"], t["first_frame"], t["first_time_s"], t["first_y"], t["first_x"])
            )
    return events


def merges(
    tracks: np.ndarray,
    columns: Mapping[str, np.ndarray],
    to_new: np.ndarray,
    shared: Overlaps,
    frame: int,
    time_s: float,
) -> np.ndarray:
    """Tracks that just went out of sight where another track's new label lies: coalescences to be confirmed.

    tracks : as they were before this frame, indexed by shared.old
    """
    old = shared.old
    cover = shared.pixels / tracks["last_area"][old]
    owner = np.full(len(columns["label"]), -1)
    owner[to_new[to_new >= 0]] = np.flatnonzero(to_new >= 0)
    possible = np.flatnonzero((to_new[old] < 0) & (cover >= _TOUCHED) & (owner[shared.new] >= 0))
    possible = possible[np.argsort(cover[possible], kind="stable")]
    best = dict(zip(old[possible].tolist(), possible.tolist()))  # the largest cover stands
    rows = np.zeros(len(best), MERGE)
    for row, (gone, p) in zip(rows, best.items()):
        j = shared.new[p]
        into = tracks[owner[j]]
        row["into"], row["gone"], row["frame"], row["time_s"] = into["track"], tracks["track"][gone], frame, time_s
        row["y"], row["x"], row["cover"] = columns["y"][j], columns["x"][j], cover[p]
        row["area_into"], row["area_gone"] = into["area"], tracks["area"][gone]
        row["major"] = columns.get("major", columns["diameter"])[j]
    return rows


def settle_merges(pending: np.ndarray, tracks: np.ndarray, options: MeasureOptions) -> tuple[np.ndarray, list[Event]]:
    """Coalescences that lasted are judged by the volume; `tracks` are changed in place.

    A pair of spheres that became one has V = V1 + V2; seen from above its area lies between that of the one sphere,
    (A1^1.5 + A2^1.5)^(2/3), and that of the two side by side, A1 + A2. Where the new label covers less than half of the
    old particle, it must also have gained half of the volume that went. Two that only touch look like one to many a
    segmentation: the pair is believed when its long axis has gone half of the way to the joint sphere's, or when it
    stayed together for `contact` frames; a particle that is seen again before that keeps its track.
    returns : those still to wait for, events
    """
    place = {int(t): i for i, t in enumerate(tracks["track"])}
    waiting: list[int] = []
    events: list[Event] = []
    pending["age"] += 1
    for k, m in enumerate(pending):
        gone = place.get(int(m["gone"]))
        if gone is None or tracks["missed"][gone] == 0:
            continue  # it was seen again: no coalescence
        into = place.get(int(m["into"]))
        if m["age"] < options.confirm and into is not None:
            waiting.append(k)
            continue
        lived = tracks["frames"][gone] >= options.confirm
        if tracks["parent"][gone] == m["into"] and tracks["frames"][gone] <= options.contact:
            lived = False  # a seam that opened for a while: they were one all along
        together = pending[(pending["into"] == m["into"])]
        if lived and _volume_kept(m, together, None if into is None else tracks[into], options):
            if into is not None and m["age"] < options.contact and not _relaxed(m, together, tracks[into]):
                waiting.append(k)
                continue
            tracks["ended"][gone] = ENDED.index("coalescence")
            tracks["other_track"][gone] = m["into"]
            if into is not None:
                tracks["absorbed"][into] += volume(m["area_gone"])
            events.append(_event("coalescence", m["into"], m["gone"], m["frame"], m["time_s"], m["y"], m["x"]))
    return pending[waiting], events


def _volume_kept(m: np.void, together: np.ndarray, into: np.void | None, options: MeasureOptions) -> bool:
    if into is None:
        return bool(m["cover"] >= _COVERED)
    since = into["areas"][: max(int(m["age"]), 1)]
    now = float(np.median(since))
    gone, before = together["area_gone"], float(together["area_into"].min())
    sphere = (before**1.5 + (gone**1.5).sum()) ** (2 / 3)
    tolerance = options.volume_tolerance
    if not (1 - tolerance) * sphere <= now <= (1 + tolerance) * (before + gone.sum()):
        return False
    gain = (now**1.5 - before**1.5) / float((gone**1.5).sum())
    return bool(m["cover"] >= _COVERED or gain >= 0.5)


def _relaxed(m: np.void, together: np.ndarray, into: np.void) -> bool:
    """Whether the joint label has become about as round as one sphere; a pair that never was long cannot be told."""
    sphere = 2 * np.sqrt((m["area_into"] ** 1.5 + (together["area_gone"] ** 1.5).sum()) ** (2 / 3) / np.pi)
    way = m["major"] - sphere
    return bool(way < _ROUND_PX or into["major"] <= m["major"] - way / 2)


def deaths(tracks: np.ndarray, pending: np.ndarray, now: Rect, options: MeasureOptions) -> list[Event]:
    """Tracks unseen for longer than `memory` end, in place: at the edge, by dissolution or by detachment.

    Dissolution: it had shrunk before it went; detachment: it went as large as it was.
    A track that was never believed, or that was seen in fewer than `confirm` frames, is only "lost".
    """
    events: list[Event] = []
    waits = np.isin(tracks["track"], pending["gone"])
    over = (tracks["missed"] > options.memory) & (tracks["ended"] == 0) & ~waits
    reach = options.search_px + tracks["last_diameter"] / 2
    edge = _near_edge(tracks["y"], tracks["x"], reach, (now,)) | (tracks["at_edge"] > 0)
    for i in np.flatnonzero(over):
        t = tracks[i]
        if t["frames"] < options.confirm:
            kind = "lost"
        elif edge[i]:
            kind = "edge"
        else:
            kind = "dissolution" if t["last_area"] <= _SHRUNK * t["areas"].max() else "detachment"
            events.append(_event(kind, t["track"], -1, t["gone_frame"], t["gone_time"], t["y"], t["x"]))
        tracks["ended"][i] = ENDED.index(kind)
    return events


def _event(kind: str, track: Any, other: Any, frame: Any, time_s: Any, y: Any, x: Any) -> Event:
    return {
        "frame": int(frame),
        "time_s": float(time_s),
        "kind": kind,
        "track": int(track),
        "other_track": int(other),
        "y": float(y),
        "x": float(x),
    }
