"""Watching a folder: every frame that a camera writes into it, once, in order, as soon as it is whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from emstream.messages import Frame
from emstream.source import SourceOptions
from emstream.source.filesystem import is_remote, mount_kind
from emstream.source.hints import Hints
from emstream.source.parties import Known, SourceReport, Stop
from emstream.source.watcher import IDLE_S, Watcher


def watch(
    root: Path,
    options: SourceOptions,
    known: Known,
    stop: Stop | None,
    report: SourceReport,
) -> Iterator[Frame | None]:
    """Every frame under `root`, pixels read, as soon as it is whole; None about every 0.05 s while there is none.

    Frames of one series come in the order of the numbers in their names, then of their index in the file; one that
    turns up after its successors has `late` set. Files are only ever read. Never raises for what a file or a mount does.
    """
    root = Path(root)
    stop = stop or threading.Event()
    remote = is_remote(mount_kind(root))
    hints = None if remote or options.watch == "scan" else Hints(root)
    watcher = Watcher(root, options, known, report, hints)
    try:
        while not stop.is_set():
            idle = True
            for frame in watcher.step(time.monotonic()):
                idle = False
                yield frame
                if stop.is_set():
                    return
            if idle:
                yield None
                if hints is None:
                    time.sleep(IDLE_S)
                else:
                    hints.wait(watcher.rest_s(time.monotonic()))
    finally:
        watcher.close()
