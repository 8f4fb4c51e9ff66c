"""Who may see the page, and what its addresses answer."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from emstream.errors import AddressRefused, FrameOutOfRange, NotARun
from emstream.metrics import Metrics
from emstream.view import ViewOptions
from emstream.view.access import Address, Gate
from emstream.view.latest import Latest
from emstream.view.routes import Routes
from emstream.view.scrape import OLDEST_S, Scrape
from emstream.view.server import Server, start
from emstream.view.shown import DaemonStatus, Shown
from emstream.view.socket import Feed
from emstream.view.wire import unpack

TOKEN = "a-known-token"
HEADER = {"Authorization": f"token {TOKEN}"}
GUARDED = [
    "/", "/api/status", "/api/latest", "/api/runs", "/api/history", "/api/runs/a/frame/0", "/static/page.js",
    "/api/events?run=a", "/api/runs/a/tracks/5",
]  # fmt: skip
OPEN = ["/healthz", "/readyz", "/metrics"]


def shown(frame: int = 0, run: str = "a", value: int = 100) -> Shown:
    labels = np.zeros((64, 96), np.int32)
    labels[10:20, 30:40] = 3
    pixels = np.full((64, 96), value, np.uint16)
    pixels[:, :48] = 10
    return Shown(
        run=run, frame=frame, time_s=1.7e9 + frame, pixels=pixels, label_image=labels, pixel_size_nm=(0.5, 0.5),
        shift=(1.5, -2.25), confidence=0.9, drift_speed=2.0, count=1, area_fraction=0.1,
        labels=np.array([3]), diameters=np.array([11.0], np.float32),
    )  # fmt: skip


class Shelf:
    """Ten frames of a run `a`."""

    def frame(self, run: str, index: int, size: int = 512) -> Shown:
        if run != "a" or index >= 10:
            raise FrameOutOfRange(f"frame {index} of {run}")
        return shown(index)

    def curves(self, run: str, version: int = 0, stride: int = 0) -> dict[str, object]:
        return {"run": run, "version": 1, "stride": 1, "reset": True, "frame": [0]}

    def events(self, run: str, track: int | None = None) -> list[dict[str, object]]:
        if run != "a":
            raise NotARun(f"there is no run {run!r} here")
        rows: list[dict[str, object]] = [{"frame": 4, "kind": "nucleation", "track": 5, "other_track": -1}]
        return [row for row in rows if track in (None, row["track"])]

    def track(self, run: str, number: int, points: bool = True) -> dict[str, object] | None:
        if run != "a":
            raise NotARun(f"there is no run {run!r} here")
        return {"track": 5, "points": {"diameter": [1.5]} if points else {}} if number == 5 else None


def client(host: str = "127.0.0.1", bound: str = "127.0.0.1", **ready: object) -> TestClient:
    latest = Latest()
    latest.show(shown(7))
    latest.status(DaemonStatus(state="streaming", seen=8))
    app = Routes(
        latest,
        Scrape(Metrics().exposition),
        lambda: [{"name": "a", "frames": 10}],
        lambda: (bool(ready.get("ok", True)), ["the disk is full"] if not ready.get("ok", True) else []),
        Shelf(),
        Feed(latest, 1, 64),
    ).app()
    gate = Gate(app, address=Address(bound, 8765), token=TOKEN, hosts=("scope.lab",))
    return TestClient(gate, base_url=f"http://{host}:8765")


@pytest.mark.parametrize("path", GUARDED)
def test_refuses_everything_without_a_token(path: str) -> None:
    assert client().get(path).status_code == 401


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize("given", ["token wrong", "token ", "Basic a-known-token", "token a-known-token2"])
def test_refuses_a_wrong_token(path: str, given: str) -> None:
    assert client().get(path, headers={"Authorization": given}).status_code == 401


def test_a_wrong_token_in_the_address_sets_no_cookie() -> None:
    answer = client().get("/?token=wrong")
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", GUARDED)
def test_the_header_opens_every_address(path: str) -> None:
    assert client().get(path, headers=HEADER).status_code == 200


def test_the_address_with_the_token_opens_the_page_at_once_and_then_the_cookie_does() -> None:
    browser = client()
    first = browser.get(f"/?token={TOKEN}", follow_redirects=False)
    assert first.status_code == 200
    cookie = first.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in cookie
    assert browser.get("/api/latest").status_code == 200


def test_the_token_in_the_address_opens_nothing_but_the_page() -> None:
    assert client().get(f"/api/latest?token={TOKEN}").status_code == 401


@pytest.mark.parametrize("path", OPEN)
def test_probes_need_no_token(path: str) -> None:
    assert client().get(path).status_code == 200


@pytest.mark.parametrize("path", [*GUARDED, *OPEN])
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8765", "", "[::1", "10.0.0.7"]
)
def test_refuses_a_foreign_host_on_every_address(path: str, host: str) -> None:
    assert client().get(path, headers={**HEADER, "Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "scope.lab", "[::1]"])
def test_knows_its_own_names(host: str) -> None:
    assert client(host).get("/healthz").status_code == 200


def test_an_exposed_server_may_be_called_by_any_literal_address() -> None:
    exposed = client("10.1.2.3", bound="0.0.0.0")
    assert exposed.get("/healthz").status_code == 200
    assert exposed.get("/healthz", headers={"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize("path", [*GUARDED, *OPEN])
@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:9999", "null"])
def test_refuses_pages_of_other_sites(path: str, origin: str) -> None:
    assert client().get(path, headers={**HEADER, "Origin": origin}).status_code == 403


@pytest.mark.parametrize(
    "path",
    ["/static/../server.py", "/static/..%2fserver.py", "/static/%2e%2e/access.py", "/static//etc/passwd", "/static/"],
)
def test_serves_no_file_outside_the_page(path: str) -> None:
    assert client().get(path, headers=HEADER).status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/", "/api/latest", "/metrics"])
def test_changes_nothing(method: str, path: str) -> None:
    assert client().request(method, path, headers=HEADER).status_code == 405


def test_the_page_may_ask_nothing_outside() -> None:
    answer = client().get("/", headers=HEADER)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "http://" not in answer.text
    assert "https://" not in answer.text


def test_every_file_that_the_page_names_is_served() -> None:
    browser = client()
    text = browser.get("/", headers=HEADER).text
    names = [part.split('"')[0] for part in text.split('"/static/')[1:]]
    assert "plotly.min.js" in names
    for name in names:
        assert browser.get(f"/static/{name}", headers=HEADER).status_code == 200, name


def test_latest_tells_what_a_steering_script_needs() -> None:
    numbers = client().get("/api/latest", headers=HEADER).json()
    assert numbers["frame"] == 7
    assert numbers["shift_px"] == [1.5, -2.25]
    assert numbers["drift_speed_nm_per_s"] == pytest.approx(1.0)
    assert numbers["particles"] == 1
    assert numbers["sizes"]["unit"] == "nm"
    assert numbers["sizes"]["median"] == pytest.approx(5.5)


def test_readiness_names_the_reasons() -> None:
    answer = client(ok=False).get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "reasons": ["the disk is full"]}


def test_a_stored_frame_comes_as_one_message_and_a_missing_one_as_404() -> None:
    header, picture, lines = unpack(client().get("/api/runs/a/frame/4", headers=HEADER).content)
    assert header["frame"] == 4
    assert picture.shape == (43, 64)
    assert lines is not None
    assert lines.particle.tolist() == [3]
    assert client().get("/api/runs/a/frame/10", headers=HEADER).status_code == 404
    assert client().get("/api/runs/..%2f..%2fetc/frame/0", headers=HEADER).status_code == 404


def test_a_socket_needs_token_and_own_origin() -> None:
    for headers in ({}, {**HEADER, "Origin": "http://evil.example"}, {**HEADER, "Host": "evil.example"}):
        with pytest.raises(WebSocketDisconnect), client().websocket_connect("/ws", headers=headers):
            pass


@pytest.fixture
def served() -> Iterator[tuple[Latest, Server]]:
    latest = Latest()
    options = ViewOptions(http="127.0.0.1:0", token=TOKEN, max_clients=1, preview_px=64)
    with start(latest, options, metrics=Metrics(), runs=list, ready=lambda: (True, [])) as server:
        yield latest, server


def frames_until_quiet(ws: object) -> list[int]:
    found = []
    while True:
        try:
            message = ws.recv(timeout=0.5)  # type: ignore[attr-defined]
        except TimeoutError:
            return found
        if isinstance(message, bytes):
            found.append(unpack(message)[0]["frame"])


def test_a_slow_page_gets_one_frame_a_credit_and_always_the_newest(served: tuple[Latest, Server]) -> None:
    latest, server = served
    with connect(f"ws://127.0.0.1:{server.address.port}/ws", additional_headers=HEADER) as ws:
        latest.show(shown(0))
        ws.send(json.dumps({"credit": 1}))
        assert frames_until_quiet(ws) == [0]
        for i in range(1, 50):
            latest.show(shown(i))
        assert frames_until_quiet(ws) == []
        ws.send(json.dumps({"credit": 1}))
        assert frames_until_quiet(ws) == [49]


def test_a_socket_survives_nonsense_and_one_too_many_is_told_so(served: tuple[Latest, Server]) -> None:
    latest, server = served
    url = f"ws://127.0.0.1:{server.address.port}/ws"
    with connect(url, additional_headers=HEADER) as ws:
        for nonsense in ("{", "[]", "7", '{"run": {}}', "x" * 5000, '{"run": null}'):
            ws.send(nonsense)
        latest.show(shown(3))
        ws.send(json.dumps({"credit": 1}))
        assert frames_until_quiet(ws) == [3]
        with connect(url, additional_headers=HEADER) as other, pytest.raises(Exception, match="1013"):
            other.recv(timeout=2)
    with pytest.raises(InvalidStatus):
        connect(url)


def test_beyond_this_machine_only_with_a_chosen_token() -> None:
    with pytest.raises(AddressRefused, match=r"view\.token"):
        start(Latest(), ViewOptions(http="0.0.0.0:0"), metrics=Metrics(), runs=list, ready=lambda: (True, []))


def test_names_the_address_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AddressRefused, match=str(port)):
            start(
                Latest(), ViewOptions(http=f"127.0.0.1:{port}"), metrics=Metrics(), runs=list, ready=lambda: (True, [])
            )


@pytest.mark.parametrize("text", ["", "8765", "127.0.0.1", "127.0.0.1:web", "127.0.0.1:99999"])
def test_refuses_what_is_no_address(text: str) -> None:
    with pytest.raises(AddressRefused, match="HOST:PORT"):
        Address.parse(text)


def test_tokens_are_new_and_long() -> None:
    made = [
        start(Latest(), ViewOptions(http="127.0.0.1:0"), metrics=Metrics(), runs=list, ready=lambda: (True, []))
        for _ in "ab"
    ]
    for server in made:
        server.stop()
    assert made[0].token != made[1].token
    assert len(made[0].token) >= 32
    assert not any(server.alive for server in made)


def test_metrics_are_made_beside_those_who_ask_and_never_told_when_they_are_old() -> None:
    now, made = [0.0], threading.Semaphore(0)

    def make() -> bytes:
        made.release()
        return b"made at %.0f" % now[0]

    scrape = Scrape(make, clock=lambda: now[0])
    assert scrape.at_hand() is None  # nobody asked before
    assert scrape.now() == b"made at 0"
    assert scrape.at_hand() == b"made at 0"
    now[0] = OLDEST_S + 1  # its thread did not get its turn
    assert scrape.at_hand() is None
    assert made.acquire(timeout=5)
    assert made.acquire(timeout=5)  # without being asked
    scrape.stop()
    assert scrape.at_hand() == b"made at 4"
