"""The columns of `frames/` where they change: the chunks in memory, and which of them changed since they were written."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from emstream.errors import StoreDamaged
from emstream.messages import Status
from emstream.store.chunks import decode
from emstream.store.layout import COLUMN_CHUNK, COLUMNS, column_chunk_name
from emstream.store.rows import FinalRow, FrameRow, LabelRow

_SHIFTS = {"shift": ("dy", "dx"), "final_shift": ("final_dy", "final_dx")}  # the ledger's names
KEPT = 4  # chunks kept in memory: where frames, final shifts and labels arrive, and one more
_LATER = ("status", "particles", "area_fraction", "agreement", "model")  # change when a frame is segmented


def model_key(name: str, sha256: str) -> str:
    """How the ledger names the model of a frame's labels."""
    return f"{name}@{sha256}" if sha256 else name


class Columns:
    """One array for each column of the layout, in whole chunks; those at which frames and labels arrive are in memory.

    folder : `frames/` of the run, where `changed` chunks end up
    fetch  : the ledger's rows of slots start … stop - 1
    models : keys of the models that made labels, in the order of attributes.emstream.models
    """

    def __init__(
        self, folder: Path, fetch: Callable[[int, int], Sequence[Mapping[str, Any]]], models: Sequence[str] = ()
    ) -> None:
        self._folder, self._fetch, self.models = folder, fetch, list(models)
        self._chunks: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()
        self._changed: set[tuple[int, str]] = set()
        self._touched: set[int] = set()  # chunks in which something changed since `settled` was asked

    def put_frames(self, rows: Sequence[FrameRow]) -> None:
        """Rows of frames that were committed."""
        for row in rows:
            values = (row.time_s, row.shift, row.confidence, row.anchor, row.status, row.source_index)
            columns, i = self._at(row.slot, COLUMNS)
            for name, value in zip(("time_s", "shift", "confidence", "anchor", "status", "source_index"), values):
                columns[name][i] = value

    def put_labels(self, rows: Sequence[LabelRow]) -> None:
        """Rows of frames that were segmented."""
        for row in rows:
            columns, i = self._at(row.slot, _LATER)
            columns["status"][i] |= int(Status.SEGMENTED)
            columns["particles"][i] = row.particles
            columns["area_fraction"][i] = row.area_fraction
            columns["agreement"][i] = row.agreement
            columns["model"][i] = _index(row.model, self.models)

    def put_finals(self, rows: Sequence[FinalRow]) -> None:
        """Shifts that became final, of frames that were put before."""
        for row in rows:
            columns, i = self._at(row.slot, ("final_shift",))
            columns["final_shift"][i] = row.shift

    def renew(self, start: int, n: int) -> None:
        """Everything from the chunk of row `start` to row n counts as changed, and is what the ledger says."""
        self._chunks.clear()
        for chunk in range(start // COLUMN_CHUNK, -(-n // COLUMN_CHUNK)):
            self._touched.add(chunk)
            self._changed.update((chunk, name) for name in COLUMNS)

    def changed(self) -> Iterator[tuple[str, int, np.ndarray]]:
        """(name, chunk, rows) of what was changed; each is forgotten once the caller comes back for the next."""
        for chunk, name in sorted(self._changed):
            yield name, chunk, self._in_memory(chunk)[name]
            self._changed.discard((chunk, name))

    def settled(self) -> int:
        """The row from which on something changed since the last call; what lies before is in the files."""
        rows = min(self._touched, default=0) * COLUMN_CHUNK
        self._touched.clear()
        return rows

    def column(self, name: str, n: int, first: int = 0) -> np.ndarray:
        """The rows from `first` to n - 1; what is not in memory comes from the files."""
        begin = first // COLUMN_CHUNK
        chunks = [self._rows(name, chunk) for chunk in range(begin, -(-n // COLUMN_CHUNK))]
        return np.concatenate([_filled(name, 0), *chunks])[first - begin * COLUMN_CHUNK : n - begin * COLUMN_CHUNK]

    def as_table(self, n: int) -> dict[str, np.ndarray]:
        """frames.parquet: frame, and each column; the shift as two."""
        table: dict[str, np.ndarray] = {"frame": np.arange(n)}
        for name, column in COLUMNS.items():
            rows = self.column(name, n)
            table |= {f"{name}_y_px": rows[:, 0], f"{name}_x_px": rows[:, 1]} if column.width == 2 else {name: rows}
        return table

    def _rows(self, name: str, chunk: int) -> np.ndarray:
        if chunk not in self._chunks and (chunk, name) not in self._changed:
            column = COLUMNS[name]
            with suppress(OSError, ValueError, StoreDamaged):  # the ledger has it, too
                data = (self._folder / name / column_chunk_name(name, chunk)).read_bytes()
                rows = decode(data, ((COLUMN_CHUNK, column.width), column.dtype), "none")
                return rows if column.width > 1 else rows[:, 0]
            self._changed.add((chunk, name))
        return self._in_memory(chunk)[name]

    def _at(self, slot: int, names: Iterable[str]) -> tuple[dict[str, np.ndarray], int]:
        """The chunk of a row, in which these columns will change, and the row's place in it."""
        chunk, i = divmod(slot, COLUMN_CHUNK)
        self._touched.add(chunk)
        self._changed.update((chunk, name) for name in names)
        return self._in_memory(chunk), i

    def _in_memory(self, chunk: int) -> dict[str, np.ndarray]:
        if chunk not in self._chunks:
            rows = self._fetch(chunk * COLUMN_CHUNK, (chunk + 1) * COLUMN_CHUNK)
            self._chunks[chunk] = _of_rows(rows, chunk * COLUMN_CHUNK, self.models)
            if len(self._chunks) > KEPT:  # what is in memory is what the ledger says, always
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(chunk)
        return self._chunks[chunk]


def _of_rows(rows: Sequence[Mapping[str, Any]], first: int, models: Sequence[str]) -> dict[str, np.ndarray]:
    """A chunk that begins with slot `first`."""
    columns = {name: _filled(name, COLUMN_CHUNK) for name in COLUMNS}
    slots = np.array([row["slot"] - first for row in rows], np.int64)
    for name in COLUMNS if rows else ():
        if name in _SHIFTS:
            y, x = _SHIFTS[name]
            columns[name][slots] = np.array([(row[y], row[x]) for row in rows], np.float64)  # None becomes NaN
        elif name == "model":
            columns[name][slots] = [_index(row[name], models) for row in rows]
        else:
            fill = COLUMNS[name].fill
            columns[name][slots] = [fill if row[name] is None else row[name] for row in rows]
    return columns


def _index(key: str | None, models: Sequence[str]) -> int:
    """Which model; -1 for labels of an unknown one, or none."""
    return models.index(key) if key in models else -1


def _filled(name: str, rows: int) -> np.ndarray:
    column = COLUMNS[name]
    return np.full((rows, column.width) if column.width > 1 else rows, column.fill, dtype=column.dtype)
