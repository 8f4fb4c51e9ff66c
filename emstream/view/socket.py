"""Frames as they come, to each page at the speed at which it draws: a credit for a frame, always the newest."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import asdict
from functools import partial
from typing import Any

from anyio import to_thread
from starlette.websockets import WebSocket, WebSocketDisconnect

from emstream.view.alarms import Alarms
from emstream.view.latest import Latest
from emstream.view.preview import Window
from emstream.view.wire import pack

TRY_AGAIN_LATER = 1013
STATUS_EVERY_S = 1.0
LONGEST_MESSAGE = 1000


class _Client:
    """What one page asked for: which run it looks at, and whether it has drawn what it got."""

    def __init__(self) -> None:
        self.run: str | None = None
        self.credit = 0
        self.sent = 0
        self.wake = asyncio.Event()

    def hear(self, text: str) -> None:
        """`{"credit": 1}` after drawing; `{"run": name or null}` looks at another run (null: the current one)."""
        if len(text) > LONGEST_MESSAGE:
            return
        try:
            asked: Any = json.loads(text)
        except json.JSONDecodeError:
            return
        if not isinstance(asked, dict):
            return
        if "run" in asked:
            self.run, self.sent = (str(asked["run"]) if asked["run"] else None), 0
        if "credit" in asked:
            self.credit = 1  # one frame in flight, never more
        self.wake.set()


class Feed:
    """Serves `/ws`. The writer only sets a flag; a slow page misses frames, it never delays one."""

    def __init__(self, latest: Latest, max_clients: int, size: int = 512, alarms: Alarms | None = None) -> None:
        self.alarms = alarms
        self.latest, self.max_clients, self.size, self.clients = latest, max_clients, size, 0
        self._packed: tuple[str, int, bytes] = ("", 0, b"")  # run, version, message: packed once for all pages
        self._window: tuple[str, Window | None] = ("", None)  # run, its stretch
        self._packing = asyncio.Lock()

    async def serve(self, ws: WebSocket) -> None:
        """One page, from its opening to its end."""
        if self.clients >= self.max_clients:
            await ws.accept()
            await ws.close(TRY_AGAIN_LATER, f"{self.max_clients} pages are open already (view.max_clients)")
            return
        self.clients += 1
        client, loop = _Client(), asyncio.get_running_loop()

        def nudge() -> None:
            if not client.credit:  # it has not drawn the last one; when it has, it looks for the newest itself
                return
            with contextlib.suppress(RuntimeError):  # the server is closing its loop
                loop.call_soon_threadsafe(client.wake.set)

        unsubscribe = self.latest.subscribe(nudge)
        try:
            await ws.accept()
            talk = asyncio.create_task(self._talk(ws, client))
            try:
                while True:
                    client.hear(await ws.receive_text())
            except (WebSocketDisconnect, KeyError):  # KeyError: a binary message, which no page of ours sends
                pass
            finally:
                talk.cancel()
                with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
                    await talk
        finally:
            unsubscribe()
            self.clients -= 1

    async def _talk(self, ws: WebSocket, client: _Client) -> None:
        status_at = 0.0
        clock = asyncio.get_running_loop().time
        while True:
            if clock() - status_at >= STATUS_EVERY_S:
                status_at = clock()
                told: dict[str, Any] = {"kind": "status", "run": self.latest.current, **asdict(self.latest.daemon())}
                told["alarms"] = None if self.alarms is None else self.alarms.all()
                await ws.send_text(json.dumps(told))
            if client.credit and (message := await self._newer(client)) is not None:
                client.credit = 0
                await ws.send_bytes(message)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.wake.wait(), max(0.01, status_at + STATUS_EVERY_S - clock()))
            client.wake.clear()

    async def _newer(self, client: _Client) -> bytes | None:
        """The newest frame, packed in a worker thread; None when the page has it already."""
        seen = self.latest.look(client.run)
        if seen is None or seen[0] == client.sent:
            return None
        async with self._packing:
            version, shown, labelled = self.latest.look(client.run) or seen
            if self._packed[:2] != (shown.run, version):
                window = self._window[1] if self._window[0] == shown.run else None
                message, window = await to_thread.run_sync(
                    partial(pack, shown, labelled, size=self.size, window=window)
                )
                self._packed, self._window = (shown.run, version, message), (shown.run, window)
            client.sent = version
            return self._packed[2]
