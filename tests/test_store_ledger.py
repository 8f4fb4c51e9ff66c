"""The ledger knows each frame once, whatever happens to its file, its name, the lock or the disk."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emstream.errors import StoreBusy
from emstream.messages import Origin
from emstream.store import FrameRecord, Ledger, Run, RunWriter, StoreOptions, WriteBehind
from emstream.store.check import check
from emstream.store.failpoints import arm

STACK = [Origin("cam/a.mrc", i, 1000 * (i + 1), 100 + i, 7) for i in range(4)]
SINGLE = Origin("cam/a.tif", 0, 1000, 100, 7)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path) as ledger:
        yield ledger


def run_of(ledger: Ledger) -> int:
    return ledger.run_for("cam", "cam", (8, 8), "uint16", (0.5, 0.5)).id


@pytest.mark.parametrize(
    ("what", "size", "mtime_ns", "inode", "known"),
    [
        ("unchanged", 4000, 103, 7, 4),
        ("grown", 9000, 500, 7, 4),
        ("touched", 4000, 500, 7, 4),
        ("renumbered inode", 4000, 103, 99, 4),
        ("truncated", 3000, 500, 7, 0),
    ],
)
def test_frames_of_a_stack_are_known(
    ledger: Ledger, what: str, size: int, mtime_ns: int, inode: int, known: int
) -> None:
    ledger.reserve(run_of(ledger), STACK)
    assert ledger.known_frames("cam/a.mrc", size, mtime_ns, inode) == known, what


@pytest.mark.parametrize(
    ("what", "size", "mtime_ns", "inode", "known"),
    [
        ("unchanged", 1000, 100, 7, 1),
        ("grown", 2000, 500, 7, 1),
        ("renumbered inode", 1000, 100, 99, 1),
        ("overwritten", 1000, 500, 7, 0),
        ("replaced by a larger one", 2000, 500, 99, 0),
        ("truncated", 500, 500, 7, 0),
    ],
)
def test_a_single_frame_is_known(ledger: Ledger, what: str, size: int, mtime_ns: int, inode: int, known: int) -> None:
    ledger.reserve(run_of(ledger), [SINGLE])
    assert ledger.known_frames("cam/a.tif", size, mtime_ns, inode) == known, what


def test_an_unknown_file_has_no_known_frames(ledger: Ledger) -> None:
    assert ledger.known_frames("cam/b.tif", 1, 1, 1) == 0


def test_a_frame_is_reserved_once(ledger: Ledger) -> None:
    run = run_of(ledger)
    assert ledger.reserve(run, STACK[:2]) == [0, 1]
    whole = [replace(o, size=4000, mtime_ns=103) for o in STACK]
    assert ledger.reserve(run, whole) == [None, None, 2, 3]
    assert ledger.reserve(run, whole) == [None] * 4


def test_an_overwritten_single_frame_is_a_new_one(ledger: Ledger) -> None:
    run = run_of(ledger)
    assert ledger.reserve(run, [SINGLE]) == [0]
    assert ledger.reserve(run, [replace(SINGLE, mtime_ns=200)]) == [1]
    assert ledger.reserve(run, [replace(SINGLE, mtime_ns=200)]) == [None]


def write(ledger: Ledger, origin: Origin, pixels: np.ndarray) -> None:
    row = ledger.run_for("cam", "cam", (8, 8), "uint16", (0.5, 0.5))
    writer = RunWriter(ledger.out, row, ledger, StoreOptions(low_water_mb=0))
    writer.write_frames([FrameRecord(pixels, origin, 0.0, (0.0, 0.0))])
    writer.flush()


def test_a_touched_file_with_the_same_pixels_is_recognised(ledger: Ledger) -> None:
    from emstream.store.chunks import crc32c

    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    write(ledger, SINGLE, pixels)
    run, touched = ledger.runs()[0].id, replace(SINGLE, mtime_ns=200)
    assert ledger.known_frames("cam/a.tif", 1000, 200, 7) == 0
    assert ledger.reserve(run, [touched], lambda i: crc32c(pixels)) == [None]
    assert ledger.known_frames("cam/a.tif", 1000, 200, 7) == 1
    assert ledger.reserve(run, [replace(SINGLE, mtime_ns=300)], lambda i: crc32c(pixels + 1)) == [1]


def test_another_shape_dtype_or_scale_begins_the_next_run(ledger: Ledger) -> None:
    def name(shape: tuple[int, int], dtype: str, size: tuple[float, float] | None, series: str = "cam") -> str:
        return ledger.run_for(series, "cam", shape, dtype, size).name

    assert name((8, 8), "uint16", (0.5, 0.5)) == "cam"
    assert name((8, 8), "uint16", (0.502, 0.5)) == "cam"
    assert name((8, 8), "uint16", None) == "cam"
    assert name((8, 9), "uint16", (0.5, 0.5)) == "cam-2"
    assert name((8, 8), "uint8", (0.5, 0.5)) == "cam-3"
    assert name((8, 8), "uint16", (0.25, 0.25)) == "cam-4"
    assert name((8, 8), "uint16", (0.5, 0.5)) == "cam"
    assert name((8, 8), "uint16", (0.5, 0.5), "other/cam") == "cam-5"


def test_a_run_never_takes_the_name_of_a_folder_that_is_there(tmp_path: Path, ledger: Ledger) -> None:
    (tmp_path / "CAM.zarr").mkdir()
    assert ledger.run_for("cam", "cam", (8, 8), "uint16", None).name == "cam-2"


def test_a_second_daemon_is_told_who_holds_the_folder(tmp_path: Path, ledger: Ledger) -> None:
    with pytest.raises(StoreBusy) as caught:
        Ledger(tmp_path)
    assert f"process {os.getpid()} on {socket.gethostname()}" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_stale_lock_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ".emstream"
    folder.mkdir()
    (folder / "lock").write_text("process 4194999 on elsewhere, since 2001-01-01 00:00:00 UTC\n" * 3)
    with Ledger(tmp_path):
        assert (folder / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_what_was_under_way_is_taken_back_and_told_lost_when_its_file_is_gone(tmp_path: Path) -> None:
    out, source = tmp_path / "out", tmp_path / "source"
    (source / "cam").mkdir(parents=True)
    (source / "cam" / "a.mrc").touch()
    gone = Origin("cam/gone.tif", 0, 5, 5, 5)
    with Ledger(out, source) as ledger:
        run = run_of(ledger)
        ledger.reserve(run, [*STACK, gone])
    with Ledger(out, source) as ledger:
        assert (ledger.recovery.redone, ledger.recovery.lost) == (4, (gone,))
        assert ledger.counts() == {"LOST": 1, "quarantined": 0}
        assert ledger.reserve(run, STACK) == [0, 1, 2, 3]


def test_a_mount_point_without_its_mount_says_nothing_about_files(tmp_path: Path) -> None:
    out, source = tmp_path / "out", tmp_path / "source"
    source.mkdir()
    with Ledger(out, source) as ledger:
        ledger.reserve(run_of(ledger), STACK)
    with Ledger(out, source) as ledger:
        assert (ledger.recovery.redone, ledger.recovery.lost) == (4, ())


@pytest.mark.parametrize("point", ["chunk.written:5", "chunk.synced:1", "chunk.renamed:3", "ledger.commit:2",
                                   "publish.columns:1", "publish.level:4", "publish.shape:1", "file.written:7"])  # fmt: skip
def test_a_full_disk_makes_writing_wait_and_nothing_is_lost_or_doubled(tmp_path: Path, point: str) -> None:
    frames = np.random.default_rng(1).integers(1, 999, (30, 8, 8)).astype(np.uint16)
    with Ledger(tmp_path) as ledger:
        row = ledger.run_for("cam", "cam", (8, 8), "uint16", (0.5, 0.5))
        writer = RunWriter(tmp_path, row, ledger, StoreOptions(low_water_mb=0, publish_every_s=0, keep_raw=True))
        behind = WriteBehind(writer, 1 << 20, first_pause_s=0.01)
        arm(f"{point}:enospc")
        try:
            for i, pixels in enumerate(frames):
                record = FrameRecord(pixels, Origin(f"cam/{i}.tif", 0, 10, i, i), float(i), (0.0, 0.0))
                slots = writer.reserve([record.origin])
                behind.put(lambda r=record, s=slots: writer.write_frames([r], s), pixels.nbytes)
                if i % 5 == 4:
                    assert behind.drain(20)
            assert behind.close(20)
        finally:
            arm("")
        assert behind.problem is None
        writer.close()
        run = Run(writer.path)
        assert np.array_equal(run.frames.compute(), frames)
        assert np.array_equal(run.column("time_s"), np.arange(30))
    assert check(writer.path).problems == ()


class Stubborn:
    """A sink whose disk is full for the first two flushes."""

    def __init__(self) -> None:
        self.staged: list[int] = []
        self.flushed: list[int] = []
        self.failures = 0

    def flush(self) -> None:
        if self.failures < 2:
            self.failures += 1
            raise OSError(28, "No space left on device")
        self.flushed += self.staged
        self.staged = []

    def discard(self) -> None:
        self.staged = []

    def idle(self) -> None:
        pass


def test_work_of_a_group_that_failed_is_done_again_in_order() -> None:
    sink = Stubborn()
    behind = WriteBehind(sink, 1 << 20, first_pause_s=0.01)
    for k in range(50):
        assert behind.put(lambda k=k: sink.staged.append(k), 100)
    assert behind.close(20)
    assert sink.failures == 2
    assert sink.flushed == list(range(50))


def test_any_other_error_of_the_disk_reaches_the_caller() -> None:
    def broken() -> None:
        raise OSError(1, "Operation not permitted")

    behind = WriteBehind(Stubborn(), 100, first_pause_s=0.01)
    behind.put(broken, 1)
    with pytest.raises(PermissionError):
        behind.drain(20)


def test_a_full_queue_makes_the_caller_wait() -> None:
    import threading

    sink, go = Stubborn(), threading.Event()
    sink.failures = 2
    behind = WriteBehind(sink, 100)
    behind.put(go.wait, 80)
    assert not behind.put(lambda: None, 30, timeout=0.05)
    assert behind.queued_bytes == 80
    go.set()
    assert behind.put(lambda: None, 30, timeout=20)
    assert behind.close(20)
