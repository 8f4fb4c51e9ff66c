"""One particle in a real browser: colours stay with the track, a click tells its numbers, events lead to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from test_view_browser import browser, key, pytestmark, shows, text, until  # noqa: F401

from emstream.errors import FrameOutOfRange
from emstream.metrics import Metrics
from emstream.view import ViewOptions
from emstream.view.latest import Latest
from emstream.view.server import Server, start
from emstream.view.shown import DaemonStatus, Shown

PLACES = {12: (64, 50), 7: (30, 130)}  # track → y, x px
GONE = {"frame": 6, "time_s": 1.7e9 + 6, "kind": "dissolution", "track": 7, "other_track": -1}


def radius(track: int, frame: int) -> int:
    return 20 + frame if track == 12 else 12


def planted(frame: int, *, tracked: bool = True, run: str = "planted", **more: Any) -> Shown:
    """Two particles, one of which grows and one of which is gone from frame 6 on; labels change places."""
    y, x = np.mgrid[:128, :160]
    labels, tracks, columns = np.zeros((128, 160), np.int32), [], []
    order = [12, 7] if frame % 2 else [7, 12]
    for track in [t for t in order if t == 12 or frame < 6]:
        tracks.append(track)
        labels[np.hypot(y - PLACES[track][0], x - PLACES[track][1]) < radius(track, frame)] = len(tracks)
        columns.append((2.0 * radius(track, frame), np.pi * radius(track, frame) ** 2, *PLACES[track]))
    diameters, areas, ys, xs = np.array(columns).T
    return Shown(
        run=run, frame=frame, time_s=1.7e9 + frame, pixels=(x + y).astype(np.uint16), label_image=labels,
        count=len(tracks), pixel_size_nm=(0.5, 0.5), labels=np.arange(1, len(tracks) + 1), diameters=diameters,
        tracks=np.array(tracks) if tracked else None, areas=areas, places=np.stack([ys, xs], axis=1), confidence=0.9,
        area_fraction=0.1, **more,
    )  # fmt: skip


class Shelf:
    """Ten stored frames of `stored`; its tables know both tracks."""

    def frame(self, run: str, index: int, size: int = 512) -> Shown:
        if not 0 <= index < 10:
            raise FrameOutOfRange(f"frame {index}")
        return planted(index, run=run)

    def curves(self, run: str, version: int = 0, stride: int = 0) -> dict[str, Any]:
        latest = Latest()
        for i in range(10):
            latest.show(planted(i))
        return latest.curves("planted") or {}

    def labels(self, run: str) -> list[str]:
        return ["particles"]

    def events(self, run: str, track: int | None = None) -> list[dict[str, Any]]:
        return [] if track not in (None, 7) else [GONE]

    def track(self, run: str, number: int, points: bool = True) -> dict[str, Any] | None:
        frames = list(range(6 if number == 7 else 10))
        size = [radius(number, i) * 1.0 for i in frames]
        curve = {"frame": frames, "time_s": [1.7e9 + i for i in frames], "diameter": size, "area": size}
        return {
            "track": number, "unit": "nm", "points": curve if points else {}, "seen": len(frames), "first_frame": 0,
            "first_time_s": 1.7e9, "last_frame": frames[-1], "began": "start",
            "ended": "dissolution" if number == 7 else None, "other_track": None, "events": self.events(run, number),
        }  # fmt: skip


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Latest, Server]]:
    """A live page; a stored run when the test asks for it."""
    latest, kept = Latest(), [{"name": "stored", "frames": 10}] if hasattr(request, "param") else []
    with start(
        latest, ViewOptions(http="127.0.0.1:0", preview_px=160), metrics=Metrics(), runs=lambda: kept,
        ready=lambda: (True, []), shelf=Shelf() if kept else None,
    ) as server:  # fmt: skip
        latest.status(DaemonStatus(state="stored" if kept else "streaming"))
        yield latest, server


def opened(driver: Any, served: tuple[Latest, Server], frame: int = 0) -> Latest:
    latest, server = served
    driver.get("about:blank")
    latest.show(planted(frame))
    driver.get(server.url)
    assert shows(driver, frame)
    return latest


def at(track: int, frame: int, inward: int = 0) -> str:
    """JavaScript: [x, y] in the view of the outline's rightmost point, or `inward` px of the frame inside it."""
    y, x = PLACES[track][0], PLACES[track][1] + radius(track, frame) - inward
    return (
        "(() => { const v = document.getElementById('view'), k = Math.min(v.clientWidth / 160, v.clientHeight / 128);"
        f"return [(v.clientWidth - 160 * k) / 2 + {x} * k, (v.clientHeight - 128 * k) / 2 + {y} * k]; }})()"
    )


def click(driver: Any, where: str) -> None:
    """A real click of the mouse at [x, y] of the view."""
    x, y = driver.execute_script(
        f"const [x, y] = {where}, r = document.getElementById('view').getBoundingClientRect();"
        "return [r.left + 1 + x, r.top + 1 + y]"
    )
    for kind in ("mousePressed", "mouseReleased"):
        driver.execute_cdp_cmd(
            "Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
        )


