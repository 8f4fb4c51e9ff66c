"""The tracks of a whole run gone through once more, frame by frame: what each does, and what all do together.

Live, `track.link` finds out who is who as the frames come. Here that is known to the end, gaps closed; the same roster is
kept of it and the same is asked: `recent.rates` of each track, `ensemble` of all. What is known better with hindsight: a
track is believed from its first frame on, one out of sight is missed only when it comes back, an event counts from the
frame that it is told of. A stretch of a run needs few frames before it, and of older ones a row for each living track.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from emstream.measure import MeasureOptions
from emstream.measure.columns import TABLES
from emstream.measure.ensemble import COALESCED, COUNTED, RIPENED, ensemble, no_tally, ripened
from emstream.measure.fate import MERGE
from emstream.measure.gaps import Joined, renamed
from emstream.measure.recent import forget, rates
from emstream.measure.roster import BEGAN, FIRST, HISTORY, TRACK, new_tracks, sight, volume
from emstream.measure.stretch import SIGHT, Stretch
from emstream.messages import Rect

FORGOTTEN = 10  # times `rate_frames`: what is older has 0.3 % of the leverage on a slope
_NO_MERGES = np.empty(0, MERGE)
_TOLD = ("frame", "kind", "track", "volume")  # of an event; kind: its place in `COUNTED`


def remembered(options: MeasureOptions) -> int:
    """Segmented frames before a stretch with which it comes to the rates that one has who saw everything."""
    return max(math.ceil(FORGOTTEN * options.rate_frames), HISTORY, FIRST)


def lives(
    joined: Joined,
    stretches: Sequence[Stretch],
    spans: Sequence[tuple[int, int]],
    frames: np.ndarray,
    options: MeasureOptions,
) -> Iterator[dict[str, np.ndarray]]:
    """What `retrace` has to know of each stretch, small.

    spans   : first frame of each stretch and the one after its last · frames : (k,) the run's segmented frames
    returns : `first`, the frame with which to begin; `life.…`, a row for each track that is seen in the stretch; `told.…`, the
              events from `first` on; `tally`, what had happened before the stretch
    """
    names = joined.tracks["track"]
    began = np.array([BEGAN.index(b) for b in joined.tracks["began"].tolist()], np.int32)
    told = _events(joined)
    cut, absorbed, tally = np.zeros(len(names), bool), np.zeros(len(names)), no_tally()
    for stretch, own_names, (start, stop) in zip(stretches, joined.names, spans):
        seen = stretch.parts["frames"] > 0
        at = np.searchsorted(names, renamed(stretch.parts["track"][seen], *own_names))
        here = np.unique(at)
        k = int(np.searchsorted(frames, start))
        first = int(frames[max(0, k - remembered(options))]) if len(frames) else start
        last = stop if stop < spans[-1][1] else np.iinfo(np.int64).max
        near = (told["frame"] >= first) & (told["frame"] < last)
        yield {
            "first": np.array(first),
            "tally": tally.copy(),
            "life.track": names[here],
            "life.began": began[here],
            "life.last_frame": joined.tracks["last_frame"][here],
            "life.first_area": joined.first_area[here],
            "life.absorbed": absorbed[here],
            "life.cut": cut[here],
            **{f"told.{n}": told[n][near] for n in _TOLD},
        }
        cut[at[stretch.parts["cut"][seen]]] = True
        happened = near & (told["frame"] >= start)
        _count(tally, told, happened)
        brought = happened & (told["volume"] > 0)
        np.add.at(absorbed, np.searchsorted(names, told["track"][brought]), told["volume"][brought])


def retrace(
    particles: Mapping[str, np.ndarray],
    track: np.ndarray,
    known: Mapping[str, np.ndarray],
    frames: np.ndarray,
    time_s: np.ndarray,
    valid: Sequence[Rect] | np.ndarray,
    options: MeasureOptions,
    *,
    start: int,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], float]:
    """Rows of the kinetics table of a stretch, and what its particles do.

    particles : columns of the particles table in px: frame and SIGHT, (n,) each, from frame known["first"] on
    track     : (n,) int64, their tracks in the run · known : what `lives` tells of the stretch
    frames    : (k,) the segmented frames from known["first"] on; time_s (k,), valid (k, 4) of them
    start     : first frame of the stretch
    returns   : growth, growth_error, px/s, and diameter_error, px, (n,) each, NaN before the stretch; the columns of the
                kinetics table, px, of the stretch's frames, but `ripened` without what tracks that ended before it had
                gained; px³ that tracks which end in it gained
    """
    life = {n.removeprefix("life."): v for n, v in known.items() if n.startswith("life.")}
    told = {n: known[f"told.{n}"] for n in _TOLD}
    roster, tally = np.zeros(len(life["track"]), TRACK), known["tally"].copy()
    now = {n: np.full(len(track), np.nan) for n in ("growth", "growth_error", "diameter_error")}
    place = np.lexsort((particles["label"], particles["frame"]))
    place = place[np.isin(track[place], life["track"])]
    low, high = (np.searchsorted(particles["frame"][place], frames, side) for side in ("left", "right"))
    table: list[dict[str, Any]] = []
    alive, before = np.zeros(len(roster), bool), -1
    for k, frame in enumerate(int(f) for f in frames):
        here = place[low[k] : high[k]]
        columns = {n: particles[n][here] for n in SIGHT}
        at = np.searchsorted(life["track"], track[here])
        _see(roster, life, at, columns, frame, float(time_s[k]), options)
        gone = alive & (life["last_frame"] < frame)
        alive = (roster["frames"] > 0) & (life["last_frame"] >= frame)
        happened = (told["frame"] > before) & (told["frame"] <= frame)
        joined = happened & (told["volume"] > 0)
        forget(roster, np.isin(life["track"], told["track"][joined]))
        before = frame
        if frame < start:
            continue
        for i in np.flatnonzero(joined):
            roster["absorbed"][life["track"] == told["track"][i]] += told["volume"][i]
        _count(tally, told, happened & (told["frame"] >= start))
        tally[RIPENED] += ripened(roster[gone], _NO_MERGES).sum()
        for name, value in rates(roster[at]).items():
            now[name][here] = value
        y0, y1, x0, x1 = (int(v) for v in valid[k])
        row = ensemble(columns, (y0, y1, x0, x1), roster[alive], _NO_MERGES, tally)
        table.append({"frame": frame, "time_s": time_s[k], **row})
    names = [c.name for c in TABLES["kinetics"]]
    left = tally[RIPENED] + ripened(roster[alive & (life["last_frame"] <= before)], _NO_MERGES).sum()
    return now, {n: np.array([row[n] for row in table], np.float64) for n in names}, float(left)


def _see(
    roster: np.ndarray,
    life: Mapping[str, np.ndarray],
    at: np.ndarray,
    columns: Mapping[str, np.ndarray],
    frame: int,
    time_s: float,
    options: MeasureOptions,
) -> None:
    """A frame's particles written into the rows `at` of the roster; who is alive and not seen was missed once more."""
    away = (roster["frames"] > 0) & (life["last_frame"] >= frame)
    away[at] = False
    fresh = roster["frames"][at] == 0
    new, old = np.flatnonzero(fresh), np.flatnonzero(~fresh)
    begun = new_tracks(0, columns, new, life["began"][at[new]], frame, time_s, options.rate_frames)
    begun["track"], begun["began"] = life["track"][at[new]], life["began"][at[new]]
    begun["absorbed"] = life["absorbed"][at[new]]
    begun["touched_border"] |= life["cut"][at[new]]
    roster[at[new]] = begun
    sight(roster, at[old], columns, old, frame, time_s, options.rate_frames)
    roster["first_area"][at] = life["first_area"][at]
    roster["missed"][away] += 1


def _events(joined: Joined) -> dict[str, np.ndarray]:
    """What a tally counts, by frame; the volume that went over by a coalescence, px³, 0 for others."""
    e, names = joined.events, joined.tracks["track"]
    kind = np.array([COUNTED.index(k) for k in e["kind"].tolist()], np.int64)
    gone = np.searchsorted(names, e["other_track"])
    known = (kind == COUNTED.index("coalescence")) & (gone < len(names))
    known[known] = names[gone[known]] == e["other_track"][known]
    brought = np.zeros(len(kind))
    brought[known] = volume(joined.last_area[gone[known]])
    return {"frame": e["frame"], "kind": kind, "track": e["track"], "volume": brought}


def _count(tally: np.ndarray, told: Mapping[str, np.ndarray], which: np.ndarray) -> None:
    """Events into a tally, in place."""
    tally[: len(COUNTED)] += np.bincount(told["kind"][which], minlength=len(COUNTED))
    tally[COALESCED] += told["volume"][which].sum()
