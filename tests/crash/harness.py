"""Lives of a writer that are cut short, and what must be true of the store afterwards; for the tests and benchmarks/bench_crash.py."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import zarr
from crash import planted_source as planted

from emstream.store.check import check
from emstream.store.chunks import PARTIAL
from emstream.store.ledger import Ledger
from emstream.store.run import Run

POINTS = (
    "chunk.written", "chunk.synced", "chunk.renamed", "file.written", "frame.staged", "journal.written",
    "ledger.reserved", "ledger.commit", "ledger.committed", "publish.columns", "publish.level", "publish.shape",
)  # fmt: skip
PERFECT = {"lost": 0, "doubled": 0, "wrong": 0}


class Life(Protocol):
    """Runs a writer in a process of its own, to its end or until it is killed; returns the exit code."""

    def __call__(self, out: Path, protocol: str, failpoints: str = "", after_s: float | None = None) -> int: ...


@contextlib.contextmanager
def lives(of: str = "writer_process") -> Iterator[Life]:
    """A server that has imported everything already and forks: a life costs a tenth of a second. of : its module"""
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"crash.{of}", str(planted.FRAMES)]
    with subprocess.Popen(command, env=where, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        ask, answer = server.stdin, server.stdout

        def run(out: Path, protocol: str, failpoints: str = "", after_s: float | None = None) -> int:
            ask.write(f"{out}\t{protocol}\t{failpoints}\n")
            ask.flush()
            pid = int(answer.readline())
            if after_s is not None and not select.select([answer], [], [], after_s)[0]:
                with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                    os.kill(pid, signal.SIGKILL)
            return int(answer.readline())

        yield run
        ask.close()


@contextlib.contextmanager
def in_memory(fallback: Path) -> Iterator[Path]:
    """A folder in memory where there is one: what a killed process wrote is there, as on a disk, and syncing is free."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        yield fallback
        return
    with tempfile.TemporaryDirectory(dir=shm, prefix="emstream-crash-") as folder:
        yield Path(folder)


def killed_over_and_over(life: Life, out: Path, rng: random.Random, most: int, clock_s: float = 0.0) -> int:
    """Kill a store's writer up to `most` times, at random points, until one life reaches its end; returns the kills.

    clock_s : every other kill comes at a random time, so late at most
    """
    kills = published = 0
    while kills < most:
        if clock_s and rng.random() < 0.5:
            code = life(out, "emstream", "", rng.uniform(0, clock_s))
        else:
            code = life(out, "emstream", f"{rng.choice(POINTS)}:{rng.randint(1, 6)}:kill")
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        before, published = published, assert_readable(out / "cam.zarr")
        assert published >= before
    assert life(out, "emstream") == 0
    return kills


def assert_readable(run: Path) -> int:
    """What readers see of a dead run is whole: true pixels up to its length, which is returned, and tables that open."""
    if not (run / "zarr.json").exists():
        return 0
    stored = np.asarray(zarr.open_array(run / "0", mode="r")[:])
    assert np.array_equal(stored, [planted.pixels(i) for i in range(len(stored))])
    pd.read_parquet(run / "tables" / "particles.parquet")
    return len(stored)


def compared(stored: np.ndarray) -> dict[str, int]:
    """How many planted frames are lost or doubled in (t, y, x), and how many stored ones are none of them."""
    wanted = {planted.pixels(i).tobytes() for i in range(planted.FRAMES)}
    found = Counter(frame.tobytes() for frame in stored)
    return {
        "lost": len(wanted - found.keys()),
        "doubled": sum(n - 1 for n in found.values()),
        "wrong": len(found.keys() - wanted),
    }


def outcome(out: Path) -> dict[str, int]:
    """Frames lost, doubled and wrong in what the naive protocols wrote."""
    data = np.frombuffer((out / "frames.bin").read_bytes(), np.uint16)
    size = planted.SHAPE[0] * planted.SHAPE[1]
    return compared(data[: data.size // size * size].reshape(-1, *planted.SHAPE))


def assert_perfect(out: Path) -> None:
    """All that the run promises, against the planted source."""
    path = out / "cam.zarr"
    stored = np.asarray(zarr.open_array(path / "0", mode="r")[:])
    assert compared(stored) == PERFECT
    expected = np.stack([planted.pixels(i) for i in range(planted.FRAMES)])
    assert np.array_equal(stored, expected)  # in the source's order, too
    run = Run(path)
    assert run.raw is not None
    assert np.array_equal(run.raw.compute(scheduler="sync"), expected)
    assert np.array_equal(run.labels.compute(scheduler="sync"), [planted.labels(i) for i in range(planted.FRAMES)])
    assert np.array_equal(run.column("time_s"), 1e9 + np.arange(planted.FRAMES))
    assert np.array_equal(run.column("source_index"), np.arange(planted.FRAMES))
    assert np.array_equal(run.column("final_shift"), [planted.final_shift(i) for i in range(planted.FRAMES)])
    table = pd.read_parquet(path / "tables" / "particles.parquet")
    assert np.array_equal(table["frame"], np.repeat(np.arange(planted.FRAMES), 2))
    report = check(path)
    assert report.problems == ()
    assert (report.frames, report.segmented, run.state) == (planted.FRAMES, planted.FRAMES, "closed")
    assert not list(out.rglob(f"*{PARTIAL}"))
    with Ledger(out, fsync=False) as ledger:
        assert ledger.counts() == {"SEGMENTED": planted.FRAMES, "quarantined": 0}
        origins = [(f["path"], f["sub"]) for f in ledger.frames(ledger.run("cam").id)]
    assert origins == [(planted.origin(i).path, planted.origin(i).sub) for i in range(planted.FRAMES)]