def colour(driver: Any, track: int, frame: int) -> list[int]:
    """The most saturated pixel of the outlines near the rightmost point of a particle."""
    return list(
        driver.execute_script(
            f"const [x, y] = {at(track, frame)}, c = document.getElementById('lines');"
            "const d = c.getContext('2d').getImageData(Math.round(x) - 12, Math.round(y) - 3, 24, 6).data;"
            "let best = [0, 0, 0], most = -1; for (let i = 0; i < d.length; i += 4) {"
            "const p = [d[i], d[i + 1], d[i + 2]], s = Math.max(...p) - Math.min(...p);"
            "if (d[i + 3] > 150 && s > most) { most = s; best = p; } } return best;"
        )
    )


def test_a_particle_keeps_its_colour_over_frames_labels_and_themes(
    browser: Any,  # noqa: F811
    served: tuple[Latest, Server],
) -> None:
    latest = opened(browser, served)
    first = {track: np.array(colour(browser, track, 0)) for track in PLACES}
    assert np.abs(first[12] - first[7]).max() > 60
    for i in (1, 2, 3, 4):
        latest.show(planted(i))
        assert shows(browser, i)
        if i == 3:
            key(browser, "d")
        for track, before in first.items():
            assert np.abs(before - colour(browser, track, i)).max() < 45, (
                track,
                i,
            )  # a thin line is blended with the grey
    browser.execute_script("localStorage.clear()")


def test_particles_without_a_track_are_grey_and_sizes_can_be_shown_instead(
    browser: Any,  # noqa: F811
    served: tuple[Latest, Server],
) -> None:
    latest = opened(browser, served)
    latest.show(planted(1, tracked=False))
    assert shows(browser, 1)
    assert np.ptp(colour(browser, 12, 1)) < 25
    key(browser, "c")
    assert np.ptp(colour(browser, 12, 1)) > 60
    assert browser.execute_script("return document.getElementById('by-size').getAttribute('aria-pressed')") == "true"
    browser.execute_script("localStorage.clear()")


def test_a_click_shows_the_planted_track_and_the_background_and_escape_deselect(
    browser: Any,  # noqa: F811
    served: tuple[Latest, Server],
) -> None:
    latest = opened(browser, served, 1)
    click(browser, at(12, 1, inward=21))
    assert until(browser, "document.documentElement.dataset.track === '12'")
    assert text(browser, "particle-track") == "Particle #12"
    assert text(browser, "particle-diameter") == "21 nm"
    assert text(browser, "particle-area") == f"{np.pi * 21**2 / 4:.0f} nm²"
    assert text(browser, "particle-place") == "25, 32 nm"
    assert text(browser, "particle-first").startswith("frame 1 or before")
    assert (
        browser.execute_script("return getComputedStyle(document.getElementById('particle')).visibility") == "visible"
    )
    for i in (2, 3):
        latest.show(planted(i))
        assert shows(browser, i)
    assert text(browser, "particle-diameter") == "23 nm"
    assert until(browser, "document.querySelector('#chart-particle').data[0].y.join() === '21,22,23'")
    click(browser, "[6, 6]")
    assert until(browser, "document.documentElement.dataset.track === ''")
    key(browser, "n")
    assert until(browser, "document.documentElement.dataset.track === '12'")
    key(browser, "Escape")
    assert browser.execute_script("return document.documentElement.dataset.track") == ""


def test_a_track_that_dissolves_stays_in_the_panel_and_in_the_events(
    browser: Any,  # noqa: F811
    served: tuple[Latest, Server],
) -> None:
    latest = opened(browser, served, 4)
    click(browser, at(7, 4, inward=12))
    assert until(browser, "document.documentElement.dataset.track === '7'")
    latest.show(planted(5))
    assert shows(browser, 5)
    latest.show(planted(6))
    assert shows(browser, 6)
    assert text(browser, "particle-fate") == "Not seen since frame 5"
    latest.show(planted(9, events=(GONE,)))
    assert until(browser, "document.getElementById('particle-fate').textContent === 'Dissolved after frame 5'")
    assert text(browser, "particle-diameter") == "12 nm"
    assert browser.execute_script("return document.querySelectorAll('#particle-events li').length") == 1
    key(browser, "Escape")
    browser.execute_script("document.querySelector('#event-list button').click()")
    assert until(browser, "document.documentElement.dataset.track === '7'")


@pytest.mark.parametrize("served", [True], indirect=True, ids=["stored"])
def test_an_event_of_a_stored_run_jumps_to_its_frame_and_shows_the_whole_past(
    browser: Any,  # noqa: F811
    served: tuple[Latest, Server],
) -> None:
    browser.get("about:blank")
    browser.get(served[1].url)
    assert shows(browser, 0)
    assert until(browser, "document.querySelectorAll('#event-list button').length === 1")
    browser.execute_script("document.querySelector('#event-list button').click()")
    assert shows(browser, 5)
    assert text(browser, "particle-track") == "Particle #7"
    assert until(browser, "document.querySelector('#chart-particle').data[0].y.length === 6")
    assert text(browser, "particle-fate") == ""
    key(browser, "ArrowRight")
    assert shows(browser, 6)
    assert until(browser, "document.getElementById('particle-fate').textContent === 'Dissolved after frame 5'")
