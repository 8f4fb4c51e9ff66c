"""The ledger's SQLite file: its tables, and how runs and frames are asked for."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from emstream.errors import StoreDamaged
from emstream.store import quarantine
from emstream.store.rows import RunRow

RESERVED, COMMITTED, SEGMENTED, LOST = "RESERVED", "COMMITTED", "SEGMENTED", "LOST"

SCHEMA = """
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

RUNS = (  # slots are committed in order: the last one tells how many
    "SELECT runs.*, coalesce((SELECT f.slot + 1 FROM frames f WHERE f.run = runs.id AND f.state IN ('COMMITTED', 'SEGMENTED')"
    " ORDER BY f.slot DESC LIMIT 1), 0) AS n FROM runs"
)
STATE_OF_FIRST = "(SELECT f.state FROM frames f WHERE f.run = runs.id AND f.slot = 0)"
STATE_OF_LAST = "(SELECT f.state FROM frames f WHERE f.run = runs.id AND f.state IN ('COMMITTED', 'SEGMENTED') ORDER BY f.slot DESC LIMIT 1)"
FRAMES = (
    "SELECT f.*, s.size, s.mtime_ns, s.inode FROM frames f JOIN sources s USING (path, generation)"
    " WHERE f.run = ? AND f.slot >= ? AND f.slot < ? AND f.state IN ('COMMITTED', 'SEGMENTED') ORDER BY f.slot"
)


def connect(path: Path) -> sqlite3.Connection:
    """The database, with all its tables as they are today. Raises StoreDamaged."""
    try:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(SCHEMA)
        known = {row["name"] for row in db.execute("PRAGMA table_info(frames)")}
        for name in {"final_dy", "final_dx", "agreement"} - known:  # a ledger of an older version
            db.execute(f"ALTER TABLE frames ADD COLUMN {name} REAL")
        if "settled" not in {row["name"] for row in db.execute("PRAGMA table_info(runs)")}:
            db.execute("ALTER TABLE runs ADD COLUMN settled INTEGER NOT NULL DEFAULT 0")
        quarantine.prepare(db)
    except sqlite3.DatabaseError as error:
        raise StoreDamaged(f"{path}: {error}", "move it away; it is built anew from the runs") from error
    return db


def run_row(row: sqlite3.Row) -> RunRow:
    """One row of `RUNS`."""
    scale = None if row["py"] is None else (row["py"], row["px"])
    shape = (row["y"], row["x"])
    return RunRow(
        row["id"], row["name"], row["series"], shape, row["dtype"], scale, row["state"], json.loads(row["attrs"]), row["n"],
        row["checkpoint"], row["settled"],
    )  # fmt: skip
