"""Killed when the last frame is stored and not all have labels, a daemon needs no new frame to make the rest of them."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from crash.harness import Life, in_memory, lives

from emstream import simulate
from emstream.store import Run
from emstream.store.check import check

FRAMES = 24
POINTS = ("chunk.renamed", "ledger.commit", "ledger.committed", "publish.columns")


@pytest.fixture(scope="module")
def life() -> Iterator[Life]:
    with lives("daemon_process") as run:
        yield run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with in_memory(tmp_path_factory.mktemp("labels")) as folder:
        movie = simulate.movie(FRAMES, (96, 96), particles=6, diameter=(14, 22), contrast=(0.3, 0.4), dose=60, seed=4)
        (folder / "camera").mkdir()
        for i in range(FRAMES):
            np.save(folder / "camera" / f"f_{i:03d}.npy", movie.frame(i))
        yield folder


@pytest.fixture(scope="module")
def undisturbed(place: Path, life: Life) -> Run:
    assert life(place / "undisturbed", "daemon") == 0
    return Run(place / "undisturbed" / "camera.zarr")


def states(out: Path) -> list[str]:
    """Of the frames, in order."""
    with contextlib.closing(sqlite3.connect(out / ".emstream" / "ledger.sqlite")) as db:
        return [row[0] for row in db.execute("SELECT state FROM frames ORDER BY slot")]


@pytest.mark.parametrize("point", POINTS)
def test_started_again_without_a_new_file_the_run_is_as_if_it_had_not_been_killed(
    place: Path, life: Life, undisturbed: Run, point: str
) -> None:
    out = place / point
    assert life(out, "daemon", f"{point}:1:kill") == -signal.SIGKILL
    left = states(out)
    assert len(left) == FRAMES
    assert "COMMITTED" in left
    assert life(out, "daemon") == 0
    assert set(states(out)) == {"SEGMENTED"}
    run = Run(out / "camera.zarr")
    assert run.state == "closed"
    assert np.array_equal(run.labels.compute(), undisturbed.labels.compute())
    for table in ("particles", "tracks", "events", "kinetics"):
        pd.testing.assert_frame_equal(run.table(table), undisturbed.table(table))
    assert run.table("tracks")["frames"].max() == FRAMES
    assert check(run.path).problems == ()
