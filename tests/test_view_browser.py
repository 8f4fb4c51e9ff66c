"""The page in a real browser: the planted pattern is on the canvas, numbers move, nothing leaves the host."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from emstream.errors import FrameOutOfRange
from emstream.metrics import Metrics
from emstream.view import ViewOptions
from emstream.view.latest import Latest
from emstream.view.preview import preview
from emstream.view.server import Server, start
from emstream.view.shown import DaemonStatus, Shown

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium with its chromedriver here"),
]
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --use-angle=swiftshader --disable-background-networking "
    "--disable-dev-shm-usage --no-first-run --window-size=1366,768"
)


def planted(frame: int, *, nm: float | None = 0.5, count: int = 2, **more: Any) -> Shown:
    """A picture that no other frame has: a ramp turned by the frame's number, a bright block, two particles."""
    y, x = np.mgrid[:128, :160]
    pixels = ((x * (frame % 5 + 1) + y * 3) % 200).astype(np.uint16)
    pixels[40:60, 20 + frame % 50 : 50 + frame % 50] = 199
    labels = np.zeros((128, 160), np.int32)
    labels[np.hypot(y - 64, x - 80) < 30], labels[np.hypot(y - 20, x - 130) < 10] = 1, 2
    return Shown(
        run="planted", frame=frame, time_s=1.7e9 + frame, pixels=pixels, label_image=labels, count=count,
        pixel_size_nm=None if nm is None else (nm, nm), labels=np.array([1, 2]),
        diameters=np.array([60.0, 20.0], np.float32), shift=(0.1 * frame, -0.2 * frame), confidence=0.9,
        drift_speed=3.0, area_fraction=0.15, **more,
    )  # fmt: skip


class Shelf:
    """Twenty stored frames."""

    def frame(self, run: str, index: int, size: int = 512) -> Shown:
        if not 0 <= index < 20:
            raise FrameOutOfRange(f"frame {index}")
        return planted(index)

    def curves(self, run: str, version: int = 0, stride: int = 0) -> dict[str, Any]:
        latest = Latest()
        for i in range(20):
            latest.show(planted(i))
        return latest.curves(run) or {}

    def labels(self, run: str) -> list[str]:
        return ["particles"]

    def events(self, run: str, track: int | None = None) -> list[dict[str, Any]]:
        return []

    def track(self, run: str, number: int, points: bool = True) -> dict[str, Any] | None:
        return None


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def live() -> Iterator[tuple[Latest, Server]]:
    latest = Latest()
    with start(
        latest,
        ViewOptions(http="127.0.0.1:0", preview_px=160),
        metrics=Metrics(),
        runs=lambda: [{"name": name, "frames": 20} for name in latest.runs()],
        ready=lambda: (True, []),
        shelf=Shelf(),
    ) as server:
        latest.status(DaemonStatus(state="streaming", committed=1234, fps=29.5, lag_s=0.12, backlog=3))
        yield latest, server


def until(browser: Any, condition: str) -> Any:
    """The value of a JavaScript expression as soon as it is true."""
    return browser.execute_async_script(
        "const done = arguments[0], begin = performance.now();"
        "const look = () => { let v = null; try { v = (" + condition + "); } catch {}"
        "if (v || performance.now() - begin > 30000) done(v); else setTimeout(look, 20); }; look();"
    )  # fmt: skip


def text(browser: Any, name: str) -> str:
    return str(browser.execute_script(f"return document.getElementById('{name}').textContent"))


def key(browser: Any, name: str) -> None:
    browser.execute_script(
        "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}))", name
    )


def on_canvas(browser: Any) -> np.ndarray:
    """What the picture's canvas really holds: (h, w, 4) uint8."""
    h, w, flat = browser.execute_script(
        "const c = document.getElementById('picture');"
        "return [c.height, c.width, Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)]"
    )
    return np.array(flat, np.uint8).reshape(h, w, 4)


def shows(browser: Any, frame: int) -> bool:
    return bool(until(browser, f"document.documentElement.dataset.frame === '{frame}'"))


def opened(browser: Any, server: Server, latest: Latest, frame: int = 7) -> None:
    latest.show(planted(frame))
    browser.get(server.url)
    assert shows(browser, frame), browser.get_log("browser")


