"""Hints from the operating system: look at this file now. They may be late, doubled or lost; nothing relies on them."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

from emstream.source.filesystem import is_remote, mount_kind

log = logging.getLogger(__name__)

MOST_FILES = 512  # named one by one; beyond, their folders are named
MOST_FOLDERS = 2048  # beyond, everything is to be looked at
PAIRED_WITHIN_S = 0.01  # the two halves of a rename, which the system tells one after the other
EVENTS = [FileClosedEvent, FileMovedEvent, FileCreatedEvent, DirCreatedEvent, DirMovedEvent]

warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"watchdog\.observers")  # each prints its whole table


def pair_renames_soon() -> None:
    """Let watchdog wait for the second half of a rename for PAIRED_WITHIN_S.

    Its own half second is slept to the end when the first half is taken before the second is queued, which happens to one
    rename in some hundred: until then no other file is told of either.
    """
    if sys.platform != "linux":
        return
    for module, name in (
        ("inotify_move_event_grouper", "InotifyMoveEventGrouper"),
        ("inotify_buffer", "InotifyBuffer"),
    ):
        try:  # of watchdog 7, of watchdog 6
            getattr(importlib.import_module(f"watchdog.observers.{module}"), name).delay = PAIRED_WITHIN_S
        except ImportError:
            continue


@dataclass(slots=True)
class Hinted:
    """What was named since the last time, absolute paths."""

    files: dict[str, bool] = field(default_factory=dict)  # True: its writer closed it, or renamed it into place
    folders: set[str] = field(default_factory=set)
    everything: bool = False


class Hints(FileSystemEventHandler):
    """Collects file events under a folder, bounded. `wait` returns early when something was named."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._named = threading.Event()
        self._hinted = Hinted()
        self._observer: Any = None

    def start(self) -> bool:
        """Begin to listen. False when the system refuses (limits, no such service), or other machines may write there.

        Scans alone will do then. A folder may become another one: a mount point whose mount came back.
        """
        self.stop()
        if is_remote(mount_kind(self.root)):
            return False
        pair_renames_soon()
        observer = Observer()
        try:
            observer.schedule(self, str(self.root), recursive=True, event_filter=EVENTS)
            observer.start()
        except OSError as err:
            log.warning("no file events for %s (%s): scanning only. See fs.inotify.max_user_watches", self.root, err)
            return False
        self._observer = observer
        return True

    @property
    def alive(self) -> bool:
        """The observer and each of its emitters run; an emitter dies for good when its folder goes away."""
        observer = self._observer
        if observer is None or not observer.is_alive():
            return False
        emitters = list(observer.emitters)
        return bool(emitters) and all(e.is_alive() for e in emitters)

    def take(self) -> Hinted:
        """What was named since the last call."""
        with self._lock:
            hinted, self._hinted = self._hinted, Hinted()
            self._named.clear()
        return hinted

    def wait(self, seconds: float) -> None:
        """Until something is named, at most so long."""
        self._named.wait(seconds)

    def wake(self) -> None:
        """End a wait."""
        self._named.set()

    def stop(self) -> None:
        """Listen no more."""
        if self._observer is not None:
            if self._observer.is_alive():
                self._observer.stop()
                self._observer.join(5)
            self._observer = None

    def dispatch(self, event: FileSystemEvent) -> None:
        """Called in watchdog's thread. Does no I/O and never raises: an error here would end that thread."""
        path = os.fsdecode(event.dest_path or event.src_path)
        whole = isinstance(event, (FileClosedEvent, FileMovedEvent))
        with self._lock:
            hinted = self._hinted
            if hinted.everything:
                pass
            elif event.is_directory:
                hinted.folders.add(path)
            elif path in hinted.files or len(hinted.files) < MOST_FILES:
                hinted.files[path] = hinted.files.get(path, False) or whole
            else:
                hinted.folders.add(os.path.dirname(path))
            if len(hinted.folders) > MOST_FOLDERS:
                hinted.everything = True
                hinted.folders.clear()
                hinted.files.clear()
        self._named.set()
