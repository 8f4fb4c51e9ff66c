"""Alarms: what a line means, when planted series raise and end them, and who is told."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from starlette.testclient import TestClient

from emstream.errors import BadRule, BadSettings
from emstream.metrics import Metrics
from emstream.view import ViewOptions
from emstream.view.access import Address, Gate
from emstream.view.alarms import MOST, Alarms
from emstream.view.judge import PIECES, State, period, silence, step
from emstream.view.latest import Latest
from emstream.view.routes import Routes
from emstream.view.rules import parse
from emstream.view.scrape import Scrape
from emstream.view.shown import DaemonStatus, Shown
from emstream.view.socket import Feed
from emstream.view.webhook import Webhook

HEADER = {"Authorization": "token known"}


def shown(frame: int, count: int = 100, *, nm: float | None = 0.5, run: str = "a", **more: Any) -> Shown:
    return Shown(
        run=run, frame=frame, time_s=1000.0 + frame, pixels=np.zeros((100, 100), np.uint8), count=count,
        diameters=np.full(count, 20.0, np.float32), pixel_size_nm=None if nm is None else (nm, nm), **more,
    )  # fmt: skip


def judged(text: str, values: Any, dt: float = 1.0) -> list[bool]:
    """Whether the alarm is active after each of the values, dt seconds apart."""
    rule, state, found = parse(text), State(), []
    for i, value in enumerate(values):
        state = step(rule, state, i * dt, float(value))
        found.append(state.active)
    return found


@pytest.mark.parametrize(
    ("line", "means"),
    [
        ("count fell 30 % in 5 s", "particles fell 30 % in 5 s"),
        ("Number falls by 30% within 5 seconds", "particles fell 30 % in 5 s"),
        ("drift>2nm/s", "drift > 2 nm/s"),
        ("Gone: median diameter below 3 nm for 2 min", "Gone: diameter < 3 nm for 120 s"),
        ("no frames for 3 periods", "no frame for 3 periods"),
        ("free < 50 GB", "free < 50 GB"),
        ("density > 20 /um2", "density > 20 /um2"),
    ],
)
def test_a_line_is_understood_and_said_again_in_the_same_words(line: str, means: str) -> None:
    rule = parse(line)
    assert rule.text == means or rule.text.replace("120 s", "2 min") == means.replace("120 s", "2 min")
    assert parse(rule.text) == rule


@pytest.mark.parametrize(
    "line",
    ["", "count", "beauty > 3", "drift > 2", "drift > 2 kg", "count fell 100 % in 5 s", "count fell 3 in 2 h",
     "count fell -3 in 5 s", "no frame for 0 s", "count > 3\nfree < 2 GB now", "x" * 400, "count > nan"],
)  # fmt: skip
def test_what_is_no_alarm_is_refused_with_an_example_or_the_known_words(line: str) -> None:
    with pytest.raises(BadRule) as caught:
        parse(line)
    assert caught.value.hint


def test_a_level_is_an_alarm_while_it_is_exceeded_and_a_second_longer() -> None:
    assert judged("count > 10", [9, 11, 12, 9, 9, 9]) == [False, True, True, True, False, False]


def test_a_level_that_must_hold_ignores_what_is_shorter() -> None:
    series = [5, 1, 5, 1, 1, 1, 1, 5]
    assert judged("confidence < 3 for 2 s", series) == [False] * 5 + [True, True, True]


def test_a_fall_of_thirty_percent_in_five_seconds_is_found_whatever_came_before() -> None:
    falls = [*[100] * 20, *np.linspace(100, 60, 5), *[60] * 12]
    found = judged("count fell 30 % in 5 s", falls)
    assert not any(found[:20])
    assert True in found
    assert not found[-1]  # it fell, it falls no more
    slowly = np.linspace(100, 60, 60)  # the same fall in a minute
    assert not any(judged("count fell 30 % in 5 s", slowly))
    assert any(judged("count fell 30 % in 5 min", slowly))


def test_a_single_odd_frame_is_no_fall_and_no_rise() -> None:
    series = np.full(60, 100)
    series[30], series[45] = 20, 300
    assert not any(judged("count fell 30 % in 5 s", series))
    assert not any(judged("count rose 30 % in 5 s", series))
    assert not any(judged("count changed 30 % in 5 s", series))


def test_what_rises_by_an_amount_is_found_at_any_frame_rate() -> None:
    for fps in (1, 30, 300):
        values = np.concatenate([np.full(10 * fps, 20.0), np.linspace(20, 26, 4 * fps), np.full(fps, 26.0)])
        found = judged("mean rose 5 px in 5 s", values, 1 / fps)
        assert not any(found[: 10 * fps])
        assert any(found)


def test_noise_below_the_limit_raises_nothing_for_an_hour() -> None:
    noise = np.random.default_rng(1).poisson(200, 3600)
    assert not any(judged("count fell 30 % in 5 s", noise))


def test_the_past_that_is_remembered_does_not_grow() -> None:
    rule, state = parse("count fell 30 % in 60 min"), State()
    for i in range(30_000):
        state = step(rule, state, i / 30, 100.0)
    assert len(state.pieces) <= PIECES + 1


def test_an_unknown_number_changes_nothing_and_a_new_recording_forgets_the_past() -> None:
    rule = parse("count fell 30 % in 5 s")
    before = step(rule, State(), 10.0, 100.0)
    assert step(rule, before, 11.0, math.nan) is before
    assert not step(rule, before, 1.0, 20.0).active


def test_no_frame_for_three_periods_counts_the_cameras_own_but_never_less_than_a_second() -> None:
    rule = parse("no frame for 3 periods")
    assert period([0, 2, 4, 6], [0, 0, 0, 6]) == 2.0  # in a burst
    assert not silence(rule, 5.9, 2.0).active
    assert silence(rule, 6.1, 2.0).active
    assert not silence(rule, 0.9, 0.03).active
    assert silence(rule, 1.1, 0.03).active
    assert not silence(rule, math.nan, 2.0).active
    assert not silence(rule, 100.0, math.nan).active
    assert silence(parse("no frame for 10 s"), 11.0, math.nan).active


def test_limits_are_in_nm_where_the_pixel_size_is_known_and_not_judged_where_it_is_not() -> None:
    for nm, active in ((0.5, False), (2.0, True), (None, False)):
        alarms = Alarms(["diameter > 30 nm"])
        alarms.measured(shown(0, nm=nm))  # 20 px
        alarms.turn(0.0, 0.0)
        assert alarms.all()[0]["active"] is active


def test_an_alarm_tells_metrics_and_the_hook_when_it_begins_and_when_it_is_over() -> None:
    metrics, sent = Metrics(), []
    alarms = Alarms(["Empty: count < 50"], tell=metrics.alarm, send=sent.append)
    for i, count in enumerate([100, 40, 40, 100, 100, 100]):
        alarms.measured(shown(i, count))
        alarms.turn(float(i), 2000.0 + i)
    text = metrics.exposition().decode()
    assert 'emstream_alarm_active{name="Empty"} 0.0' in text
    assert 'emstream_alarm_fired_total{name="Empty"} 1.0' in text
    assert [m["state"] for m in sent] == ["active", "over"]
    assert (sent[0]["name"], sent[0]["value"], sent[0]["frame"], sent[0]["run"]) == ("Empty", 40, 1, "a")
    assert "Empty: particles < 50 (40), run a, frame 1" in sent[0]["text"]
    (row,) = alarms.all()
    assert (row["fired"], row["unseen"], row["peak"], row["fired_at"]) == (1, True, 40, 2001.0)
    alarms.seen()
    assert not alarms.all()[0]["unseen"]
    json.dumps(alarms.all(), allow_nan=False)


def test_the_daemons_numbers_and_events_are_watched_too() -> None:
    alarms = Alarms(["free < 50 GB", "backlog > 10", "coalescences rose 2 in 60 s"],
                    daemon=lambda: DaemonStatus(free_bytes=10**9, backlog=3))  # fmt: skip
    merged = {"kind": "coalescence", "frame": 1, "time_s": 1.0, "track": 1, "other_track": 2}
    for i in range(8):
        alarms.measured(shown(i, events=(merged,) if i in (3, 4) else ()))
    alarms.turn(1.0, 1.0)
    assert [row["active"] for row in alarms.all()] == [True, False, True]


def test_a_frame_that_is_measured_late_does_not_count_as_the_newest() -> None:
    alarms = Alarms(["count < 50"])
    alarms.measured(shown(100))
    alarms.measured(shown(7, 3))
    alarms.turn(0.0, 0.0)
    assert not alarms.all()[0]["active"]


def test_silence_begins_when_frames_stop_and_is_not_expected_when_no_run_is_open() -> None:
    alarms = Alarms(["no frame for 3 periods"])
    now = time.monotonic()
    for i in range(5):
        alarms.committed(shown(i))
    alarms.turn(now + 2.0, 0.0)
    assert not alarms.all()[0]["active"]
    alarms.turn(now + 60.0, 0.0)
    assert alarms.all()[0]["active"]
    alarms.closed()
    alarms.turn(now + 70.0, 0.0)
    assert not alarms.all()[0]["active"]


def test_alarms_of_the_page_are_kept_and_those_of_the_settings_stand(tmp_path: Path) -> None:
    keep = tmp_path / ".emstream" / "alarms.json"
    alarms = Alarms(["count < 1"], keep)
    alarms.add("Fast: drift > 2 nm/s")
    alarms.add("free < 1 GB")
    assert alarms.remove("free < 1 GB")
    assert not alarms.remove("free < 1 GB")
    with pytest.raises(BadRule, match="settings"):
        alarms.remove("particles < 1")
    again = Alarms(["count < 1"], keep)
    assert [(row["name"], row["fixed"]) for row in again.all()] == [("particles < 1", True), ("Fast", False)]
    keep.write_text("{broken")
    assert len(Alarms((), keep).all()) == 0
    for i in range(MOST - 2):
        again.add(f"count > {i + 10}")
    with pytest.raises(BadRule, match="already"):
        again.add("count > 5")


def test_a_thread_looks_at_them_without_any_page() -> None:
    sent: list[dict[str, Any]] = []
    alarms = Alarms(["count < 50"], send=sent.append).start()
    alarms.measured(shown(0, 3))
    until = time.monotonic() + 10
    while not sent and time.monotonic() < until:
        time.sleep(0.01)
    alarms.stop()
    assert sent


# ---- the hook


class Hook(BaseHTTPRequestHandler):
    answers: ClassVar[list[int]] = []
    got: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.path, json.loads(body)))
        self.send_response(self.answers.pop(0) if self.answers else 204)
        self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[str]:
    Hook.answers, Hook.got = [], []
    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hooks/key?x=1"
        server.shutdown()
        thread.join()


def delivered(hook: Webhook, n: int = 1) -> None:
    until = time.monotonic() + 20
    while hook.sent + hook.failed < n and time.monotonic() < until:
        time.sleep(0.005)


def test_a_message_is_posted_and_tried_again_a_few_times_while_the_server_is_in_trouble(hook: str) -> None:
    Hook.answers = [503, 429, 200]
    sender = Webhook(hook, pauses=(0.01, 0.01, 0.01))
    sender.send({"text": "größer"})
    delivered(sender)
    sender.stop()
    assert Hook.got == [("/hooks/key?x=1", {"text": "größer"})] * 3
    assert (sender.sent, sender.failed) == (1, 0)


@pytest.mark.parametrize(("answers", "tries"), [([404], 1), ([302], 1), ([500] * 9, 3)])
def test_what_is_refused_is_given_up_and_redirections_lead_nowhere(hook: str, answers: list[int], tries: int) -> None:
    Hook.answers = answers
    sender = Webhook(hook, pauses=(0.01, 0.01))
    sender.send({"text": "x"})
    delivered(sender)
    sender.stop()
    assert len(Hook.got) == tries
    assert (sender.sent, sender.failed) == (0, 1)


def test_sending_never_waits_for_an_address_that_does_not_answer() -> None:
    sender = Webhook("http://127.0.0.1:9/", pauses=(30.0,))
    began = time.monotonic()
    for _ in range(500):
        sender.send({})
    assert time.monotonic() - began < 1.0
    assert sender.failed > 400
    sender.stop(5.0)


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "file:///etc/passwd", "chat.lab/x", "http://", "http://a:99999/", "http://u:p@a/"]
)
def test_only_plain_web_addresses_are_hooks(url: str) -> None:
    with pytest.raises(BadSettings, match="webhook"):
        ViewOptions(webhook=url)


def test_a_mistake_in_the_settings_is_told_before_anything_starts() -> None:
    with pytest.raises(BadSettings, match="beauty"):
        ViewOptions(alarms=("count < 3", "beauty > 3"))


# ---- addresses


def client(alarms: Alarms | None) -> TestClient:
    latest = Latest()
    app = Routes(
        latest, Scrape(Metrics().exposition), list, lambda: (True, []), None, Feed(latest, 1, 64), alarms
    ).app()
    return TestClient(Gate(app, address=Address("127.0.0.1", 8765), token="known"), base_url="http://127.0.0.1:8765")


def test_alarms_are_set_listed_seen_and_taken_away_over_http() -> None:
    web = client(Alarms(["count < 1"]))
    assert web.get("/api/alarms", headers=HEADER).json()["alarms"][0]["fixed"]
    made = web.post("/api/alarms", headers=HEADER, json={"rule": "Fast/er: drift > 2 nm/s"})
    assert (made.status_code, made.json()["name"]) == (201, "Fast/er")
    assert web.post("/api/alarms/seen", headers=HEADER, json={}).status_code == 200
    assert web.delete("/api/alarms/Fast%2Fer", headers=HEADER).status_code == 200
    assert web.delete("/api/alarms/Fast%2Fer", headers=HEADER).status_code == 404
    assert web.delete("/api/alarms/particles%20%3C%201", headers=HEADER).status_code == 409
    wrong = web.post("/api/alarms", headers=HEADER, json={"rule": "beauty > 3"})
    assert (wrong.status_code, "beauty" in wrong.json()["error"]) == (400, True)


def test_nobody_sets_alarms_without_the_token_by_a_form_or_with_too_much() -> None:
    web = client(Alarms())
    assert web.post("/api/alarms", json={"rule": "count < 1"}).status_code == 401
    form = {**HEADER, "Content-Type": "text/plain"}
    assert web.post("/api/alarms", headers=form, content='{"rule": "count < 1"}').status_code == 400
    assert web.post("/api/alarms", headers=HEADER, json={"rule": "x" * 9000}).status_code == 400
    foreign = {**HEADER, "Origin": "http://evil.example"}
    assert web.post("/api/alarms", headers=foreign, json={"rule": "count < 1"}).status_code == 403
    assert web.get("/api/alarms", headers=HEADER).json()["alarms"] == []
    assert client(None).post("/api/alarms", headers=HEADER, json={"rule": "count < 1"}).status_code == 400
