"""A run's tables, units in the columns' names; what each column means beside them, in the parquet, or as a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from emstream.errors import BadSettings
from emstream.measure import dictionary
from emstream.store.run import Run

TABLES = ("particles", "tracks", "events", "kinetics")


def csv(run: Run, out: Path, table: str = "particles") -> None:
    """One row per particle and frame (or of another table); the columns' meaning in OUT.columns.json."""
    _table(run, table).to_csv(out, index=False)
    _explain(run, out, table)


def parquet(run: Run, out: Path, table: str = "particles") -> None:
    """The same as Parquet; unit and meaning also in the metadata of each column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, known = pa.Table.from_pandas(_table(run, table), preserve_index=False), _known(run, table)
    fields = [
        f.with_metadata({k: v for k, v in known[f.name].items() if k != "dtype"}) if f.name in known else f
        for f in rows.schema
    ]
    pq.write_table(rows.cast(pa.schema(fields, rows.schema.metadata)), out, compression="zstd")
    _explain(run, out, table)


def words(run: Run, out: Path) -> None:
    """The data dictionary of all tables of the run, Markdown."""
    lines = [f"# Columns of the tables of {run.name}", ""]
    for name in TABLES:
        lines += [f"## {name}", "", "| column | unit | meaning |", "|---|---|---|"]
        lines += [
            f"| `{c}` | {about['unit']} | {about['meaning'].replace('|', 'or')} |"
            for c, about in _known(run, name).items()
        ]
        lines.append("")
    out.write_text("\n".join(lines), encoding="utf8")


def _table(run: Run, name: str) -> Any:
    if name not in TABLES:
        raise BadSettings(f"table {name!r}", f"use {', '.join(TABLES)}")
    try:
        return run.table(name)
    except KeyError:
        raise BadSettings(
            f"the run {run.name} has no table {name!r}", "it was made before, or without segmentation"
        ) from None


def _known(run: Run, table: Any) -> dict[str, dict[str, str]]:
    return dictionary(table, run.pixel_size_nm is not None)


def _explain(run: Run, out: Path, table: str) -> None:
    text = json.dumps(_known(run, table), indent=1, ensure_ascii=False)
    out.with_suffix(".columns.json").write_text(text, encoding="utf8")
