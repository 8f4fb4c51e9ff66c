"""Parquet tables that can be read while they grow: a folder of parts, each of which appears, and is replaced, whole."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from emstream.store.chunks import PARTIAL, replace, sync_folder

ROWS_PER_PART = 50_000
FLUSHES_PER_PART = 16  # the newest part is written anew with each flush: a row 8 times on average, however long the run


class TableWriter:
    """tables/NAME.parquet, a folder that `pandas.read_parquet` opens at every instant.

    path    : the folder
    schema  : column name -> dtype, in order; the columns of every part
    flush_s : rows do not wait longer than this to be seen, provided something is appended
    fsync   : rows survive a power cut once they are flushed

    New rows go into the newest part, which is replaced by a longer one until it has enough; then the next one begins.
    Parts are never merged or renamed, so a reader meets neither a row twice nor a file that has gone.
    """

    def __init__(self, path: Path, schema: Mapping[str, Any], *, flush_s: float = 5.0, fsync: bool = False) -> None:
        self.path = Path(path)
        self._schema = pa.schema([(name, _arrow(dtype)) for name, dtype in schema.items()])
        self._flush_s, self._fsync = flush_s, fsync
        self._flushed_at = time.monotonic()
        self._new: list[dict[str, np.ndarray]] = []  # rows that are in no file yet; many small arrow tables are slow
        self._rows = 0  # how many
        self._head: list[pa.Table] = []  # rows of the newest part, one table for each flush
        self.path.mkdir(parents=True, exist_ok=True)
        if fsync:
            sync_folder(self.path.parent)
        for leftover in self.path.glob(f".*{PARTIAL}"):
            leftover.unlink()
        if not _parts(self.path):
            nothing = [pa.nulls(0, f.type) for f in self._schema]
            self._write(_part(self.path, 1), pa.Table.from_arrays(nothing, schema=self._schema))
        self._number = int(_parts(self.path)[-1].stem.partition("-")[2]) + 1  # of the newest part

    def append(self, columns: Mapping[str, Any]) -> None:
        """Add rows: columns of equal length, all of the schema's; written when they are many or old enough.

        raises : ValueError when a column is missing; OSError, and then these rows are not taken: append them again
        """
        missing = [name for name in self._schema.names if name not in columns]
        if missing:
            raise ValueError(f"{self.path.name}: rows without {', '.join(missing)}")
        rows = {name: np.asarray(columns[name]) for name in self._schema.names}
        lengths = {len(v) for v in rows.values()}
        if len(lengths) != 1:
            raise ValueError(f"{self.path.name}: columns of {sorted(lengths)} rows")
        n = lengths.pop()
        if n:
            self._new.append(rows)
            self._rows += n
        if self._rows >= ROWS_PER_PART or time.monotonic() - self._flushed_at >= self._flush_s:
            try:
                self.flush()
            except OSError:
                if n:
                    self._new.pop()
                    self._rows -= n
                raise

    def flush(self) -> None:
        """Let readers see all rows.

        raises : OSError; nothing is lost, the next flush writes the same rows
        """
        if self._new:
            joined = {name: np.concatenate([rows[name] for rows in self._new]) for name in self._schema.names}
            head = [*self._head, self._conform(_table(joined))]
            part = pa.concat_tables(head)
            self._write(_part(self.path, self._number), part)
            self._head, self._new, self._rows = head, [], 0
            if len(head) >= FLUSHES_PER_PART or part.num_rows >= ROWS_PER_PART:
                self._head = []
                self._number += 1
        self._flushed_at = time.monotonic()

    def drop(self, column: str, *, from_value: int, values: Sequence[int] | np.ndarray = ()) -> None:
        """Take out rows of an earlier life that will be written anew: `column` >= from_value, or one of `values`.

        Parts are looked at from the newest back; without `values` the first one that holds smaller numbers alone ends
        it, for rows come in the order of that column.
        """
        self.flush()
        for part in reversed(_parts(self.path)):
            found = _range(part, column)
            if found is None or found[1] < from_value:
                if found is not None and not len(values):
                    break
                if found is None or not np.any((np.asarray(values) >= found[0]) & (np.asarray(values) <= found[1])):
                    continue
            rows = self._conform(pq.read_table(part))
            wrong = pc.field(column) >= from_value
            if len(values):
                wrong = wrong | pc.field(column).isin(_column(np.asarray(values)))
            kept = rows.filter(~wrong)
            if kept.num_rows != rows.num_rows:
                self._write(part, kept)
        if self._head:
            self._head = []
            self._number += 1

    def _write(self, part: Path, rows: pa.Table) -> None:
        replace(part, _bytes(rows), self._fsync)

    def _conform(self, table: pa.Table) -> pa.Table:
        """The table with the schema's columns and types; columns that an older part lacks are null."""
        columns = [
            table.column(f.name).cast(f.type) if f.name in table.column_names else pa.nulls(table.num_rows, f.type)
            for f in self._schema
        ]
        return pa.Table.from_arrays(columns, schema=self._schema)


def warm_up() -> None:
    """Load now what arrow loads with the first texts (pandas): nearly a second."""
    pa.array(["text"])


def write_table(path: Path, columns: Mapping[str, Any], fsync: bool = False) -> None:
    """Write a table that is complete, columns of equal length; it replaces one that was written so before."""
    write_part(path, 1, columns, fsync)


def write_part(path: Path, number: int, columns: Mapping[str, Any], fsync: bool = False) -> None:
    """Write one part, counted from 1, of a table of which others write the other parts."""
    path.mkdir(parents=True, exist_ok=True)
    replace(_part(path, number), _bytes(_table(columns)), fsync)


def _parts(path: Path) -> list[Path]:
    return sorted(path.glob("part-*.parquet"))


def _range(part: Path, column: str) -> tuple[Any, Any] | None:
    """(smallest, largest) value of a column, from the part's metadata; None when it has no rows."""
    about = pq.read_metadata(part)
    if not about.num_rows:
        return None
    at = about.schema.names.index(column)
    told = [about.row_group(g).column(at).statistics for g in range(about.num_row_groups)]
    return min(t.min for t in told), max(t.max for t in told)


def _part(path: Path, number: int) -> Path:
    return path / f"part-{number:08d}.parquet"


def _bytes(table: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return memoryview(sink.getvalue())


def _table(columns: Mapping[str, Any]) -> pa.Table:
    return pa.table({name: _column(np.asarray(values)) for name, values in columns.items()})


def _column(values: np.ndarray) -> pa.Array:
    """Numbers go as they lie in memory: `pa.array` would load pandas to look at them."""
    if values.dtype.kind not in "iuf" or not values.dtype.isnative:
        return pa.array(values)
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def _arrow(dtype: Any) -> pa.DataType:
    """The arrow type of a numpy dtype; text for str and object."""
    dtype = np.dtype(dtype)
    return pa.string() if dtype.kind in "OUS" else pa.from_numpy_dtype(dtype)
