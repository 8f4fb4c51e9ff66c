"""Who may see the page: host names, origins, the token; headers that keep the browser from leaving this host."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import os
import secrets
import socket
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from emstream.errors import AddressRefused

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})  # no token: numbers for probes and Prometheus
_DENIED = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>emstream</title><link rel="icon" href="data:,"><style>html{color-scheme:light dark}body{font:16px/1.5 system-ui,
sans-serif;display:grid;place-content:center;height:100vh;margin:0;padding:0 2rem}p{max-width:34rem;margin:.3rem 0}
</style><h1>emstream</h1><p>This page needs its token. Open the address with <code>?token=…</code> that emstream
printed when it started.</p></html>"""


@dataclass(frozen=True, slots=True)
class Address:
    """HOST:PORT that the page is bound to."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """`127.0.0.1:8000`, `:8000` (loopback), `[::1]:8000`.

        raises : AddressRefused
        """
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
        if not colon or not port.isdigit() or int(port) > 65535:
            raise AddressRefused(f"view.http = {text!r} is not HOST:PORT", "for example 127.0.0.1:8765")
        return cls(host, int(port))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        address = _ip(self.host)
        return address is not None and address.is_loopback

    @property
    def name(self) -> str:
        """The host as it is written in an address that a browser on this machine opens."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"[{host}]" if ":" in host else host


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def new_token() -> str:
    """192 random bits, as text that fits into an address."""
    return secrets.token_urlsafe(24)


def lasting_key(path: Path) -> bytes | None:
    """A secret that outlives the daemon, in a file that only its owner can read: who was let in once stays in when the
    daemon starts again with a new token. None where the file system cannot keep it to the owner.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
        stat, key = path.lstat(), path.read_bytes()
    except OSError:
        return None
    own = stat.st_uid == os.getuid() and not stat.st_mode & 0o077 and not os.path.islink(path)
    return key if own and len(key) == 32 else None


def check_exposure(address: Address, token: str) -> None:
    """Beyond this machine only with a token that was chosen on purpose.

    raises : AddressRefused
    """
    if not address.loopback and not token:
        raise AddressRefused(
            f"view.http = {address.host}:{address.port} can be reached from other machines",
            "set view.token (or EMSTREAM_VIEW__TOKEN), or bind 127.0.0.1 and use an SSH tunnel",
        )


class Gate:
    """ASGI middleware: every request passes here before anything else.

    - the Host header must name this server (a foreign page cannot rebind its name to us): 421
    - an Origin header must equal the Host (a foreign page cannot call or open a WebSocket): 403
    key : what the cookie is made of instead of the token, see `lasting_key`

    - all but OPEN_PATHS ask for the token: header `Authorization: token …`, the cookie, or `/?token=…` once: 401
    """

    def __init__(
        self, app: ASGIApp, *, address: Address, token: str, hosts: tuple[str, ...] = (), key: bytes | None = None
    ) -> None:
        self.app, self.address, self.token = app, address, token
        self.cookie = f"emstream_{address.port}"  # cookies do not tell ports apart
        self.ticket = hmac.new(key or token.encode(), b"emstream cookie", hashlib.sha256).hexdigest()
        names = {"localhost", "127.0.0.1", "::1", address.host, *hosts}
        if not address.loopback:
            names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self.names = frozenset(n.lower() for n in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin1").lower(): v.decode("latin1") for k, v in scope["headers"]}
        host = headers.get("host", "")
        if not self.host_allowed(host):
            await _refuse(scope, send, 421, "this server has another name")
            return
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            await _refuse(scope, send, 403, "pages of other sites may not look here")
            return
        asked = parse_qs(scope.get("query_string", b"").decode("latin1")).get("token", [""])[0]
        by_link = scope["type"] == "http" and scope["path"] == "/" and self._same(asked, self.token)
        if not (by_link or scope["path"] in OPEN_PATHS or self.known(headers)):
            await _refuse(scope, send, 401, "token missing or wrong", html=scope["path"] == "/")
            return
        await self.app(scope, receive, _sealed(send, host, self._set_cookie() if by_link else None))

    def host_allowed(self, host: str) -> bool:
        """Whether a Host header names this server; an exposed one takes every literal address (no rebinding)."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        return name in self.names or (not self.address.loopback and _ip(name) is not None)

    def known(self, headers: dict[str, str]) -> bool:
        """Whether the token or the cookie is right."""
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() in ("token", "bearer") and self._same(given.strip(), self.token):
            return True
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        return self.cookie in cookies and self._same(cookies[self.cookie].value, self.ticket)

    @staticmethod
    def _same(given: str, right: str) -> bool:
        return hmac.compare_digest(given.encode(), right.encode())

    def _set_cookie(self) -> bytes:
        return f"{self.cookie}={self.ticket}; Path=/; HttpOnly; SameSite=Strict".encode()


def _sealed(send: Send, host: str, cookie: bytes | None) -> Send:
    """`send` that adds the headers of a page which asks nothing outside and lives in no frame."""
    policy = (
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        f"connect-src 'self' ws://{host} wss://{host}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    extra = [
        (b"content-security-policy", policy.encode("latin1")),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]
    if cookie is not None:
        extra.append((b"set-cookie", cookie))

    async def sealed(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            if not any(k.lower() == b"cache-control" for k, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": headers + extra}
        await send(message)

    return sealed


async def _refuse(scope: Scope, send: Send, code: int, why: str, html: bool = False) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": why})  # before accept: HTTP 403
        return
    body, kind = (_DENIED.encode(), b"text/html; charset=utf-8") if html else (f"{why}\n".encode(), b"text/plain")
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    headers += [(b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY")]
    if code == 401:
        headers.append((b"www-authenticate", b"token"))
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": body})
