"""Syncing what is not synced as it is written, beside the work, so that after a reboot only what came since is looked at."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

from emstream.store.ledger import Ledger
from emstream.store.reboot import sync_file_system

CHECKPOINT_S = 60.0  # between two


class Checkpoints:
    """Those of one run; the ledger is told how many frames each of them covers."""

    def __init__(self, path: Path, run: int, ledger: Ledger) -> None:
        self._path, self._run, self._ledger = path, run, ledger
        self._thread: threading.Thread | None = None
        self._at = time.monotonic()

    def sometimes(self, n: int) -> None:
        """Begin one of the first n frames when it is time to."""
        if time.monotonic() - self._at < CHECKPOINT_S:
            return
        if self._thread is None or not self._thread.is_alive():
            self._at = time.monotonic()
            self._thread = threading.Thread(target=self.sync, args=(n,), daemon=True, name="checkpoint")
            self._thread.start()

    def sync(self, n: int) -> None:
        """All that the first n frames are made of is on the disk."""
        try:
            sync_file_system(self._path)
            self._ledger.set_run(self._run, checkpoint=n)
        except (OSError, sqlite3.Error):
            return  # the disk is full or away, or the ledger was closed: a later one, or the look after a reboot

    def last(self, n: int) -> None:
        """At the end, after one that is under way. Raises OSError, for nobody looks at a closed run again after a reboot."""
        if self._thread is not None:
            self._thread.join()
        sync_file_system(self._path)
        self._ledger.set_run(self._run, checkpoint=n)
