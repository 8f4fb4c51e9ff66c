"""What goes wrong around a running daemon: disks that fail, clocks that jump, files that change, a branch that is slow."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_pipeline import Threshold

from emstream.align import AlignOptions
from emstream.config import Settings
from emstream.live import Daemon
from emstream.messages import Labelled, Status
from emstream.segment import SegmentOptions
from emstream.source import SourceOptions
from emstream.store import Run, StoreOptions
from emstream.store.check import check
from emstream.store.failpoints import arm
from emstream.store.ledger import read_frames

PATIENCE_S = 90.0
SIDE = 24


def pixels(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(1, 4000, (SIDE, SIDE)).astype(np.uint16)


class Scene:
    """A camera's folder, the runs beside it, and daemons that run in a thread."""

    def __init__(self, folder: Path, out: Path | None = None) -> None:
        self.camera, self.out = folder / "camera", out or folder / "runs"
        self.camera.mkdir()

    def shoot(self, *numbers: int, name: str = "f_{:03d}.npy", mtime: float | None = None) -> None:
        for i in numbers:
            path = self.camera / name.format(i)
            np.save(path.with_name(f".{path.name}"), pixels(i))
            if mtime is not None:
                os.utime(path.with_name(f".{path.name}"), (mtime, mtime))
            path.with_name(f".{path.name}").replace(path)

    @contextmanager
    def daemon(self, segmenter: Threshold | None = None, **source: object) -> Iterator[Daemon]:
        settings = Settings(
            store=StoreOptions(low_water_mb=0),
            align=AlignOptions(enabled=False),
            segment=SegmentOptions(enabled=False),
            source=SourceOptions(settle_s=0.2, **source),  # type: ignore[arg-type]
        )
        with Daemon(self.camera, self.out, settings) as daemon:
            if segmenter is not None:
                daemon.steps = replace(daemon.steps, segmenter=segmenter)
            loop = threading.Thread(target=daemon.loop)
            loop.start()
            try:
                yield daemon
            finally:
                daemon.stop()
                loop.join(PATIENCE_S)
                assert not loop.is_alive()

    @property
    def run(self) -> Run:
        return Run(self.out / "camera.zarr")

    def assert_frames(self, *numbers: int) -> None:
        assert np.array_equal(self.run.frames.compute(), [pixels(i) for i in numbers])
        assert check(self.run.path).problems == ()


def wait(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def metric(daemon: Daemon, sample: str) -> float:
    value = daemon.metrics.registry.get_sample_value(
        sample.partition("{")[0], dict([sample.partition("{")[2].rstrip("}").split("=")]) if "{" in sample else {}
    )
    assert value is not None
    return value


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


# -- the store


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(disk)]
    try:
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a file system cannot be mounted here: that needs root")
    except OSError:
        pytest.skip("there is no mount")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_store_that_turns_read_only_pauses_the_daemon_and_costs_no_frame(tmp_path: Path, mounted: Path) -> None:
    scene = Scene(tmp_path, mounted / "runs")

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(mounted)], check=True)

    scene.shoot(0, 1, 2)
    with scene.daemon() as daemon:
        wait(lambda: daemon.committed == 3)
        # the ledger is open for writing, which refuses a remount; a mount of the same folder over it is not
        subprocess.run(["mount", "--bind", str(mounted), str(mounted)], check=True)
        remount("bind,ro")
        scene.shoot(3, 4, 5)
        wait(lambda: metric(daemon, "emstream_store_up") == 0)
        ready, reasons = daemon._ready()
        assert not ready
        assert any("cannot be written" in reason for reason in reasons)
        assert daemon.committed < 6
        remount("bind,rw")
        wait(lambda: daemon.committed == 6)
        assert daemon._ready()[0]
        assert metric(daemon, "emstream_store_up") == 1
    scene.assert_frames(*range(6))
    subprocess.run(["umount", "-l", str(mounted)], check=False)


@pytest.mark.parametrize("point", ["chunk.written:4", "chunk.synced:2", "chunk.renamed:3", "ledger.commit:2"])
def test_a_disk_that_fails_once_pauses_the_daemon_and_costs_no_frame(scene: Scene, point: str) -> None:
    arm(f"{point}:eio")
    try:
        with scene.daemon() as daemon:
            for i in range(8):
                scene.shoot(i)
                wait(lambda i=i: daemon.committed > i)  # type: ignore[misc]
            assert metric(daemon, "emstream_store_up") == 1
    finally:
        arm("")
    scene.assert_frames(*range(8))


