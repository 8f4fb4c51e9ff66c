"""What could not be read is remembered, listed, and read once more when somebody asks, whoever holds the ledger."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emstream.errors import NotARun, SourceMissing
from emstream.messages import Frame, Origin
from emstream.source import SourceOptions
from emstream.source.watcher import Watcher
from emstream.store import FrameRow, Ledger, quarantine

STACK = [Origin("cam/a.mrc", i, 4000, 100, 7) for i in range(4)]


def run_of(ledger: Ledger) -> int:
    return ledger.run_for("cam", "cam", (4, 5), "uint16", (0.5, 0.5)).id


def test_quarantine_outlives_the_daemon_and_is_listed_while_it_runs(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.quarantine("cam/x.tif", "corrupt", "ends early", 10, 20)
        ledger.quarantine("cam/a.mrc", "corrupt", "frame 2 is torn", 4000, 100, 2)
    with Ledger(tmp_path):
        rows = quarantine.listed(tmp_path)
    told = [(r["path"], r["frame"], r["reason"], r["what"], r["size"]) for r in rows]
    assert told == [
        ("cam/a.mrc", 2, "corrupt", "frame 2 is torn", 4000),
        ("cam/x.tif", None, "corrupt", "ends early", 10),
    ]


def test_a_retried_file_is_told_once_to_a_running_ledger_and_again_to_the_next_one(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.quarantine("cam/x.tif", "corrupt", "ends early", 10, 20)
        assert ledger.asked_again() == []
        assert quarantine.retry(tmp_path, ["cam/x.tif"]) == ["cam/x.tif"]
        assert quarantine.listed(tmp_path) == []
        assert ledger.asked_again() == ["cam/x.tif"]
        assert ledger.asked_again() == []
    with Ledger(tmp_path) as ledger:
        assert ledger.asked_again() == ["cam/x.tif"]
        ledger.quarantine("cam/x.tif", "corrupt", "still ends early", 10, 20)
    with Ledger(tmp_path) as ledger:
        assert ledger.asked_again() == []
        quarantine.retry(tmp_path)
        assert ledger.asked_again() == ["cam/x.tif"]
        ledger.reserve(run_of(ledger), [Origin("cam/x.tif", 0, 10, 20, 3)])
    with Ledger(tmp_path) as ledger:
        assert ledger.asked_again() == []


def test_asking_for_what_is_not_quarantined_changes_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.quarantine("x.tif", "corrupt", "ends early", 10, 20)
    with pytest.raises(SourceMissing, match=r"y\.tif"):
        quarantine.retry(tmp_path, ["x.tif", "y.tif"])
    assert len(quarantine.listed(tmp_path)) == 1
    with pytest.raises(NotARun, match="no ledger"):
        quarantine.listed(tmp_path / "elsewhere")


def test_a_frame_that_could_not_be_read_is_taken_after_its_successors(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        run = run_of(ledger)
        assert ledger.reserve(run, [STACK[0], STACK[2], STACK[3]]) == [0, 1, 2]
        ledger.quarantine("cam/a.mrc", "corrupt", "frame 1 is torn", 4000, 100, 1)
        assert ledger.known_frames("cam/a.mrc", 4000, 100, 7) == 4
        quarantine.retry(tmp_path)
        assert ledger.known_frames("cam/a.mrc", 4000, 100, 7) == 1
        assert ledger.reserve(run, STACK[1:]) == [3, None, None]
        assert ledger.known_frames("cam/a.mrc", 4000, 100, 7) == 4


def test_a_retried_frame_is_not_passed_over_when_its_daemon_is_killed(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        run = run_of(ledger)
        ledger.reserve(run, [STACK[0], STACK[2], STACK[3]])
        ledger.commit(run, [FrameRow(i, 1, 1, 0.0, (0.0, 0.0), 1.0, 0, 1, i) for i in range(3)])
        ledger.quarantine("cam/a.mrc", "corrupt", "frame 1 is torn", 4000, 100, 1)
        quarantine.retry(tmp_path)
        assert ledger.reserve(run, STACK[1:]) == [3, None, None]
    with Ledger(tmp_path) as ledger:
        assert ledger.known_frames("cam/a.mrc", 4000, 100, 7) == 1
        assert ledger.reserve(run, STACK[1:]) == [3, None, None]


def test_a_file_that_changed_and_could_be_read_leaves_the_quarantine_by_itself(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        run = run_of(ledger)
        ledger.quarantine("cam/a.mrc", "truncated", "stopped growing", 4000, 100)
        ledger.reserve(run, STACK[:1])  # a frame read before it was given up
        assert len(ledger.quarantined()) == 1
        ledger.reserve(run, [replace(STACK[1], size=5000, mtime_ns=200)])
        assert ledger.quarantined() == []


def test_a_ledger_of_the_older_shape_is_taken_over(tmp_path: Path) -> None:
    Ledger(tmp_path).close()
    db = sqlite3.connect(tmp_path / ".emstream" / "ledger.sqlite")
    db.execute("DROP TABLE quarantine")
    db.execute("CREATE TABLE quarantine (path TEXT PRIMARY KEY, reason TEXT)")
    db.commit()
    db.close()
    with Ledger(tmp_path) as ledger:
        ledger.quarantine("x.tif", "corrupt", "ends early", 10, 20)
        assert len(ledger.quarantined()) == 1


class Told:
    """A report that quarantines into a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.again = ledger, 0

    def quarantined(self, path: str, reason: str, what: str, frame: int = -1) -> None:
        self.ledger.quarantine(path, reason, what, 1, 1, frame)

    def retried(self, path: str) -> None:
        self.again += 1

    def __getattr__(self, name: str) -> object:
        return lambda *a: None


