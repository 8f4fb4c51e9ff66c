"""The daemon as a user runs it: a process, a folder, signals; its page and metrics asked over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from emstream import simulate
from emstream.messages import Status
from emstream.source.play import play, steps
from emstream.store import Run

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def movie() -> simulate.Movie:
    return simulate.movie(
        30, (192, 192), particles=9, diameter=(14, 28), contrast=(0.3, 0.4), dose=40, jitter=0.2, seed=4
    )


def emstream(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emstream", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


class Daemon:
    """`emstream live` in the background."""

    def __init__(self, source: Path, out: Path, *args: object, http: bool = False) -> None:
        self.source, self.out, self.port = source, out, 0
        extra = []
        if http:
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                self.port = s.getsockname()[1]
            extra = ["--http", f"127.0.0.1:{self.port}", "--set", "view.token=secret"]
        command = [sys.executable, "-m", "emstream", "live", source, out, "--json", *extra, *args]
        self.process = subprocess.Popen(
            [str(a) for a in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as err:
            return err.code, ""
        except OSError:
            return 0, ""

    def committed(self) -> int:
        found = re.search(r'frames_total\{state="committed"\} ([0-9.]+)', self.get("/metrics")[1])
        return int(float(found[1])) if found else 0

    def frames(self) -> int:
        found = list(self.out.glob("*.zarr/0/zarr.json"))
        return int(json.loads(found[0].read_text())["shape"][0]) if found else 0

    def wait(self, reached: Callable[[], bool]) -> None:
        """Until something is so, watched for; never a fixed time."""
        end = time.monotonic() + PATIENCE_S
        while not reached():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < end, "it never came to that"
            time.sleep(0.02)

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        if self.process.poll() is None:
            self.process.send_signal(how)
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    running: list[Daemon] = []
    (tmp_path / "camera").mkdir()

    def begin(*args: object, http: bool = False) -> Daemon:
        running.append(Daemon(tmp_path / "camera", tmp_path / "runs", "--model", "classical", *args, http=http))
        return running[-1]

    yield begin
    for daemon in running:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.communicate()


def test_a_session_from_first_frame_to_sigterm(start: Callable[..., Daemon], movie: simulate.Movie) -> None:
    daemon = start(http=True)
    daemon.wait(lambda: daemon.get("/readyz")[0] == 200)
    for _ in play(movie, daemon.source, fps=40):
        pass
    daemon.wait(lambda: daemon.committed() == len(movie))
    daemon.wait(lambda: f'frames_total{{state="segmented"}} {len(movie)}.0' in daemon.get("/metrics")[1])
    assert daemon.get("/api/latest")[0] in (401, 403)
    latest = json.loads(daemon.get("/api/latest", Authorization="token secret")[1])
    assert latest["frame"] == len(movie) - 1
    assert latest["particles"] >= 4

    def status() -> tuple[int, int]:
        told = json.loads(daemon.get("/api/status", Authorization="token secret")[1])
        return told["committed"], told["backlog"]

    daemon.wait(lambda: status() == (len(movie), 0))
    code, out, err = daemon.end()
    assert code == 0, err
    summary = json.loads(out)
    assert summary["frames"] == summary["segmented"] == len(movie)
    run = Run(summary["runs"][0])
    assert run.state == "closed"
    error = (run.column("shift") - movie.shift)[8:]
    assert float(np.sqrt(((error - error.mean(0)) ** 2).sum(1).mean())) < 0.3
    assert run.pixel_size_nm == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_what_does_not_finish(how: signal.Signals) -> None:
    code = """if True:
        import threading
        from emstream.live import signals
        with signals(lambda: print("asked", flush=True)):
            print("ready", flush=True)
            while True:  # never finishes what was seen
                threading.Event().wait(0.05)
        """
    stuck = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert stuck.stdout is not None
    try:
        for told in ("ready", "asked"):
            assert stuck.stdout.readline().strip() == told
            stuck.send_signal(how)
        assert stuck.wait(PATIENCE_S) == 1
    finally:
        stuck.kill()
        stuck.communicate()


@pytest.mark.parametrize("fmt", ["tiff", "mrc", "tiff-stack", "npy", "png", "dm4-tree"])
def test_every_way_in_which_the_simulated_camera_writes_becomes_one_whole_run(
    fmt: str, start: Callable[..., Daemon], movie: simulate.Movie
) -> None:
    daemon = start("--until-idle", "1.5", "--set", "segment.enabled=false", "--set", "source.settle_s=0.4")
    for _ in play(movie, daemon.source, fmt=fmt, pieces=3, stop=12):
        pass
    code, out, err = daemon.end(signal.SIGCONT)
    assert code == 0, err
    assert len(json.loads(out)["runs"]) == 1
    run = Run(json.loads(out)["runs"][0])
    assert run.name == ("camera" if fmt in ("tiff", "npy", "png") else "movie")
    assert run.n == 12
    whole = np.rint(run.column("shift")).astype(int)
    inner = (slice(40, -40), slice(40, -40))
    for i in (0, 7, 11):
        assert np.array_equal(np.roll(movie.frame(i), tuple(whole[i]), (0, 1))[inner], run.frame(i)[inner])


def test_a_growing_movie_is_read_frame_by_frame(start: Callable[..., Daemon], movie: simulate.Movie) -> None:
    daemon = start("--set", "segment.enabled=false", "--set", "source.settle_s=30", http=True)
    daemon.wait(lambda: daemon.get("/readyz")[0] == 200)
    for i, whole in steps(movie, daemon.source, fmt="mrc"):
        if whole and i in (4, 9):  # frame i is whole, and believed when the next one begins
            daemon.wait(lambda i=i: daemon.committed() >= i)  # type: ignore[misc]
        if i == 11:
            break
    assert daemon.end()[0] == 0


def test_killed_and_started_again_it_goes_on(start: Callable[..., Daemon], movie: simulate.Movie) -> None:
    daemon = start(http=True)
    for _ in play(movie, daemon.source, fps=30, stop=15):
        pass
    daemon.wait(lambda: daemon.frames() >= 8)
    daemon.process.kill()
    daemon.process.communicate()
    again = start("--until-idle", "2")
    for _ in play(movie, again.source, fps=30, start=15):
        pass
    code, out, err = again.end(signal.SIGCONT)
    assert code == 0, err
    (path,) = json.loads(out)["runs"]
    run = Run(path)
    assert run.n == len(movie)
    assert np.all(run.column("status") & Status.SEGMENTED)
    assert not run.table("particles").duplicated(["frame", "label"]).any()
    assert sorted(run.table("particles")["frame"].unique()) == list(range(len(movie)))
    error = (run.column("shift") - movie.shift)[8:]
    assert float(np.sqrt(((error - error.mean(0)) ** 2).sum(1).mean())) < 0.3


def test_what_cannot_be_read_is_quarantined_and_the_stream_goes_on(
    start: Callable[..., Daemon], movie: simulate.Movie
) -> None:
    daemon = start("--until-idle", "1.5", "--set", "segment.enabled=false", "--set", "source.stuck_s=0.5")
    (daemon.source / "a_0000.tif").write_bytes(b"II*\0not a picture")
    tifffile.imwrite(
        daemon.source / "a_0001.tif", np.dstack([movie.frame(0)] * 2 + [movie.frame(1)]), photometric="rgb"
    )
    os.mkfifo(daemon.source / "a_0002.tif")
    for _ in play(movie, daemon.source, stop=5):
        pass
    code, out, err = daemon.end(signal.SIGCONT)
    assert code == 0, err
    assert json.loads(out)["frames"] == 5
    assert json.loads(out)["quarantined"] == 3
    for reason in ("colour", "not_a_file"):
        assert f'"reason": "{reason}"' in err
    assert len(list(daemon.source.iterdir())) == 8


def test_two_daemons_never_share_an_output_folder(start: Callable[..., Daemon]) -> None:
    first = start(http=True)
    first.wait(lambda: first.get("/healthz")[0] == 200)
    code, _, err = start("--until-idle", "1").end(signal.SIGCONT)
    assert code == 1
    assert str(first.process.pid) in err
    assert first.end()[0] == 0


def test_check_opens_everything_and_prints_every_setting_with_its_origin(tmp_path: Path) -> None:
    answer = emstream("live", tmp_path, tmp_path / "out", "--check", "--json", "--set", "compute.batch=3")
    rows = {r["setting"]: r for r in json.loads(answer.stdout)}
    assert answer.returncode == 0
    assert rows["compute.batch"] == {"setting": "compute.batch", "value": 3, "from": "--set"}
    assert rows["align.enabled"]["from"] == "default"


def test_mistakes_exit_2_with_a_line_each_and_a_missing_folder_exits_1(tmp_path: Path) -> None:
    wrong = emstream("live", tmp_path, tmp_path, "--set", "align.no=1", "--set", "compute.batch=x")
    assert wrong.returncode == 2
    assert len(wrong.stderr.strip().splitlines()) == 2
    missing = emstream("live", tmp_path / "nowhere", tmp_path / "out", "--until-idle", "1")
    assert missing.returncode == 1
    assert "nowhere" in missing.stderr
    assert "Traceback" not in missing.stderr
    assert not (tmp_path / "out").exists()
    broken = emstream("live", tmp_path, tmp_path / "out", "--model", tmp_path / "no-model")
    assert broken.returncode == 1
    assert "no-model" in broken.stderr
