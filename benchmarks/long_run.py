"""A run of many hours in a minute: real frames that come again and again as links, rows of their own for each frame."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from emstream import measure, simulate
from emstream.messages import Origin
from emstream.store import FrameRecord, LabelRecord, Ledger, RunWriter, StoreOptions
from emstream.store.chunks import encode
from emstream.store.layout import COLUMN_CHUNK, COLUMNS, chunk_name, column_chunk_name
from emstream.store.tables import TableWriter

BASE = 64  # different frames
AT_ONCE = 400  # frames whose rows are written together


def long_run(out: Path, frames: int, fps: float, *, pixels_of: Iterable[int] | None = None, side: int = 512) -> Path:
    """`out/long.zarr`: `frames` frames of side² px at `fps`, with labels, columns, particles and tracks.

    pixels_of : only these frames have their pixels (links to one of BASE frames); None = all
    """
    movie = simulate.movie(BASE, (side, side), particles=60, dose=20.0, jitter=0.0, drift_per_frame=(0.0, 0.0), seed=5)
    size = (0.5, 0.5)
    with Ledger(out, fsync=False) as ledger:
        row = ledger.run_for("long", "long", (side, side), "uint16", size)
        writer = RunWriter(out, row, ledger, StoreOptions(low_water_mb=0, fsync=False), {})
        base = []
        for i in range(BASE):
            labels, pixels = movie.labels(i), movie.frame(i)
            base.append(measure.particles(labels, pixels))
            writer.write_frames([FrameRecord(pixels, Origin(f"{i}.tif", 0, 1, 1, i), 1e9 + i / fps, (0.0, 0.0), 0.9)])
            writer.write_labels([LabelRecord(i, labels, len(base[-1]["label"]), 0.1, "planted@")])
            writer.flush()
        schema = measure.schema("particles", True)
        writer.table("particles", schema)
        writer.close()
        run = writer.path
    wanted = range(frames) if pixels_of is None else sorted(set(pixels_of))
    for document in run.rglob("zarr.json"):
        told = json.loads(document.read_text())
        if told["node_type"] != "array":
            continue
        told["shape"][0] = frames
        document.write_text(json.dumps(told))
        if document.parent.parent.name == "frames":
            continue
        for i in (i for i in wanted if i >= BASE):
            os.link(document.parent / chunk_name(i % BASE), document.parent / chunk_name(i))
    _columns(run, frames, fps, [len(b["label"]) for b in base])
    shutil.rmtree(run / "tables" / "particles.parquet")
    table = TableWriter(run / "tables" / "particles.parquet", schema, flush_s=1e9)
    for begin in range(0, frames, AT_ONCE):
        rows = [_rows(base[i % BASE], i, fps) for i in range(begin, min(frames, begin + AT_ONCE))]
        table.append(measure.rows("particles", {k: np.concatenate([r[k] for r in rows]) for k in rows[0]}, size))
    table.flush()
    return run


def _rows(columns: dict[str, np.ndarray], frame: int, fps: float) -> dict[str, np.ndarray]:
    """Particles of one frame; they grow slowly, so that curves have something to show."""
    n, swell = len(columns["label"]), 1 + 0.5 * frame / 1e6
    more = {
        "frame": np.full(n, frame),
        "time_s": np.full(n, 1e9 + frame / fps),
        "track": columns["label"].astype(np.int64),
    }
    return {**columns, "diameter": columns["diameter"] * swell, "area": columns["area"] * swell**2, **more}


def _columns(run: Path, frames: int, fps: float, counts: list[int]) -> None:
    t = np.arange(frames)
    values = {
        "time_s": 1e9 + t / fps,
        "shift": np.stack([np.sin(t / 900), np.cos(t / 700)], 1),
        "confidence": np.full(frames, 0.9),
        "status": np.full(frames, 3),
        "source_index": t,
        "particles": np.array(counts)[t % BASE],
        "area_fraction": np.full(frames, 0.1),
    }
    for name, column in COLUMNS.items():
        folder = run / "frames" / name
        for k in range(-(-frames // COLUMN_CHUNK)):
            shape = (COLUMN_CHUNK,) if column.width == 1 else (COLUMN_CHUNK, column.width)
            rows = np.full(shape, column.fill, column.dtype)
            part = values.get(name, np.empty(0))[k * COLUMN_CHUNK : (k + 1) * COLUMN_CHUNK]
            if len(part):
                rows[: len(part)] = part
            (folder / column_chunk_name(name, k)).write_bytes(b"".join(encode(rows, "none")))
