"""A daemon in small, killed by the tests: reads the planted source from where the ledger says, writes, closes."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy.random  # noqa: F401
import pandas  # noqa: F401  these three are imported late by others; the server has them once for all lives
import pyarrow.dataset  # noqa: F401
from crash import planted_source as planted

from emstream.store.failpoints import arm, failpoint
from emstream.store.ledger import Ledger
from emstream.store.records import FrameRecord, LabelRecord
from emstream.store.writer import RunWriter, StoreOptions

GROUP = 3  # frames committed together
SCHEMA = {"frame": "int64", "label": "int32"}


def emstream(out: Path, acknowledge: Callable[[int], object] = lambda n: None, fsync: bool = True) -> None:
    """As the daemon does: groups of frames, their labels one group later, rows of tables, everything resumed.

    acknowledge : told how many frames are safe, each time that there are more
    """
    options = StoreOptions(low_water_mb=0, publish_every_s=0, keep_raw=True, fsync=fsync)
    settled = (out / ".emstream").exists()  # by the second life the files are complete
    with Ledger(out, fsync=fsync) as ledger:
        row = ledger.run_for("cam", "cam", planted.SHAPE, "uint16", (0.5, 0.5))
        writer = RunWriter(out, row, ledger, options)
        if row.state == "closed":
            writer.reopen()
        stored = ledger.frames(row.id)
        waiting = [r["slot"] for r in stored if r["state"] == "COMMITTED"]
        begin = waiting[0] if waiting else len(stored)
        table = writer.table("particles", SCHEMA)
        table.drop("frame", from_value=begin)
        for first in range(0, planted.FRAMES, GROUP):
            group = range(first, first + GROUP)
            origins = [planted.origin(i, settled) for i in group]
            fresh = [o for o in origins if o.sub >= ledger.known_frames(o.path, o.size, o.mtime_ns, o.inode)]
            slots = writer.reserve(fresh)
            for i, slot in zip([i for i, o in zip(group, origins) if o in fresh], slots, strict=True):
                record = FrameRecord(
                    planted.pixels(i), planted.origin(i, settled), 1e9 + i, (i / 4, -i / 8), source_index=i
                )
                writer.write_frames([record], [slot])
                if slot is not None:
                    waiting.append(slot)
            writer.flush()
            acknowledge(writer.n)
            now, waiting = waiting, []
            for slot in sorted(set(now)):
                writer.write_labels([LabelRecord(slot, planted.labels(slot), 2, 0.1, "planted@")])
                table.append({"frame": [slot, slot], "label": [1, 2]})
            writer.write_finals({slot: planted.final_shift(slot) for slot in now})
            writer.flush_tables()  # before the labels count: a frame without labels has its rows dropped at a restart
            writer.flush()
        writer.close()


class Naive:
    """Frames one after the other in a plain file, and how many of the source are done in another."""

    def __init__(self, out: Path) -> None:
        self.pixels, self.note = out / "frames.bin", out / "done.json"
        self.frame_bytes = 2 * planted.SHAPE[0] * planted.SHAPE[1]

    def done(self) -> int:
        return int(json.loads(self.note.read_text())) if self.note.exists() else 0

    def append(self, i: int) -> None:
        """At the next free place."""
        data = planted.pixels(i).tobytes()
        with self.pixels.open("ab") as file:
            file.truncate(file.tell() // self.frame_bytes * self.frame_bytes)
            file.write(data[:1000])
            file.flush()
            failpoint("chunk.written")
            file.write(data[1000:])
            file.flush()
            os.fsync(file.fileno())
        failpoint("chunk.renamed")

    def tell(self, i: int) -> None:
        """Note that frame i is done, by atomic replace."""
        new = self.note.with_suffix(".new")
        new.write_text(str(i + 1))
        new.replace(self.note)
        failpoint("ledger.committed")


def note_after(out: Path) -> None:
    """Append, then note it."""
    store = Naive(out)
    for i in range(store.done(), planted.FRAMES):
        store.append(i)
        store.tell(i)


def note_before(out: Path) -> None:
    """Note it, then append."""
    store = Naive(out)
    for i in range(store.done(), planted.FRAMES):
        store.tell(i)
        store.append(i)


PROTOCOLS: dict[str, Callable[[Path], None]] = {
    "emstream": emstream,
    "note-after": note_after,
    "note-before": note_before,
}


def write(out: Path, protocol: str, failpoints: str) -> None:
    """One life of the daemon, perhaps a short one."""
    arm(failpoints)
    PROTOCOLS[protocol](out)


def serve(write: Callable[[Path, str, str], None] = write) -> None:
    """Lives on request: a line `out TAB protocol TAB failpoints` forks one, `pid` and then `exit code` answer."""
    for line in sys.stdin:
        out, protocol, failpoints = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                write(Path(out), protocol, failpoints)
                code = 0
            except BaseException:  # noqa: BLE001  the process ends here, whatever it was
                traceback.print_exc()
            finally:
                os._exit(code)
        print(pid, flush=True)  # noqa: T201
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201


if __name__ == "__main__":
    planted.FRAMES = int(sys.argv[1])
    serve()
