"""Watching a folder: every frame once, in order, whatever the writers do. The clock is scripted: nothing sleeps."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from emstream.messages import Frame
from emstream.source import SourceOptions
from emstream.source.finished import Fingerprints
from emstream.source.tree import Found
from emstream.source.watcher import Watcher


class Report:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.bad: list[tuple[str, str]] = []
        self.gone: list[str] = []
        self.up: list[bool] = []

    def seen(self, n: int) -> None:
        self.counts["seen"] += n

    def read(self, seconds: float, nbytes: int) -> None:
        self.counts["bytes"] += nbytes

    def quarantined(self, path: str, reason: str, what: str, frame: int = -1) -> None:
        self.bad.append((path, reason))

    def retried(self, path: str) -> None: ...

    def pending(self, count: int, oldest_s: float, settling: int) -> None: ...

    def watch_up(self, up: bool) -> None:
        self.up.append(up)

    def missed_hint(self, n: int) -> None: ...

    def lost(self, path: str) -> None:
        self.gone.append(path)


class Ledger:
    """What earlier lives took: path -> frames."""

    def __init__(self, taken: dict[str, int] | None = None) -> None:
        self.taken = taken or {}

    def known_frames(self, path: str, size: int, mtime_ns: int, inode: int) -> int:
        return self.taken.get(path, 0)

    def asked_again(self) -> list[str]:
        return []


class Scripted:
    """A watcher and its clock."""

    def __init__(self, root: Path, taken: dict[str, int] | None = None, **options: object) -> None:
        self.report = Report()
        self.now = 100.0
        self.watcher = Watcher(root, SourceOptions(**options), Ledger(taken), self.report, timer=lambda: 0.0)  # type: ignore[arg-type]

    def run(self, seconds: float) -> list[Frame]:
        """The frames of so many seconds, a look every 0.05 s."""
        out: list[Frame] = []
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            out += self.watcher.step(self.now)
        return out


def npy(value: int = 0) -> bytes:
    """A file of one small frame filled with a number."""
    buffer = io.BytesIO()
    np.save(buffer, np.full((4, 4), value, np.uint16))
    return buffer.getvalue()


def names(frames: list[Frame]) -> list[str]:
    return [f.origin.path for f in frames]


@pytest.mark.parametrize("per_folder", [600, 30, 3])
def test_a_burst_is_handed_out_whole_and_once(tmp_path: Path, per_folder: int) -> None:
    """More folders than files may be held open at a time: each of them still gives all its frames, in order."""
    watch = Scripted(tmp_path)
    watch.run(0.1)
    for i in range(600):
        folder = tmp_path / f"h{i // per_folder // 10}" / f"m{i // per_folder}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f_{i}.npy").write_bytes(npy(i))
    got = watch.run(5.0)
    assert sorted(int(f.pixels[0, 0]) for f in got) == list(range(600))
    for series in {f.series for f in got}:
        values = [int(f.pixels[0, 0]) for f in got if f.series == series]
        assert values == sorted(values)
    assert not any(f.late for f in got)
    assert not watch.report.bad


def test_files_and_folders_that_are_moved_in_count_once(tmp_path: Path) -> None:
    root, outside = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    watch = Scripted(root)
    watch.run(0.1)
    for k in range(20):
        folder = outside / f"d{k}"
        folder.mkdir(parents=True)
        for i in range(40):
            (folder / f"f_{i}.npy").write_bytes(npy(40 * k + i))
        folder.rename(root / f"d{k}")
    (outside / "late.npy").write_bytes(npy(999))
    (outside / "late.npy").rename(root / "f_1.npy")
    assert sorted(int(f.pixels[0, 0]) for f in watch.run(5.0)) == [*range(800), 999]
    (root / "d3").rename(root / "d3-renamed")
    assert watch.run(5.0) == []
    assert watch.report.gone == []


def test_a_root_that_vanishes_and_returns_loses_nothing(tmp_path: Path) -> None:
    """Also a file that was being followed, with frames left in it."""
    root, away = tmp_path / "in", tmp_path / "away"
    root.mkdir()
    movie = np.arange(6, dtype=np.uint16)[:, None, None] * np.ones((1, 4, 4), np.uint16)
    buffer = io.BytesIO()
    np.save(buffer, movie)
    (root / "m.npy").write_bytes(buffer.getvalue()[:-100])  # the last four frames are not there yet
    watch = Scripted(root)
    first = watch.run(0.5)
    root.rename(away)
    assert watch.run(1.0) == []
    assert watch.report.up[-1] is False
    (away / "m.npy").write_bytes(buffer.getvalue())
    (away / "f_1.npy").write_bytes(npy(77))
    away.rename(root)
    rest = watch.run(6.0)
    assert watch.report.up[-1] is True
    assert [int(f.pixels[0, 0]) for f in first + rest if f.origin.path == "m.npy"] == list(range(6))
    assert [int(f.pixels[0, 0]) for f in rest if f.origin.path == "f_1.npy"] == [77]
    assert watch.report.gone == []


def test_a_file_is_handed_out_only_when_it_is_whole(tmp_path: Path) -> None:
    watch = Scripted(tmp_path)
    data = npy(5)
    with open(tmp_path / "f_0.npy", "wb") as file:
        for k in range(0, len(data), 40):
            file.write(data[k : k + 40])
            file.flush()
            if file.tell() < len(data):
                assert watch.run(0.5) == []
    assert [int(f.pixels[0, 0]) for f in watch.run(2.0)] == [5]


def test_a_missing_number_is_waited_for_and_then_comes_late(tmp_path: Path) -> None:
    watch = Scripted(tmp_path, reorder_s=1.0)
    for i in (0, 1, 2, 4):
        (tmp_path / f"f_{i}.npy").write_bytes(npy(i))
        os.utime(tmp_path / f"f_{i}.npy", ns=(0, 10**18 - i))  # clocks that lie do not matter
    before = watch.run(0.5)
    (tmp_path / "f_3.npy").write_bytes(npy(3))
    after = watch.run(3.0)
    assert names(before + after) == [f"f_{i}.npy" for i in range(5)]
    (tmp_path / "f_6.npy").write_bytes(npy(6))
    assert names(watch.run(3.0)) == ["f_6.npy"]
    (tmp_path / "f_5.npy").write_bytes(npy(5))
    last = watch.run(3.0)
    assert [(f.origin.path, f.late) for f in last] == [("f_5.npy", True)]
    assert not any(f.late for f in before + after)


def test_a_restart_takes_only_what_is_new(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"f_{i}.npy").write_bytes(npy(i))
    watch = Scripted(tmp_path, taken={f"f_{i}.npy": 1 for i in range(3)})
    assert names(watch.run(4.0)) == ["f_3.npy", "f_4.npy"]


def test_a_broken_file_is_told_once_and_read_when_it_is_mended(tmp_path: Path) -> None:
    (tmp_path / "f_0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\1" * 200)
    (tmp_path / "f_1.npy").write_bytes(npy(1))
    watch = Scripted(tmp_path)
    assert names(watch.run(4.0)) == ["f_1.npy"]
    assert [path for path, _ in watch.report.bad] == ["f_0.png"]
    (tmp_path / "f_2.npy").write_bytes(npy(2))
    assert names(watch.run(4.0)) == ["f_2.npy"]
    assert len(watch.report.bad) == 1


def test_pipes_and_links_that_lead_out_are_refused_and_never_opened(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    (tmp_path / "secret.npy").write_bytes(npy(9))
    (root / "link.npy").symlink_to(tmp_path / "secret.npy")
    (root / "up").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.npy")
    watch = Scripted(root)
    assert watch.run(3.0) == []
    assert sorted(watch.report.bad) == [("link.npy", "not_a_file"), ("pipe.npy", "not_a_file"), ("up", "not_a_file")]


def test_a_name_that_gets_new_content_gives_a_new_frame_and_a_touched_one_does_not(tmp_path: Path) -> None:
    latest = tmp_path / "latest.npy"
    latest.write_bytes(npy(1))
    watch = Scripted(tmp_path)
    assert len(watch.run(3.0)) == 1
    os.utime(latest, ns=(0, 1))
    assert watch.run(40.0) == []
    latest.write_bytes(npy(2))
    assert [int(f.pixels[0, 0]) for f in watch.run(80.0)] == [2]


def test_a_file_that_is_told_again_after_it_was_read_gives_no_second_frame(tmp_path: Path) -> None:
    """A scan pauses between finding and telling; a hint may have brought the same file meanwhile."""
    (tmp_path / "f_0.npy").write_bytes(npy(1))
    watch = Scripted(tmp_path)
    assert len(watch.run(3.0)) == 1
    watch.watcher._recent = Fingerprints()  # thousands of files came since
    st = os.stat(tmp_path / "f_0.npy")
    watch.watcher.found([Found("f_0.npy", st.st_size, st.st_mtime_ns, st.st_ino)])
    assert watch.run(3.0) == []
