"""After a power cut at any instant every acknowledged frame is there, and going on makes the run perfect."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from crash import planted_source as planted
from crash import power, writer_process
from crash.harness import assert_perfect, in_memory

from emstream.store import recover
from emstream.store.chunks import decode
from emstream.store.layout import Layout, chunk_name

FRAMES = 6
STATES = 80  # of some thousands; benchmarks/bench_crash.py --power looks at all

strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace records the system calls, and is not here")


@pytest.fixture(autouse=True)
def few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planted, "FRAMES", FRAMES)
    monkeypatch.setattr(recover, "boot_id", lambda: "after the power cut")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as folder:
        yield folder


def recorded(folder: Path, fsync: bool) -> list[power.Op]:
    """The calls of a writer; where they cannot be traced the test is skipped."""
    try:
        return power.record(folder, FRAMES, fsync)
    except OSError as error:
        pytest.skip(f"system calls cannot be traced here: {error}")


def assert_kept(out: Path, acked: int, spare: Path) -> None:
    """Before anybody mends anything: what was acknowledged is in the ledger, and whole in the run."""
    rows: list[tuple[int, str]] = []
    if (out / ".emstream").is_dir():
        shutil.copytree(out / ".emstream", spare)
        db = sqlite3.connect(spare / "ledger.sqlite")
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'frames'").fetchone():
            rows = db.execute("SELECT slot, state FROM frames WHERE state IN ('COMMITTED', 'SEGMENTED')").fetchall()
        db.close()
        shutil.rmtree(spare)
    assert len(rows) >= acked, f"{acked} frames were acknowledged, {len(rows)} are known"
    layout = Layout(planted.SHAPE, "uint16", keep_raw=True)
    for slot, state in rows:
        for array in ("0", "raw/0", *(["labels/particles/0"] if state == "SEGMENTED" else [])):
            data = (out / "cam.zarr" / array / chunk_name(slot)).read_bytes()
            stored = decode(data, layout.images()[array], layout.compressor_of(array))
            true = planted.labels(slot) if array.startswith("labels") else planted.pixels(slot)
            assert np.array_equal(stored, true), f"{array} of frame {slot}"


def survive(folder: Path, where: str, acked: int, state: dict[str, bytes | None]) -> None:
    """One power cut, and the life after it."""
    out = folder / "after"
    power.write_state(state, out)
    try:
        assert_kept(out, acked, folder / "spare")
        writer_process.emstream(out, fsync=False)
        assert_perfect(out)
    except Exception as error:
        raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
    finally:
        shutil.rmtree(out)


@strace
def test_after_a_power_cut_nothing_acknowledged_is_missing_and_the_run_becomes_perfect(folder: Path) -> None:
    found = list(power.states(recorded(folder, fsync=True)))
    assert len(found) > STATES
    for where, acked, state in random.Random(0).sample(found, STATES):
        survive(folder, where, acked, state)


@strace
def test_without_syncing_the_same_power_cuts_take_acknowledged_frames(folder: Path) -> None:
    """What the test above sees when there is something to see."""
    found = list(power.states(recorded(folder, fsync=False), ("nothing", "names", "mixture")))
    failed = 0
    for where, acked, state in random.Random(0).sample(found, 24):
        try:
            survive(folder, where, acked, state)
        except AssertionError:
            failed += 1
    assert failed >= 6
