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
from emstream.measure.roster import rows_of_tracks
from emstream.measure.track import finish, link, start_tracks
from emstream.messages import Array, PixelSize, Rect

EXTENT = 3  # sightings at a track's end whose median size and place stand for it
GAP = 30  # frames that a particle may be out of sight, or in another's label, and still be the same
_SIGHT = ("label", "y", "x", "area", "diameter", "major", "touches_border")
_JOINS_TO = ("unconfirmed", "nucleation", "split", "edge")  # beginnings that may have been a coming back
_JOINS_FROM = ("lost", "dissolution", "detachment", "coalescence", "edge")


@dataclass(frozen=True, slots=True, eq=False)
class Relinked:
    """What `relink` found; the tables are ready to be written, in the units that the particles came in."""

    track: np.ndarray  # (n,) int64, for each row of the particles that were given, in their order
    tracks: dict[str, np.ndarray]  # rows of the tracks table
    events: dict[str, np.ndarray]  # rows of the events table, by frame
    closed: int  # gaps that were closed: tracks that the causal linker had told apart


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
    table = _in_px(particles, pixel_size_nm)
    place = np.lexsort((table["label"], table["frame"]))
    begin = np.searchsorted(table["frame"][place], np.asarray(frames))
    end = np.searchsorted(table["frame"][place], np.asarray(frames), side="right")
    state, track, told, ended = start_tracks(options), np.full(len(place), -1, np.int64), [], []
    for k, frame in enumerate(int(f) for f in frames):
        at = place[begin[k] : end[k]]
        state, ids, events = link(
            state, labels(frame), {n: table[n][at] for n in _SIGHT}, frame, float(time_s[k]),
            valid=None if valid is None else tuple(int(v) for v in valid[k]),  # type: ignore[arg-type]
            anchor=0 if anchor is None else int(anchor[k]),
        )  # fmt: skip
        track[at] = ids
        told += events
        if state.finished is not None:
            ended.append(state.finished)
    ended.append(finish(state))
    tracklets = {n: np.concatenate([e[n] for e in ended]) for n in ended[0]}
    order = np.argsort(tracklets["track"])
    tracklets = {n: v[order] for n, v in tracklets.items()}
    heir = _joined(tracklets, _extents(table, track), _anchors(tracklets, frames, anchor), options, gap)
    return _rewritten(table, track, tracklets, told, heir, pixel_size_nm, options)


def _in_px(particles: Mapping[str, Any], size: PixelSize | None) -> dict[str, np.ndarray]:
    py, px = size or (1.0, 1.0)
    scale = {"y": py, "x": px, "area": py * px, "diameter": (py * px) ** 0.5, "major": (py * px) ** 0.5}
    out: dict[str, np.ndarray] = {}
    for name in ("frame", "time_s", *_SIGHT):
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


def _extents(table: Mapping[str, np.ndarray], track: np.ndarray) -> dict[str, np.ndarray]:
    """Of each track, in rising order: place and size at both ends, (n,) px."""
    order = np.lexsort((table["frame"], track))
    order = order[track[order] >= 0]
    first = np.flatnonzero(np.diff(track[order], prepend=-1))
    last = np.append(first[1:], len(order)) - 1
    out = {f"{end}_{axis}": table[axis][order[at]] for end, at in (("first", first), ("last", last)) for axis in "yx"}
    area = table["area"][order]
    inside = np.arange(EXTENT)
    out["first_area"] = np.median(area[np.minimum(first[:, None] + inside, last[:, None])], axis=1)
    out["last_area"] = np.median(area[np.maximum(last[:, None] - inside, first[:, None])], axis=1)
    return out


def _anchors(tracklets: Mapping[str, np.ndarray], frames: Any, anchor: np.ndarray | None) -> np.ndarray:
    if anchor is None:
        return np.zeros(len(tracklets["track"]), np.int64)
    return np.asarray(anchor)[np.searchsorted(np.asarray(frames), tracklets["first_frame"])]


def _joined(
    tracklets: Mapping[str, np.ndarray],
    extents: Mapping[str, np.ndarray],
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
    a, b = extents["last_area"][old], extents["first_area"][new]
    reach = np.maximum(options.search_px, np.sqrt(a / np.pi) / 2)
    farthest = float(reach.max()) * math.sqrt(gap)
    slow = farthest / gap  # time as a third length, so that only what follows soon is looked at
    ends = np.column_stack((extents["last_y"][old], extents["last_x"][old], slow * tracklets["last_frame"][old]))
    starts = np.column_stack((extents["first_y"][new], extents["first_x"][new], slow * tracklets["first_frame"][new]))
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
    table: Mapping[str, np.ndarray],
    track: np.ndarray,
    tracklets: Mapping[str, np.ndarray],
    told: list[dict[str, Any]],
    heir: np.ndarray,
    size: PixelSize | None,
    options: MeasureOptions,
) -> Relinked:
    """Joined tracks take the number of their first part; events that the joining explains are taken back."""
    number = tracklets["track"]
    renamed = np.arange(int(number.max(initial=-1)) + 2)
    renamed[-1] = -1  # of no track
    began, ended, other = tracklets["began"].copy(), tracklets["ended"].copy(), tracklets["other_track"].copy()
    for first in np.setdiff1d(np.flatnonzero(heir >= 0), heir):
        parts = _chain(heir, int(first))
        renamed[number[parts]] = number[first]
        real = [k for k in parts if tracklets["frames"][k] >= options.confirm] or parts
        began[first], ended[first] = began[real[0]], ended[real[-1]]
        merged = ended[first] == "coalescence"
        other[first] = other[real[-1] if merged else real[0]]
        told = _once(told, number, parts, real, tracklets)
    track = np.where(track >= 0, renamed[track], -1)
    for e in told:
        e["track"], e["other_track"] = int(renamed[e["track"]]), int(renamed[e["other_track"]])
    told = sorted((e for e in told if e["track"] != e["other_track"]), key=lambda e: (e["frame"], e["kind"]))
    own = np.setdiff1d(np.arange(len(heir)), heir)
    ends = {"began": began[own], "ended": ended[own], "other_track": renamed[other[own]]}
    names = ("frame", "time_s", "kind", "track", "other_track", "y", "x")
    return Relinked(
        track=track,
        tracks=rows("tracks", rows_of_tracks(table, track) | ends, size),
        events=rows("events", {n: np.array([e[n] for e in told]) for n in names}, size),
        closed=int((heir >= 0).sum()),
    )


def _chain(heir: np.ndarray, first: int) -> list[int]:
    parts = [first]
    while heir[parts[-1]] >= 0:
        parts.append(int(heir[parts[-1]]))
    return parts


def _once(
    told: list[dict[str, Any]], number: np.ndarray, parts: list[int], real: list[int], t: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Events without those that only told that one of the parts began or ended; the first and the last are told.

    real : the parts that were seen often enough; what their first and last was said to begin and end as stands, dated
           to the first and the last sighting of all parts
    """
    own = {int(number[k]) for k in parts}
    out = []
    for e in told:
        kind, who = e["kind"], int(e["other_track" if e["kind"] in ("split", "coalescence") else "track"])
        birth = kind in ("nucleation", "split")
        if who in own:
            if who != number[real[0 if birth else -1]]:
                continue
            k = parts[0] if birth else parts[-1]
            if birth and k != real[0]:
                e |= {"frame": int(t["first_frame"][k]), "time_s": float(t["first_time_s"][k])}
            elif not birth and k != real[-1]:
                e |= {"frame": int(t["last_frame"][k]) + 1, "time_s": float(t["last_time_s"][k])}
        out.append(e)
    return out
