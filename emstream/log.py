"""Logs go to stderr: readable lines on a terminal, JSON lines for machines; a repeated event cannot flood."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(
    level: str = "info",
    style: Literal["tty", "json", "auto"] = "auto",
    *,
    stream: TextIO | None = None,
    burst: int = 10,
    per_s: float = 10.0,
) -> None:
    """Send all logs of emstream to `stream` (stderr); the command line calls this once, nobody else.

    level : debug | info | warning | error
    style : tty = `12:00:01 info  event key=value`, json = one object a line, auto = tty on a terminal, else json
    burst : this many records with the same event within `per_s` seconds pass; the next one that passes says how
            many were left out

    Fields are given as `log.info("frame committed", extra={"run": …, "frame": …})`.
    """
    out = stream or sys.stderr
    as_json = style == "json" or (style == "auto" and not out.isatty())
    handler = logging.StreamHandler(stream) if stream else _ToStderr()
    handler.setFormatter(JsonLines() if as_json else KeyValue(colour=out.isatty()))
    handler.addFilter(Calm(burst, per_s))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("emstream").setLevel(level.upper())
    logging.captureWarnings(True)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _OWN}


class _ToStderr(logging.StreamHandler[Any]):
    """To what sys.stderr is when a line comes: a progress bar takes its place, and lets lines appear above itself."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, given: Any) -> None:
        pass


class Calm(logging.Filter):
    """Lets `burst` records with the same event pass in each `per_s` seconds, and counts the others.

    The event is the message before its arguments are filled in, so that a thousand different file names are one event.
    """

    def __init__(self, burst: int, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.burst, self.per_s, self.clock = burst, per_s, clock
        self._events: dict[tuple[str, str], tuple[float, int]] = {}  # event: when its window began, how many came

    def filter(self, record: logging.LogRecord) -> bool:
        key, now = (record.name, str(record.msg)), self.clock()
        began, n = self._events.get(key, (now, 0))
        if now - began >= self.per_s:
            if n > self.burst:
                record.left_out = n - self.burst
            began, n = now, 0
        if len(self._events) > 1000:
            self._events = {k: v for k, v in self._events.items() if now - v[0] < self.per_s}
        self._events[key] = (began, n + 1)
        return n < self.burst


class JsonLines(logging.Formatter):
    """One JSON object a line: ts, level, logger, event, then the fields; `error` holds a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **fields(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class KeyValue(logging.Formatter):
    """`12:00:01 warning  event  key=value`, for people."""

    COLOURS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m", "DEBUG": "\x1b[2m"}  # noqa: RUF012

    def __init__(self, colour: bool = False) -> None:
        super().__init__()
        self.colour = colour

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        pairs = "".join(f"  {key}={_short(value)}" for key, value in fields(record).items())
        line = f"{clock} {record.levelname.lower():<7} {record.getMessage()}{pairs}"
        if self.colour and (start := self.COLOURS.get(record.levelname)):
            line = f"{start}{line}\x1b[0m"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if (" " in text or not text) else text
