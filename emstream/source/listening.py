"""Whether hints come: listening is begun again when it died, and files that no hint named are counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from emstream.source.hints import Hinted

LATE_S = 2.0  # a hint that comes later than that after a scan found its file did not come


class HintSource(Protocol):
    """See hints.Hints."""

    @property
    def alive(self) -> bool: ...
    def start(self) -> bool: ...
    def take(self) -> Hinted: ...
    def stop(self) -> None: ...


class Listening:
    """To hints of file events; None = there are none, and nothing here is ever on."""

    def __init__(self, hints: HintSource | None) -> None:
        self._hints = hints
        self.on = False
        self._next_start = 0.0
        self._restart_s = 1.0
        self._unhinted: dict[str, float] = {}  # path -> when a scan found it

    def begin(self) -> None:
        """The root is there."""
        self.on = bool(self._hints and self._hints.start())

    def end(self) -> None:
        """The root is away, or nobody looks any more."""
        if self._hints is not None:
            self._hints.stop()
        self.on = False

    def revive(self, now: float) -> bool:
        """Listen again when the listener died, not too often when the system refuses; whether that was tried."""
        if self._hints is None or now < self._next_start or (self.on and self._hints.alive):
            return False
        self.on = self._hints.start()
        self._restart_s = 1.0 if self.on else min(60.0, 2 * self._restart_s)
        self._next_start = now + self._restart_s
        return True

    def take(self) -> Hinted | None:
        """What was hinted since the last call."""
        return None if self._hints is None else self._hints.take()

    def named(self, path: str) -> None:
        """A hint named this file."""
        self._unhinted.pop(path, None)

    def found(self, paths: Iterable[str], now: float) -> None:
        """A scan found these, which hints should have named, or will within a moment."""
        self._unhinted.update((path, now) for path in paths)

    def missed(self, now: float) -> int:
        """Files that a scan found and no hint named in time; each is counted once."""
        late = [p for p, at in self._unhinted.items() if now - at > LATE_S]
        for path in late:
            del self._unhinted[path]
        return len(late)
