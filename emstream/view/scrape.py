"""The text of `/metrics`, made beside those who ask: while frames come fast, making it waits for its turn 10 … 70 ms."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

EVERY_S = 1.0  # how often it is made anew
OLDEST_S = 3.0  # never told when it is older: something keeps its thread from working
REST_S = 180.0  # without a question, after which it is made no more until the next one


class Scrape:
    """The newest text; at most a second old while somebody asks every now and then, new after a rest.

    make : all metrics as text
    """

    def __init__(self, make: Callable[[], bytes], clock: Callable[[], float] = time.monotonic) -> None:
        self._make, self._clock = make, clock
        self._text: tuple[float, bytes] | None = None
        self._asked_at = 0.0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._end = threading.Event()

    def at_hand(self) -> bytes | None:
        """The text if there is one that is new enough; costs nothing."""
        self._asked_at, known = self._clock(), self._text
        return known[1] if known is not None and self._asked_at - known[0] <= OLDEST_S else None

    def now(self) -> bytes:
        """The text made now; from here on it is kept at hand."""
        text = self._made()
        with self._lock:
            if self._thread is None and not self._end.is_set():
                self._thread = threading.Thread(target=self._keep, name="scrape", daemon=True)
                self._thread.start()
        return text

    def stop(self) -> None:
        """Make it no more."""
        self._end.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(5.0)

    def _made(self) -> bytes:
        at = self._clock()
        text = self._make()
        self._text = at, text
        return text

    def _keep(self) -> None:
        while not self._end.wait(EVERY_S):
            with self._lock:
                if self._clock() - self._asked_at > REST_S:
                    self._thread = self._text = None
                    return
            self._made()
