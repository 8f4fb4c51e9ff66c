"""Verify a run: every chunk is there, decodes, and is what the ledger says; metadata, columns and tables fit together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from emstream.errors import NotARun
from emstream.messages import Status
from emstream.store.chunks import PARTIAL, crc32c
from emstream.store.layout import COLUMNS, LABELS, chunk_name
from emstream.store.ledger import read_frames
from emstream.store.origins import read_origins
from emstream.store.run import Run
from emstream.store.shards import JOURNAL, read_journal, wrong


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault."""

    array: str  # the array or table, e.g. "0" or "labels/particles/1"; "" for the run as a whole
    frame: int | None  # which frame, from 0; None when it is not one frame's
    what: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was looked at, and what is wrong."""

    path: str
    frames: int
    chunks: int  # that were read
    segmented: int  # frames with labels
    checksums: str  # where the checksums came from: "ledger", "origins.jsonl" or ""
    problems: tuple[Problem, ...]
    repaired: tuple[Problem, ...] = ()  # was wrong before a repair

    def as_dict(self) -> dict[str, Any]:
        """For people and for JSON."""
        told = {"path": self.path, "ok": not self.problems, "frames": self.frames, "segmented": self.segmented}
        told |= {"chunks": self.chunks, "checksums": self.checksums}
        for name, problems in (("problems", self.problems), ("repaired", self.repaired)):
            if name == "problems" or problems:
                told[name] = [{"array": p.array, "frame": p.frame, "what": p.what} for p in problems]
        return told


def check(path: Path | str, progress: Callable[[int, int], None] | None = None) -> Report:
    """Read everything in a run and say what is missing or damaged. A live run is judged up to its published length.

    progress : called with (frames done, frames in all)
    raises   : NotARun
    """
    path = Path(path)
    try:
        run = Run(path)
    except NotARun as error:
        rows, source = known_rows(path)
        if not rows:
            raise
        what = f"is known to the {source}, but its metadata cannot be read: {_first_line(error)}"
        return Report(str(path), 0, 0, 0, source, (Problem("", None, what),))
    n = run.n
    rows, source = known_rows(path)
    problems = list(_metadata(run, n))
    columns: dict[str, np.ndarray] = {}
    for name in _columns(run):
        try:
            columns[name] = run.column(name)
        except (KeyError, ValueError, RuntimeError) as error:
            problems.append(Problem(f"frames/{name}", None, f"cannot be read: {_first_line(error)}"))
    status = columns.get("status", np.zeros(n, np.uint8))
    arrays = {name: _Pixels(array) for name, array in _arrays(run).items()}
    problems.extend(_shards(run))
    chunks = 0
    for i in range(n):
        row = rows.get(i)
        segmented = bool(i < len(status) and status[i] & Status.SEGMENTED)
        for name, array in arrays.items():
            if name.startswith(LABELS) and not segmented:
                continue
            chunks += 1
            problems.extend(_chunk(run.path, name, array, i, _expected(name, row)))
        if row is None and rows:
            problems.append(Problem("0", i, "is published, but unknown to the ledger"))
        elif row is not None:
            problems.extend(_row(columns, i, row))
        if progress is not None:
            progress(i + 1, n)
    problems.extend(_tables(run, n))
    return Report(str(run.path), n, chunks, int((status[:n] & Status.SEGMENTED > 0).sum()), source, tuple(problems))


def known_rows(path: Path) -> tuple[dict[int, Mapping[str, Any]], str]:
    """What is known of a run's frames, by slot, and who knows it: "ledger", "origins.jsonl" or ""."""
    ledger = read_frames(path.parent, path.name.removesuffix(".zarr"))
    rows = ledger if ledger is not None else read_origins(path / "tables" / "origins.jsonl")
    source = "" if not rows else ("ledger" if ledger is not None else "origins.jsonl")
    return {row["slot"]: row for row in rows}, source


