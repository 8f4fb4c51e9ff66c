"""Tracks of a whole run in stretches of blocks: each linked by a task, then joined; no task holds the run's particles.

    link_stretches   linked/S.npz   stretch S by itself, begun some frames earlier to remember what lives
    unsettled        the leader looks whether each goes on where the one before it ended; where not, it is linked again
    stitch           one task: numbers of the whole run, gaps closed, the tables of tracks and events; named/S.npz
    name_particles   the particle table, a part for each stretch; the tracks gone through once more; traced/S.npz
    write_kinetics   one task: the kinetics table, a part for each stretch

What comes out does not depend on where the run was cut (see `measure.stretch`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from emstream import measure
from emstream.jobs.block import COLUMNS
from emstream.jobs.files import load_arrays, save_arrays
from emstream.jobs.job import Job
from emstream.measure.gaps import in_px, join, renamed
from emstream.measure.retrace import lives, retrace
from emstream.measure.stretch import SIGHT, Stretch, carried, link_stretch, resumed, warm_up
from emstream.messages import Status
from emstream.store.layout import SHARD_INNER
from emstream.store.tables import write_part, write_table

_KINDS = ("parts", "events", "before", "after")


def link_stretches(job: Job, numbers: Sequence[int], again: bool = False) -> list[dict[str, Any]]:
    """Stretches linked, one after the other; each leaves linked/S.npz.

    again : from what the stretch before remembers, whether or not it was linked already
    """
    return [_link(job, s, again) for s in numbers]


def unsettled(job: Job) -> list[int]:
    """Stretches that do not go on where the one before them ends; the first of neighbours only. Numbers only are read."""
    out: list[int] = []
    options, before = job.settings.measure, None
    for s in range(len(job.stretches)):
        after = _pick(job, s, "before")
        if before is not None and s - 1 not in out and carried(before, after, options) is None:
            out.append(s)
        before = _pick(job, s, "after")
    return out


def stitch(job: Job) -> dict[str, Any]:
    """The tables of tracks and events, and named/S.npz of each stretch: its own numbers, and those of the run.

    returns : {"tracks"}
    """
    size = job.archive.pixel_size_nm
    found = [_stretch(job, s, rows=False) for s in range(len(job.stretches))]
    columns = columns_of(job, ("status", "anchor"))
    frames = _segmented(columns["status"])
    joined = join(found, frames, columns["anchor"][frames], size, job.settings.measure)
    spans = [(job.span(blocks[0])[0], job.span(blocks[-1])[1]) for blocks in job.stretches]
    for s, known in enumerate(lives(joined, found, spans, frames, job.settings.measure)):
        own, names = joined.names[s]
        save_arrays(job.file("named", s, ".npz"), {"own": own, "names": names, **known})
    for name, rows in (("tracks", joined.tracks), ("events", joined.events)):
        schema = measure.schema(name, size is not None)  # type: ignore[arg-type]
        table = {c: np.asarray(rows[c]).astype(t) for c, t in schema.items()}
        write_table(job.tables / f"{name}.parquet", table, job.settings.store.fsync)
    return {"tracks": len(joined.tracks["track"])}


def name_particles(job: Job, numbers: Sequence[int]) -> int:
    """The particle table's parts of these stretches; each leaves traced/S.npz. How many rows."""
    n = 0
    for s in numbers:
        rows = _particles(job, job.stretches[s])
        track, does = _traced(job, s)
        rows["track"] = track.astype(rows["track"].dtype)
        rows |= {name: v for name, v in measure.to_physical(does, job.archive.pixel_size_nm).items() if name in rows}
        write_part(job.tables / "particles.parquet", s + 1, rows, job.settings.store.fsync)
        n += len(rows["track"])
    return n


def write_kinetics(job: Job) -> None:
    """The kinetics table, a part for each stretch; one stretch is held at a time."""
    gained, table = 0.0, job.tables / "kinetics.parquet"
    for s in range(len(job.stretches)):
        path = job.file("traced", s, ".npz")
        columns = _of_kind(path, "kinetics")
        columns["ripened"] = columns["ripened"] + gained
        gained += float(_open(path, ("left",))["left"])
        rows = measure.rows("kinetics", columns, job.archive.pixel_size_nm)
        write_part(table, s + 1, rows, job.settings.store.fsync)


def columns_of(job: Job, names: Sequence[str] = COLUMNS) -> dict[str, np.ndarray]:
    """Columns of all frames."""
    stretches = range(len(job.stretches))
    found = [_open(job.file("linked", s, ".npz"), [f"columns.{n}" for n in names]) for s in stretches]
    return {n: np.concatenate([f[f"columns.{n}"] for f in found]) for n in names}


# ---- one stretch -------------------------------------------------------------------------------------------------


