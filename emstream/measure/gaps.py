"""The tracks of a whole run, linked anew with what came later known: gaps closed, brief contacts taken back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emstream.errors import BadImage
from emstream.measure import MeasureOptions
from emstream.measure.columns import rows
from emstream.measure.match import assigned
from emstream.measure.sightings import added, begun_with, rows_of, size
from emstream.measure.stretch import EVENT, SIGHT, Stretch, carried, link_stretch
from emstream.messages import Array, PixelSize, Rect

GAP = 30  # frames that a particle may be out of sight, or in another's label, and still be the same
_JOINS_TO = ("unconfirmed", "nucleation", "split", "edge")  # beginnings that may have been a coming back
_ORDER = ("frame", "kind", "track", "other_track", "y", "x")  # of events
_JOINS_FROM = ("lost", "dissolution", "detachment", "coalescence", "edge")


@dataclass(frozen=True, slots=True, eq=False)
class Relinked:
    """What `relink` found; the tables are ready to be written, in the units that the particles came in."""

    track: np.ndarray  # (n,) int64, for each row of the particles that were given, in their order
    tracks: dict[str, np.ndarray]  # rows of the tracks table
    events: dict[str, np.ndarray]  # rows of the events table, by frame
    closed: int  # gaps that were closed: tracks that the causal linker had told apart


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """The tracks of stretches that follow each other, over the whole run."""

    names: list[tuple[np.ndarray, np.ndarray]]  # of each stretch: its own numbers, rising, and those of the run
    tracks: dict[str, np.ndarray]  # rows of the tracks table
    events: dict[str, np.ndarray]  # rows of the events table, by frame
    closed: int
    first_area: np.ndarray  # px², of each row of tracks: with which it began
    last_area: np.ndarray  # px²: the median of the last three


def relink(
    particles: Mapping[str, Any],
    labels: Callable[[int], Array],
    frames: Sequence[int] | np.ndarray,
    time_s: np.ndarray,
    *,
    valid: Sequence[Rect] | np.ndarray | None = None,
    anchor: np.ndarray | None = None,
    pixel_size_nm: PixelSize | None = None,
    options: MeasureOptions | None = None,
    gap: int = GAP,
) -> Relinked:
    """Tracks and events of a run that is whole, from its particle table and its label images.

    The causal linker goes through the run once; then what it had to leave apart is joined over the whole run: ends and
    later beginnings of tracks are assigned to each other by place and size (the second step of Jaqaman et al., Nature
    Methods 5:695, 2008). A particle that was absorbed and parted again within `gap` frames had only touched: it keeps
    its track, and neither a coalescence nor a split is told. Memory grows with the tables, not with the images.

    particles : the particle table (frame, label, y_nm or y_px …, area…, diameter…, touches_border), any row order;
                a pandas frame or a mapping of columns
    labels    : frame → (y, x) integer labels on the aligned canvas, as the table's `label` counts them; called once for
                each frame, in rising order, one at a time
    frames    : (k,) the segmented frames, rising; those without particles too
    time_s    : (k,) seconds, of these frames
    valid     : (k, 4) y0, y1, x0, x1: what each of them covers; None = everything
    anchor    : (k,) int; labels of different anchors cannot be compared, tracks end there; None = one anchor
    pixel_size_nm : (y, x) nm per px when the table is in nm, None when it is in px
    gap       : most frames out of sight
    raises    : BadImage when the table lacks a column or the labels change their shape; FrameOutOfRange when frames do
                not rise
    """
    options = options or MeasureOptions()
    whole = link_stretch(in_px(particles, pixel_size_nm), labels, frames, time_s, valid, anchor, options)
    found = join([whole], frames, anchor, pixel_size_nm, options, gap)
    return Relinked(renamed(whole.track, *found.names[0]), found.tracks, found.events, found.closed)


def join(
    stretches: Sequence[Stretch],
    frames: Sequence[int] | np.ndarray,
    anchor: np.ndarray | None,
    pixel_size_nm: PixelSize | None,
    options: MeasureOptions,
    gap: int = GAP,
) -> Joined:
    """One numbering for stretches that cover a run and are `carried` one into the next, and its gaps closed.

    The result does not depend on where the run was cut, but for the last bits of sums over a track.

    stretches : in the order of time; their particles need not be held any more · the others: as `relink` takes them
    """
    names = _numbered(stretches, options)
    tracklets, told = _whole(stretches, names), _told(stretches, names)
    heir = _joined(tracklets, _anchors(tracklets, frames, anchor), options, gap)
    final, sums, tracks, events = _rewritten(tracklets, told, heir, pixel_size_nm, options)
    return Joined(
        [(own, final[number]) for own, number in names], tracks, events, int((heir >= 0).sum()),
        begun_with(sums["first_areas"]), size(sums["last_areas"]),
    )  # fmt: skip


def renamed(track: np.ndarray, own: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Tracks by other numbers; -1 stays. own : rising"""
    if not len(own):
        return np.full(len(track), -1, np.int64)
    return np.where(track >= 0, names[np.minimum(np.searchsorted(own, track), len(own) - 1)], -1)


