"""A first start on very many files: when the first frame is stored, how long the walk takes, what it remembers of each file.

    python benchmarks/bench_first_start.py [--files 1000000] [--trees flat]

Tiny frames, one a file (1,000,000 of them take 5 GB of /dev/shm). In one folder, or a thousand in each. `first frame stored`:
from the start of `emstream live` to the first row of its ledger. `walk`: the discovery alone, whose every finding is done
with at once, in seconds of processor time. Memory is what a daemon beside one file does not need, and what the walk
adds: at most, and what stays.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_watch import npy

from emstream.source import SourceOptions
from emstream.source.discover import Discovery
from emstream.source.finished import Finished
from emstream.source.tree import Found

IN_A_FOLDER = 1000
OPTIONS = [
    "--set=segment.enabled=false",
    "--set=align.enabled=false",
    "--set=store.low_water_mb=0",
    "--set=log.level=error",
]


class Done:
    """Everything that is found is done with."""

    def __init__(self, finished: Finished) -> None:
        self._finished, self.count = finished, 0

    def found(self, files: list[Found]) -> None:
        self.count += len(files)
        for f in files:
            self._finished.add(f.path, f.size, f.mtime_ns, f.inode)

    def knows(self, file: Found) -> bool:
        return False

    def __getattr__(self, name: str) -> object:
        return lambda *a: None


def make(root: Path, files: int, flat: bool) -> None:
    whole = npy(4)
    for first in range(0, files, IN_A_FOLDER):
        folder = root if flat else root / f"part_{first // IN_A_FOLDER:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(first, min(files, first + IN_A_FOLDER)):
            fd = os.open(folder / f"f_{i:07d}.npy", os.O_CREAT | os.O_WRONLY)
            os.write(fd, whole)
            os.close(fd)


def memory(pid: int | str = "self") -> np.ndarray:
    """Bytes: resident at most so far, and now."""
    found = re.findall(r"Vm(?:HWM|RSS):\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return 1024 * np.array(found, float)


def walked(root: Path) -> tuple[int, float, float, np.ndarray]:
    """Files seen; seconds of processor time to the first of them and to the last; growth of the memory. Alone in a process."""
    finished = Finished()
    told = Done(finished)
    before = memory()
    began, first = time.process_time(), 0.0
    discovery = Discovery(root, SourceOptions().ignore, finished, {}, told, None)
    while not discovery.walked:
        discovery.step(time.monotonic())
        first = first or (time.process_time() - began if told.count else 0.0)
    return told.count, first, time.process_time() - began, memory() - before


def stored(out: Path) -> int:
    path = out / ".emstream" / "ledger.sqlite"
    if not path.is_file():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as db:
        try:
            return int(db.execute("SELECT count(*) FROM frames WHERE state = 'COMMITTED'").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def live(root: Path, out: Path, seconds: float) -> tuple[float, int, np.ndarray]:
    """Seconds to the first frame stored; frames stored and memory after so many seconds more."""
    command = [sys.executable, "-m", "emstream", "live", str(root), str(out), "--set=source.group=all", *OPTIONS]
    began = time.monotonic()
    daemon = subprocess.Popen(command)
    try:
        while not stored(out):
            assert daemon.poll() is None
            time.sleep(0.01)
        first = time.monotonic() - began
        time.sleep(seconds)
        return first, stored(out), memory(daemon.pid)
    finally:
        daemon.kill()
        daemon.wait()
        shutil.rmtree(out, ignore_errors=True)


def main() -> None:
    ask = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    ask.add_argument("--files", type=int, default=1_000_000)
    ask.add_argument("--trees", default="flat,folders")
    ask.add_argument("--seconds", type=float, default=20.0, help="for which the daemon goes on after the first frame")
    given = ask.parse_args()
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    print(
        "| tree | files | first frame stored | found, of processor time | stored when measured | at most, bytes a file | then "
        "| walk | at most, bytes a file | then |"
    )
    print("|---" * 10 + "|")
    for tree in given.trees.split(","):
        with tempfile.TemporaryDirectory(prefix="emstream-first-", dir=shm) as place:
            root, one, out = Path(place) / "camera", Path(place) / "one", Path(place) / "runs"
            make(one, 1, True)
            make(root, given.files, tree == "flat")
            *_, usual = live(one, out, 1.0)
            first, then, used = live(root, out, given.seconds)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seen, begun, walk, more = pool.apply(walked, (root,))
            assert seen == given.files, f"{given.files - seen} files were not seen"
            most, stays = (used - usual) / given.files
            print(
                f"| {tree} | {given.files:,} | {first:.2f} s | {begun:.2f} s | {then:,} | {most:.0f} | {stays:.0f} "
                f"| {walk:.1f} s | {more[0] / given.files:.0f} | {more[1] / given.files:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