def frames_of(watcher: Watcher, seconds: range) -> list[Frame]:
    return [frame for now in seconds for frame in watcher.step(float(now))]


def test_a_running_watch_reads_a_file_once_more_when_asked(tmp_path: Path) -> None:
    source, out = tmp_path / "camera", tmp_path / "runs"
    source.mkdir()
    for i in range(3):
        np.save(source / f"f_{i}.npy", np.full((4, 5), i + 1, np.uint16))
    sound = (source / "f_1.npy").read_bytes()
    state = (source / "f_1.npy").stat()
    (source / "f_1.npy").write_bytes(b"\x93NUMPY" + b"\xff" * (len(sound) - 6))
    with Ledger(out) as ledger:
        told = Told(ledger)
        watcher = Watcher(source, SourceOptions(), ledger, told, timer=lambda: 0.0)  # type: ignore[arg-type]
        assert [int(f.pixels[0, 0]) for f in frames_of(watcher, range(100, 200, 2))] == [1, 3]
        assert [r["path"] for r in quarantine.listed(out)] == ["f_1.npy"]
        quarantine.retry(out, ["f_1.npy"])
        assert frames_of(watcher, range(200, 300, 2)) == []  # it is what it was
        assert [r["path"] for r in quarantine.listed(out)] == ["f_1.npy"]
        with (source / "f_1.npy").open("r+b") as file:  # mended in place, its times as before: nobody can see it
            file.write(sound)
        os.utime(source / "f_1.npy", ns=(state.st_mtime_ns, state.st_mtime_ns))
        quarantine.retry(out)
        (late,) = frames_of(watcher, range(300, 400, 2))
        assert int(late.pixels[0, 0]) == 2
        assert late.late
        assert told.again == 2
        watcher.close()


def test_the_verb_lists_as_table_and_json_and_retries(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        for i in range(2):
            ledger.quarantine(f"x_{i}.tif", "corrupt", "ends early", 10, 20)

        def emstream(*args: object) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "emstream", "quarantine", *map(str, args)]
            return subprocess.run(command, capture_output=True, text=True, check=False)

        table = emstream("list", tmp_path).stdout
        assert all(word in table for word in ("x_0.tif", "x_1.tif", "corrupt", "ends early", "10"))
        (row, _) = json.loads(emstream("list", tmp_path, "--json").stdout)
        assert {k: row[k] for k in ("path", "frame", "reason", "what", "size")} == {
            "path": "x_0.tif", "frame": None, "reason": "corrupt", "what": "ends early", "size": 10,
        }  # fmt: skip
        wrong = emstream("retry", tmp_path)
        assert (wrong.returncode, "--all" in wrong.stderr) == (2, True)
        assert json.loads(emstream("retry", tmp_path, "x_1.tif", "--json").stdout) == [{"path": "x_1.tif"}]
        assert ledger.asked_again() == ["x_1.tif"]
        assert emstream("retry", tmp_path, "--all").returncode == 0
        assert json.loads(emstream("list", tmp_path, "--json").stdout) == []