def in_px(particles: Mapping[str, Any], size: PixelSize | None) -> dict[str, np.ndarray]:
    """What linking needs of the particle table. raises : BadImage when it lacks a column"""
    py, px = size or (1.0, 1.0)
    scale = {"y": py, "x": px, "area": py * px, "diameter": (py * px) ** 0.5, "major": (py * px) ** 0.5}
    out: dict[str, np.ndarray] = {}
    for name in ("frame", "time_s", *SIGHT):
        unit = "" if name not in scale else ("_px" if size is None else "_nm2" if name == "area" else "_nm")
        try:
            out[name] = np.asarray(particles[name + unit])
        except KeyError:
            raise BadImage(f"a particle table without {name}{unit}", "pass the run's pixel size, or None") from None
        if name in scale:
            out[name] = out[name] / scale[name]
    for name in ("frame", "label"):
        out[name] = out[name].astype(np.int64)
    return out


def _numbered(stretches: Sequence[Stretch], options: MeasureOptions) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each stretch its own numbers, rising, and those of the run: counted in the order of first sightings."""
    found, known, n = [], {}, 0  # type: list[tuple[np.ndarray, np.ndarray]], dict[int, int], int
    for k, stretch in enumerate(stretches):
        if k:
            names = carried(stretches[k - 1].after, stretch.before, options)
            assert names is not None, f"stretch {k} does not go on where the one before it ends"
            known = {theirs: known[ours] for theirs, ours in names.items() if theirs >= 0}
        for t in stretch.parts["track"].tolist():
            if t not in known:
                known[t] = n
                n += 1
        own = np.array(sorted(known), np.int64)
        found.append((own, np.array([known[t] for t in own.tolist()], np.int64)))
    never = np.iinfo(np.int64).max
    first, label = np.full(n, never), np.zeros(n, np.int64)
    for stretch, (own, number) in zip(stretches, found):
        to, frames = renamed(stretch.parts["track"], own, number), stretch.parts["frames"]
        fresh = (frames > 0) & (first[to] == never)
        first[to[fresh]], label[to[fresh]] = stretch.parts["first_frame"][fresh], stretch.parts["first_label"][fresh]
    rank = np.empty(n, np.int64)
    rank[np.lexsort((label, first))] = np.arange(n)
    return [(own, rank[number]) for own, number in found]


def _whole(stretches: Sequence[Stretch], names: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """The tracks of the run: how each began is told by the first of its parts that knows, how it ended by the last."""
    parts = {n: np.concatenate([s.parts[n] for s in stretches]) for n in stretches[0].parts}
    to = np.concatenate([renamed(s.parts["track"], *n) for s, n in zip(stretches, names)])
    other = np.concatenate([renamed(s.parts["other_track"], *n) for s, n in zip(stretches, names)])
    seen = parts["frames"] > 0
    out = added({n: v[seen] for n, v in parts.items() if n not in ("began", "ended", "other_track")}, to[seen])
    began, ended = np.full(len(out["track"]), "unconfirmed", "U16"), np.full(len(out["track"]), "", "U16")
    parent, into = np.full(len(began), -1), np.full(len(began), -1)
    for t, b, e, o in zip(to, parts["began"], parts["ended"], other):  # in the order of time
        if began[t] == "unconfirmed":
            began[t], parent[t] = b, o
        ended[t], into[t] = e, o
    return out | {"began": began, "ended": ended, "other_track": np.where(ended == "coalescence", into, parent)}


def _told(stretches: Sequence[Stretch], names: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[dict[str, Any]]:
    """The events of all stretches, one after the other."""
    out = []
    for stretch, n in zip(stretches, names):
        e = stretch.events | {who: renamed(stretch.events[who], *n) for who in ("track", "other_track")}
        out += [dict(zip(EVENT, row)) for row in zip(*(e[name].tolist() for name in EVENT))]
    return out


def _anchors(tracklets: Mapping[str, np.ndarray], frames: Any, anchor: np.ndarray | None) -> np.ndarray:
    if anchor is None:
        return np.zeros(len(tracklets["track"]), np.int64)
    return np.asarray(anchor)[np.searchsorted(np.asarray(frames), tracklets["first_frame"])]


def _joined(
    tracklets: Mapping[str, np.ndarray],
    anchor: np.ndarray,
    options: MeasureOptions,
    gap: int,
) -> np.ndarray:
    """The tracklet that each tracklet goes on as after a gap, -1 = none: rows of `tracklets`."""
    heir = np.full(len(tracklets["track"]), -1)
    old = np.flatnonzero(np.isin(tracklets["ended"], _JOINS_FROM))
    new = np.flatnonzero(np.isin(tracklets["began"], _JOINS_TO))
    if not len(old) or not len(new):
        return heir
    a, b = size(tracklets["last_areas"][old]), size(tracklets["first_areas"][new])
    reach = np.maximum(options.search_px, np.sqrt(a / np.pi) / 2)
    farthest = float(reach.max()) * math.sqrt(gap)
    slow = farthest / gap  # time as a third length, so that only what follows soon is looked at
    ends = np.column_stack((tracklets["last_y"][old], tracklets["last_x"][old], slow * tracklets["last_frame"][old]))
    starts = np.column_stack(
        (tracklets["first_y"][new], tracklets["first_x"][new], slow * tracklets["first_frame"][new])
    )
    from scipy.spatial import cKDTree  # late, as in match

    near = cKDTree(ends).query_ball_tree(cKDTree(starts), farthest * math.sqrt(2) * (1 + 1e-9))
    i = np.repeat(np.arange(len(old)), [len(n) for n in near])
    j = np.array([k for n in near for k in n], np.int64)
    missing = tracklets["first_frame"][new[j]] - tracklets["last_frame"][old[i]]
    distance = np.hypot(*(ends[i, :2] - starts[j, :2]).T) if len(i) else np.empty(0)
    ratio = np.log(a[i] / b[j])
    possible = (missing >= 1) & (missing <= gap) & (anchor[new[j]] == anchor[old[i]])
    possible &= np.abs(ratio) <= math.log(options.area_ratio)
    gate = reach[i] * np.sqrt(np.maximum(missing, 1))
    possible &= distance <= gate
    cost = (distance / gate) ** 2 + ratio**2 + missing / gap  # of two that fit alike the earlier one
    found = assigned(len(old), len(new), i[possible], j[possible], cost[possible])
    heir[old[found >= 0]] = new[found[found >= 0]]
    return heir


def _rewritten(
    tracklets: Mapping[str, np.ndarray],
    told: list[dict[str, Any]],
    heir: np.ndarray,
    size: PixelSize | None,
    options: MeasureOptions,
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Joined tracks take the number of their first part; events that the joining explains are taken back.

    tracklets : row k is track k · returns : the number that each track takes, what its sightings add up to,
    the tables of tracks and of events
    """
    final = np.arange(len(heir) + 1)
    final[-1] = -1  # of no track
    began, ended, other = tracklets["began"].copy(), tracklets["ended"].copy(), tracklets["other_track"].copy()
    chains: dict[int, tuple[list[int], list[int]]] = {}
    for first in np.setdiff1d(np.flatnonzero(heir >= 0), heir):
        parts = _chain(heir, int(first))
        final[parts] = first
        real = [k for k in parts if tracklets["frames"][k] >= options.confirm] or parts
        began[first], ended[first] = began[real[0]], ended[real[-1]]
        merged = ended[first] == "coalescence"
        other[first] = other[real[-1] if merged else real[0]]
        chains |= dict.fromkeys(parts, (parts, real))
    told = _once(told, chains, tracklets)
    for e in told:
        e["track"], e["other_track"] = int(final[e["track"]]), int(final[e["other_track"]])
    told = sorted((e for e in told if e["track"] != e["other_track"]), key=lambda e: tuple(e[n] for n in _ORDER))
    own = np.setdiff1d(np.arange(len(heir)), heir)
    ends = {"began": began[own], "ended": ended[own], "other_track": final[other[own]]}
    sums = added({n: v for n, v in tracklets.items() if n not in ends}, final[:-1])
    return (
        final,
        sums,
        rows("tracks", rows_of(sums) | ends, size),
        rows("events", {n: np.array([e[n] for e in told]) for n in EVENT}, size),
    )


def _chain(heir: np.ndarray, first: int) -> list[int]:
    parts = [first]
    while heir[parts[-1]] >= 0:
        parts.append(int(heir[parts[-1]]))
    return parts


def _once(
    told: list[dict[str, Any]], chains: Mapping[int, tuple[list[int], list[int]]], t: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Events without those that only told that one of the parts began or ended; the first and the last are told.

    chains : track → the parts of its chain, and those of them that were seen often enough; what their first and last was
             said to begin and end as stands, dated to the first and the last sighting of all parts
    """
    out = []
    for e in told:
        kind, who = e["kind"], int(e["other_track" if e["kind"] in ("split", "coalescence") else "track"])
        birth = kind in ("nucleation", "split")
        if who in chains:
            parts, real = chains[who]
            if who != real[0 if birth else -1]:
                continue
            k = parts[0] if birth else parts[-1]
            if birth and k != real[0]:
                e |= {"frame": int(t["first_frame"][k]), "time_s": float(t["first_time_s"][k])}
            elif not birth and k != real[-1]:
                e |= {"frame": int(t["last_frame"][k]) + 1, "time_s": float(t["last_time_s"][k])}
        out.append(e)
    return out
