"""Which file a frame comes from: the same as before, grown or touched, or another one under its name (a generation)."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from emstream.messages import Origin
from emstream.store.database import LOST


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


def newest(db: sqlite3.Connection, path: str) -> tuple[int, Origin, int] | None:
    """(generation, stamp, known frames) of the newest file of that name."""
    row = db.execute(
        "SELECT s.*, (SELECT coalesce(max(sub) + 1, 0) FROM frames f WHERE f.path = s.path AND f.generation = s.generation"
        " AND f.slot IS NOT NULL) AS n FROM sources s WHERE s.path = ? ORDER BY generation DESC LIMIT 1",
        (path,),
    ).fetchone()
    if row is None:
        return None
    return row["generation"], Origin(path, row["n"] - 1, row["size"], row["mtime_ns"], row["inode"]), row["n"]


def generation_of(db: sqlite3.Connection, origin: Origin) -> int | None:
    """Which file of that name this frame belongs to, from 0; None when the frame is taken already."""
    known = newest(db, origin.path)
    if known is None:
        return 0
    generation, stamp, n = known
    follows = origin.sub == n and origin.inode == stamp.inode and origin.size >= stamp.size
    if n == 0 or follows or same_file(stamp, n, origin.size, origin.mtime_ns, origin.inode):
        taken = db.execute(
            "SELECT 1 FROM frames WHERE path = ? AND generation = ? AND sub = ? AND slot IS NOT NULL",
            (origin.path, generation, origin.sub),
        ).fetchone()
        return None if taken else generation
    return generation + 1


def only_touched(db: sqlite3.Connection, origin: Origin, generation: int, payload: Callable[[], int]) -> bool:
    """Whether the first of a file's generation is the one frame of the file before; that is then known anew."""
    known = newest(db, origin.path)
    if origin.sub or known is None or (known[0], known[2]) != (generation - 1, 1):
        return False
    row = db.execute(
        "SELECT source_crc32c FROM frames WHERE path = ? AND generation = ? AND sub = 0 AND slot IS NOT NULL",
        (origin.path, generation - 1),
    ).fetchone()
    if row is None or row["source_crc32c"] != payload():
        return False
    stamp = (origin.path, generation - 1, origin.size, origin.mtime_ns, origin.inode)
    db.execute("REPLACE INTO sources VALUES (?,?,?,?,?)", stamp)
    return True


def mark_lost(db: sqlite3.Connection, run: int, origin: Origin) -> None:
    """Remember that a frame was seen and can no longer be had."""
    db.execute(
        "INSERT OR IGNORE INTO frames (run, slot, path, generation, sub, state, at) SELECT ?, NULL, ?,"
        " coalesce((SELECT max(generation) FROM sources WHERE path = ?), 0), ?, ?, ?",
        (run, origin.path, origin.path, origin.sub, LOST, time.time()),
    )