# -- the clock


def test_a_clock_that_jumps_an_hour_changes_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    true, jump = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: true() + jump[0])
    with scene.daemon() as daemon:
        for i, jump[0] in enumerate((0.0, 3600.0, -3600.0, 0.0, 3600.0)):
            scene.shoot(2 * i, mtime=time.time())
            scene.shoot(2 * i + 1, mtime=time.time() - 7200)  # the file server's clock is another one
            wait(lambda i=i: daemon.committed == 2 * i + 2)  # type: ignore[misc]
        assert daemon.report.count == {"seen": 10, "quarantined": 0, "lost": 0}
        latency = "emstream_frame_latency_seconds_sum{to=committed}"
        assert metric(daemon, latency) >= 0
    scene.assert_frames(*range(10))
    assert not (scene.run.column("status") & Status.LATE).any()


# -- the camera's files


def test_between_two_lives_a_touched_file_gives_nothing_and_one_with_other_pixels_a_new_frame(scene: Scene) -> None:
    scene.shoot(0, 1, 2)
    with scene.daemon() as daemon:
        wait(lambda: daemon.committed == 3)
    os.utime(scene.camera / "f_000.npy", (1e9, 1e9))
    (scene.camera / "copy").write_bytes((scene.camera / "f_001.npy").read_bytes())
    (scene.camera / "copy").replace(scene.camera / "f_001.npy")
    np.save(scene.camera / "f_002.npy", pixels(20))
    scene.shoot(3)
    with scene.daemon() as daemon:
        wait(lambda: daemon.committed == 2)
        wait(lambda: daemon.report.settling == 0)
    scene.assert_frames(0, 1, 2, 20, 3)  # the old one is kept
    rows = read_frames(scene.out, "camera")
    assert rows is not None
    assert [(r["path"], r["generation"]) for r in rows[2:]] == [("f_002.npy", 0), ("f_002.npy", 1), ("f_003.npy", 0)]


def test_a_file_that_goes_before_it_could_be_read_is_lost_and_that_is_said(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    with scene.daemon() as daemon, caplog.at_level(logging.ERROR, "emstream.live"):
        np.save(scene.out.parent / "whole.npy", pixels(0))
        (scene.camera / "f_000.npy").write_bytes((scene.out.parent / "whole.npy").read_bytes()[:500])
        wait(lambda: daemon.report.pending_files == 1)
        (scene.camera / "f_000.npy").unlink()
        wait(lambda: daemon.report.count["lost"] == 1)
        scene.shoot(1)
        wait(lambda: daemon.committed == 1)
        assert metric(daemon, "emstream_frames_total{state=lost}") == 1
        wait(lambda: daemon.latest.daemon().lost == 1)  # what the page says
    (told,) = [r for r in caplog.records if "lost" in r.message]
    assert told.path == "f_000.npy"  # type: ignore[attr-defined]


# -- the branch


class Slow(Threshold):
    """Takes its time, until it is told not to."""

    memory: object = None

    def __init__(self) -> None:
        self.go = threading.Event()

    def look(self, image: np.ndarray, **told: object) -> Callable[[], Labelled]:
        self.go.wait(0.05)
        return lambda: Labelled(np.ones(image.shape, np.int32), self.name, self.sha256)

    def reset(self, polarity: str = "auto") -> None:
        pass


def test_slow_segmentation_is_counted_as_backlog_and_everything_is_drained_when_asked_to_stop(scene: Scene) -> None:
    slow = Slow()
    with scene.daemon(slow) as daemon:
        scene.shoot(*range(60))
        wait(lambda: daemon.committed == 60)
        assert daemon.segmented < 60
        wait(lambda: metric(daemon, "emstream_segmentation_backlog_frames") > 0)
        daemon.stop()
        slow.go.set()
    assert (daemon.committed, daemon.segmented) == (60, 60)
    scene.assert_frames(*range(60))
    assert (scene.run.column("status") & Status.SEGMENTED).all()
    assert scene.run.state == "closed"
