"""Killed at any instant and started again, the store has every frame once, byte for byte; two naive protocols do not."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from crash.harness import (
    POINTS,
    Life,
    assert_perfect,
    assert_readable,
    in_memory,
    killed_over_and_over,
    lives,
    outcome,
)

COUNTS = (1, 2, 6)
KILLS = 200


@pytest.fixture(scope="module")
def life() -> Iterator[Life]:
    with lives() as run:
        yield run


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as folder:
        yield folder


def test_left_alone_everything_is_stored_and_started_again_nothing_is_added(out: Path, life: Life) -> None:
    assert life(out, "emstream") == 0
    assert_perfect(out)
    assert life(out, "emstream") == 0
    assert_perfect(out)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("point", POINTS)
def test_killed_and_started_again_every_frame_is_there_once(out: Path, life: Life, point: str, count: int) -> None:
    assert life(out, "emstream", f"{point}:{count}:kill") == -signal.SIGKILL
    assert_readable(out / "cam.zarr")
    assert life(out, "emstream") == 0
    assert_perfect(out)


def test_killed_two_hundred_times_every_frame_is_there_once(tmp_path: Path, life: Life) -> None:
    kills = 0
    for seed in range(KILLS):
        with in_memory(tmp_path) as folder:
            store = folder / str(seed)
            store.mkdir()
            kills += killed_over_and_over(life, store, random.Random(seed), most=25)
            assert_perfect(store)
        if kills >= KILLS:
            return
    pytest.fail(f"only {kills} kills came about")


@pytest.mark.parametrize(("protocol", "fault"), [("note-after", "doubled"), ("note-before", "lost")])
def test_a_naive_protocol_does_not_survive_the_same_kills(out: Path, life: Life, protocol: str, fault: str) -> None:
    outcomes = []
    for point in ("chunk.written", "chunk.renamed", "ledger.committed"):
        store = out / point
        store.mkdir()
        assert life(store, protocol, f"{point}:5:kill") == -signal.SIGKILL
        assert life(store, protocol) == 0
        outcomes.append(outcome(store))
    assert any(found[fault] for found in outcomes)
