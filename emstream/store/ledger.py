"""The ledger: which frames were seen, from which file, and how far each got. SQLite beside the runs; one daemon at a time."""

from __future__ import annotations

import errno
import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from emstream.errors import StoreDamaged
from emstream.messages import Origin, PixelSize, Status
from emstream.store import quarantine
from emstream.store.chunks import sync_folder
from emstream.store.failpoints import failpoint
from emstream.store.lock import take
from emstream.store.names import free_name

FOLDER = ".emstream"
RESERVED, COMMITTED, SEGMENTED, LOST = "RESERVED", "COMMITTED", "SEGMENTED", "LOST"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, series TEXT NOT NULL, y INTEGER NOT NULL, x INTEGER NOT NULL,
    dtype TEXT NOT NULL, py REAL, px REAL, state TEXT NOT NULL, created REAL NOT NULL, attrs TEXT NOT NULL,
    checkpoint INTEGER NOT NULL DEFAULT 0, settled INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS sources (
    path TEXT NOT NULL, generation INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL, PRIMARY KEY (path, generation)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS frames (
    run INTEGER NOT NULL REFERENCES runs (id), slot INTEGER, path TEXT NOT NULL, generation INTEGER NOT NULL,
    sub INTEGER NOT NULL, state TEXT NOT NULL, crc32c INTEGER, source_crc32c INTEGER, time_s REAL, dy REAL, dx REAL,
    confidence REAL, anchor INTEGER, status INTEGER NOT NULL DEFAULT 0, source_index INTEGER, particles INTEGER,
    area_fraction REAL, model TEXT, labels_crc32c INTEGER, at REAL, final_dy REAL, final_dx REAL, agreement REAL, UNIQUE (run, slot), UNIQUE (path, generation, sub));
CREATE INDEX IF NOT EXISTS reserved ON frames (run, slot) WHERE state = 'RESERVED';
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as the ledger knows it."""

    id: int
    name: str
    series: str
    shape: tuple[int, int]
    dtype: str
    pixel_size_nm: PixelSize | None
    state: str  # new | live | closed | recovered
    attrs: Mapping[str, Any]
    n: int  # frames committed
    checkpoint: int  # frames below this are known to be on the disk in every array
    settled: int  # the columns' files say what the ledger says of frames below this, unless the machine went down


@dataclass(frozen=True, slots=True)
class FrameRow:
    """What the ledger keeps of a frame."""

    slot: int
    crc32c: int  # of the stored pixels' memory
    source_crc32c: int  # of the pixels as the camera wrote them
    time_s: float
    shift: tuple[float, float]
    confidence: float
    anchor: int
    status: int
    source_index: int


@dataclass(frozen=True, slots=True)
class LabelRow:
    """What the ledger keeps of a frame's labels."""

    slot: int
    crc32c: int
    particles: int
    area_fraction: float
    model: str
    agreement: float = float("nan")


@dataclass(frozen=True, slots=True)
class FinalRow:
    """What the ledger keeps of a shift that became final."""

    slot: int
    shift: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a start after a kill or a power cut found."""

    redone: int  # frames that were under way: their sources are read again
    lost: tuple[Origin, ...]  # were under way, and their file is gone since
    rebooted: bool  # the machine started anew since the ledger was last used
    runs: tuple[RunRow, ...]  # were live
    rebuilt: tuple[str, ...] = ()  # runs from which a lost ledger was made anew


def same_file(known: Origin, frames: int, size: int, mtime_ns: int, inode: int) -> bool:
    """Whether a file is the one that is known, perhaps grown or touched, and not another one under its name.

    known  : size, mtime and inode when its last frame was read
    frames : how many frames of it are known

    Size and mtime decide before the inode does: network mounts number files anew. A file of several frames may be
    larger (it grows), or have a new mtime (its header was completed). A single frame of equal size and a new mtime
    was overwritten: cameras that keep one `latest` file do that.
    """
    if size == known.size and mtime_ns == known.mtime_ns:
        return True
    if size < known.size:
        return False
    if frames > 1:
        return True
    return size > known.size and inode == known.inode


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
        self._lock_fd = take(self.folder / "lock", self.out)
        self._mutex = threading.RLock()
        self._closed = False
        self._fsync = fsync
        self._asked: set[tuple[str, float]] = set()
        try:
            self._db = _connect(self.folder / "ledger.sqlite")
            if fsync:  # a power cut takes away new names that nobody synced
                for folder in (self.folder, self.out, self.out.parent):
                    with suppress(PermissionError):  # of a folder above that may only be passed through
                        sync_folder(folder)
            self.recovery = self._recover(source_root)
        except BaseException:
            os.close(self._lock_fd)
            raise

    # -- reading

    def known_frames(self, path: str, size: int, mtime_ns: int, inode: int) -> int:
        """How many leading frames of exactly this file are taken already; 0 for an unknown or overwritten file."""
        with self._mutex:
            known = self._source(path)
            if known is None or not same_file(known[1], known[2], size, mtime_ns, inode):
                return 0
            return quarantine.first_gap(self._db, path, known[0], known[2])

    def runs(self) -> list[RunRow]:
        """All runs, oldest first."""
        with self._mutex:
            return [_run_row(row) for row in self._db.execute(_RUNS + " ORDER BY runs.id")]

    def unfinished(self, labels: bool) -> list[RunRow]:
        """Runs with frames that an earlier life left open, oldest first.

        labels : also those that were closed after labels had stopped to be made: the first frame has some, the last none
        """
        behind = f" OR ({_STATE_OF_FIRST} = 'SEGMENTED' AND {_STATE_OF_LAST} = 'COMMITTED')" if labels else ""
        with self._mutex:
            rows = self._db.execute(f"{_RUNS} WHERE runs.state IN ('new', 'live'){behind} ORDER BY runs.id")
            return [row for row in map(_run_row, rows) if row.n]

    def run(self, name: str) -> RunRow:
        """The run of that name.

        raises : KeyError
        """
        with self._mutex:
            for row in self._db.execute(_RUNS + " WHERE name = ?", (name,)):
                return _run_row(row)
        raise KeyError(name)

    def frames(self, run: int, start: int = 0, stop: int = 1 << 62) -> list[dict[str, Any]]:
        """The committed frames of a run in slots start … stop - 1, in order, with their sources."""
        with self._mutex:
            return [dict(row) for row in self._db.execute(_FRAMES, (run, start, stop))]

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
            rows = db.execute(_RUNS + " WHERE series = ? ORDER BY runs.id DESC", (series,)).fetchall()
            for row in map(_run_row, rows):
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
                generation = self._generation(origin)
                if payload is not None and generation and self._only_touched(origin, generation, partial(payload, i)):
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
            _mark_lost(db, run, origin)

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
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.OperationalError as error:
                code = (error.sqlite_errorcode or 0) & 0xFF
                number = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}.get(code, errno.EIO)
                raise OSError(number, f"the ledger {self.folder / 'ledger.sqlite'}: {error}") from error

    def _source(self, path: str) -> tuple[int, Origin, int] | None:
        """(generation, stamp, known frames) of the newest file of that name."""
        row = self._db.execute(
            "SELECT s.*, (SELECT coalesce(max(sub) + 1, 0) FROM frames f WHERE f.path = s.path AND f.generation = s.generation"
            " AND f.slot IS NOT NULL) AS n FROM sources s WHERE s.path = ? ORDER BY generation DESC LIMIT 1",
            (path,),
        ).fetchone()
        if row is None:
            return None
        return row["generation"], Origin(path, row["n"] - 1, row["size"], row["mtime_ns"], row["inode"]), row["n"]

    def _generation(self, origin: Origin) -> int | None:
        """Which file of that name this frame belongs to, from 0; None when the frame is taken already."""
        known = self._source(origin.path)
        if known is None:
            return 0
        generation, stamp, n = known
        follows = origin.sub == n and origin.inode == stamp.inode and origin.size >= stamp.size
        if n == 0 or follows or same_file(stamp, n, origin.size, origin.mtime_ns, origin.inode):
            taken = self._db.execute(
                "SELECT 1 FROM frames WHERE path = ? AND generation = ? AND sub = ? AND slot IS NOT NULL",
                (origin.path, generation, origin.sub),
            ).fetchone()
            return None if taken else generation
        return generation + 1

    def _only_touched(self, origin: Origin, generation: int, payload: Callable[[], int]) -> bool:
        """Whether the first of a file's generation is the one frame of the file before; that is then known anew."""
        known = self._source(origin.path)
        if origin.sub or known is None or (known[0], known[2]) != (generation - 1, 1):
            return False
        row = self._db.execute(
            "SELECT source_crc32c FROM frames WHERE path = ? AND generation = ? AND sub = 0 AND slot IS NOT NULL",
            (origin.path, generation - 1),
        ).fetchone()
        if row is None or row["source_crc32c"] != payload():
            return False
        stamp = (origin.path, generation - 1, origin.size, origin.mtime_ns, origin.inode)
        self._db.execute("REPLACE INTO sources VALUES (?,?,?,?,?)", stamp)
        return True

    def _recover(self, source_root: Path | None) -> Recovery:
        """Take back what was under way; the sources are read again into the same slots."""
        boot = _boot_id()
        with self._write() as db:
            meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
            rebuilt = () if meta else self._rebuild(db)
            pending = db.execute(
                "SELECT f.run, f.path, f.sub, s.size, s.mtime_ns, s.inode FROM frames f JOIN sources s USING (path, generation)"
                " WHERE f.state = 'RESERVED' ORDER BY f.run, f.slot"  # in so many words: its index is of that state alone
            ).fetchall()
            quarantine.keep_gaps(db)
            db.execute("DELETE FROM frames WHERE state = 'RESERVED'")
            gone, mounted = [], source_root is not None and _holds_anything(source_root)
            for row in pending:
                origin = Origin(row["path"], row["sub"], row["size"], row["mtime_ns"], row["inode"])
                if mounted and source_root is not None and not (source_root / origin.path).exists():
                    _mark_lost(db, row["run"], origin)
                    gone.append(origin)
            db.execute("REPLACE INTO meta VALUES ('boot_id', ?)", (boot,))
            db.execute("REPLACE INTO meta VALUES ('clean', '0')")
        rebooted = bool(meta) and meta.get("clean") != "1" and meta.get("boot_id") != boot
        live = tuple(row for row in self.runs() if row.state in ("live", "new", "recovered"))
        return Recovery(len(pending) - len(gone), tuple(gone), rebooted, live, rebuilt)

    def _rebuild(self, db: sqlite3.Connection) -> tuple[str, ...]:
        """An empty ledger beside runs: the old one was lost."""
        if next(self.out.glob("*.zarr"), None) is None:
            return ()
        from emstream.store.rebuild import rebuild  # needs zarr, which a first start does not

        return rebuild(db, self.out)


_RUNS = (  # slots are committed in order: the last one tells how many
    "SELECT runs.*, coalesce((SELECT f.slot + 1 FROM frames f WHERE f.run = runs.id AND f.state IN ('COMMITTED', 'SEGMENTED')"
    " ORDER BY f.slot DESC LIMIT 1), 0) AS n FROM runs"
)
_STATE_OF_FIRST = "(SELECT f.state FROM frames f WHERE f.run = runs.id AND f.slot = 0)"
_STATE_OF_LAST = "(SELECT f.state FROM frames f WHERE f.run = runs.id AND f.state IN ('COMMITTED', 'SEGMENTED') ORDER BY f.slot DESC LIMIT 1)"
_FRAMES = (
    "SELECT f.*, s.size, s.mtime_ns, s.inode FROM frames f JOIN sources s USING (path, generation)"
    " WHERE f.run = ? AND f.slot >= ? AND f.slot < ? AND f.state IN ('COMMITTED', 'SEGMENTED') ORDER BY f.slot"
)


def read_frames(out: Path, name: str) -> list[dict[str, Any]] | None:
    """The frames of a run as the ledger has them, also while a daemon holds it; None without ledger or such a run."""
    path = Path(out) / FOLDER / "ledger.sqlite"
    if not path.is_file():
        return None
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
    db.row_factory = sqlite3.Row
    try:
        row = db.execute("SELECT id FROM runs WHERE name = ?", (name,)).fetchone()
        return None if row is None else [dict(r) for r in db.execute(_FRAMES, (row["id"], 0, 1 << 62))]
    except sqlite3.DatabaseError as error:
        raise StoreDamaged(f"{path}: {error}", "the runs carry what is needed to build it anew") from error
    finally:
        db.close()


def _holds_anything(folder: Path) -> bool:
    """An empty folder may be a mount point without its mount: that a file is not in it says nothing."""
    try:
        return next(folder.iterdir(), None) is not None
    except OSError:
        return False


def _mark_lost(db: sqlite3.Connection, run: int, origin: Origin) -> None:
    db.execute(
        "INSERT OR IGNORE INTO frames (run, slot, path, generation, sub, state, at) SELECT ?, NULL, ?,"
        " coalesce((SELECT max(generation) FROM sources WHERE path = ?), 0), ?, ?, ?",
        (run, origin.path, origin.path, origin.sub, LOST, time.time()),
    )


def _run_row(row: sqlite3.Row) -> RunRow:
    scale = None if row["py"] is None else (row["py"], row["px"])
    shape = (row["y"], row["x"])
    return RunRow(
        row["id"], row["name"], row["series"], shape, row["dtype"], scale, row["state"], json.loads(row["attrs"]), row["n"],
        row["checkpoint"], row["settled"],
    )  # fmt: skip


def _same_scale(a: PixelSize | None, b: PixelSize | None) -> bool:
    """Within one percent, or not known on either side."""
    return a is None or b is None or all(abs(p - q) <= 0.01 * max(p, q) for p, q in zip(a, b))


def _connect(path: Path) -> sqlite3.Connection:
    try:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(_SCHEMA)
        known = {row["name"] for row in db.execute("PRAGMA table_info(frames)")}
        for name in {"final_dy", "final_dx", "agreement"} - known:  # a ledger of an older version
            db.execute(f"ALTER TABLE frames ADD COLUMN {name} REAL")
        if "settled" not in {row["name"] for row in db.execute("PRAGMA table_info(runs)")}:
            db.execute("ALTER TABLE runs ADD COLUMN settled INTEGER NOT NULL DEFAULT 0")
        quarantine.prepare(db)
    except sqlite3.DatabaseError as error:
        raise StoreDamaged(f"{path}: {error}", "move it away; it is built anew from the runs") from error
    return db


def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else socket.gethostname()
