"""Killed at any instant and started again, the store has every frame once, byte for byte; two naive protocols do not."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import pytest
import zarr
from crash import planted_source as planted
from crash import writer_process

from emstream.store.check import check
from emstream.store.chunks import PARTIAL
from emstream.store.ledger import Ledger
from emstream.store.run import Run

Life: TypeAlias = Callable[..., int]

POINTS = (
    "chunk.written", "chunk.synced", "chunk.renamed", "file.written", "frame.staged", "ledger.reserved",
    "ledger.commit", "ledger.committed", "publish.columns", "publish.level", "publish.shape",
)  # fmt: skip
COUNTS = (1, 2, 6)


@pytest.fixture(scope="module")
def life() -> Iterator[Life]:
    """Runs a writer in a process of its own, to its end or until a failpoint kills it; returns the exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([writer_process.__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", ":".join(p for p in sys.path if p))

        def run(out: Path, protocol: str, failpoints: str = "") -> int:
            process = context.Process(target=writer_process.write, args=(out, protocol, failpoints))
            process.start()
            process.join(60)
            assert process.exitcode is not None
            return process.exitcode

        yield run


def compared(stored: np.ndarray) -> dict[str, int]:
    """How many planted frames are lost or doubled in (t, y, x), and how many stored ones are none of them."""
    wanted = {planted.pixels(i).tobytes() for i in range(planted.FRAMES)}
    found = Counter(frame.tobytes() for frame in stored)
    return {
        "lost": len(wanted - found.keys()),
        "doubled": sum(n - 1 for n in found.values()),
        "wrong": len(found.keys() - wanted),
    }


PERFECT = {"lost": 0, "doubled": 0, "wrong": 0}


def assert_perfect(out: Path) -> None:
    """All that the run promises, against the planted source."""
    path = out / "cam.zarr"
    stored = np.asarray(zarr.open_array(path / "0", mode="r")[:])
    assert compared(stored) == PERFECT
    expected = np.stack([planted.pixels(i) for i in range(planted.FRAMES)])
    assert np.array_equal(stored, expected)  # in the source's order, too
    run = Run(path)
    assert run.raw is not None
    assert np.array_equal(run.raw.compute(), expected)
    assert np.array_equal(run.labels.compute(), [planted.labels(i) for i in range(planted.FRAMES)])
    assert np.array_equal(run.column("time_s"), 1e9 + np.arange(planted.FRAMES))
    assert np.array_equal(run.column("source_index"), np.arange(planted.FRAMES))
    table = pd.read_parquet(path / "tables" / "particles.parquet")
    assert np.array_equal(table["frame"], np.repeat(np.arange(planted.FRAMES), 2))
    report = check(path)
    assert report.problems == ()
    assert (report.frames, report.segmented, run.state) == (planted.FRAMES, planted.FRAMES, "closed")
    assert not list(out.rglob(f"*{PARTIAL}"))
    with Ledger(out) as ledger:
        assert ledger.counts() == {"SEGMENTED": planted.FRAMES, "quarantined": 0}
        origins = [(f["path"], f["sub"]) for f in ledger.frames(ledger.run("cam").id)]
    assert origins == [(planted.origin(i).path, planted.origin(i).sub) for i in range(planted.FRAMES)]


def test_left_alone_everything_is_stored(tmp_path: Path, life: Life) -> None:
    assert life(tmp_path, "emstream") == 0
    assert_perfect(tmp_path)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("point", POINTS)
def test_killed_and_started_again_every_frame_is_there_once(tmp_path: Path, life: Life, point: str, count: int) -> None:
    assert life(tmp_path, "emstream", f"{point}:{count}:kill") == -signal.SIGKILL
    killed = tmp_path / "cam.zarr"
    if (killed / "zarr.json").exists():  # what readers see of the dead run is whole
        published = np.asarray(zarr.open_array(killed / "0", mode="r")[:])
        assert np.array_equal(published, [planted.pixels(i) for i in range(len(published))])
        pd.read_parquet(killed / "tables" / "particles.parquet")
    assert life(tmp_path, "emstream") == 0
    assert_perfect(tmp_path)


def test_killed_over_and_over_it_still_gets_there(tmp_path: Path, life: Life) -> None:
    for count, point in enumerate(POINTS[::-1], start=3):
        assert life(tmp_path, "emstream", f"{point}:{count}:kill") in (0, -signal.SIGKILL)
    assert life(tmp_path, "emstream") == 0
    assert_perfect(tmp_path)


def test_started_again_after_its_end_nothing_is_added(tmp_path: Path, life: Life) -> None:
    assert life(tmp_path, "emstream") == 0
    assert life(tmp_path, "emstream") == 0
    assert_perfect(tmp_path)


@pytest.mark.parametrize(("protocol", "fault"), [("note-after", "doubled"), ("note-before", "lost")])
def test_a_naive_protocol_does_not_survive_the_same_kills(
    tmp_path: Path, life: Life, protocol: str, fault: str
) -> None:
    outcomes = []
    for point in ("chunk.written", "chunk.renamed", "ledger.committed"):
        out = tmp_path / point
        out.mkdir()
        assert life(out, protocol, f"{point}:5:kill") == -signal.SIGKILL
        assert life(out, protocol) == 0
        data = np.frombuffer((out / "frames.bin").read_bytes(), np.uint16)
        outcomes.append(compared(data[: data.size // 1920 * 1920].reshape(-1, *planted.SHAPE)))
    assert any(outcome[fault] for outcome in outcomes)
