"""Whom a watch deals with: who is told how it goes, who remembers earlier lives, who stops it."""

from __future__ import annotations

from typing import Protocol


class SourceReport(Protocol):
    """Who is told how the source is; called from the thread that runs the source."""

    def seen(self, n: int) -> None:
        """n more frames were found complete."""

    def read(self, seconds: float, nbytes: int) -> None:
        """A frame was read and decoded."""

    def quarantined(self, path: str, reason: str, what: str, frame: int = -1) -> None:
        """A file (-1), or a frame of it, that cannot be read; it is looked at again when it changes."""

    def retried(self, path: str) -> None:
        """A quarantined file is looked at again because somebody asked for it."""

    def pending(self, count: int, oldest_s: float, settling: int) -> None:
        """Files that are found and not finished, how long the oldest has been waiting, and how many of them changed
        so lately, or were not looked at yet, that they may become frames within a moment."""

    def watch_up(self, up: bool) -> None:
        """The watched folder is there."""

    def missed_hint(self, n: int) -> None:
        """n files were found by scanning that the operating system should have named."""

    def lost(self, path: str) -> None:
        """A file that was seen went away before it was read."""


class Known(Protocol):
    """Who remembers from earlier lives: the ledger."""

    def known_frames(self, path: str, size: int, mtime_ns: int, inode: int) -> int:
        """How many frames of exactly this file are taken already."""

    def asked_again(self) -> list[str]:
        """Paths that were quarantined and shall be read once more; each is told once."""


class Stop(Protocol):
    """threading.Event, or alike."""

    def is_set(self) -> bool: ...
