"""Labels that are made once, by whoever needs them first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from emstream import arrays
from emstream.messages import Labelled


class Once:
    """The queue's thread needs them, and the aligner for the next frame."""

    def __init__(self, make: Callable[[], Labelled]) -> None:
        self._make: Callable[[], Labelled] | None = make
        self._made: Labelled | None = None
        self._lock = threading.Lock()

    def __call__(self) -> Labelled:
        with self._lock:
            if self._made is None:
                assert self._make is not None
                self._made, self._make = self._make(), None
            return self._made


def on_host(labelled: Labelled) -> Labelled:
    """The same with labels in main memory."""
    return replace(labelled, labels=arrays.to_host(labelled.labels))
