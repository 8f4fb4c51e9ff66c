"""tables/origins.jsonl: one line a frame, where it came from and its checksum, so that a run needs no ledger to be understood."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from emstream.store.chunks import replace

TAIL = 64 << 10  # bytes; a line has some hundreds
_KEYS = ("slot", "path", "generation", "sub", "size", "mtime_ns", "inode", "crc32c", "source_crc32c")


class Origins:
    """The journal of one run. The ledger is the truth; this is the copy that travels with the run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Lines for frames that were committed (rows of the ledger), all of them or, with an OSError, none."""
        with self.path.open("ab", buffering=0) as file:
            end = file.tell()
            left = memoryview(_lines(rows))
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError:
                file.truncate(end)
                raise

    def last(self) -> int | None:
        """The slot of the last line, which a kill may have torn; the slots before are there. None when that is not so."""
        try:
            with self.path.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - TAIL))
                *_, line, rest = file.read().split(b"\n")
            return None if rest else int(json.loads(line)["slot"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def renew(self, rows: Iterable[Sequence[Mapping[str, Any]]]) -> None:
        """Make the journal say what the ledger says, in so many blocks of rows."""
        replace(self.path, map(_lines, rows))


def write_origins(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """The journal of a run that is written at once; rows may say more than those of a ledger, labels_crc32c for one."""
    replace(path, b"".join(json.dumps(dict(row)).encode() + b"\n" for row in rows))


def read_origins(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal, in order of slots; a torn last line is left out, a repeated slot counts once."""
    rows: dict[int, dict[str, Any]] = {}
    if path.is_file():
        for line in path.read_bytes().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            rows[row["slot"]] = row
    return [rows[slot] for slot in sorted(rows)]


def _lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps({k: row[k] for k in _KEYS}).encode() + b"\n" for row in rows)
