"""One particle's past, and the events of a run, read from the tables of a stored (or growing) run."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emstream.store.run import Run
from emstream.view.shown import finite

MOST_POINTS = 1500  # of one particle's curve; longer ones are thinned evenly, first and last are kept
LAST_EVENTS = 50
_reading = threading.Semaphore(2)  # a long run's table is large: pages that ask at once wait for each other


def rows(
    run: Run, table: str, column: str, value: int, wanted: tuple[str, ...], frames: tuple[int, int] | None = None
) -> dict[str, np.ndarray]:
    """The rows of a table where `column` equals `value`; {} when there is no such table yet.

    wanted : names without unit (`diameter` finds diameter_nm or diameter_px); those that the table lacks are left out
    frames : the first and last frame in which to look; only for tables in the order of frames
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = run.path / "tables" / f"{table}.parquet"
    parts = sorted(path.glob("part-*.parquet"))
    if not parts:
        return {}
    called: dict[str, str] = {}
    with _reading:
        try:
            for name in pq.read_schema(parts[0]).names:
                plain = next((name.removesuffix(u) for u in ("_nm2", "_nm", "_px") if name.endswith(u)), name)
                called.setdefault(plain, name)
            columns = {plain: called[plain] for plain in wanted if plain in called}
            if column not in called:
                return {}
            parts = parts if frames is None else _holding(parts, frames)
            if not parts:
                return {}
            found = pq.read_table(
                parts, columns=list(columns.values()), filters=[(called[column], "=", value)], use_threads=False
            )
        except (OSError, pa.ArrowInvalid):  # being taken away, or damaged: `emstream check` says which
            return {}
    return {plain: found[name].to_numpy() for plain, name in columns.items()}


def _holding(parts: Sequence[Path], frames: tuple[int, int]) -> list[Path]:
    """Those of the parts that hold frames first..last; a handful of files is opened, however many there are."""
    import pyarrow.parquet as pq

    def ends(i: int) -> tuple[int, int]:
        """First and last frame of a part; an empty one stands where the one before it ends."""
        about = pq.read_metadata(parts[i])
        if not about.num_rows:
            return (ends(i - 1)[1],) * 2 if i else (-1, -1)
        column = about.schema.names.index("frame")
        found = [about.row_group(g).column(column).statistics for g in range(about.num_row_groups)]
        return min(s.min for s in found), max(s.max for s in found)

    first = bisect_left(range(len(parts)), frames[0], key=lambda i: ends(i)[1])
    last = bisect_right(range(len(parts)), frames[1], lo=first, key=lambda i: ends(i)[0])
    return list(parts[first:last])


def tracks_of(run: Run, frame: int, labels: np.ndarray) -> np.ndarray | None:
    """(n,) int64 track of each of `labels` in a frame; -1 = none. None when the frame is not in the table."""
    found = rows(run, "particles", "frame", frame, ("label", "track"), (frame, frame))
    if not len(found.get("label", ())) or "track" not in found:
        return None
    order = np.argsort(found["label"])
    known, track = found["label"][order], found["track"][order]
    at = np.minimum(np.searchsorted(known, labels), len(known) - 1)
    return np.where(known[at] == labels, track[at], -1).astype(np.int64)


def track(run: Run, number: int, points: bool = True) -> dict[str, Any] | None:
    """What `/api/runs/{run}/tracks/{track}` answers; None when no table knows the track.

    returns : track, unit (nm or px), points {frame, time_s, diameter, area, y, x, touches_border} in the order of
              frames (areas in unit²; {} when not asked for), seen (frames in which it was measured),
              first_frame, first_time_s, last_frame, began, ended, other_track (None while the track lives), events
    """
    columns = ("frame", "time_s", "diameter", "area", "y", "x", "touches_border")
    ended = rows(
        run, "tracks", "track", number,
        ("first_frame", "first_time_s", "last_frame", "frames", "began", "ended", "other_track"),
    )  # fmt: skip
    known = (int(ended["first_frame"][-1]), int(ended["last_frame"][-1])) if len(ended.get("ended", ())) else None
    found = rows(run, "particles", "track", number, columns, known) if points else {}
    happened = events(run, number)
    if not len(found.get("frame", ())) and not len(ended.get("ended", ())) and not happened:
        return None
    order = np.argsort(found["frame"], kind="stable") if found else np.empty(0, int)
    keep = order[np.unique(np.linspace(0, len(order) - 1, min(len(order), MOST_POINTS)).round().astype(int))]
    over = {name: column[-1].item() if hasattr(column[-1], "item") else column[-1] for name, column in ended.items()
            if len(column)}  # fmt: skip
    answer: dict[str, Any] = {
        "track": number,
        "unit": "px" if run.pixel_size_nm is None else "nm",
        "points": {name: plain(column[keep]) for name, column in found.items()},
        "seen": over.get("frames", len(order) if points else None),
        "first_frame": over.get("first_frame"),
        "first_time_s": over.get("first_time_s"),
        "last_frame": over.get("last_frame"),
        "began": over.get("began"),
        "ended": over.get("ended"),
        "other_track": None if over.get("other_track", -1) < 0 else over["other_track"],
        "events": happened,
    }
    if len(order):
        answer["first_frame"] = int(found["frame"][order[0]])
        answer["first_time_s"] = finite(float(found["time_s"][order[0]]))
        answer["last_frame"] = int(found["frame"][order[-1]])
    return answer


def events(run: Run, of: int | None = None) -> list[dict[str, Any]]:
    """The last events of a run in the order of frames, or all (at most 1000) of one track."""
    columns = ("frame", "time_s", "kind", "track", "other_track")
    if of is None:
        parts = [_last(run, columns)]
    else:
        parts = [rows(run, "events", name, of, columns) for name in ("track", "other_track")]
    found = [
        {name: value.item() if hasattr(value, "item") else value for name, value in zip(part, row)}
        for part in parts
        for row in zip(*part.values())
    ]
    found.sort(key=lambda e: (e["frame"], e["kind"]))
    return found[-1000 if of is not None else -LAST_EVENTS :]


def _last(run: Run, columns: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The newest rows of the events table: its parts are read from the last one back until there are enough."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables: list[pa.Table] = []
    with _reading:
        for part in sorted((run.path / "tables" / "events.parquet").glob("part-*.parquet"), reverse=True):
            try:
                tables.insert(0, pq.read_table(part, columns=list(columns), use_threads=False))
            except (OSError, pa.ArrowInvalid):
                continue
            if sum(t.num_rows for t in tables) >= 4 * LAST_EVENTS:  # told when believed, so a little out of order
                break
    if not tables:
        return {}
    table = pa.concat_tables(tables)
    return {name: table[name].to_numpy() for name in columns}


def plain(values: np.ndarray) -> list[Any]:
    """A column for JSON: NaN becomes None, lengths keep four decimals."""
    if values.dtype.kind != "f":
        return list(values.tolist())
    return [round(v, 4) if np.isfinite(v) else None for v in values.tolist()]
