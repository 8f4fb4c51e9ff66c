"""One stretch of a run linked by itself; whether it goes on where the stretch before it ended, told from both ends.

The linker remembers little: the living tracks with their latest sizes, and the coalescences not yet believed. Begun anew
some frames before a stretch, it comes to the same memory as one that saw the whole run, but for the numbers of the tracks.
Whether it did is looked at, not believed: `carried` compares what both remember. Where they differ the stretch is linked
again from what the one before remembers. So stretches that are linked by many give what one gives who links the whole run.
(Only where two links cost exactly the same may the order of the tracks decide.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from emstream.measure import MeasureOptions
from emstream.measure.fate import MERGE
from emstream.measure.roster import HISTORY, track_table
from emstream.measure.sightings import summed
from emstream.measure.track import TrackState, dump, finish, link, load, start_tracks
from emstream.messages import Array, Rect

EVENT = ("frame", "time_s", "kind", "track", "other_track", "y", "x")
SIGHT = ("label", "y", "x", "area", "diameter", "major", "touches_border")
_LIFE = ("began", "ended", "other_track")


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """What a stretch tells those who join it to others; all tracks by its own numbers."""

    track: np.ndarray  # (n,) int64 of each row of the particles that were given; -1 before the stretch
    parts: dict[
        str, np.ndarray
    ]  # rows of `sightings.summed` of every track in it, with began, ended ("" = lives on), other_track
    events: dict[str, np.ndarray]  # told in it, columns EVENT
    before: dict[str, np.ndarray]  # what was remembered where it begins: `dump` of the state without its label image
    after: dict[str, np.ndarray]  # and where it ends


def warm_up(options: MeasureOptions) -> int:
    """Segmented frames before a stretch after which the linker remembers what one who saw everything remembers."""
    return options.contact + options.memory + HISTORY + 1


def link_stretch(
    particles: Mapping[str, np.ndarray],
    labels: Callable[[int], Array],
    frames: Sequence[int] | np.ndarray,
    time_s: np.ndarray,
    valid: Sequence[Rect] | np.ndarray | None,
    anchor: np.ndarray | None,
    options: MeasureOptions,
    *,
    start: int = 0,
    end: bool = True,
    state: TrackState | None = None,
) -> Stretch:
    """Link the frames from `start` on; those before it only remind.

    particles : columns of the particles table in px: frame, time_s and SIGHT, (n,) each, in any order of rows
    labels, frames, time_s, valid, anchor : as `relink` takes them, for the frames of the stretch and those before
    end       : whether the run ends with it
    state     : begin with this memory instead of none; then no frames before `start`
    """
    place = np.lexsort((particles["label"], particles["frame"]))
    rows = np.asarray(particles["frame"])[place]
    low, high = (np.searchsorted(rows, np.asarray(frames), side) for side in ("left", "right"))
    state = state or start_tracks(options)
    track, told, gone, before = np.full(len(place), -1, np.int64), [], [], _memory(state)
    for k, frame in enumerate(int(f) for f in frames):
        at = place[low[k] : high[k]]
        state, ids, events = link(
            state, labels(frame), {n: particles[n][at] for n in SIGHT}, frame, float(time_s[k]),
            valid=None if valid is None else tuple(int(v) for v in valid[k]),  # type: ignore[arg-type]
            anchor=0 if anchor is None else int(anchor[k]),
        )  # fmt: skip
        if frame < start:
            before = _memory(state)
            continue
        track[at] = ids
        told += events
        if state.finished is not None:
            gone.append(state.finished)
    gone.append(finish(state) if end else track_table(state.tracks))
    lives = {name: np.concatenate([g[name] for g in gone]) for name in ("track", *_LIFE)}
    order = np.argsort(lives["track"])
    lives = {name: v[order] for name, v in lives.items()}
    table = {name: np.array([e[name] for e in told], "U16" if name == "kind" else None) for name in EVENT}
    return Stretch(track, _with_sightings(lives, summed(particles, track)), table, before, _memory(state))


def carried(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], options: MeasureOptions
) -> dict[int, int] | None:
    """What the stretch before a seam calls the tracks that the one after it remembers there; None: they remember differently.

    before, after : `Stretch.after` of the one, `Stretch.before` of the other
    """
    a, b = load(before, options), load(after, options)
    if (a.frame, a.anchor, len(a.tracks), len(a.merges)) != (b.frame, b.anchor, len(b.tracks), len(b.merges)):
        return None
    i, j = _order(a.tracks), _order(b.tracks)
    one, other = _matters(a, i), _matters(b, j)
    if not all(np.array_equal(one[name], other[name]) for name in one if name != "parent"):
        return None
    pairs = [*zip(b.tracks["track"][j], a.tracks["track"][i]), *zip(other["parent"], one["parent"])]
    p, q = (np.lexsort([m[n] for n in ("x", "y", "area_gone", "frame")]) for m in (a.merges, b.merges))
    for name in MERGE.names or ():
        if name in ("into", "gone"):
            pairs += zip(b.merges[name][q], a.merges[name][p])
        elif not np.array_equal(a.merges[name][p], b.merges[name][q]):
            return None
    names: dict[int, int] = {}
    back: dict[int, int] = {}
    for theirs, ours in pairs:
        if names.setdefault(int(theirs), int(ours)) != ours or back.setdefault(int(ours), int(theirs)) != theirs:
            return None
    return names


def resumed(memory: Mapping[str, np.ndarray], labels: Callable[[int], Array], options: MeasureOptions) -> TrackState:
    """A linker that goes on from what a stretch remembers where it ends; the label image is looked at again."""
    state = load(memory, options)
    if state.frame < 0:
        return state
    valid = tuple(int(v) for v in memory["valid"])
    return replace(state, labels=labels(state.frame), valid=valid)  # type: ignore[arg-type]


def _memory(state: TrackState) -> dict[str, np.ndarray]:
    arrays = {name: v for name, v in dump(replace(state, labels=None)).items() if name != "tally"}
    return arrays | {"valid": np.array(state.valid or (0, 0, 0, 0), np.int64)}


def _order(tracks: np.ndarray) -> np.ndarray:
    return np.lexsort([tracks[name] for name in ("label", "area", "x", "y", "last_frame")])


def _matters(state: TrackState, order: np.ndarray) -> dict[str, np.ndarray]:
    """All of the living tracks, in this order, that later links and events depend on, but for their numbers."""
    t, options = state.tracks[order], state.options
    new, away = t["began"] == 0, t["missed"] > 0
    near = np.isin(t["parent"], np.concatenate((t["track"], state.merges["into"])))  # it can still be joined with it
    kin = (t["parent"] >= 0) & (new | (near & (t["frames"] <= options.contact)))
    told: dict[str, Any] = {n: t[n] for n in ("label", "missed", "last_frame", "at_edge", "y", "x", "area", "areas")}
    told |= {n: t[n] for n in ("last_area", "last_diameter", "major")}
    told |= {n: np.where(away, t[n], 0) for n in ("gone_frame", "gone_time")}
    told |= {n: np.where(new, t[n], 0) for n in ("origin", "first_frame", "first_time_s", "first_y", "first_x")}
    enough = np.where(new | kin, max(options.contact + 1, options.confirm), options.confirm)
    return told | {"new": new, "frames": np.minimum(t["frames"], enough), "parent": np.where(kin, t["parent"], -1)}


def _with_sightings(lives: dict[str, np.ndarray], seen: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows of `seen` beside those of `lives`; 0 or NaN for a track that was not seen in the stretch."""
    at = np.searchsorted(lives["track"], seen["track"])
    out = dict(lives)
    for name, value in seen.items():
        if name != "track":
            out[name] = np.zeros((len(lives["track"]), *value.shape[1:]), value.dtype)
            out[name][at] = value
    return out
