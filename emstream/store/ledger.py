"""The ledger: which frames were seen, from which file, and how far each got. SQLite beside the runs; one daemon at a time."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from emstream.errors import StoreDamaged
from emstream.messages import Origin, PixelSize, Status
from emstream.store import quarantine
from emstream.store.chunks import sync_folder
from emstream.store.database import (
    COMMITTED,
    FRAMES,
    RESERVED,
    RUNS,
    SEGMENTED,
    STATE_OF_FIRST,
    STATE_OF_LAST,
    connect,
    run_row,
)
from emstream.store.failpoints import failpoint
from emstream.store.lock import take
from emstream.store.names import free_name
from emstream.store.recover import recover
from emstream.store.rows import FinalRow, FrameRow, LabelRow, RunRow
from emstream.store.sources import generation_of, mark_lost, newest, only_touched, same_file

FOLDER = ".emstream"


class Ledger:
    """The open ledger of an output folder; any thread may call it, one at a time writes.

    out         : the folder of the runs
    source_root : the watched folder, to tell after a crash which sources are gone
    raises      : StoreBusy when another process holds the folder, StoreDamaged
    """

    def __init__(self, out: Path, source_root: Path | None = None, fsync: bool = True) -> None:
        self.out = Path(out)
        self.folder = self.out / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        self._mutex = threading.RLock()
        self._closed = False
        self._fsync = fsync
        self._asked: set[tuple[str, float]] = set()
        with ExitStack() as opening:
            self._lock_fd = take(self.folder / "lock", self.out)
            opening.callback(os.close, self._lock_fd)
            self._db = connect(self.folder / "ledger.sqlite")
            if fsync:  # a power cut takes away new names that nobody synced
                for folder in (self.folder, self.out, self.out.parent):
                    with suppress(PermissionError):  # of a folder above that may only be passed through
                        sync_folder(folder)
            with self._write() as db:
                self.recovery = recover(db, self.out, source_root)
            opening.pop_all()

    # -- reading

    def known_frames(self, path: str, size: int, mtime_ns: int, inode: int) -> int:
        """How many leading frames of exactly this file are taken already; 0 for an unknown or overwritten file."""
        with self._mutex:
            known = newest(self._db, path)
            if known is None or not same_file(known[1], known[2], size, mtime_ns, inode):
                return 0
            return quarantine.first_gap(self._db, path, known[0], known[2])

    def runs(self) -> list[RunRow]:
        """All runs, oldest first."""
        with self._mutex:
            return [run_row(row) for row in self._db.execute(RUNS + " ORDER BY runs.id")]

    def unfinished(self, labels: bool) -> list[RunRow]:
        """Runs with frames that an earlier life left open, oldest first.

        labels : also those that were closed after labels had stopped to be made: the first frame has some, the last none
        """
        behind = f" OR ({STATE_OF_FIRST} = 'SEGMENTED' AND {STATE_OF_LAST} = 'COMMITTED')" if labels else ""
        with self._mutex:
            rows = self._db.execute(f"{RUNS} WHERE runs.state IN ('new', 'live'){behind} ORDER BY runs.id")
            return [row for row in map(run_row, rows) if row.n]

    def run(self, name: str) -> RunRow:
        """The run of that name.

        raises : KeyError
        """
        with self._mutex:
            for row in self._db.execute(RUNS + " WHERE name = ?", (name,)):
                return run_row(row)
        raise KeyError(name)

    def frames(self, run: int, start: int = 0, stop: int = 1 << 62) -> list[dict[str, Any]]:
        """The committed frames of a run in slots start … stop - 1, in order, with their sources."""
        with self._mutex:
            return [dict(row) for row in self._db.execute(FRAMES, (run, start, stop))]

    def counts(self) -> dict[str, int]:
        """Frames by state, and `quarantined` files."""
        with self._mutex:
            found = dict(self._db.execute("SELECT state, count(*) FROM frames GROUP BY state").fetchall())
            found["quarantined"] = self._db.execute("SELECT count(*) FROM quarantine").fetchone()[0]
        return found

    def quarantined(self) -> list[dict[str, Any]]:
        """What could not become frames: path, sub (-1: the whole file), reason, what, size, mtime_ns, at."""
        with self._mutex:
            return [dict(row) for row in self._db.execute("SELECT * FROM quarantine ORDER BY path, sub")]

    def asked_again(self) -> list[str]:
        """Files that somebody wants read once more, each told once in this life; see quarantine.retry."""
        try:
            with self._mutex:
                asked = {(row[0], row[1]) for row in self._db.execute("SELECT path, at FROM again")}
        except sqlite3.OperationalError:  # the disk is away; asked again later
            return []
        new, self._asked = asked - self._asked, asked
        return sorted(path for path, _ in new)

    # -- writing

    def run_for(
        self,
        series: str,
        name: str,
        shape: tuple[int, int],
        dtype: str,
        pixel_size_nm: PixelSize | None,
        attrs: Mapping[str, Any] | None = None,
    ) -> RunRow:
        """The newest run of that series with this shape, dtype and scale, or a new one: NAME, NAME-2, …

        A run whose folder was deleted does not go on: what it had would read as zeros.
        attrs : what a new run shall carry besides (settings, camera …)
        """
        with self._write() as db:
            rows = db.execute(RUNS + " WHERE series = ? ORDER BY runs.id DESC", (series,)).fetchall()
            for row in map(run_row, rows):
                if row.n and not (self.out / f"{row.name}.zarr").is_dir():
                    continue
                if row.shape == shape and row.dtype == dtype and _same_scale(row.pixel_size_nm, pixel_size_nm):
                    return row
            taken = {str(r[0]) for r in db.execute("SELECT name FROM runs")} | {p.stem for p in self.out.glob("*.zarr")}
            name = free_name(name, taken)
            py, px = pixel_size_nm or (None, None)
            db.execute(
                "INSERT INTO runs (name, series, y, x, dtype, py, px, state, created, attrs) VALUES (?,?,?,?,?,?,?,?,?,?)",
                (name, series, *shape, dtype, py, px, "new", time.time(), json.dumps(dict(attrs or {}), default=str)),
            )
            return self.run(name)

    def reserve(
        self, run: int, origins: Sequence[Origin], payload: Callable[[int], int] | None = None
    ) -> list[int | None]:
        """The slots of these frames, in order; None for a frame that has one already.

        payload : the crc32c of the i-th frame as the camera wrote it. A file of one frame that was overwritten by one
                  with this checksum was only touched or copied: nothing new; else it is a new frame

        Not synced: a reservation that a power cut takes back is made again from the source.
        """
        with self._write(durable=False) as db:
            slot = db.execute("SELECT coalesce(max(slot), -1) + 1 FROM frames WHERE run = ?", (run,)).fetchone()[0]
            slots: list[int | None] = []
            held = quarantine.any_left(db)
            for i, origin in enumerate(origins):
                generation = generation_of(db, origin)
                if payload is not None and generation and only_touched(db, origin, generation, partial(payload, i)):
                    generation = None
                if generation is None:
                    slots.append(None)
                    continue
                o = (origin.path, generation)
                db.execute("REPLACE INTO sources VALUES (?,?,?,?,?)", (*o, origin.size, origin.mtime_ns, origin.inode))
                db.execute(
                    "DELETE FROM frames WHERE path = ? AND generation = ? AND sub = ?", (*o, origin.sub)
                )  # a lost one
                db.execute(
                    "INSERT INTO frames (run, slot, path, generation, sub, state) VALUES (?,?,?,?,?,?)",
                    (run, slot, *o, origin.sub, RESERVED),
                )
                if held:
                    quarantine.settle(db, origin.path, origin.sub, origin.mtime_ns)
                slots.append(slot)
                slot += 1
        failpoint("ledger.reserved")
        return slots

    def commit(
        self,
        run: int,
        frames: Sequence[FrameRow],
        labels: Sequence[LabelRow] = (),
        finals: Sequence[FinalRow] = (),
        settled: int | None = None,
    ) -> None:
        """Count these frames, labels and final shifts as stored; one transaction, durable when it returns.

        settled : what the run's becomes with them; None stays
        raises : OSError when the disk is full or broken; StoreDamaged when a frame was never reserved
        """
        with self._write() as db:
            for f in frames:
                done = db.execute(
                    "UPDATE frames SET state = ?, crc32c = ?, source_crc32c = ?, time_s = ?, dy = ?, dx = ?, confidence = ?,"
                    " anchor = ?, status = ?, source_index = ?, at = ? WHERE run = ? AND slot = ?",
                    (COMMITTED, f.crc32c, f.source_crc32c, f.time_s, *f.shift, f.confidence, f.anchor, f.status,
                     f.source_index, time.time(), run, f.slot),
                )  # fmt: skip
                if done.rowcount != 1:
                    raise StoreDamaged(f"frame {f.slot} of run {run} was never reserved")
            for a in labels:
                db.execute(
                    "UPDATE frames SET state = ?, status = status | ?, labels_crc32c = ?, particles = ?, area_fraction = ?,"
                    " model = ?, agreement = ? WHERE run = ? AND slot = ?",
                    (
                        SEGMENTED,
                        int(Status.SEGMENTED),
                        a.crc32c,
                        a.particles,
                        a.area_fraction,
                        a.model,
                        a.agreement,
                        run,
                        a.slot,
                    ),
                )
            db.executemany(
                "UPDATE frames SET final_dy = ?, final_dx = ? WHERE run = ? AND slot = ?",
                [(*f.shift, run, f.slot) for f in finals],
            )
            if settled is not None:
                db.execute("UPDATE runs SET settled = ? WHERE id = ?", (settled, run))
            failpoint("ledger.commit")
        failpoint("ledger.committed")

    def set_run(
        self,
        run: int,
        *,
        state: str | None = None,
        attrs: Mapping[str, Any] | None = None,
        checkpoint: int | None = None,
        settled: int | None = None,
    ) -> None:
        """Change what is told of a run; what is None stays."""
        with self._write(durable=settled is None) as db:
            if settled is not None:
                db.execute("UPDATE runs SET settled = ? WHERE id = ?", (settled, run))
            if state is not None:
                db.execute("UPDATE runs SET state = ? WHERE id = ?", (state, run))
            if attrs is not None:
                db.execute("UPDATE runs SET attrs = ? WHERE id = ?", (json.dumps(dict(attrs), default=str), run))
            if checkpoint is not None:
                db.execute("UPDATE runs SET checkpoint = ? WHERE id = ?", (checkpoint, run))

    def quarantine(self, path: str, reason: str, what: str, size: int, mtime_ns: int, sub: int = -1) -> None:
        """Remember a file, or frame `sub` of it, that could not become a frame."""
        with self._write() as db:
            quarantine.add(db, path, sub, reason, what, size, mtime_ns)

    def lost(self, run: int, origin: Origin) -> None:
        """Remember that a frame was seen and can no longer be had."""
        with self._write() as db:
            mark_lost(db, run, origin)

    def close(self) -> None:
        """Leave cleanly: fold the log into the database and give the folder free."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            with self._write() as db:
                db.execute("REPLACE INTO meta VALUES ('clean', '1')")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.close()
            os.close(self._lock_fd)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- inside

    @contextmanager
    def _write(self, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction, alone; SQLite's words for a full or broken disk become OSError."""
        with self._mutex:
            try:
                if self._db.in_transaction:
                    yield self._db
                    return
                self._db.execute(f"PRAGMA synchronous = {'FULL' if durable and self._fsync else 'NORMAL'}")
                self._db.execute("BEGIN IMMEDIATE")
                with self._db:  # commits, or takes all of it back
                    yield self._db
            except sqlite3.OperationalError as error:
                code = (error.sqlite_errorcode or 0) & 0xFF
                number = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}.get(code, errno.EIO)
                raise OSError(number, f"the ledger {self.folder / 'ledger.sqlite'}: {error}") from error


def read_frames(out: Path, name: str) -> list[dict[str, Any]] | None:
    """The frames of a run as the ledger has them, also while a daemon holds it; None without ledger or such a run."""
    path = Path(out) / FOLDER / "ledger.sqlite"
    if not path.is_file():
        return None
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
    db.row_factory = sqlite3.Row
    try:
        row = db.execute("SELECT id FROM runs WHERE name = ?", (name,)).fetchone()
        return None if row is None else [dict(r) for r in db.execute(FRAMES, (row["id"], 0, 1 << 62))]
    except sqlite3.DatabaseError as error:
        raise StoreDamaged(f"{path}: {error}", "the runs carry what is needed to build it anew") from error
    finally:
        db.close()


def _same_scale(a: PixelSize | None, b: PixelSize | None) -> bool:
    """Within one percent, or not known on either side."""
    return a is None or b is None or all(abs(p - q) <= 0.01 * max(p, q) for p, q in zip(a, b))
