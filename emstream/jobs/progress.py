"""How far a job is: a bar with the time left on a terminal, a log line every few seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any

log = logging.getLogger("emstream.jobs")
TELL_EVERY_S = 10.0
ESTIMATE_S = 1800.0  # over which the speed is taken: several blocks that come at once may be minutes apart


class Progress:
    """One line of work after the other; `advance` as it goes."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Any = None
        self._task: Any = None
        self._stage, self._unit, self._total, self._done = "", "frames", 0, 0
        self._began = self._told = time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True),
                speed_estimate_period=ESTIMATE_S,
            )  # fmt: skip

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stage(self, name: str, total: int, unit: str = "frames") -> None:
        """The next piece of work, of `total` frames, or what else is counted."""
        self._stage, self._total, self._done, self._began = name, total, 0, time.monotonic()
        self._unit = unit
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(f"{self._what}: {name}", total=total, unit=unit)

    def advance(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, count)
            return
        now = time.monotonic()
        if now - self._told < TELL_EVERY_S and self._done < self._total:
            return
        self._told = now
        left = (now - self._began) * (self._total - self._done) / max(1, self._done)
        told = {"run": self._what, self._unit: self._done, "of": self._total, "left_s": round(left)}
        log.info(self._stage, extra=told)