def _metadata(run: Run, n: int) -> Iterator[Problem]:
    """Every array says at least n frames, closed ones exactly n; levels of image and labels agree."""
    wanted = [str(k) for k in range(run.levels)] + [f"{LABELS}/{k}" for k in range(run.levels)]
    for name in wanted + [f"frames/{c}" for c in _columns(run)]:
        try:
            document = json.loads((run.path / name / "zarr.json").read_bytes())
            length, shape = document["shape"][0], tuple(document["shape"][1:])
        except (OSError, ValueError, KeyError) as error:
            yield Problem(name, None, f"metadata cannot be read: {_first_line(error)}")
            continue
        if length < n or (length > n and run.state == "closed"):
            yield Problem(name, None, f"says {length} frames, level 0 says {n}")
        level = int(Path(name).name) if Path(name).name.isdigit() else None
        expected = run.shape if level is None else tuple(-(-s // 2**level) for s in run.shape)
        if level is not None and shape != expected:
            yield Problem(name, None, f"is {shape} px, should be {expected}")
    if run.state == "closed":
        for leftover in run.path.rglob(f"*{PARTIAL}"):
            yield Problem(str(leftover.relative_to(run.path).parent), None, f"left half written: {leftover.name}")


def _columns(run: Run) -> list[str]:
    """The columns that the run should have; an older version's lacks some."""
    return [name for name, c in COLUMNS.items() if c.always or (run.path / "frames" / name).is_dir()]


def _arrays(run: Run) -> dict[str, zarr.Array]:
    names = [str(k) for k in range(run.levels)] + [f"{LABELS}/{k}" for k in range(run.levels)]
    if (run.path / "raw" / "0").is_dir():
        names.append("raw/0")
    arrays = {}
    for name in names:
        if (run.path / name / "zarr.json").is_file():
            try:
                array = zarr.open_array(run.path / name, mode="r")
            except (OSError, ValueError, KeyError, TypeError):
                continue  # its metadata has been named
            assert isinstance(array, zarr.Array)
            arrays[name] = array
    return arrays


def _expected(name: str, row: Mapping[str, Any] | None) -> int | None:
    key = {"0": "crc32c", f"{LABELS}/0": "labels_crc32c", "raw/0": "source_crc32c"}.get(name)
    return None if row is None or key is None else row.get(key)


class _Pixels:
    """An array read frame by frame; of a sharded one a row of tiles is read at a time."""

    def __init__(self, array: zarr.Array) -> None:
        self.per_frame = array.shards is None and array.chunks[0] == 1
        self._array, self._rows = array, array.chunks[0]
        self._first, self._held = -1, np.empty(0)

    def __getitem__(self, i: int) -> np.ndarray:
        """Frame i, (y, x); raises what the codecs raise for broken bytes."""
        if self._rows == 1:
            return np.asarray(self._array[i])
        first = i - i % self._rows
        if first != self._first:
            self._first = -1
            self._held = np.asarray(self._array[first : first + self._rows])
            self._first = first
        return self._held[i - first]


def _shards(run: Run) -> Iterator[Problem]:
    """The files of a sharded run, and of its further sets of labels, are those that were written."""
    folders = [
        run.path / "tables",
        *(run.path / "tables" / name for name in run.label_names if name != "particles"),
    ]
    sharded = bool(run.attrs.get("layout", {}).get("shard"))
    for folder in folders:
        if sharded and folder == folders[0] and not (folder / JOURNAL).is_file():
            yield Problem(str(folder.relative_to(run.path)), None, f"{JOURNAL} is missing: no checksums of the shards")
        for line in read_journal(folder):
            if what := wrong(run.path, line):
                yield Problem(str(line["array"]), None, f"block {line['shard']}: {what}")


def _chunk(root: Path, name: str, array: _Pixels, i: int, checksum: int | None) -> Iterator[Problem]:
    """One frame of one array: there, whole, and with the checksum it was stored with."""
    if array.per_frame and not (root / name / chunk_name(i)).is_file():
        yield Problem(name, i, "chunk is missing")
        return
    try:
        pixels = array[i]
    except (ValueError, RuntimeError, OSError) as error:
        yield Problem(name, i, f"chunk is damaged: {_first_line(error)}")
        return
    if checksum is not None and crc32c(pixels) != checksum:
        yield Problem(name, i, "pixels are not the ones that were stored (checksum of the ledger)")


def _row(columns: Mapping[str, np.ndarray], i: int, row: Mapping[str, Any]) -> Iterator[Problem]:
    """The columns say what the ledger says (the journal in the run has no such columns)."""
    for name in ("time_s", "anchor", "source_index", "status"):
        column = columns.get(name)
        stored = row.get(name)
        if column is None or stored is None or i >= len(column):
            continue
        if column[i] != stored and not (name == "status" and stored == int(column[i]) | Status.SEGMENTED):
            yield Problem(f"frames/{name}", i, f"is {column[i]}, the ledger says {stored}")


def _tables(run: Run, n: int) -> Iterator[Problem]:
    for path in sorted((run.path / "tables").glob("*.parquet")):
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            yield Problem(f"tables/{path.name}", None, f"cannot be read: {_first_line(error)}")
            continue
        if "frame" in table.column_names and table.num_rows:
            frames = table.column("frame").to_numpy()
            if frames.min() < 0 or (frames.max() >= n and run.state == "closed"):
                yield Problem(f"tables/{path.name}", int(frames.max()), f"speaks of a frame that is not in 0…{n - 1}")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
