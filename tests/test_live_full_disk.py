"""A disk that is full, really: the daemon pauses, says so everywhere, goes on by itself, and every frame is there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_live import Daemon

from emstream import simulate
from emstream.source.play import play
from emstream.store import Run
from emstream.store.check import check

SIZE_MB, FRAMES = 24, 40


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MB, in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "none", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("a small file system cannot be mounted here: that needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=False)


def fill(ballast: Path, leave_mb: float) -> None:
    """Take what is free, all of it for 0."""
    with ballast.open("wb", buffering=0) as file:
        try:
            left = SIZE_MB - leave_mb if leave_mb else 1e9
            while left > 0:
                file.write(b"\xa5" * (64 << 10))
                left -= 1 / 16
        except OSError:
            pass


@pytest.mark.parametrize(("low_water_mb", "leave_mb"), [(0, 0), (8, 4)], ids=["full", "below the low-water mark"])
def test_a_full_disk_pauses_the_daemon_and_costs_no_frame(
    small_disk: Path, tmp_path: Path, low_water_mb: int, leave_mb: float
) -> None:
    movie = simulate.movie(FRAMES, (96, 96), particles=3, diameter=(8, 12), seed=1)
    camera, ballast = tmp_path / "camera", small_disk / "ballast"
    camera.mkdir()
    options = ("segment.enabled=false", "align.enabled=false", f"store.low_water_mb={low_water_mb}")
    daemon = Daemon(camera, small_disk / "runs", *(a for o in options for a in ("--set", o)), http=True)
    try:
        daemon.wait(lambda: daemon.get("/readyz")[0] == 200)
        for _ in play(movie, camera, stop=5):
            pass
        daemon.wait(lambda: daemon.committed() == 5)
        fill(ballast, leave_mb)
        for _ in play(movie, camera, start=5):
            pass

        def status() -> dict[str, object]:
            return json.loads(daemon.get("/api/status", Authorization="token secret")[1] or "{}")

        daemon.wait(lambda: daemon.get("/readyz")[0] == 503)
        daemon.wait(lambda: status()["state"] == "paused")
        assert any("nothing can be written" in str(w) for w in status()["warnings"])  # type: ignore[attr-defined]
        daemon.wait(lambda: "emstream_store_up 0.0" in daemon.get("/metrics")[1])
        assert daemon.committed() < FRAMES
        stored = Run(small_disk / "runs" / "camera.zarr")
        assert np.array_equal(stored.frames.compute(), [movie.frame(i) for i in range(stored.n)])  # readers go on
        ballast.unlink()
        daemon.wait(lambda: daemon.committed() == FRAMES)
        daemon.wait(lambda: daemon.get("/readyz")[0] == 200)
        daemon.wait(lambda: "emstream_store_up 1.0" in daemon.get("/metrics")[1])
        code, _, err = daemon.end()
    finally:
        daemon.process.kill()
        daemon.process.communicate()
    assert code == 0, err
    assert "writing pauses" in err
    assert "writing goes on" in err
    run = Run(small_disk / "runs" / "camera.zarr")
    assert np.array_equal(run.frames.compute(), movie_frames(movie))
    assert check(run.path).problems == ()


def movie_frames(movie: simulate.Movie) -> np.ndarray:
    return np.stack([movie.frame(i) for i in range(len(movie))])
