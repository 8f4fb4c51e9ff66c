"""What could not become frames: kept in the ledger, listed, and asked for once more, also while a daemon holds the folder."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emstream.errors import NotARun, SourceMissing, StoreDamaged

WHOLE = -1  # instead of a frame's number: the file as a whole

SCHEMA = """
CREATE TABLE IF NOT EXISTS quarantine (
    path TEXT NOT NULL, sub INTEGER NOT NULL, reason TEXT NOT NULL, what TEXT NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (path, sub)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS again (path TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables; one of an older shape goes, for every start reads quarantined files again anyway."""
    columns = [row[1] for row in db.execute("PRAGMA table_info(quarantine)")]
    if columns and "sub" not in columns:
        db.execute("DROP TABLE quarantine")
    db.executescript(SCHEMA)


def add(db: sqlite3.Connection, path: str, sub: int, reason: str, what: str, size: int, mtime_ns: int) -> None:
    """Remember it; what was asked for once more has been answered."""
    db.execute("REPLACE INTO quarantine VALUES (?,?,?,?,?,?,?)", (path, sub, reason, what, size, mtime_ns, time.time()))
    db.execute("DELETE FROM again WHERE path = ?", (path,))


def settle(db: sqlite3.Connection, path: str, sub: int, mtime_ns: int) -> None:
    """A frame of it could be read: that frame, and an older state of the file, are quarantined no longer."""
    db.execute("DELETE FROM quarantine WHERE path = ? AND (sub = ? OR (sub = ? AND mtime_ns < ?))",
               (path, sub, WHOLE, mtime_ns))  # fmt: skip
    db.execute(
        "DELETE FROM again WHERE path = ? AND (SELECT count(*) = max(sub) + 1 FROM sources s JOIN frames f"
        " USING (path, generation) WHERE s.path = ? AND f.slot IS NOT NULL AND s.generation ="
        " (SELECT max(generation) FROM sources WHERE path = ?))",
        (path, path, path),
    )


def any_left(db: sqlite3.Connection) -> bool:
    """Whether there is anything to settle at all."""
    return bool(db.execute("SELECT EXISTS (SELECT 1 FROM quarantine) OR EXISTS (SELECT 1 FROM again)").fetchone()[0])


def first_gap(db: sqlite3.Connection, path: str, generation: int, known: int) -> int:
    """Of a file that was asked for once more: its first frame that is not stored; `known` for every other file."""
    if not db.execute("SELECT 1 FROM again WHERE path = ?", (path,)).fetchone():
        return known
    rows = db.execute(
        "SELECT sub FROM frames WHERE path = ? AND generation = ? AND slot IS NOT NULL ORDER BY sub", (path, generation)
    )
    return next((i for i, (sub,) in enumerate(rows) if sub != i), known)


def keep_gaps(db: sqlite3.Connection) -> None:
    """At a start: frames under way with stored successors in their file are asked for, or they would be passed over."""
    db.execute(
        "INSERT OR IGNORE INTO again SELECT DISTINCT f.path, ? FROM frames f JOIN frames g USING (path, generation)"
        " WHERE f.state = 'RESERVED' AND g.slot IS NOT NULL AND g.state != 'RESERVED' AND g.sub > f.sub",
        (time.time(),),
    )


def listed(out: Path | str) -> list[dict[str, Any]]:
    """What is quarantined in an output folder: path, frame (None: the whole file), reason, what, size, at (1970 s).

    raises : NotARun, StoreDamaged
    """
    with _open(out) as db:
        rows = db.execute("SELECT * FROM quarantine ORDER BY path, sub").fetchall()
    return [
        {"path": r["path"], "frame": None if r["sub"] == WHOLE else r["sub"], "reason": r["reason"], "what": r["what"],
         "size": r["size"], "at": r["at"]}
        for r in rows
    ]  # fmt: skip


def retry(out: Path | str, paths: Sequence[str] | None = None) -> list[str]:
    """Ask that quarantined files are read once more: by the daemon that runs, within seconds, or by the next one.

    paths   : as `listed` gives them; None for all
    returns : the paths that were quarantined and are so no longer
    raises  : SourceMissing when one of them is not quarantined (then nothing is changed), NotARun, StoreDamaged
    """
    with _open(out) as db:
        db.execute("BEGIN IMMEDIATE")
        held = [row[0] for row in db.execute("SELECT DISTINCT path FROM quarantine ORDER BY path")]
        unknown = sorted(set(paths or ()) - set(held))
        if unknown:
            db.execute("ROLLBACK")
            raise SourceMissing(f"not quarantined: {', '.join(unknown)}", f"emstream quarantine list {out}")
        wanted = held if paths is None else sorted(set(paths))
        for path in wanted:
            db.execute("DELETE FROM quarantine WHERE path = ?", (path,))
            db.execute("REPLACE INTO again VALUES (?,?)", (path, time.time()))
        db.execute("COMMIT")
    return wanted


@contextmanager
def _open(out: Path | str) -> Iterator[sqlite3.Connection]:
    """The ledger of a folder, beside the daemon that may hold it: SQLite lets several processes take turns."""
    path = Path(out) / ".emstream" / "ledger.sqlite"
    if not path.is_file():
        raise NotARun(f"{out} has no ledger", "name the folder that emstream live writes its runs to")
    db = sqlite3.connect(path, isolation_level=None, timeout=30)
    db.row_factory = sqlite3.Row
    try:
        prepare(db)
        yield db
    except sqlite3.DatabaseError as error:
        raise StoreDamaged(f"{path}: {error}", "emstream live builds it anew from the runs when it is away") from error
    finally:
        db.close()
