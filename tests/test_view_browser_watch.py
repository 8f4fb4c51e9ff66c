"""Hours at the page in a real browser: an alarm fires, the daemon begins again, a stored run is looked through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_view_browser import browser, key, planted, pytestmark, shows, text, until  # noqa: F401
from test_view_particles import FRAMES, NM, write
from test_view_stored import version

from emstream.metrics import Metrics
from emstream.view import ViewOptions
from emstream.view.alarms import Alarms
from emstream.view.latest import Latest
from emstream.view.server import Server, start
from emstream.view.shown import DaemonStatus
from emstream.view.stored import serve


def page(http: str, latest: Latest, alarms: Alarms | None = None, key: Path | None = None) -> Server:
    latest.status(DaemonStatus(state="streaming"))
    return start(
        latest, ViewOptions(http=http, preview_px=160), metrics=Metrics(), runs=list, ready=lambda: (True, []),
        alarms=alarms, key=key,
    )  # fmt: skip


def test_an_alarm_that_is_set_on_the_page_fires_is_seen_and_is_taken_away(browser: Any) -> None:  # noqa: F811
    latest, metrics = Latest(), Metrics()
    alarms = Alarms(["free < 50 GB"], tell=metrics.alarm).start()
    with page("127.0.0.1:0", latest, alarms) as server:
        latest.show(planted(0, count=100))
        browser.get(server.url)
        assert shows(browser, 0)
        assert until(browser, "!document.getElementById('bell').hidden")
        key(browser, "a")
        for rule, listed in (("beauty > 3", 1), ("Empty: count < 50", 2)):
            browser.execute_script(
                "document.getElementById('alarm-rule').value = arguments[0];"
                "document.getElementById('alarm-form').requestSubmit()", rule,
            )  # fmt: skip
            assert until(browser, f"document.querySelectorAll('#alarm-list li').length === {listed}")
            if listed == 1:
                assert until(browser, "document.getElementById('alarm-error').textContent.includes('beauty')")
        browser.execute_script("document.getElementById('alarms').close()")
        for i in (1, 2):
            alarms.measured(planted(i, count=7))
        assert until(browser, "document.documentElement.dataset.alarm === 'Empty'")
        assert until(browser, "document.getElementById('alarm-bar').innerText.includes('particles < 50 · 7')")
        assert until(browser, "document.title.startsWith('⚠')")
        assert 'emstream_alarm_active{name="Empty"} 1.0' in metrics.exposition().decode()
        for i in range(3, 7):
            alarms.measured(planted(i, count=100))
        assert until(browser, "document.documentElement.dataset.alarm === ''")
        assert until(browser, "document.getElementById('alarm-bar').innerText.includes('over after')")
        browser.execute_script("document.getElementById('alarms-seen').click()")
        assert until(browser, "document.getElementById('alarm-bar').hidden")
        browser.execute_script("[...document.querySelectorAll('#alarm-list button')].find(b => !b.disabled).click()")
        assert until(browser, "document.querySelectorAll('#alarm-list li').length === 1")
    alarms.stop()


def test_an_open_page_goes_on_when_the_daemon_begins_again_with_a_new_token(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    latest, secret = Latest(), tmp_path / "page.key"
    first = page("127.0.0.1:0", latest, key=secret)
    latest.show(planted(3))
    browser.get("about:blank")
    browser.get(first.url)
    assert shows(browser, 3)
    first.stop()
    assert until(browser, "document.getElementById('state').dataset.kind === 'lost'")
    again = Latest()
    with page(f"127.0.0.1:{first.address.port}", again, key=secret) as second:
        assert second.token != first.token
        again.show(planted(4, count=9))
        assert shows(browser, 4)
        assert until(browser, "document.getElementById('state').textContent === 'Live'")
        assert text(browser, "particles") == "9"
        again.show(planted(5))
        assert shows(browser, 5)


def test_a_stored_run_is_looked_through_by_keys_lines_sizes_and_label_versions(
    browser: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path, (NM, NM), monkeypatch)
    version(tmp_path / "cam.zarr", "other")
    with serve(tmp_path, ViewOptions(http="127.0.0.1:0", preview_px=96)) as server:
        browser.get("about:blank")
        browser.get(server.url)
        assert shows(browser, 0)
        assert browser.execute_script("return document.getElementById('bell').hidden")
        for name, frame in (("PageDown", 1), ("End", FRAMES - 1), ("Home", 0), ("ArrowRight", 1)):
            key(browser, name)
            assert shows(browser, frame)
        assert until(browser, "!document.getElementById('over').hidden")
        dashes = (
            "(() => { const c = document.getElementById('lines'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height)"
            ".data; let n = 0; for (let i = 0; i < d.length; i += 4) n += d[i] > 240 && d[i + 1] > 240 && d[i + 2] > 240; return n; })()"
        )
        before = browser.execute_script(f"return {dashes}")
        key(browser, "v")
        assert until(browser, f"{dashes} > {before} + 100")
        key(browser, "k")
        assert until(browser, "document.getElementById('kymograph').dataset.complete === 'true'")
        assert browser.execute_script("return document.getElementById('kymograph').width") == FRAMES
        key(browser, "k")  # again: draw another one, with a finger
        left, top, w, h = browser.execute_script(
            "const v = document.getElementById('view'), r = v.getBoundingClientRect(), k = Math.min(v.clientWidth / 96, v.clientHeight / 64);"
            "return [r.left + 1 + (v.clientWidth - 96 * k) / 2, r.top + 1 + (v.clientHeight - 64 * k) / 2, 96 * k, 64 * k]"
        )
        for kind, x, y in (
            ("touchStart", 0.25, 0.5),
            ("touchMove", 0.5, 0.6),
            ("touchMove", 0.75, 0.75),
            ("touchEnd", 0, 0),
        ):
            points = [] if kind == "touchEnd" else [{"x": left + x * w, "y": top + y * h}]
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        asked = "performance.getEntriesByType('resource').map((e) => e.name).findLast((n) => n.includes('/line?'))"
        found = until(browser, f"{asked}.match(/from=0.(49|50)\\d*,0.2[45]\\d*&to=0.7[45]\\d*,0.7[45]/)")
        assert found, browser.execute_script(f"return {asked}")
        browser.execute_script("document.querySelector('[aria-controls=chart-evolution]').click()")
        assert until(browser, f"document.getElementById('chart-evolution').data[0].z[0].length === {FRAMES}")
        for _ in range(7):
            key(browser, "ArrowRight")
        assert shows(browser, FRAMES - 1)
        assert until(browser, "document.getElementById('growth').textContent.startsWith('0.')")
        for name, low in (("size", 25), ("growth", 25)):
            key(browser, "c")
            assert until(browser, f"document.getElementById('by-{name}').getAttribute('aria-pressed') === 'true'")
            ink = browser.execute_script(
                "const c = document.getElementById('lines'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height)"
                ".data; let best = 0; for (let i = 0; i < d.length; i += 4) if (d[i + 3] > 200)"
                " best = Math.max(best, Math.max(d[i], d[i+1], d[i+2]) - Math.min(d[i], d[i+1], d[i+2])); return best"
            )
            assert ink > low, name
        browser.execute_script("document.querySelector('[aria-controls=chart-count]').click()")
        assert np.isfinite(float(text(browser, "frame")))
        browser.execute_script("localStorage.clear()")