def test_the_canvas_shows_the_planted_frame_pixel_for_pixel(browser: Any, live: tuple[Latest, Server]) -> None:
    latest, server = live
    opened(browser, server, latest)
    drawn = on_canvas(browser)
    assert np.array_equal(drawn[..., 0], preview(planted(7).pixels, 160)[0])
    assert np.array_equal(drawn[..., 0], drawn[..., 2])
    assert drawn[..., 3].min() == 255


def test_what_the_frame_does_not_cover_is_transparent(browser: Any, live: tuple[Latest, Server]) -> None:
    latest, server = live
    browser.get(server.url)
    latest.show(planted(3, valid=(10, 128, 0, 150)))
    assert shows(browser, 3)
    alpha = on_canvas(browser)[..., 3]
    assert alpha[10:, :150].min() == 255
    assert not alpha[:10].any()
    assert not alpha[:, 150:].any()


def test_outlines_are_drawn_and_can_be_taken_away(browser: Any, live: tuple[Latest, Server]) -> None:
    latest, server = live
    opened(browser, server, latest)
    inked = (
        "(() => { const c = document.getElementById('lines'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height)"
        ".data; let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; })()"
    )
    assert browser.execute_script(f"return {inked}") > 500
    key(browser, "o")
    assert browser.execute_script(f"return {inked}") == 0


def test_the_numbers_move_when_frames_come(browser: Any, live: tuple[Latest, Server]) -> None:
    latest, server = live
    opened(browser, server, latest)
    assert text(browser, "particles") == "2"
    assert text(browser, "median") == "20nm"
    assert text(browser, "speed") == "1.5nm/s"
    latest.show(planted(8, count=41))
    assert shows(browser, 8)
    assert text(browser, "particles") == "41"
    assert text(browser, "frame") == "8"
    assert until(browser, "document.getElementById('committed').textContent.replaceAll(/\\s/g, '') === '1234frames'")
    assert until(browser, "document.querySelectorAll('#chart-drift .scatterlayer .trace').length === 3")
    assert until(browser, "document.querySelectorAll('#chart-sizes .bars .point').length > 1")


def test_a_burst_ends_on_its_newest_frame(browser: Any, live: tuple[Latest, Server]) -> None:
    latest, server = live
    opened(browser, server, latest, 0)
    for i in range(1, 301):
        latest.show(planted(i))
    assert shows(browser, 300)
    drawn, newest, before = (
        a.astype(int) for a in (on_canvas(browser)[..., 0], *(preview(planted(i).pixels, 160)[0] for i in (300, 299)))
    )
    assert np.abs(drawn - newest).max() <= 4  # the stretch follows slowly
    assert np.abs(drawn - before).max() > 50


def test_pause_holds_the_picture_and_going_on_shows_the_newest(browser: Any, live: tuple[Latest, Server]) -> None:
    latest, server = live
    opened(browser, server, latest, 1)
    key(browser, " ")
    assert text(browser, "state") == "Paused"
    before = on_canvas(browser)
    for i in range(2, 6):
        latest.show(planted(i))
    until(browser, "performance.now() > (window.t0 ??= performance.now()) + 400")
    assert np.array_equal(on_canvas(browser), before)
    key(browser, " ")
    assert shows(browser, 5)


def test_looks_back_at_a_stored_frame_and_jumps_to_the_newest(browser: Any, live: tuple[Latest, Server]) -> None:
    latest, server = live
    opened(browser, server, latest, 19)
    assert until(browser, "!document.getElementById('scrub').disabled")
    key(browser, "ArrowLeft")
    assert shows(browser, 18)
    assert text(browser, "state") == "Looking back"
    browser.execute_script(
        "const s = document.getElementById('scrub'); s.value = 4; s.dispatchEvent(new Event('input'))"
    )
    assert shows(browser, 4)
    assert np.array_equal(on_canvas(browser)[..., 0], preview(planted(4).pixels, 160)[0])
    latest.show(planted(20))
    key(browser, "l")
    assert shows(browser, 20)
    assert text(browser, "state") == "Live"


