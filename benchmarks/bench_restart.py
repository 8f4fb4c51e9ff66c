"""From `emstream live` being started again to its first new frame being safe, after a kill; also with a million frames behind it.

    python benchmarks/bench_restart.py [--rows 1000000] [--side 512]

A run of so many frames is made (their ledger, columns and journal are real, their pixels are left out), the daemon goes on
with it for some hundred frames and is killed. Then it is started again beside new frames. The clock runs from the start of
the process until the ledger has the first of them. `seconds of processor time` is what the start itself costs: what is
waited for on an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from emstream import measure
from emstream.store import Ledger, RunWriter, StoreOptions

CASES = {
    "aligned and stored": ["--set=segment.enabled=false"],
    "classical segmentation": ["--model=classical"],
    "the shipped network (torch)": [],
}


def long_run(out: Path, rows: int, side: int) -> None:
    """A run of so many frames, as far as a start looks at it; each of a file of its own."""
    with Ledger(out, fsync=False) as ledger:
        run = ledger.run_for("", "week", (side, side), "uint16", None)
        db = ledger._db
        db.execute("BEGIN")
        db.executemany(
            "INSERT INTO sources VALUES (?, 0, 8192, ?, ?)", ((f"f_{i:07d}.npy", i, 1000 + i) for i in range(rows))
        )
        db.executemany(
            "INSERT INTO frames (run, slot, path, generation, sub, state, crc32c, source_crc32c, time_s, dy, dx, confidence,"
            " anchor, status, source_index, particles, area_fraction, model, labels_crc32c, at, final_dy, final_dx)"
            " VALUES (?, ?, ?, 0, 0, 'SEGMENTED', 1, 1, ?, 0, 0, 1, 0, 3, ?, 1, 0.1, 'm@0', 1, 0, 0, 0)",
            ((run.id, i, f"f_{i:07d}.npy", float(i), i) for i in range(rows)),
        )
        db.execute("COMMIT")
        ledger.set_run(run.id, state="live", attrs={"window": [0.0, 1000.0], "series": "", "state": "live"})
        writer = RunWriter(out, ledger.run("week"), ledger, StoreOptions(fsync=False, low_water_mb=0), anew=True)
        tracks = replace(measure.start_tracks(), frame=rows - 1)
        state = {f"tracks.{k}": v for k, v in measure.dump(tracks).items()}
        writer.write_state("state0", {"kept": np.int64(rows), "linked": np.int64(rows), **state})


def stored(out: Path) -> int:
    """Frames in the ledger that are safe."""
    path = out / ".emstream" / "ledger.sqlite"
    if not path.is_file():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'frames'").fetchone():
            return 0
        found = db.execute(
            "SELECT slot + 1 FROM frames WHERE run = 1 AND state IN ('COMMITTED', 'SEGMENTED') ORDER BY slot DESC LIMIT 1"
        ).fetchone()
    return int(found[0]) if found else 0


class Camera:
    """Single frames, numbered on."""

    def __init__(self, folder: Path, first: int, side: int) -> None:
        self.folder, self.next, self.rng, self.side = folder, first, np.random.default_rng(0), side
        y, x = np.mgrid[:side, :side] / side
        self.scene = 400 + 300 * (np.hypot(y - 0.5, x - 0.4) < 0.1)

    def shoot(self, frames: int) -> None:
        for _ in range(frames):
            path = self.folder / f"f_{self.next:07d}.npy"
            np.save(path.with_name(f".{path.name}"), self.rng.poisson(self.scene).astype(np.uint16))
            path.with_name(f".{path.name}").rename(path)
            self.next += 1


@contextlib.contextmanager
def start(camera: Path, out: Path, options: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon, which is killed in the end."""
    command = [sys.executable, "-m", "emstream", "live", camera, out, "--set=source.group=all", "--name=week"]
    command += ["--set=store.low_water_mb=0", "--set=log.level=warning", *options]
    daemon = subprocess.Popen([str(c) for c in command])
    try:
        yield daemon
    finally:
        daemon.kill()
        daemon.wait()


def restart(folder: Path, out: Path, camera: Camera, options: list[str]) -> tuple[float, float]:
    """Seconds to the first new frame, and of processor time, after some hundred frames and a kill."""
    with start(folder, out, options):
        wanted = stored(out) + 150
        camera.shoot(150)
        while stored(out) < wanted:
            time.sleep(0.05)
        time.sleep(1.5)  # so that the state of the drift is saved, as it is every few seconds
    had = stored(out)
    camera.shoot(3)
    began = time.monotonic()
    with start(folder, out, options) as daemon:
        while stored(out) == had:
            time.sleep(0.005)
        took = time.monotonic() - began
        ticks = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return took, sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    ask = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    ask.add_argument("--rows", type=int, default=1_000_000)
    ask.add_argument("--side", type=int, default=512)
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--made", type=Path, default=None, help="a folder in which the long run is kept for another time")
    ask.add_argument("--only", default="", help="the cases whose names begin so")
    given = ask.parse_args()
    print(
        "| frames before | what runs | to the first new frame, best | worst | of processor time |\n|---|---|---|---|---|"
    )
    for rows in (0, given.rows):
        with tempfile.TemporaryDirectory(prefix="emstream-restart-") as place:
            folder, out = Path(place) / "camera", Path(place) / "runs"
            folder.mkdir()
            if rows and given.made is not None and given.made.is_dir():
                shutil.copytree(given.made, out)
            elif rows:
                long_run(out, rows, given.side)
                if given.made is not None:
                    shutil.copytree(out, given.made)
            camera = Camera(folder, rows, given.side)
            for name, options in CASES.items():
                if not name.startswith(given.only):
                    continue
                took = [restart(folder, out, camera, options) for _ in range(given.rounds)]
                best, worst = min(t for t, _ in took), max(t for t, _ in took)
                print(
                    f"| {rows:,} | {name} | {best:.2f} s | {worst:.2f} s | {min(c for _, c in took):.2f} s |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
