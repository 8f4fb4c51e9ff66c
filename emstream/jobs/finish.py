"""The end of a job: what its blocks left becomes the run's columns and tables, tracks are linked over the whole run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from emstream import __version__, measure
from emstream.jobs.block import load_arrays, record
from emstream.jobs.job import Job, lasting
from emstream.measure import relink
from emstream.messages import Status
from emstream.source.archive import Input
from emstream.store.finished import write_arrays, write_labels, write_run
from emstream.store.layout import COLUMNS, SHARD_INNER
from emstream.store.tables import write_table


def finish(job: Job, told: Mapping[str, Any]) -> dict[str, Any]:
    """One task: the tables and the metadata of a job whose blocks are all written. Holds the tables, and eight frames of labels.

    told    : what the run shall say of itself besides
    returns : {"frames", "segmented", "tracks"}
    """
    run, records = Path(job.run), [record(job, k) for k in range(job.blocks)]
    columns, particles = _gathered(job)
    lines = [line for r in records if r is not None for line in r["shards"]]
    models: list[dict[str, str]] = []
    for r in records:
        models += [m for m in (r or {}).get("models", []) if m not in models]
    columns["model"] = np.where(columns["particles"] >= 0, 0, -1)  # one made them all
    tables = run / "tables" if job.labels == "particles" else run / "tables" / job.labels
    fsync, size = job.settings.store.fsync, job.archive.pixel_size_nm
    write_arrays(run, job.layout, job.n, None if job.labels == "particles" else job.labels)
    tracks = _tables(job, tables, columns, particles, fsync)
    made = {"software": {"emstream": __version__}, "settings": lasting(job.settings), "job": job.id}
    if job.labels == "particles":
        attrs = {
            "source": job.archive.where, "reprocessed": True, "models": models, **made,
            "layout": {"compressor": job.layout.compressor, "keep_raw": job.layout.keep_raw, "shard": job.frames},
            "bad_frames": [bad for r in records if r is not None for bad in r["bad"]], **told,
        }  # fmt: skip
        if job.archive.meta:
            attrs["camera"] = dict(job.archive.meta)
        window = next((r["window"] for r in records if r is not None and r["window"]), [0.0, 1.0])
        kept = {name: columns[name] for name in COLUMNS if name in columns}
        write_run(
            run, job.archive.name, job.layout, kept | {"final_shift": columns["shift"], "source_index": np.arange(job.n)},
            size, attrs, window, list(_origins(job.archive, columns)), lines, fsync,
        )  # fmt: skip
    else:
        names = ("time_s", "particles", "area_fraction")
        write_table(tables / "frames.parquet", {"frame": np.arange(job.n)} | {n: columns[n] for n in names}, fsync)
        write_labels(run, job.labels, job.layout, size, {"models": models, **made, **told}, lines, fsync)
    return {"frames": job.n, "segmented": int((columns["particles"] >= 0).sum()), "tracks": tracks}


def _gathered(job: Job) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The columns of all frames, and the rows of all particles."""
    rows: list[dict[str, np.ndarray]] = []
    for k in range(job.blocks):
        stored = load_arrays(job.file("done", k, ".npz"))
        assert stored is not None
        rows.append(stored)
    columns = {name: np.concatenate([r[name] for r in rows]) for name in rows[0] if not name.startswith("particles.")}
    schema = measure.schema("particles", job.archive.pixel_size_nm is not None)
    particles = {
        name: np.concatenate([np.empty(0, dtype), *(r[f"particles.{name}"] for r in rows if f"particles.{name}" in r)])
        for name, dtype in schema.items()
    }
    return columns, {name: particles[name].astype(dtype) for name, dtype in schema.items()}


def _tables(
    job: Job, tables: Path, columns: Mapping[str, np.ndarray], particles: dict[str, np.ndarray], fsync: bool
) -> int:
    """particles, tracks and events of the whole run; how many tracks."""
    frames = np.flatnonzero(columns["status"] & int(Status.SEGMENTED))
    size = job.archive.pixel_size_nm
    linked = _linked(job, columns, particles, frames)
    for name, rows in {"particles": particles, **linked}.items():
        kind: Any = name
        schema = measure.schema(kind, size is not None)
        write_table(tables / f"{name}.parquet", {c: np.asarray(rows[c]).astype(t) for c, t in schema.items()}, fsync)
    return len(linked["tracks"]["track"])


def _linked(
    job: Job, columns: Mapping[str, np.ndarray], particles: dict[str, np.ndarray], frames: np.ndarray
) -> dict[str, Mapping[str, np.ndarray]]:
    """tracks and events; the particles' own tracks are filled in."""
    size = job.archive.pixel_size_nm
    if not len(particles["frame"]):
        return {
            "tracks": {c: np.empty(0, t) for c, t in measure.schema("tracks", size is not None).items()},
            "events": {c: np.empty(0, t) for c, t in measure.schema("events", size is not None).items()},
        }
    found = relink(
        particles, _labels_of(job), frames, columns["time_s"][frames], valid=columns["valid"][frames],
        anchor=columns["anchor"][frames], pixel_size_nm=size, options=job.settings.measure,
    )  # fmt: skip
    particles["track"] = found.track.astype(particles["track"].dtype)
    return {"tracks": found.tracks, "events": found.events}


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


def _origins(archive: Input, columns: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Where each frame came from, and the checksums of its pixels."""
    where = archive.where.rstrip("/").rpartition("/")[2]
    for i in range(len(columns["time_s"])):
        row = {
            "slot": i, "path": where, "generation": 0, "sub": i, "size": archive.size, "mtime_ns": archive.mtime_ns,
            "inode": archive.inode,
        }  # fmt: skip
        row |= {name: int(columns[name][i]) for name in ("crc32c", "source_crc32c")}
        if columns["labels_crc32c"][i] >= 0:
            row["labels_crc32c"] = int(columns["labels_crc32c"][i])
        yield row
