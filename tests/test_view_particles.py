"""Particles and events that the page shows: from planted tables, and from frames as they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from emstream import measure
from emstream.messages import Aligned, Frame, Labelled, Measured, Origin
from emstream.metrics import Metrics
from emstream.store import FrameRecord, LabelRecord, Ledger, RunWriter, StoreOptions, tables
from emstream.view import particles
from emstream.view.access import Address, Gate
from emstream.view.latest import EVENTS, Latest
from emstream.view.routes import Routes
from emstream.view.scrape import Scrape
from emstream.view.shown import Shown
from emstream.view.socket import Feed
from emstream.view.stored import Stored
from emstream.view.wire import pack, unpack

HEADER = {"Authorization": "token known"}
SHAPE, NM, FRAMES = (64, 96), 0.5, 8
GROWS, GOES = 12, 7  # tracks: one grows by a row of px in every frame, one is there until frame 3
DISSOLVED = {"frame": 4, "time_s": 104.0, "kind": "dissolution", "track": GOES, "other_track": -1, "y": 40.0, "x": 70.0}


def scene(i: int) -> tuple[np.ndarray, dict[int, int]]:
    """Labels of frame i and the track of each; the labels change places from frame to frame."""
    labels = np.zeros(SHAPE, np.int32)
    first, second = (1, 2) if i % 2 else (2, 1)
    labels[10 : 20 + i, 20:30] = first
    if i < 4:
        labels[36:44, 66:74] = second
        return labels, {first: GROWS, second: GOES}
    labels[labels > 0] = 1
    return labels, {1: GROWS}


def write(out: Path, size: tuple[float, float] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose particle table has a part for every frame, so that what is looked up lies in different files."""
    monkeypatch.setattr(tables, "ROWS_PER_PART", 1)
    with Ledger(out, fsync=False) as ledger:
        options = StoreOptions(low_water_mb=0, fsync=False)
        writer = RunWriter(out, ledger.run_for("cam", "cam", SHAPE, "uint16", size), ledger, options, {})
        for i in range(FRAMES):
            labels, tracks = scene(i)
            columns = measure.particles(labels, np.full(SHAPE, 9, np.uint16))
            more = {"track": np.array([tracks[k] for k in columns["label"].tolist()]), "frame": i, "time_s": 100.0 + i}
            pixels = np.full(SHAPE, 100 + i, np.uint16)
            writer.write_frames([FrameRecord(pixels, Origin(f"{i}.tif", 0, 1, 1, i), 100.0 + i, (0.0, 0.0), 0.9)])
            writer.table("particles", measure.schema("particles", size is not None)).append(
                measure.rows("particles", {**columns, **more}, size)
            )
            writer.write_labels([LabelRecord(i, labels, len(tracks), 0.1, "planted@")])
            writer.flush()
        gone: dict[str, Any] = {c.name: 0 for c in measure.columns.TABLES["tracks"]}
        gone |= {"track": GOES, "last_frame": 3, "first_time_s": 100.0, "frames": 4, "other_track": -1}
        gone |= {"began": "start", "ended": "dissolution"}
        writer.table("tracks", measure.schema("tracks", size is not None)).append(measure.rows("tracks", gone, size))
        for event in (DISSOLVED, *({**DISSOLVED, "frame": 5, "track": 100 + k} for k in range(80))):
            columns = {k: np.array([v]) for k, v in event.items()}
            writer.table("events", measure.schema("events", size is not None)).append(
                measure.rows("events", columns, size)
            )
        writer.close()


