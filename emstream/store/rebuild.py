"""A lost ledger, made anew from the runs: they carry where each frame came from, so that none is taken twice."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emstream.errors import EmstreamError
from emstream.messages import Status
from emstream.store.chunks import crc32c, replace
from emstream.store.columns import model_key
from emstream.store.layout import dumps
from emstream.store.origins import read_origins
from emstream.store.run import Run
from emstream.store.shards import JOURNAL

log = logging.getLogger("emstream.store")
_MADE = ("format", "pixel_size_nm", "time_sampling", "note")  # attributes that the writer makes itself


def rebuild(db: sqlite3.Connection, out: Path) -> tuple[str, ...]:
    """Fill an empty ledger with the runs of a folder, whose state becomes `recovered`; returns their names.

    A run's published frames count as stored. What was stored and not published yet is read again into the same slots.
    A frame whose line in the run's journal is gone stays in the run; its origin is then unknown. A run whose frames
    another run holds already (a copy beside it) is left alone.
    """
    found = []
    for path in out.glob("*.zarr"):
        try:
            run = Run(path)
            if (path / "tables" / JOURNAL).is_file():
                continue  # made by reprocess: no ledger knows it, and no daemon goes on with it
            found.append((str(run.attrs.get("started", "")), len(run.name), run.name, run))
        except (EmstreamError, KeyError):
            continue  # another program's, or one that was never published
    names = []
    for *_, name, run in sorted(found, key=lambda f: f[:3]):
        try:
            db.execute("SAVEPOINT run")
            _insert(db, run)
            _tell(run)
        except (sqlite3.IntegrityError, EmstreamError, OSError, ValueError, KeyError) as error:
            db.execute("ROLLBACK TO run")
            log.warning("run left out of the new ledger", extra={"run": name, "error": str(error)})
        else:
            names.append(name)
        finally:
            db.execute("RELEASE run")
    if names:
        log.warning("the ledger was gone; it is made anew from the runs", extra={"runs": ", ".join(names)})
    return tuple(names)


def compressor_of(document: Mapping[str, Any]) -> str:
    """What `layout.codecs` was asked for, from an array's zarr.json."""
    names = [codec["name"] for codec in document["codecs"]]
    return "blosc-lz4" if "blosc" in names else "zstd" if "zstd" in names else "none"


def _insert(db: sqlite3.Connection, run: Run) -> None:
    attrs = {k: v for k, v in run.attrs.items() if k not in _MADE} | {"state": "recovered"}
    root = json.loads((run.path / "zarr.json").read_bytes())["attributes"]
    window = root["ome"]["omero"]["channels"][0]["window"]
    level0 = json.loads((run.path / "0" / "zarr.json").read_bytes())
    attrs["window"] = [window["start"], window["end"]]
    attrs["layout"] = {
        "compressor": compressor_of(level0),
        "keep_raw": (run.path / "raw" / "0" / "zarr.json").is_file(),
    }
    py, px = run.pixel_size_nm or (None, None)
    series = str(attrs.get("series", run.name))
    cursor = db.execute(
        "INSERT INTO runs (name, series, y, x, dtype, py, px, state, created, attrs) VALUES (?,?,?,?,?,?,?,?,?,?)",
        (run.name, series, *run.shape, run.dtype.name, py, px, "recovered", time.time(), json.dumps(attrs)),
    )
    origins = {row["slot"]: row for row in read_origins(run.path / "tables" / "origins.jsonl")}
    columns = {name: run.column(name) for name in
               ("time_s", "shift", "confidence", "anchor", "status", "source_index", "particles", "area_fraction")}  # fmt: skip
    for name in ("final_shift", "agreement", "model"):
        with contextlib.suppress(KeyError):  # an older version's run
            columns[name] = run.column(name)
    models = [model_key(m["name"], m["sha256"]) for m in run.models]
    unknown = 0
    for slot in range(run.n):
        origin = origins.get(slot)
        if origin is None:
            unknown += 1
            pixels = crc32c(np.ascontiguousarray(run.frame(slot)))
            origin = {"path": f"?{run.name}", "generation": 0, "sub": slot, "size": 0, "mtime_ns": 0, "inode": 0,
                      "crc32c": pixels, "source_crc32c": None}  # fmt: skip
        source = tuple(origin[k] for k in ("path", "generation", "size", "mtime_ns", "inode"))
        db.execute("REPLACE INTO sources VALUES (?,?,?,?,?)", source)
        db.execute(
            "INSERT INTO frames (run, slot, path, generation, sub, state, crc32c, source_crc32c, time_s, dy, dx, confidence,"
            " anchor, status, source_index, particles, area_fraction, final_dy, final_dx, agreement,"
            " model, at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (cursor.lastrowid, slot, *source[:2], origin["sub"], *_values(columns, slot, origin, models), time.time()),
        )
    if unknown:
        log.warning("frames of unknown origin stay; should their files still be there, they come a second time",
                    extra={"run": run.name, "frames": unknown})  # fmt: skip


def _values(columns: Mapping[str, np.ndarray], i: int, origin: Mapping[str, Any], models: list[str]) -> tuple[Any, ...]:
    """state … model of a row; what is not known is NULL."""
    status, particles = int(columns["status"][i]), int(columns["particles"][i])
    dy, dx = columns["shift"][i].tolist()
    final = columns["final_shift"][i].tolist() if "final_shift" in columns else (None, None)
    agreement = float(columns["agreement"][i]) if "agreement" in columns else None
    model = int(columns["model"][i]) if "model" in columns else -1
    return (
        "SEGMENTED" if status & Status.SEGMENTED else "COMMITTED", origin["crc32c"], origin["source_crc32c"],
        float(columns["time_s"][i]), dy, dx, float(columns["confidence"][i]), int(columns["anchor"][i]), status,
        int(columns["source_index"][i]), None if particles < 0 else particles, float(columns["area_fraction"][i]),
        *final, agreement, models[model] if 0 <= model < len(models) else None,
    )  # fmt: skip


def _tell(run: Run) -> None:
    """The run says so itself."""
    document = json.loads((run.path / "zarr.json").read_bytes())
    document["attributes"]["emstream"]["state"] = "recovered"
    replace(run.path / "zarr.json", dumps(document))
