"""The page's server, in a thread of its own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from emstream.errors import AddressRefused
from emstream.metrics import Metrics
from emstream.view import ViewOptions
from emstream.view.access import Address, Gate, check_exposure, lasting_key, new_token
from emstream.view.alarms import Alarms
from emstream.view.latest import Latest
from emstream.view.routes import Routes, Shelf
from emstream.view.scrape import Scrape
from emstream.view.socket import Feed


class Server:
    """A running server: `url` opens the page (with its token), `stop()` ends it."""

    def __init__(self, app: Any, sock: socket.socket, address: Address, token: str, scrape: Scrape) -> None:
        self.address, self.token, self._sock, self._scrape = address, token, sock, scrape
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # addresses carry the token
            lifespan="off",
            ws="websockets-sansio",
            ws_per_message_deflate=False,  # noise does not compress
            ws_max_size=65536,
            server_header=False,
            limit_concurrency=128,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([sock],), name="view", daemon=True)

    @property
    def url(self) -> str:
        """The address to open, token included."""
        return f"http://{self.address.name}:{self.address.port}/?token={self.token}"

    @property
    def alive(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive()

    def start(self) -> Server:
        """Serve from now on; returns when requests are answered."""
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)
        return self

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Close all connections and the port."""
        self._server.should_exit = True
        self._thread.join(timeout_s)
        self._scrape.stop()
        self._sock.close()


def start(
    latest: Latest,
    options: ViewOptions,
    *,
    metrics: Metrics,
    runs: Callable[[], list[dict[str, Any]]],
    ready: Callable[[], tuple[bool, list[str]]],
    shelf: Shelf | None = None,
    alarms: Alarms | None = None,
    key: Path | None = None,
) -> Server:
    """Serve the page at `options.http` (must be set) until `stop()` or the end of the process.

    runs   : all runs, newest last: name, frames, state, shape, …; called in a worker thread
    ready  : whether frames can be taken in now, and if not why; called in a worker thread
    shelf  : stored frames, for looking back; None = live only
    alarms : what watches the numbers; None = nothing does (stored runs)
    key    : file of the secret that keeps open pages in when the daemon starts again with a random token; a token
             that was chosen does that itself, and its change locks all out
    raises : AddressRefused
    """
    wanted = Address.parse(options.http or "")
    check_exposure(wanted, options.token)
    sock = _bind(wanted)
    address = Address(wanted.host, int(sock.getsockname()[1]))
    token = options.token or new_token()
    feed = Feed(latest, options.max_clients, options.preview_px, alarms)
    scrape = Scrape(metrics.exposition)
    app = Routes(latest, scrape, runs, ready, shelf, feed, alarms).app()
    names = tuple(name.strip() for name in options.hosts.split(",") if name.strip())
    secret = lasting_key(key) if key is not None and not options.token else None
    gate = Gate(app, address=address, token=token, hosts=names, key=secret)
    return Server(gate, sock, address, token, scrape).start()


def _bind(address: Address) -> socket.socket:
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as err:
        raise AddressRefused(
            f"view.http: {address.host} is no address of this machine ({err})", "use 127.0.0.1"
        ) from err
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port))
        sock.listen(128)
    except OSError as err:
        sock.close()
        raise AddressRefused(
            f"view.http: {address.host}:{address.port} cannot be used: {err.strerror}",
            "another program may hold the port; choose another, or 0 for any free one",
        ) from err
    return sock
