"""Runs that an earlier life left unfinished are taken up at the start of the next one, without a new frame."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_live_faults import Scene, pixels, wait
from test_pipeline import Threshold

from emstream.live import lanes
from emstream.messages import Labelled
from emstream.store import Ledger, Run
from emstream.store.chunks import PARTIAL
from emstream.store.ledger import read_frames


class Other(Threshold):
    name, sha256 = "other", "beef"


class Slow(Threshold):
    def look(self, pixels: np.ndarray, **told: Any) -> Callable[[], Labelled]:
        time.sleep(0.05)
        return super().look(pixels, **told)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def live_through(scene: Scene, segmenter: Threshold | None = None, frames: int = 0) -> dict[str, Any]:
    """One life that ends by itself when so many frames were stored and everything is finished."""
    with scene.daemon(segmenter) as daemon:
        wait(lambda: daemon.committed == frames and daemon._loop is not None and not daemon._loop.unfinished)
    return daemon.summary()


def left_open(scene: Scene, *names: str) -> None:
    """As after a kill: the ledger does not know that these runs were closed."""
    with contextlib.closing(sqlite3.connect(scene.out / ".emstream" / "ledger.sqlite")) as db:
        db.executemany("UPDATE runs SET state = 'live' WHERE name = ?", [(name,) for name in names])
        db.commit()


def labelled(scene: Scene, name: str = "camera") -> list[bool]:
    rows = read_frames(scene.out, name)
    assert rows is not None
    return [row["state"] == "SEGMENTED" for row in rows]


def test_a_run_without_labels_gets_them_and_is_closed(scene: Scene) -> None:
    scene.shoot(*range(5))
    live_through(scene, frames=5)
    left_open(scene, "camera")
    told = live_through(scene, Threshold())
    assert (told["frames"], told["segmented"], told["runs"]) == (0, 5, [str(scene.out / "camera.zarr")])
    assert all(labelled(scene))
    assert scene.run.state == "closed"
    assert sorted(scene.run.table("frames")["particles"]) == sorted(scene.run.column("particles"))
    assert live_through(scene, Threshold())["runs"] == []  # there is nothing left to do


def test_labels_that_another_model_had_begun_are_gone_on_with(scene: Scene) -> None:
    scene.shoot(*range(4))
    live_through(scene, Threshold(), frames=4)
    scene.shoot(4, 5, 6)
    live_through(scene, frames=3)  # segmentation is off: closed, the last three without labels
    assert labelled(scene) == [True] * 4 + [False] * 3
    assert live_through(scene, Other())["segmented"] == 3
    assert all(labelled(scene))
    assert [(m["name"], m["from_frame"]) for m in scene.run.models] == [("threshold", 0), ("other", 4)]
    assert scene.run.column("model").tolist() == [0] * 4 + [1] * 3


def test_without_segmentation_a_run_is_only_closed(scene: Scene) -> None:
    scene.shoot(*range(3))
    live_through(scene, frames=3)
    left_open(scene, "camera")
    live_through(scene)
    assert scene.run.state == "closed"
    assert labelled(scene) == [False] * 3


def test_runs_of_two_sizes_in_one_series_are_both_finished_and_go_on_apart(scene: Scene) -> None:
    scene.shoot(0, 1)
    large = [np.tile(pixels(i), (2, 2)) for i in range(4)]
    for i in (0, 1):
        np.save(scene.camera / f"g_{i}.npy", large[i])
    live_through(scene, frames=4)
    left_open(scene, "camera", "camera-2")
    assert live_through(scene, Threshold())["segmented"] == 4
    left_open(scene, "camera", "camera-2")
    with scene.daemon(Threshold()) as daemon:
        wait(lambda: len(daemon.runs) == 2)
        scene.shoot(2)
        np.save(scene.camera / "g_2.npy", large[2])
        wait(lambda: daemon.committed == 2)
    for name, side in (("camera", 24), ("camera-2", 48)):
        assert labelled(scene, name) == [True] * 3
        assert Run(scene.out / f"{name}.zarr").shape == (side, side)
    assert len(list(scene.out.glob("*.zarr"))) == 2


def test_a_new_frame_joins_the_run_that_is_being_finished_and_waits_for_none_of_its_labels(scene: Scene) -> None:
    scene.shoot(*range(30))
    live_through(scene, frames=30)
    left_open(scene, "camera")
    with scene.daemon(Slow()) as daemon:
        wait(lambda: daemon.segmented > 0)
        scene.shoot(30)
        wait(lambda: daemon.committed == 1)
        assert daemon.segmented < 30
        assert daemon._loop is not None
        assert len(daemon._loop.lanes) == 1
    scene.assert_frames(*range(31))
    assert all(labelled(scene))


def test_a_run_that_was_deleted_is_told_of_and_a_new_frame_of_its_series_begins_another(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.shoot(*range(3))
    live_through(scene, frames=3)
    left_open(scene, "camera")
    shutil.rmtree(scene.out / "camera.zarr")
    with caplog.at_level(logging.WARNING), scene.daemon(Threshold()) as daemon:
        wait(lambda: daemon._loop is not None and not daemon._loop.unfinished)
        scene.shoot(3)
        wait(lambda: daemon.committed == 1)
    assert [r.run for r in caplog.records if "is gone" in r.message] == ["camera"]
    assert not (scene.out / "camera.zarr").exists()
    assert labelled(scene, "camera-2") == [True]


@pytest.mark.parametrize("lost", ["0/c.2.0.0", "tables/particles.parquet/part-00000001.parquet"])
def test_what_is_damaged_stops_nothing(scene: Scene, caplog: pytest.LogCaptureFixture, lost: str) -> None:
    scene.shoot(*range(4))
    live_through(scene, frames=4)
    left_open(scene, "camera")
    file = scene.run.path / lost
    assert file.is_file()
    if lost.startswith("0/"):
        file.unlink()
    else:
        file.write_bytes(b"torn")
    other = scene.camera / "elsewhere"
    with caplog.at_level(logging.ERROR), scene.daemon(Threshold()) as daemon:
        wait(lambda: daemon._loop is not None and not daemon._loop.unfinished)
        other.mkdir()
        np.save(other / "f.npy", pixels(9))
        wait(lambda: daemon.committed == 1)
    assert labelled(scene) == ([True, True, False, True] if lost.startswith("0/") else [False] * 4)
    assert labelled(scene, "elsewhere") == [True]
    assert len([r for r in caplog.records if "without labels" in r.message or "unfinished" in r.message]) == 1
    assert not list(scene.out.rglob(f"*{PARTIAL}"))


def test_runs_of_another_folder_are_left_alone(scene: Scene, tmp_path: Path) -> None:
    scene.shoot(0)
    live_through(scene, frames=1)
    left_open(scene, "camera")
    scene.camera.rename(tmp_path / "was")
    scene.camera = tmp_path / "another"
    scene.camera.mkdir()
    assert live_through(scene, Threshold())["runs"] == []


def test_of_many_closed_runs_only_the_ledger_is_looked_at(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger(scene.out, scene.camera) as ledger:
        run = "(id, name, series, y, x, dtype, state, created, attrs)"
        db = ledger._db
        db.execute("BEGIN")
        db.executemany(f"INSERT INTO runs {run} VALUES (?, 'r' || ?, ?, 8, 8, 'uint16', 'closed', 0, '{{}}')",
                       [(i, i, i) for i in range(1, 4001)])  # fmt: skip
        db.executemany("INSERT INTO frames (run, slot, path, generation, sub, state) VALUES (?, ?, ?, 0, ?, ?)",
                       [(i, k, f"{i}", k, "SEGMENTED" if i % 2 else "COMMITTED") for i in range(1, 4001) for k in (0, 1)])  # fmt: skip
        db.execute("COMMIT")
        assert ledger.unfinished(True) == []
    monkeypatch.setattr(lanes, "RunWriter", None)
    assert live_through(scene, Threshold())["runs"] == []
