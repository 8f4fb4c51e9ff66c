"""A run's particle table looked up frame by frame: which part holds a frame is remembered, so are the last parts read."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np

from emstream.store.run import Run

MOST_ROWS = 400_000  # of parts that stay in memory, some 30 MB
LOOK_EVERY_S = 1.0  # at new parts
COLUMNS = ("frame", "time_s", "label", "track", "y", "x", "area", "diameter", "touches_border")
_UNITS = ("_nm2", "_nm", "_px")


class ParticleTable:
    """Rows of `tables/particles.parquet` by frame, lengths in px again. Safe to use from several threads."""

    def __init__(self, run: Run) -> None:
        self.path = run.path / "tables" / "particles.parquet"
        self._size = run.pixel_size_nm
        self._lock = threading.Lock()
        self._known: dict[str, tuple[tuple[int, int], int, int]] = {}  # name → (mtime, size), first and last frame
        self._parts: OrderedDict[tuple[str, int], dict[str, np.ndarray]] = OrderedDict()
        self._looked = -math.inf
        self._order: list[tuple[int, int, str, int]] = []  # first, last, name, mtime of each part

    def frame(self, index: int) -> dict[str, np.ndarray]:
        """The particles of one frame by rising label: COLUMNS, px; {} when the table does not have the frame."""
        found = [self.rows(part, index, index) for part in self.parts() if part[0] <= index <= part[1]]
        found = [rows for rows in found if len(rows["frame"])]
        if not found:
            return {}
        rows = {name: np.concatenate([f[name] for f in found]) for name in found[0]}
        order = np.argsort(rows["label"], kind="stable")
        return {name: column[order] for name, column in rows.items()}

    def parts(self) -> list[tuple[int, int, str, int]]:
        """(first frame, last frame, name, mtime) of every part that has rows, in order."""
        with self._lock:
            if time.monotonic() - self._looked > LOOK_EVERY_S:
                self._look()
                self._looked = time.monotonic()
            return self._order

    def rows(self, part: tuple[int, int, str, int], first: int, last: int) -> dict[str, np.ndarray]:
        """Rows of a part with first <= frame <= last, in the order of frames."""
        columns = self._read(part)
        a, b = np.searchsorted(columns["frame"], (first, last + 1))
        return {name: column[a:b] for name, column in columns.items()}

    def _look(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        order = []
        for path in sorted(self.path.glob("part-*.parquet")):
            try:
                stat = path.stat()
                stamp = (stat.st_mtime_ns, stat.st_size)
                known = self._known.get(path.name)
                if known is None or known[0] != stamp:
                    self._known[path.name] = known = (stamp, *_ends(pq.read_metadata(path)))
            except (OSError, pa.ArrowInvalid):  # being taken away, or damaged: `emstream check` says which
                continue
            if known[1] <= known[2]:
                order.append((known[1], known[2], path.name, stamp[0]))
        self._order = order

    def _read(self, part: tuple[int, int, str, int]) -> dict[str, np.ndarray]:
        key = part[2:]
        with self._lock:
            if key in self._parts:
                self._parts.move_to_end(key)
                return self._parts[key]
        columns = _columns(self.path / part[2], self._size)
        with self._lock:
            self._parts[key] = columns
            while len(self._parts) > 1 and sum(len(p["frame"]) for p in self._parts.values()) > MOST_ROWS:
                self._parts.popitem(last=False)
        return columns


def _ends(about: object) -> tuple[int, int]:
    """First and last frame of a part; (0, -1) for an empty one."""
    rows, groups, schema = about.num_rows, about.num_row_groups, about.schema  # type: ignore[attr-defined]
    if not rows:
        return 0, -1
    column = schema.names.index("frame")
    found = [about.row_group(g).column(column).statistics for g in range(groups)]  # type: ignore[attr-defined]
    return int(min(s.min for s in found)), int(max(s.max for s in found))


def _columns(path: Path, size: tuple[float, float] | None) -> dict[str, np.ndarray]:
    """COLUMNS of a part in px, sorted by frame."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    py, px = size or (1.0, 1.0)
    per = {"y": py, "x": px, "area": py * px, "diameter": math.sqrt(py * px)}
    try:
        names = pq.read_schema(path).names
        plain = {next((n.removesuffix(u) for u in _UNITS if n.endswith(u)), n): n for n in names}
        wanted = {name: plain[name] for name in COLUMNS if name in plain}
        table = pq.read_table(path, columns=list(wanted.values()), use_threads=False)
    except (OSError, pa.ArrowInvalid):
        return {name: np.empty(0) for name in COLUMNS}
    columns = {name: table[called].to_numpy() for name, called in wanted.items()}
    order = np.argsort(columns["frame"], kind="stable")
    return {name: column[order] / per[name] if name in per else column[order] for name, column in columns.items()}
