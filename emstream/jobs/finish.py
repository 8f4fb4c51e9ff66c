"""The end of a job: what its blocks left becomes the run's columns and kinetics, and its metadata make it a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emstream import __version__
from emstream.jobs.files import record
from emstream.jobs.job import Job, lasting
from emstream.jobs.tracks import columns_of, write_kinetics
from emstream.source.archive import Input
from emstream.store.finished import write_labels, write_run
from emstream.store.layout import COLUMNS
from emstream.store.tables import write_table


def finish(job: Job, told: Mapping[str, Any]) -> dict[str, Any]:
    """One task: the columns and the metadata of a job whose blocks and tables are all written; some 400 bytes a frame.

    told    : what the run shall say of itself besides
    returns : {"frames", "segmented"}
    """
    run, records = Path(job.run), [record(job, k) for k in range(job.blocks)]
    columns = columns_of(job)
    write_kinetics(job)
    lines = [line for r in records if r is not None for line in r["shards"]]
    models: list[dict[str, str]] = []
    for r in records:
        models += [m for m in (r or {}).get("models", []) if m not in models]
    columns["model"] = np.where(columns["particles"] >= 0, 0, -1)  # one made them all
    fsync, size = job.settings.store.fsync, job.archive.pixel_size_nm
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
            size, attrs, window, _origins(job.archive, columns), lines, fsync,
        )  # fmt: skip
    else:
        names = ("time_s", "particles", "area_fraction")
        write_table(job.tables / "frames.parquet", {"frame": np.arange(job.n)} | {n: columns[n] for n in names}, fsync)
        write_labels(run, job.labels, job.layout, size, {"models": models, **made, **told}, lines, fsync)
    return {"frames": job.n, "segmented": int((columns["particles"] >= 0).sum())}


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
