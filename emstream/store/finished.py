"""A run whose shards are all written is made a run: metadata, columns, journals; or one more set of labels of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emstream.messages import PixelSize
from emstream.store import layout as pages
from emstream.store.chunks import encode, little, replace
from emstream.store.layout import Layout
from emstream.store.origins import write_origins
from emstream.store.shards import write_journal
from emstream.store.tables import write_table
from emstream.store.versions import versions


def write_arrays(run: Path, layout: Layout, n: int, labels: str | None = None) -> None:
    """The metadata of all (t, y, x) arrays, or of those of one more set of labels; level 0 of the frames last."""
    for path in layout.images():
        if labels is None:
            _put(run / path, layout.array(path, n))
        elif path.startswith(pages.LABELS):
            _put(run / path.replace(pages.LABELS, f"labels/{labels}", 1), layout.array(path, n))


def write_run(
    run: Path,
    name: str,
    layout: Layout,
    columns: Mapping[str, np.ndarray],
    pixel_size_nm: PixelSize | None,
    attrs: Mapping[str, Any],
    window: Sequence[float],
    origins: Iterable[Mapping[str, Any]],
    shards: Sequence[Mapping[str, Any]],
    fsync: bool,
) -> None:
    """Everything but the pixels and the tables of particles; the root's metadata comes last and makes it a run.

    columns : of `frames/`, (n,) or (n, 2) each; those left out are not known · origins : a row for each frame · shards : the journal's lines
    """
    n = len(columns["time_s"])
    table: dict[str, np.ndarray] = {"frame": np.arange(n)}
    for column, kind in pages.COLUMNS.items():
        unknown = np.full((n, kind.width) if kind.width > 1 else n, kind.fill)
        rows = np.asarray(columns.get(column, unknown)).astype(kind.dtype)
        _put(run / "frames" / column, layout.array(f"frames/{column}", n))
        for chunk in range(-(-n // pages.COLUMN_CHUNK)):
            part = np.full((pages.COLUMN_CHUNK, *rows.shape[1:]), kind.fill, kind.dtype)
            some = rows[chunk * pages.COLUMN_CHUNK :][: pages.COLUMN_CHUNK]
            part[: len(some)] = some
            file = run / "frames" / column / pages.column_chunk_name(column, chunk)
            replace(file, b"".join(encode(little(part, kind.dtype), "none")))
        table |= {f"{column}_y_px": rows[:, 0], f"{column}_x_px": rows[:, 1]} if kind.width == 2 else {column: rows}
    (run / "tables").mkdir(parents=True, exist_ok=True)
    write_table(run / "tables" / "frames.parquet", table, fsync)
    write_origins(run / "tables" / "origins.jsonl", origins)
    write_journal(run / "tables", shards, fsync)
    told = {
        "format": pages.FORMAT, "state": "closed", "pixel_size_nm": pixel_size_nm,
        "time_sampling": "variable; see frames/time_s",
    } | dict(attrs)  # fmt: skip
    if pixel_size_nm is None:
        told["note"] = "the pixel size is unknown: lengths are in pixels, whatever the axes' unit says"
    told = json.loads(json.dumps(told, default=str))
    for path, document in layout.groups(name, pixel_size_nm, told, (window[0], window[1])).items():
        _put(run / path, document)


def write_labels(
    run: Path, name: str, layout: Layout, pixel_size_nm: PixelSize | None, attrs: Mapping[str, Any],
    shards: Sequence[Mapping[str, Any]], fsync: bool,
) -> None:  # fmt: skip
    """One more set of labels, whose shards and tables are written: its group, then its name in the list of labels."""
    write_journal(run / "tables" / name, shards, fsync)
    told = json.loads(json.dumps(dict(attrs), default=str))
    _put(run / "labels" / name, pages.label_group(name, len(layout.levels), pixel_size_nm, told))
    _put(run / "labels", pages.labels_group(versions(run)))


def _put(folder: Path, document: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / "zarr.json", pages.dumps(document))
