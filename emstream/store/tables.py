"""Parquet tables that can be read while they grow: a folder of parts, each of which appears whole."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from emstream.store.chunks import PARTIAL

ROWS_PER_PART = 50_000
PARTS = 64  # when there are more they are folded into one


class TableWriter:
    """tables/NAME.parquet, a folder that `pandas.read_parquet` opens at every instant.

    path       : the folder
    schema     : column name -> dtype, in order; the columns of every part
    flush_s    : rows do not wait longer than this to be seen, provided something is appended
    """

    def __init__(self, path: Path, schema: Mapping[str, Any], *, flush_s: float = 5.0) -> None:
        self.path = Path(path)
        self._schema = pa.schema([(name, _arrow(dtype)) for name, dtype in schema.items()])
        self._rows: list[pa.Table] = []
        self._count = 0
        self._flush_s = flush_s
        self._flushed_at = time.monotonic()
        _settle(self.path)
        if self.path.is_file():  # written whole by an earlier close
            rows = self._conform(pq.read_table(self.path))
            self._swap(rows)
        elif not self.path.is_dir():
            self._swap(self._schema.empty_table())
        self._parts = len(_parts(self.path))
        self._next = max((int(p.stem.partition("-")[2]) for p in _parts(self.path)), default=0) + 1

    def append(self, columns: Mapping[str, Any]) -> None:
        """Add rows: columns of equal length, all of the schema's; written when they are many or old enough.

        raises : ValueError when a column is missing
        """
        missing = [name for name in self._schema.names if name not in columns]
        if missing:
            raise ValueError(f"{self.path.name}: rows without {', '.join(missing)}")
        rows = self._conform(_table({name: columns[name] for name in self._schema.names}))
        if rows.num_rows:
            self._rows.append(rows)
            self._count += rows.num_rows
        if self._count >= ROWS_PER_PART or time.monotonic() - self._flushed_at >= self._flush_s:
            self.flush()

    def flush(self) -> None:
        """Let readers see all rows."""
        self._flushed_at = time.monotonic()
        if not self._rows:
            return
        _write(pa.concat_tables(self._rows), self.path / f"part-{self._next:08d}.parquet")
        self._rows, self._count = [], 0
        self._next += 1
        self._parts += 1
        if self._parts > PARTS:
            self.compact()

    def compact(self) -> None:
        """Fold all parts into one."""
        self._swap(self.read())
        self._parts, self._next = 1, 2

    def read(self) -> pa.Table:
        """All rows that were flushed."""
        return pa.concat_tables([self._conform(pq.read_table(p)) for p in _parts(self.path)])

    def close(self) -> None:
        """Flush and compact."""
        self.flush()
        if self._parts > 1:
            self.compact()

    def drop(self, column: str, *, from_value: int, values: Sequence[int] | np.ndarray = ()) -> None:
        """Take out rows of an earlier life that will be written anew: `column` >= from_value, or one of `values`."""
        self.flush()
        rows = self.read()
        wrong = pa.compute.field(column) >= from_value
        if len(values):
            wrong = wrong | pa.compute.field(column).isin(pa.array(np.asarray(values)))
        kept = rows.filter(~wrong)
        if kept.num_rows != rows.num_rows:
            self._swap(kept)
            self._parts, self._next = 1, 2

    @staticmethod
    def write_whole(path: Path, columns: Any) -> None:
        """Put a table that is complete in the place of what was there: a DataFrame, or columns of equal length."""
        table = pa.Table.from_pandas(columns, preserve_index=False) if hasattr(columns, "iloc") else _table(columns)
        _swap_folder(Path(path), table)

    def _conform(self, table: pa.Table) -> pa.Table:
        """The table with the schema's columns and types; columns that an older part lacks are null."""
        columns = [
            table.column(f.name).cast(f.type) if f.name in table.column_names else pa.nulls(table.num_rows, f.type)
            for f in self._schema
        ]
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _swap(self, table: pa.Table) -> None:
        _swap_folder(self.path, table)


def _swap_folder(path: Path, table: pa.Table) -> None:
    """Put a folder with one part in the place of what was there. For an instant there is nothing, never rows twice."""
    new, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    for leftover in (new, old):
        _remove(leftover)
    new.mkdir(parents=True)
    _write(table, new / "part-00000001.parquet")
    if path.exists():
        path.rename(old)
    new.rename(path)
    _remove(old)


def _settle(path: Path) -> None:
    """Undo or finish a swap that a kill cut in two, and remove what it left."""
    new, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    if not path.exists():
        for candidate in (new, old):  # `new` is whole by the time `old` exists
            if old.exists() and candidate.exists():
                candidate.rename(path)
                break
    _remove(new)
    _remove(old)
    if path.is_dir():
        for leftover in path.glob(f".*{PARTIAL}"):
            leftover.unlink()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _parts(path: Path) -> list[Path]:
    return sorted(path.glob("part-*.parquet"))


def _write(table: pa.Table, path: Path) -> None:
    hidden = path.with_name(f".{path.name}{PARTIAL}")
    pq.write_table(table, hidden, compression="zstd")
    hidden.rename(path)


def _table(columns: Mapping[str, Any] | Sequence[Any]) -> pa.Table:
    return pa.table({name: pa.array(np.asarray(values)) for name, values in dict(columns).items()})


def _arrow(dtype: Any) -> pa.DataType:
    """The arrow type of a numpy dtype; text for str and object."""
    dtype = np.dtype(dtype)
    return pa.string() if dtype.kind in "OUS" else pa.from_numpy_dtype(dtype)
