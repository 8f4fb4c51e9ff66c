"""Particles followed from frame to frame, causally and in bounded memory, with what happens to them as events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from emstream.arrays import to_host
from emstream.errors import BadImage, FrameOutOfRange
from emstream.measure import MeasureOptions
from emstream.measure.fate import MERGE, born, confirm_births, deaths, merges, settle_merges
from emstream.measure.match import by_distance, by_overlap, overlaps
from emstream.measure.roster import ENDED, TRACK, sight, track_table
from emstream.messages import Array, Rect


@dataclass(frozen=True, slots=True, eq=False)
class TrackState:
    """All that the linker remembers: one label image, the living tracks, the coalescences not yet believed."""

    options: MeasureOptions
    frame: int = -1  # newest frame linked; -1 = none yet
    anchor: int = 0  # labels of different anchors cannot be compared
    next_track: int = 0
    valid: Rect | None = None  # what the newest frame covers
    labels: Array | None = None  # (y, x) labels of the newest frame
    tracks: np.ndarray = field(default_factory=lambda: np.empty(0, TRACK))  # living: seen within `memory`
    merges: np.ndarray = field(default_factory=lambda: np.empty(0, MERGE))
    finished: Mapping[str, np.ndarray] | None = None  # rows of the tracks table that the newest frame completed


def start_tracks(options: MeasureOptions | None = None) -> TrackState:
    """A linker that has seen nothing."""
    return TrackState(options or MeasureOptions())


def link(
    state: TrackState,
    labels: Array,
    columns: Mapping[str, np.ndarray],
    frame: int,
    time_s: float,
    *,
    valid: Rect | None = None,
    anchor: int = 0,
) -> tuple[TrackState, np.ndarray, list[dict[str, Any]]]:
    """The track of every particle of the next frame, and what is now known to have happened.

    labels  : (y, x) integer on the aligned canvas, numpy or cupy; kept until the next call: do not write into it
    columns : what `particles(labels, …)` returned
    frame   : rising from call to call; frames may be left out
    valid   : the covered pixels; nothing is born or dies outside or at the edge of them
    anchor  : when it changes, all tracks end ("lost") and new ones start
    returns : the new state (its `finished` holds the tracks that just ended, in px, as `rows("tracks", …)` wants
              them) · (n,) int64 track of each row of `columns` · events: dicts with the inner names of the events
              table (frame, time_s, kind, track, other_track, y, x in px). An event is told once it is believed,
              `confirm` or `memory` frames after the frame that it names
    raises  : FrameOutOfRange when frames do not rise, BadImage when the canvas changes its shape
    """
    if frame <= state.frame:
        raise FrameOutOfRange(f"frame {frame} cannot be linked after frame {state.frame}", "link frames in their order")
    covered: Rect = valid or (0, labels.shape[0], 0, labels.shape[1])
    lost = np.empty(0, TRACK)
    if anchor != state.anchor and state.frame >= 0:
        lost = state.tracks.copy()
        lost["ended"] = ENDED.index("lost")
        state = TrackState(state.options, anchor=anchor, next_track=state.next_track)
    if state.labels is not None and state.labels.shape != labels.shape:
        raise BadImage(
            f"frame {frame}: labels are {labels.shape}, those before were {state.labels.shape}",
            "one canvas has one shape; pass a new anchor when it changes",
        )
    tracks, options = state.tracks.copy(), state.options
    seen = np.flatnonzero(tracks["label"] > 0)
    shared = overlaps(
        state.labels if state.labels is not None else labels, labels, tracks["label"][seen], columns["label"]
    )
    to_new = np.full(len(tracks), -1)
    to_new[seen] = by_overlap(shared, tracks["area"][seen], columns["area"], options.area_ratio)
    shared = replace(shared, old=seen[shared.old])
    _leftovers(to_new, tracks, columns, frame, options)

    new = born(tracks, columns, to_new, shared, frame, time_s, (state.valid, covered), state.next_track, options)
    begun = merges(tracks, columns, to_new, shared, frame, time_s)
    ids = np.full(len(columns["label"]), -1, np.int64)
    ids[to_new[to_new >= 0]] = tracks["track"][to_new >= 0]
    ids[ids < 0] = new["track"]
    _see(tracks, columns, to_new, frame, time_s)
    tracks = np.concatenate((tracks, new))
    events = confirm_births(tracks, options)
    pending, merged = settle_merges(np.concatenate((state.merges, begun)), tracks, options)
    died = deaths(tracks, pending, covered, options)
    ended = tracks["ended"] > 0
    after = replace(
        state,
        frame=frame,
        anchor=anchor,
        next_track=state.next_track + len(new),
        valid=covered,
        labels=labels,
        tracks=tracks[~ended],
        merges=pending,
        finished=track_table(np.concatenate((lost, tracks[ended]))),
    )
    return after, ids, events + merged + died


def finish(state: TrackState) -> dict[str, np.ndarray]:
    """The tracks that were alive at the end of the movie, as rows of the tracks table (px)."""
    tracks = state.tracks.copy()
    tracks["ended"] = np.where(tracks["missed"] > 0, ENDED.index("lost"), ENDED.index("end"))
    return track_table(tracks)


def _leftovers(
    to_new: np.ndarray, tracks: np.ndarray, columns: Mapping[str, np.ndarray], frame: int, options: MeasureOptions
) -> None:
    """Links by distance and size what overlap left over, in place."""
    free = np.ones(len(columns["label"]), bool)
    free[to_new[to_new >= 0]] = False
    old, new = np.flatnonzero(to_new < 0), np.flatnonzero(free)
    rows = tracks[old]
    reach = np.maximum(options.search_px, np.sqrt(rows["area"] / np.pi) / 2)
    found = by_distance(
        np.column_stack((rows["y"], rows["x"])),
        np.column_stack((columns["y"][new], columns["x"][new])),
        reach * np.sqrt(np.maximum(frame - rows["last_frame"], 1)),
        rows["area"],
        columns["area"][new],
        options.area_ratio,
    )
    hit = found >= 0
    to_new[old[hit]] = new[found[hit]]


def _see(tracks: np.ndarray, columns: Mapping[str, np.ndarray], to_new: np.ndarray, frame: int, time_s: float) -> None:
    """Writes the new sighting into the tracks that have one; the others were missed once more."""
    lost = to_new < 0
    first = lost & (tracks["missed"] == 0)
    tracks["gone_frame"][first], tracks["gone_time"][first] = frame, time_s
    tracks["missed"][lost] += 1
    tracks["label"][lost] = 0
    at = np.flatnonzero(~lost)
    sight(tracks, at, columns, to_new[at], frame, time_s)


def dump(state: TrackState) -> dict[str, np.ndarray]:
    """The state as plain arrays, for resume; `load` reads it back."""
    out = {f"tracks.{n}": np.ascontiguousarray(state.tracks[n]) for n in TRACK.names or ()}
    out |= {f"merges.{n}": np.ascontiguousarray(state.merges[n]) for n in MERGE.names or ()}
    out["numbers"] = np.array([state.frame, state.anchor, state.next_track], np.int64)
    if state.labels is not None and state.valid is not None:
        out["labels"] = to_host(state.labels).astype(np.int32, copy=False)
        out["valid"] = np.array(state.valid, np.int64)
    return out


def load(arrays: Mapping[str, np.ndarray], options: MeasureOptions | None = None) -> TrackState:
    """The state that `dump` wrote. raises : KeyError when arrays are missing"""
    frame, anchor, next_track = (int(v) for v in arrays["numbers"])
    tracks = np.empty(len(arrays["tracks.track"]), TRACK)
    merges = np.empty(len(arrays["merges.into"]), MERGE)
    for name in TRACK.names or ():
        tracks[name] = arrays[f"tracks.{name}"]
    for name in MERGE.names or ():
        merges[name] = arrays[f"merges.{name}"]
    valid = arrays.get("valid")
    return TrackState(
        options or MeasureOptions(),
        frame,
        anchor,
        next_track,
        None if valid is None else (int(valid[0]), int(valid[1]), int(valid[2]), int(valid[3])),
        arrays.get("labels"),
        tracks,
        merges,
    )
