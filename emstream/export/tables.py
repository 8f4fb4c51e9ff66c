"""The particles as a table, units in the columns' names; what each column means in a file beside it."""

from __future__ import annotations

import json
from pathlib import Path

from emstream.measure import dictionary
from emstream.store.run import Run


def csv(run: Run, out: Path) -> None:
    """One row per particle and frame; the columns' meaning in OUT.columns.json."""
    run.table("particles").to_csv(out, index=False)
    _explain(run, out)


def parquet(run: Run, out: Path) -> None:
    """The same as Parquet."""
    run.table("particles").to_parquet(out, index=False)
    _explain(run, out)


def _explain(run: Run, out: Path) -> None:
    known = dictionary("particles", run.pixel_size_nm is not None)
    out.with_suffix(".columns.json").write_text(json.dumps(known, indent=1, ensure_ascii=False), encoding="utf8")
