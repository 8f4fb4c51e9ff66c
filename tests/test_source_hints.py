"""What the system says of new files is only a hint: when it refuses, or says less than happened, nothing is lost."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import itertools
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_source_watch import Ledger, Report
from watchdog.observers import Observer

from emstream.messages import Frame
from emstream.source import SourceOptions
from emstream.source.hints import MOST_FILES, MOST_FOLDERS, Hints
from emstream.source.watch import watch

N = 40


def write(folder: Path, numbers: range) -> None:
    """Files of one small frame filled with a number, each whole when it has its name."""
    for i in numbers:
        buffer = io.BytesIO()
        np.save(buffer, np.full((4, 4), i, np.uint16))
        part = folder / f".f_{i:04}.npy.part"
        part.write_bytes(buffer.getvalue())
        part.rename(folder / f"f_{i:04}.npy")


def first(frames: Iterator[Frame | None], n: int) -> list[int]:
    """The numbers of the next n frames; between them the watch gives None while there is nothing."""
    return [int(f.pixels[0, 0]) for f in itertools.islice((f for f in frames if f is not None), n)]


def test_when_the_system_has_no_watch_left_the_folder_is_scanned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    monkeypatch.setattr(Observer, "schedule", refuse)
    stop = threading.Event()
    frames = watch(tmp_path, SourceOptions(), Ledger(), stop, Report())
    write(tmp_path, range(N))
    assert first(frames, N) == list(range(N))
    assert "max_user_watches" in caplog.text
    stop.set()


def test_when_events_were_dropped_the_folder_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hints, "dispatch", lambda *_: None)  # as if the kernel's queue had run over: nothing is told
    stop = threading.Event()
    frames = watch(tmp_path, SourceOptions(), Ledger(), stop, Report())
    write(tmp_path, range(N))
    assert first(frames, N) == list(range(N))
    stop.set()


def test_more_than_can_be_remembered_becomes_a_request_to_look_everywhere(tmp_path: Path) -> None:
    from watchdog.events import DirCreatedEvent, FileClosedEvent

    hints = Hints(tmp_path)
    for i in range(MOST_FILES + 10):
        hints.dispatch(FileClosedEvent(f"/a/f{i}"))
    told = hints.take()
    assert len(told.files) == MOST_FILES
    assert told.folders == {"/a"}
    for i in range(MOST_FOLDERS + 1):
        hints.dispatch(DirCreatedEvent(f"/a/d{i}"))
    assert hints.take().everything
    assert not hints.take().everything


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_half_a_rename_does_not_hold_up_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        ("inotify_move_event_grouper", "InotifyMoveEventGrouper"),
        ("inotify_buffer", "InotifyBuffer"),
    ):
        with contextlib.suppress(ImportError):  # of watchdog 7, of watchdog 6
            monkeypatch.setattr(getattr(importlib.import_module(f"watchdog.observers.{module}"), name), "delay", 60.0)
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "old").touch()
    hints = Hints(watched)
    assert hints.start()
    (watched / "old").rename(tmp_path / "old")  # its other half never comes
    write(watched, range(1))
    end = time.monotonic() + 20
    named: dict[str, bool] = {}
    while not named.get(str(watched / "f_0000.npy")) and time.monotonic() < end:
        hints.wait(0.1)
        named |= hints.take().files
    hints.stop()
    assert named[str(watched / "f_0000.npy")]
