"""Particles followed from frame to frame, causally and in bounded memory, with what happens to them as events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from emstream.arrays import to_host
from emstream.errors import BadImage, FrameOutOfRange
from emstream.measure import MeasureOptions
from emstream.measure.ensemble import COALESCED, COUNTED, RIPENED, ensemble, no_tally, ripened
from emstream.measure.fate import MERGE, born, confirm_births, deaths, merges, settle_merges
from emstream.measure.match import by_distance, by_overlap, overlaps
from emstream.measure.recent import forget, rates
from emstream.measure.roster import ENDED, TRACK, sight, track_table, volume
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
    tally: np.ndarray = field(default_factory=no_tally)  # what happened since the run began
    finished: Mapping[str, np.ndarray] | None = None  # rows of the tracks table that the newest frame completed
    kinetics: Mapping[str, Any] | None = None  # row of the kinetics table of the newest frame, px


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
        tally = state.tally.copy()
        tally[RIPENED] += ripened(lost, state.merges).sum()
        state = TrackState(state.options, anchor=anchor, next_track=state.next_track, tally=tally)
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
    _see(tracks, columns, to_new, frame, time_s, options)
    forget(tracks, np.isin(tracks["track"], begun["into"]))
    tracks = np.concatenate((tracks, new))
    events = confirm_births(tracks, options)
    pending, merged = settle_merges(np.concatenate((state.merges, begun)), tracks, options)
    died = deaths(tracks, pending, covered, options)
    ended = tracks["ended"] > 0
    told = events + merged + died
    tally = _counted(state.tally, told, tracks[ended], pending, np.concatenate((state.merges, begun)))
    after = replace(
        state,
        frame=frame,
        anchor=anchor,
        next_track=state.next_track + len(new),
        valid=covered,
        labels=labels,
        tracks=tracks[~ended],
        merges=pending,
        tally=tally,
        finished=track_table(np.concatenate((lost, tracks[ended]))),
        kinetics=ensemble(columns, covered, tracks[~ended], pending, tally),
    )
    return after, ids, told


def now(state: TrackState, ids: np.ndarray) -> dict[str, np.ndarray]:
    """What the particles of the newest frame do, columns for the particles table: growth, growth_error, px/s, and
    diameter_error, px, of the track of each; NaN where too little was seen of it.

    ids : (n,) as `link` returned them
    """
    order = np.argsort(state.tracks["track"])
    known = state.tracks["track"][order]
    at = np.minimum(np.searchsorted(known, ids), max(len(known) - 1, 0))
    found = known[at] == ids if len(known) else np.zeros(len(ids), bool)
    return {
        name: np.where(found, value[order][at], np.nan) if len(known) else np.full(len(ids), np.nan)
        for name, value in rates(state.tracks).items()
    }


def _counted(
    tally: np.ndarray, told: list[dict[str, Any]], ended: np.ndarray, pending: np.ndarray, merging: np.ndarray
) -> np.ndarray:
    """The tally with this frame's events, and what the tracks that ended had gained."""
    tally = tally.copy()
    for e in told:
        tally[COUNTED.index(e["kind"])] += 1
        if e["kind"] == "coalescence":
            gone = merging[merging["gone"] == e["other_track"]]
            tally[COALESCED] += float(volume(gone["area_gone"]).sum())
    tally[RIPENED] += float(ripened(ended, pending).sum())
    return tally


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


def _see(
    tracks: np.ndarray,
    columns: Mapping[str, np.ndarray],
    to_new: np.ndarray,
    frame: int,
    time_s: float,
    options: MeasureOptions,
) -> None:
    """Writes the new sighting into the tracks that have one; the others were missed once more."""
    lost = to_new < 0
    at = np.flatnonzero(~lost)
    sight(tracks, at, columns, to_new[at], frame, time_s, options.rate_frames)
    first = lost & (tracks["missed"] == 0)
    tracks["gone_frame"][first], tracks["gone_time"][first] = frame, time_s
    tracks["missed"][lost] += 1
    tracks["label"][lost] = 0


def dump(state: TrackState) -> dict[str, np.ndarray]:
    """The state as plain arrays, for resume; `load` reads it back."""
    out = {f"tracks.{n}": np.ascontiguousarray(state.tracks[n]) for n in TRACK.names or ()}
    out |= {f"merges.{n}": np.ascontiguousarray(state.merges[n]) for n in MERGE.names or ()}
    out["tally"] = state.tally
    out["numbers"] = np.array([state.frame, state.anchor, state.next_track], np.int64)
    if state.labels is not None and state.valid is not None:
        out["labels"] = to_host(state.labels).astype(np.int32, copy=False)
        out["valid"] = np.array(state.valid, np.int64)
    return out


def load(arrays: Mapping[str, np.ndarray], options: MeasureOptions | None = None) -> TrackState:
    """The state that `dump` wrote. raises : KeyError when arrays are missing"""
    frame, anchor, next_track = (int(v) for v in arrays["numbers"])
    tracks = np.zeros(len(arrays["tracks.track"]), TRACK)
    merges = np.empty(len(arrays["merges.into"]), MERGE)
    for name in TRACK.names or ():
        tracks[name] = arrays.get(f"tracks.{name}", 0)  # a state saved by an older emstream lacks some
    for name in MERGE.names or ():
        merges[name] = arrays.get(f"merges.{name}", 0)
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
        arrays.get("tally", no_tally()),
    )
