"""The daemon's verbs: run, check, view. The first signal asks it to finish, the second ends it at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from emstream.config import SECRETS, Settings
from emstream.live.daemon import Daemon

__all__ = ["Daemon", "check", "run", "signals", "view"]
log = logging.getLogger("emstream.live")


def run(
    source: Path, out: Path, settings: Settings, *, until_idle: float | None = None, name: str | None = None
) -> dict[str, Any]:
    """Watch `source` and write runs under `out` until a signal, or until nothing new came for `until_idle` seconds.

    returns : {"runs", "frames", "segmented", "quarantined", "seconds"}
    raises  : SourceMissing, StoreBusy, AddressRefused, ModelBroken, BadSettings; all before the first frame
    """
    daemon = Daemon(source, out, settings, until_idle=until_idle, name=name)
    with daemon, signals(daemon.stop):
        daemon.loop()
    return daemon.summary()


def check(source: Path, out: Path, settings: Settings) -> list[dict[str, Any]]:
    """Open everything that `run` opens, close it again; every setting, its value and where it came from."""
    with Daemon(source, out, settings):
        pass
    return [{"setting": n, "value": "…" if n in SECRETS and v else v, "from": o} for n, v, o in settings.rows()]


def view(path: Path, settings: Settings) -> None:
    """The page on stored runs, until a signal."""
    from emstream.view import stored

    stop = threading.Event()
    with stored.serve(path, settings.view) as server, signals(stop.set):
        print(server.url, flush=True)  # noqa: T201
        stop.wait()


@contextmanager
def signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call `stop`; a second one leaves at once with exit code 1. Old handlers come back after."""

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            os._exit(1)  # what is committed is safe, the rest is read again at the next start
        asked.set()
        log.info(
            "signal: finishing what was seen; a second one ends at once", extra={"signal": signal.Signals(number).name}
        )
        stop()

    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
