"""The columns of `frames/` in memory, and which of their chunks changed since they were last written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from emstream.messages import Status
from emstream.store.layout import COLUMN_CHUNK, COLUMNS
from emstream.store.ledger import FinalRow, FrameRow, LabelRow

_SHIFTS = {"shift": ("dy", "dx"), "final_shift": ("final_dy", "final_dx")}  # the ledger's names
_LATER = ("status", "particles", "area_fraction")  # change when a frame is segmented


class Columns:
    """One array for each column of the layout, in whole chunks."""

    def __init__(self) -> None:
        self._data = {name: _filled(name, 0) for name in COLUMNS}
        self._changed: set[tuple[str, int]] = set()

    def put_frames(self, rows: Sequence[FrameRow]) -> None:
        """Rows of frames that were committed."""
        for row in rows:
            self._reach(row.slot)
            values = (row.time_s, row.shift, row.confidence, row.anchor, row.status, row.source_index)
            for name, value in zip(("time_s", "shift", "confidence", "anchor", "status", "source_index"), values):
                self._data[name][row.slot] = value
            self._changed.update((name, row.slot // COLUMN_CHUNK) for name in COLUMNS)

    def put_labels(self, rows: Sequence[LabelRow]) -> None:
        """Rows of frames that were segmented."""
        for row in rows:
            self._data["status"][row.slot] |= int(Status.SEGMENTED)
            self._data["particles"][row.slot] = row.particles
            self._data["area_fraction"][row.slot] = row.area_fraction
            self._changed.update((name, row.slot // COLUMN_CHUNK) for name in _LATER)

    def put_finals(self, rows: Sequence[FinalRow]) -> None:
        """Shifts that became final, of frames that were put before."""
        for row in rows:
            self._data["final_shift"][row.slot] = row.shift
            self._changed.add(("final_shift", row.slot // COLUMN_CHUNK))

    def load(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """All rows anew, from the ledger."""
        self._data = {name: _filled(name, 0) for name in COLUMNS}
        if not rows:
            return
        self._reach(max(row["slot"] for row in rows))
        slots = np.array([row["slot"] for row in rows])
        for name in COLUMNS:
            if name in _SHIFTS:
                y, x = _SHIFTS[name]
                self._data[name][slots] = np.array([(row[y], row[x]) for row in rows], np.float64)  # None becomes NaN
            else:
                fill = COLUMNS[name].fill
                self._data[name][slots] = [fill if row[name] is None else row[name] for row in rows]
        self._changed = {(name, k) for name in COLUMNS for k in range(len(self._data[name]) // COLUMN_CHUNK)}

    def changed(self) -> Iterator[tuple[str, int, np.ndarray]]:
        """(name, chunk, rows) of what was changed; each is forgotten once the caller comes back for the next."""
        for name, chunk in sorted(self._changed):
            yield name, chunk, self._data[name][chunk * COLUMN_CHUNK : (chunk + 1) * COLUMN_CHUNK]
            self._changed.discard((name, chunk))

    def column(self, name: str, n: int) -> np.ndarray:
        """The first n rows."""
        return self._data[name][:n]

    def as_table(self, n: int) -> dict[str, np.ndarray]:
        """frames.parquet: frame, and each column; the shift as two."""
        table: dict[str, np.ndarray] = {"frame": np.arange(n)}
        for name, column in COLUMNS.items():
            if column.width == 2:
                table |= {f"{name}_y_px": self._data[name][:n, 0], f"{name}_x_px": self._data[name][:n, 1]}
            else:
                table[name] = self._data[name][:n]
        return table

    def _reach(self, slot: int) -> None:
        for name, data in self._data.items():
            if slot >= len(data):
                chunks = slot // COLUMN_CHUNK + 1
                more = _filled(name, chunks * COLUMN_CHUNK)
                more[: len(data)] = data
                self._data[name] = more


def _filled(name: str, rows: int) -> np.ndarray:
    column = COLUMNS[name]
    return np.full((rows, column.width) if column.width > 1 else rows, column.fill, dtype=column.dtype)
