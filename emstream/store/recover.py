"""What a start finds that an earlier life left behind: frames under way, files gone since, a machine that went down."""

from __future__ import annotations

import socket
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from emstream.messages import Origin
from emstream.store import quarantine
from emstream.store.database import RUNS, run_row
from emstream.store.rows import RunRow
from emstream.store.sources import mark_lost


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a start after a kill or a power cut found."""

    redone: int  # frames that were under way: their sources are read again
    lost: tuple[Origin, ...]  # were under way, and their file is gone since
    rebooted: bool  # the machine started anew since the ledger was last used
    runs: tuple[RunRow, ...]  # were live
    rebuilt: tuple[str, ...] = ()  # runs from which a lost ledger was made anew


def recover(db: sqlite3.Connection, out: Path, source_root: Path | None) -> Recovery:
    """Take back what was under way, in the caller's transaction; the sources are read again into the same slots.

    out         : the folder of the runs; when the ledger is empty beside some, it is made anew from them
    source_root : the watched folder
    """
    boot = boot_id()
    meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
    rebuilt = () if meta else _rebuild(db, out)
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
            mark_lost(db, row["run"], origin)
            gone.append(origin)
    db.execute("REPLACE INTO meta VALUES ('boot_id', ?)", (boot,))
    db.execute("REPLACE INTO meta VALUES ('clean', '0')")
    rebooted = bool(meta) and meta.get("clean") != "1" and meta.get("boot_id") != boot
    live = tuple(
        row for row in map(run_row, db.execute(RUNS + " ORDER BY runs.id")) if row.state in ("live", "new", "recovered")
    )
    return Recovery(len(pending) - len(gone), tuple(gone), rebooted, live, rebuilt)


def boot_id() -> str:
    """What changes when the machine starts anew."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else socket.gethostname()


def _rebuild(db: sqlite3.Connection, out: Path) -> tuple[str, ...]:
    """An empty ledger beside runs: the old one was lost."""
    if next(out.glob("*.zarr"), None) is None:
        return ()
    from emstream.store.rebuild import rebuild  # needs zarr, which a first start does not

    return rebuild(db, out)


def _holds_anything(folder: Path) -> bool:
    """An empty folder may be a mount point without its mount: that a file is not in it says nothing."""
    try:
        return next(folder.iterdir(), None) is not None
    except OSError:
        return False