def test_dark_and_light_change_and_are_remembered(browser: Any, live: tuple[Latest, Server]) -> None:
    latest, server = live
    opened(browser, server, latest)
    ground = "return getComputedStyle(document.body.parentElement).backgroundColor"
    first = browser.execute_script(ground)
    key(browser, "d")
    second = browser.execute_script(ground)
    assert first != second
    browser.refresh()
    assert shows(browser, 7)
    assert browser.execute_script(ground) == second
    browser.execute_script("localStorage.clear()")


def test_uncalibrated_frames_say_so(browser: Any, live: tuple[Latest, Server]) -> None:
    latest, server = live
    browser.get(server.url)
    latest.show(planted(2, nm=None))
    assert shows(browser, 2)
    assert text(browser, "median") == "40px"
    assert not browser.execute_script("return document.getElementById('unit-note').hidden")
    assert browser.execute_script("return document.querySelector('#scale b').textContent").endswith("px")


def test_warnings_are_told(browser: Any, live: tuple[Latest, Server]) -> None:
    latest, server = live
    opened(browser, server, latest)
    latest.status(DaemonStatus(state="streaming", watch_up=False, lost=2, warnings=("the disk is nearly full",)))
    assert until(browser, "document.querySelectorAll('#warnings li').length === 3")
    assert "the disk is nearly full" in text(browser, "warnings")


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (2560, 1440)])
def test_everything_fits_on_the_screen(browser: Any, live: tuple[Latest, Server], width: int, height: int) -> None:
    latest, server = live
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    opened(browser, server, latest)
    outside = browser.execute_script(
        "return [...document.querySelectorAll('header, #view, .tools, .tiles > div, figure, footer')].filter(e => {"
        "const r = e.getBoundingClientRect();"
        "return r.right > innerWidth + 1 || r.bottom > innerHeight + 1 || r.width < 20 || r.height < 10; })"
        ".map(e => e.id || e.className || e.tagName)"
    )
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert outside == []


def test_on_a_telephone_the_head_of_the_page_keeps_its_buttons_in_one_row(
    browser: Any, live: tuple[Latest, Server]
) -> None:
    latest, server = live
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    opened(browser, server, latest)
    tops = browser.execute_script(
        "return ['run', 'theme', 'help'].map(e => document.getElementById(e).getBoundingClientRect().top)"
    )
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert max(tops) - min(tops) < 10


def test_a_new_anchor_is_marked_where_the_count_may_step_and_a_frame_without_particles_says_so(
    browser: Any, live: tuple[Latest, Server]
) -> None:
    latest, server = live
    none = {"labels": np.empty(0, int), "diameters": np.empty(0, np.float32)}
    latest.show(planted(1))
    latest.show(planted(2, status=3 | 16))
    latest.show(replace(planted(3), count=0, area_fraction=0.0, label_image=np.zeros((128, 160), np.int32), **none))
    browser.get(server.url)
    assert shows(browser, 3)
    chart = "document.getElementById('chart-count')"
    assert until(browser, f"{chart}.data && {chart}.data[1].customdata.some(w => w.startsWith('new anchor, frame 2'))")
    assert browser.execute_script(f"return {chart}.layout.shapes.length") == 1
    assert until(browser, "document.getElementById('chart-sizes').textContent.includes('No whole particle')")
    latest.show(planted(4))
    assert until(browser, "document.querySelectorAll('#chart-sizes .bars path').length > 0")
    assert "No whole particle" not in text(browser, "chart-sizes")


def test_nothing_leaves_the_host_and_nothing_goes_wrong_and_the_token_is_not_left_in_the_address(
    browser: Any, live: tuple[Latest, Server]
) -> None:
    latest, server = live
    browser.get("about:blank")  # the page of the test before may still call its server, which is gone
    browser.get_log("browser")
    browser.get_log("performance")
    opened(browser, server, latest)
    assert until(browser, "document.querySelectorAll('.main-svg').length >= 4")
    asked = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"])
        if message["method"] == "Network.webSocketCreated":
            asked.add(message["params"]["url"])
    here = (f"http://127.0.0.1:{server.address.port}/", f"ws://127.0.0.1:{server.address.port}/", "data:", "blob:")
    assert len(asked) > 5
    assert not [url for url in asked if not url.startswith(here)]
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert server.token not in browser.current_url