def _link(job: Job, s: int, again: bool) -> dict[str, Any]:
    blocks, options, labels = job.stretches[s], job.settings.measure, _labels_of(job)
    start, stop = job.span(blocks[0])[0], job.span(blocks[-1])[1]
    told = {"stretch": s, "frames": stop - start}
    if not again and load_arrays(job.file("linked", s, ".npz")) is not None:
        return told
    columns = _columns(job, blocks)
    arrays = {f"columns.{n}": v for n, v in columns.items()}
    first, state = blocks[0], None
    if again:
        state = resumed(_pick(job, s - 1, "after"), labels, options)
    else:
        while first and len(_segmented(columns["status"])) - len(_segmented(arrays["columns.status"])) < warm_up(
            options
        ):
            first -= 1
            earlier = _columns(job, range(first, first + 1))
            columns = {n: np.concatenate((earlier[n], v)) for n, v in columns.items()}
    begin = job.span(first)[0]
    frames = begin + _segmented(columns["status"])
    frames = frames[max(0, int(np.searchsorted(frames, start)) - warm_up(options)) :]
    at = frames - begin
    rows = in_px(_particles(job, range(first, blocks[-1] + 1), linking=True), job.archive.pixel_size_nm)
    rows = {n: v[rows["frame"] >= frames[0]] for n, v in rows.items()} if len(frames) else rows
    made = link_stretch(
        rows, labels, frames, columns["time_s"][at], columns["valid"][at], columns["anchor"][at], options,
        start=start, end=stop == job.n, state=state,
    )  # fmt: skip
    arrays["track"] = made.track[rows["frame"] >= start]
    for kind in _KINDS:
        arrays |= {f"{kind}.{name}": a for name, a in getattr(made, kind).items()}
    save_arrays(job.file("linked", s, ".npz"), arrays)
    return told


def _traced(job: Job, s: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Track of every particle of a stretch, and the columns of what it does, px; its part of the kinetics is left."""
    known = load_arrays(job.file("named", s, ".npz"))
    assert known is not None
    blocks, size = job.stretches[s], job.archive.pixel_size_nm
    start, first = job.span(blocks[0])[0], int(known["first"]) // job.frames
    rows = in_px(_particles(job, range(first, blocks[-1] + 1), linking=True), size)
    track, r = _final(job, s), s
    own = len(track)
    while job.stretches[r][0] > first:
        r -= 1
        track = np.concatenate((_final(job, r), track))
    track = track[len(track) - len(rows["frame"]) :]
    columns = _columns(job, range(first, blocks[-1] + 1), ("status", "time_s", "valid"))
    at = _segmented(columns["status"])
    at = at[at + job.span(first)[0] >= known["first"]]
    does, kinetics, left = retrace(
        rows, track, known, at + job.span(first)[0], columns["time_s"][at], columns["valid"][at], job.settings.measure,
        start=start,
    )  # fmt: skip
    kept = {f"kinetics.{name}": v for name, v in kinetics.items()} | {"left": np.array(left)}
    save_arrays(job.file("traced", s, ".npz"), kept)
    mine = np.s_[len(track) - own :]
    return track[mine], {name: v[mine] for name, v in does.items()}


def _final(job: Job, s: int) -> np.ndarray:
    """Track of every particle of a stretch, by the numbers of the run."""
    named = _open(job.file("named", s, ".npz"), ("own", "names"))
    return renamed(_stretch(job, s).track, named["own"], named["names"])


def _stretch(job: Job, s: int, rows: bool = True) -> Stretch:
    """As it was left; `rows`: with the track of every particle."""
    parts = {kind: _pick(job, s, kind) for kind in _KINDS}
    track = _open(job.file("linked", s, ".npz"), ("track",))["track"] if rows else np.empty(0, np.int64)
    return Stretch(track, **parts)


def _pick(job: Job, s: int, kind: str) -> dict[str, np.ndarray]:
    return _of_kind(job.file("linked", s, ".npz"), kind)


def _of_kind(path: Path, kind: str) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as stored:
        return {n.removeprefix(kind + "."): stored[n] for n in stored.files if n.startswith(kind + ".")}


def _columns(job: Job, blocks: Sequence[int] | range, names: Sequence[str] = COLUMNS) -> dict[str, np.ndarray]:
    """Columns of the frames of some blocks that follow each other."""
    found = [_open(job.file("done", k, ".npz"), names) for k in blocks]
    return {n: np.concatenate([f[n] for f in found]) for n in names}


def _segmented(status: np.ndarray) -> np.ndarray:
    return np.flatnonzero(status & int(Status.SEGMENTED))


def _particles(job: Job, blocks: Sequence[int] | range, linking: bool = False) -> dict[str, np.ndarray]:
    """Rows of the particle table of these blocks, not yet linked; only the columns that linking needs, or all."""
    schema = measure.schema("particles", job.archive.pixel_size_nm is not None)
    if linking:
        needed = ("frame", "time_s", *SIGHT)
        schema = {n: t for n, t in schema.items() if n in needed or n.rpartition("_")[0] in needed}
    found = [_open(job.file("done", k, ".npz"), [f"particles.{n}" for n in schema]) for k in blocks]
    return {
        n: np.concatenate([np.empty(0, t), *(f[f"particles.{n}"] for f in found if f"particles.{n}" in f)]).astype(t)
        for n, t in schema.items()
    }


def _open(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of the arrays of a file that there are, the others unread."""
    with np.load(path, allow_pickle=False) as stored:
        return {n: stored[n] for n in names if n in stored.files}


def _labels_of(job: Job) -> Callable[[int], np.ndarray]:
    """Labels by frame, read a row of tiles at a time."""
    array = zarr.open_array(Path(job.run) / "labels" / job.labels / "0", mode="r")
    assert isinstance(array, zarr.Array)
    held: dict[int, np.ndarray] = {}

    def labels(frame: int) -> np.ndarray:
        k = frame // SHARD_INNER
        if k not in held:
            held.clear()
            held[k] = np.asarray(array[k * SHARD_INNER : (k + 1) * SHARD_INNER]).astype(np.int32)
        return held[k][frame % SHARD_INNER]

    return labels
