"""What the source tells while it watches, counted and logged."""

from __future__ import annotations

import logging
from pathlib import Path

from emstream.metrics import Metrics
from emstream.store import Ledger

log = logging.getLogger("emstream.live")


class Report:
    """The source's SourceReport; `ledger` and `source` are set once they are known."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.ledger: Ledger | None = None
        self.source = Path()
        self.count = {"seen": 0, "quarantined": 0, "lost": 0}
        self.pending_files = self.settling = 0
        self.last_quarantined = ""
        self.up = True

    def seen(self, n: int = 1) -> None:
        """`n` more complete frames were found."""
        self.count["seen"] += n
        self._metrics.frames("seen", n)

    def read(self, seconds: float, nbytes: int) -> None:
        """A frame was read and decoded."""
        self._metrics.took("read", seconds)
        self._metrics.bytes("read", nbytes)

    def quarantined(self, path: str, reason: str, what: str, frame: int = -1) -> None:
        """A file cannot become frames; the stream goes on."""
        self.count["quarantined"] += 1
        self.last_quarantined = f"{path}: {what}"
        self._metrics.frames("quarantined")
        log.warning("file quarantined", extra={"path": path, "reason": reason, "what": what})
        if self.ledger is not None:
            try:
                stat = (self.source / path).lstat()
                self.ledger.quarantine(path, reason, what, stat.st_size, stat.st_mtime_ns, frame)
            except OSError as err:
                log.warning("quarantine not recorded", extra={"path": path, "error": str(err)})

    def retried(self, path: str) -> None:
        """A quarantined file is looked at again; it is counted anew when it still cannot be read."""
        self.count["quarantined"] = max(0, self.count["quarantined"] - 1)
        log.info("file looked at again", extra={"path": path})

    def pending(self, count: int, oldest_s: float, settling: int) -> None:
        """Files that are there and not complete yet; `settling` of them may be so within a moment."""
        self.pending_files, self.settling = count, settling
        self._metrics.pending("incomplete", count)
        self._metrics.oldest_pending_seconds.set(oldest_s)

    def watch_up(self, up: bool) -> None:
        """Whether hints of changes arrive."""
        if up != self.up:
            log.log(
                logging.INFO if up else logging.WARNING, "watch is up" if up else "watch is down, the folder is swept"
            )
        self.up = up
        self._metrics.watch_up.set(1 if up else 0)

    def missed_hint(self, n: int = 1) -> None:
        """Files that only the scan found."""
        self._metrics.missed_hints(n)

    def lost(self, path: str) -> None:
        """A frame was seen and can no longer be had."""
        self.count["lost"] += 1
        self._metrics.frames("lost")
        log.error("frame lost: its file is gone", extra={"path": path})
