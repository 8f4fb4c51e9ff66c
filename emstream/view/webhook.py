"""Alarms told to another program: one POST of JSON each, in a thread of its own, to the one address of the settings."""

from __future__ import annotations

import http.client
import json
import logging
import queue
import ssl
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, urlsplit

from emstream import __version__
from emstream.errors import BadSettings

log = logging.getLogger("emstream.alarms")
WAITING = 64  # messages; more are dropped, the oldest first
PAUSES_S = (1.0, 5.0, 20.0)  # between tries
TIMEOUT_S = 5.0


class Webhook:
    """Sends messages to `url`. `send` never blocks; an address that does not answer costs nothing but its messages.

    Redirections are not followed, proxies not used, the answer's body is not read: what is sent goes to this address
    or nowhere. The address may hold a secret: only its host is ever logged.

    url    : http:// or https://
    raises : BadSettings
    """

    def __init__(self, url: str, *, pauses: tuple[float, ...] = PAUSES_S, timeout_s: float = TIMEOUT_S) -> None:
        parts, port = self.check(url)
        self.host = str(parts.hostname)
        self._connect: Callable[[], http.client.HTTPConnection]
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connect = lambda: http.client.HTTPSConnection(self.host, port, timeout=timeout_s, context=context)
        else:
            self._connect = lambda: http.client.HTTPConnection(self.host, port, timeout=timeout_s)
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._pauses = pauses
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.sent = self.failed = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)
        self._thread.start()

    @staticmethod
    def check(url: str) -> tuple[SplitResult, int | None]:
        """The parts of an address, and its port. raises : BadSettings"""
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.username:
            raise BadSettings("view.webhook is no http:// or https:// address", "for example https://chat.lab/hooks/…")
        return parts, port

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message; when too many wait, the oldest is dropped."""
        while self._waiting.qsize() >= WAITING:
            try:
                self._waiting.get_nowait()
                self.failed += 1
            except queue.Empty:
                break
        self._waiting.put(message)

    def stop(self, timeout_s: float = 2.0) -> None:
        """Give what waits one try each, then end."""
        self._stop.set()
        self._waiting.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (message := self._waiting.get()) is not None:
            if self._tried(json.dumps(message, allow_nan=False).encode()):
                self.sent += 1
            else:
                self.failed += 1
                log.warning("the webhook did not take an alarm", extra={"host": self.host})

    def _tried(self, body: bytes) -> bool:
        for pause in (*self._pauses, None):
            answer = self._once(body)
            if answer is not None and (answer < 500 and answer != 429):
                return 200 <= answer < 300  # what is refused stays refused
            if pause is None or self._stop.wait(pause):
                return False
        return False

    def _once(self, body: bytes) -> int | None:
        """The answer's status; None when there was none."""
        connection = self._connect()
        headers = {"Content-Type": "application/json", "User-Agent": f"emstream/{__version__}"}
        try:
            connection.request("POST", self._path, body, headers)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