@pytest.fixture(params=[(NM, NM), None], ids=["nm", "px"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stored:
    write(tmp_path, request.param, monkeypatch)
    return Stored(tmp_path)


def client(latest: Latest, shelf: Stored | None) -> TestClient:
    app = Routes(latest, Scrape(Metrics().exposition), list, lambda: (True, []), shelf, Feed(latest, 1, 64)).app()
    gate = Gate(app, address=Address("127.0.0.1", 8765), token="known")
    return TestClient(gate, base_url="http://127.0.0.1:8765", headers=HEADER)


def test_a_stored_frame_tells_the_track_of_every_particle_whatever_its_label(shelf: Stored) -> None:
    parts = list((shelf.path / "cam.zarr" / "tables" / "particles.parquet").glob("part-*"))
    assert len(parts) >= FRAMES
    for i in range(FRAMES):
        _, tracks = scene(i)
        sizes = unpack(client(Latest(), shelf).get(f"/api/runs/cam/frame/{i}").content)[0]["sizes"]
        assert dict(zip(sizes["labels"], sizes["tracks"])) == tracks


def test_the_past_of_a_track_is_what_was_planted(shelf: Stored) -> None:
    calibrated = shelf.run("cam").pixel_size_nm is not None
    told = client(Latest(), shelf).get(f"/api/runs/cam/tracks/{GROWS}").json()
    area = np.array([10 * (10 + i) for i in range(FRAMES)]) * (NM**2 if calibrated else 1)
    assert told["unit"] == ("nm" if calibrated else "px")
    assert told["points"]["frame"] == list(range(FRAMES))
    assert told["points"]["area"] == pytest.approx(area)
    assert told["points"]["diameter"] == pytest.approx(2 * np.sqrt(area / np.pi), rel=1e-4)
    assert told["points"]["x"] == pytest.approx([24.5 * (NM if calibrated else 1)] * FRAMES)
    assert (told["first_frame"], told["last_frame"], told["ended"], told["events"]) == (0, FRAMES - 1, None, [])


def test_a_track_that_ended_tells_how_and_when(shelf: Stored) -> None:
    told = client(Latest(), shelf).get(f"/api/runs/cam/tracks/{GOES}").json()
    assert (told["first_frame"], told["last_frame"], told["seen"], told["ended"]) == (0, 3, 4, "dissolution")
    assert [(e["frame"], e["kind"]) for e in told["events"]] == [(4, "dissolution")]
    short = client(Latest(), shelf).get(f"/api/runs/cam/tracks/{GOES}?points=0").json()
    assert short["points"] == {}
    assert (short["last_frame"], short["ended"]) == (3, "dissolution")


def test_the_events_of_a_stored_run_are_its_last_fifty(shelf: Stored) -> None:
    browser = client(Latest(), shelf)
    events = browser.get("/api/events?run=cam").json()["events"]
    assert [e["track"] for e in events] == [100 + k for k in range(30, 80)]
    mine = browser.get(f"/api/events?run=cam&track={GOES}").json()["events"]
    assert [e["frame"] for e in mine] == [4]


def test_what_is_not_there_is_said_to_be_missing(shelf: Stored) -> None:
    browser = client(Latest(), shelf)
    for path in ("/api/runs/cam/tracks/999", "/api/runs/other/tracks/1", f"/api/runs/cam/tracks/{2**70}",
                 "/api/events?run=other", "/api/runs/..%2f..%2fetc/tracks/1"):  # fmt: skip
        assert browser.get(path).status_code == 404, path
    assert client(Latest(), None).get("/api/runs/cam/tracks/1").status_code == 404


def test_a_long_past_is_thinned_and_keeps_its_ends(shelf: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(particles, "MOST_POINTS", 3)
    told = particles.track(shelf.run("cam"), GROWS)
    assert told is not None
    assert len(told["points"]["frame"]) == 3
    assert told["points"]["frame"][0] == 0
    assert told["points"]["frame"][-1] == FRAMES - 1
    assert told["seen"] == FRAMES


def live(i: int, events: tuple[dict[str, Any], ...] = ()) -> Shown:
    labels, tracks = scene(i)
    columns = measure.particles(labels, np.full(SHAPE, 9, np.uint16))
    columns["track"] = np.array([tracks[k] for k in columns["label"].tolist()])
    pixels = np.full(SHAPE, 50, np.uint16)
    frame = Frame("cam", Origin("a", i, 1, 1, 1), pixels, 100.0 + i, (NM, NM))
    aligned = Aligned(frame, pixels, (0.0, 0.0), 1.0, 0, 1, (0, SHAPE[0], 0, SHAPE[1]))
    measured = Measured(columns, len(tracks), 0.1, events)
    return Shown.of("cam", i, aligned, Labelled(labels, "m", ""), measured)


def test_a_live_frame_carries_tracks_areas_and_places_in_nm() -> None:
    header = unpack(pack(live(3), size=64)[0])[0]
    sizes, at = header["sizes"], header["sizes"]["tracks"].index(GROWS)
    assert sizes["areas"][at] == pytest.approx(10 * 13 * NM**2)
    assert (sizes["y"][at], sizes["x"][at]) == pytest.approx((16 * NM, 24.5 * NM))
    assert (header["outlines_frame"], header["outlines_time_s"]) == (3, 103.0)


def test_live_events_are_told_once_each_and_by_track() -> None:
    latest = Latest()
    browser = client(latest, None)
    assert browser.get("/api/events").json()["events"] == []
    latest.show(live(4, (DISSOLVED,)))
    first = browser.get("/api/events").json()
    assert [(e["kind"], e["track"]) for e in first["events"]] == [("dissolution", GOES)]
    assert browser.get(f"/api/events?since={first['version']}").json()["events"] == []
    latest.show(live(3, ({**DISSOLVED, "frame": 3, "kind": "split", "track": 1, "other_track": GROWS},)))  # older: too
    assert [e["kind"] for e in browser.get(f"/api/events?since={first['version']}").json()["events"]] == ["split"]
    assert [e["kind"] for e in browser.get(f"/api/events?track={GROWS}").json()["events"]] == ["split"]


def test_events_stay_bounded_however_long_the_run() -> None:
    latest = Latest()
    for i in range(3):
        latest.show(live(i, tuple({**DISSOLVED, "track": i * EVENTS + k} for k in range(EVENTS))))
    told = latest.events()
    assert told is not None
    assert told["version"] == 3 * EVENTS
    assert [e["track"] for e in told["events"]] == list(range(3 * EVENTS - 50, 3 * EVENTS))
    assert latest.events(track=0) == {"run": "cam", "version": 3 * EVENTS, "events": []}
