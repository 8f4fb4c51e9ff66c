"""Runs that are looked back at: any frame by its row, sizes over time, a line through time, labels laid over labels."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient
from test_view_particles import FRAMES, GROWS, HEADER, NM, client, write

from emstream import measure
from emstream.errors import NotARun
from emstream.messages import Origin
from emstream.store import FrameRecord, Ledger, RunWriter, StoreOptions
from emstream.view.access import Address, Gate, lasting_key
from emstream.view.history import EDGES, History, binned
from emstream.view.latest import Latest
from emstream.view.line import Kymograph, along, chosen, coarse_first
from emstream.view.stored import Stored
from emstream.view.wire import unpack


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stored:
    write(tmp_path, (NM, NM), monkeypatch)
    return Stored(tmp_path)


def version(run: Path, name: str) -> None:
    """Another version of the labels, every particle one number higher."""
    shutil.copytree(run / "labels" / "particles", run / "labels" / name)
    listing = run / "labels" / "zarr.json"
    told = json.loads(listing.read_text())
    told["attributes"]["ome"]["labels"].append(name)
    listing.write_text(json.dumps(told))


def test_the_numbers_of_a_stored_frame_are_those_of_its_labels(shelf: Stored) -> None:
    for i in (0, 3, 7):
        shown = shelf.frame("cam", i)
        found = measure.particles(shelf.run("cam").label(i))
        np.testing.assert_allclose(shown.diameters, found["diameter"], rtol=1e-6)
        np.testing.assert_allclose(shown.places, np.stack([found["y"], found["x"]], 1), atol=1e-6)
        assert shown.count == len(found["label"])
        assert shown.time_s == 100.0 + i
        assert shown.whole is not None
        assert shown.whole.all()


def test_a_stored_particle_tells_how_fast_it_grows(shelf: Stored) -> None:
    shown = shelf.frame("cam", 7)
    assert shown.tracks is not None
    assert shown.growth is not None
    radii = [np.sqrt((10 + i) * 10 / np.pi) for i in range(FRAMES)]
    assert shown.growth[list(shown.tracks).index(GROWS)] == pytest.approx(
        np.polyfit(range(FRAMES), radii, 1)[0], rel=1e-5
    )
    assert np.isnan(shelf.frame("cam", 1).growth).all()  # type: ignore[arg-type]


def test_the_curves_of_a_stored_run_and_its_sizes_over_time_are_those_of_its_frames(shelf: Stored) -> None:
    curves, sizes = shelf.curves("cam"), shelf.distribution("cam")
    for i in (0, 3, 4, 7):
        shown = shelf.frame("cam", i)
        assert curves["particles"][i] == shown.count
        assert curves["median"][i] == pytest.approx(np.median(shown.diameters), rel=1e-4)
        assert curves["density"][i] == pytest.approx(shown.density, rel=1e-5)
        counts, _ = np.histogram(shown.diameters, sizes["edges"])
        assert counts.tolist() == sizes["counts"][i]
    assert sizes["frame"] == list(range(FRAMES))
    assert shelf.curves("cam", curves["version"], curves["stride"])["frame"] == []


def test_bins_are_the_same_for_every_run_and_hold_every_size() -> None:
    sizes = np.array([0.2, 1.0, 5.0, 5.1, 1e5])
    found = binned(sizes)
    assert found.sum() == 5
    assert found[0] == 2
    assert found[-1] == 1
    assert (found[np.searchsorted(EDGES, [5.0, 5.1], side="right") - 1] > 0).all()


def test_sizes_over_time_stay_small_when_the_run_is_long() -> None:
    history = History(256)
    for i in range(5000):
        history.put(i, {"time_s": float(i), "particles": 2.0}, 0, binned(np.array([5.0, 9.0 + i / 1000])))
    told = history.distribution()
    assert len(told["counts"]) <= 240
    assert all(sum(column) == pytest.approx(2, abs=0.05) for column in told["counts"])
    assert told["frame"][-1] == 4999


def test_odd_frames_are_still_told_when_the_curves_are_thinned() -> None:
    history = History(64)
    for i in range(1000):
        history.put(i, {"time_s": float(i)}, 16 if i == 500 else 1)
    told = history.since()
    assert [f for f, bits in zip(told["frame"], told["status"]) if bits & 16] == [f for f in told["frame"] if f >= 500][
        :1
    ]


# ---- a line through time


def test_a_line_shows_what_moves_and_what_is_not_covered() -> None:
    def read(i: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
        pixels = np.zeros((64, 128), np.uint16)
        pixels[:, 10 + 2 * i : 20 + 2 * i] = 1000  # a bar that moves
        return pixels, (0, 64, 0, 128 - 3 * i)

    kymograph = Kymograph(read, (64, 128))
    told = kymograph.picture((0.5, 0.0, 0.5, 1.0), 20, 0.5)
    while not told["complete"]:
        told = kymograph.picture((0.5, 0.0, 0.5, 1.0), 20, 0.5)
    import base64

    pixels = np.frombuffer(base64.b64decode(told["pixels"]), np.uint8).reshape(told["h"], told["w"])
    assert (told["w"], told["h"], told["length"], told["unit"]) == (20, 128, 64.0, "nm")
    for i in (0, 7, 19):
        column = pixels[:, i].astype(int)
        bright = np.flatnonzero(column > 128)
        assert abs(bright.mean() - (14.5 + 2 * i)) <= 1
        assert (column[128 - 3 * i + 1 :] == 0).all()
        assert (column[: 128 - 3 * i - 1] > 0).all()


def test_a_line_of_any_slope_is_sampled_where_it_lies() -> None:
    y, x = np.mgrid[:50, :80]
    plane = (3.0 * y + 2.0 * x).astype(np.float32)
    found = along(plane, (0, 50, 0, 80), (50, 80), (0.1, 0.2, 0.8, 0.6), 40)
    t = (np.arange(40) + 0.5) / 40
    expected = 3 * ((0.1 + 0.7 * t) * 50 - 0.5) + 2 * ((0.2 + 0.4 * t) * 80 - 0.5)
    np.testing.assert_allclose(found, expected, atol=0.2)


@pytest.mark.parametrize("line", [(0.05, 0.5, 0.95, 0.5), (0.05, 0.1, 0.9, 0.8), (0.211, 0.1, 0.211, 0.9)])
def test_what_no_frame_covers_does_not_darken_a_line_along_its_border(line: tuple[float, float, float, float]) -> None:
    half = np.zeros((50, 80), np.uint16)
    half[11:, :60] = 500
    found = along(half, (21, 100, 0, 121), (100, 160), line, 64)
    assert np.isnan(found).any() or line[0] == line[2]
    assert np.isfinite(found).any()
    assert found[np.isfinite(found)] == pytest.approx(500)


@pytest.mark.parametrize("frames", [0, 1, 2, 255, 256, 257, 28_800, 864_000])
def test_the_frames_of_a_line_are_few_even_stay_while_the_run_grows_and_end_with_the_newest(frames: int) -> None:
    now, later = chosen(frames), chosen(frames + max(1, frames // 1000))
    assert len(now) <= 257
    if frames:
        assert now[-1] == frames - 1
        assert sorted(coarse_first(now)) == now
        kept = len(set(now[:-1]) & set(later)) if len(later) <= 257 else 0
        assert kept >= len(now) // 2 - 1


# ---- over HTTP


def test_lines_and_sizes_are_answered_and_nonsense_is_not(shelf: Stored) -> None:
    web = client(Latest(), shelf)
    told = web.get("/api/runs/cam/line?from=0.5,0.1&to=0.5,0.9", headers=HEADER).json()
    assert told["frame"] == list(range(FRAMES))
    assert told["time_s"] == [100.0 + i for i in range(FRAMES)]
    for wrong in (
        "from=0,0&to=0,0",
        "from=a,0&to=1,1",
        "from=0,0",
        "from=0,0&to=2,1",
        "from=0,0,0&to=1",
        "from=nan,0&to=1,1",
    ):
        assert web.get(f"/api/runs/cam/line?{wrong}", headers=HEADER).status_code == 400, wrong
    assert web.get("/api/runs/none/line?from=0,0&to=1,1", headers=HEADER).status_code == 404
    assert len(web.get("/api/distribution?run=cam", headers=HEADER).json()["counts"]) == FRAMES
    assert web.get("/api/distribution", headers=HEADER).json()["counts"] == []


def test_another_version_of_the_labels_is_listed_and_laid_over(shelf: Stored, tmp_path: Path) -> None:
    web = client(Latest(), shelf)
    assert web.get("/api/runs/cam/labels", headers=HEADER).json()["labels"] == ["particles"]
    version(tmp_path / "cam.zarr", "other")
    assert web.get("/api/runs/cam/labels", headers=HEADER).json()["labels"] == ["particles", "other"]
    plain = web.get("/api/runs/cam/frame/2", headers=HEADER).content
    both = web.get("/api/runs/cam/frame/2?over=other", headers=HEADER).content
    header, picture, lines = unpack(both)
    assert header["over"]["polygons"] == 2
    assert lines is not None
    assert np.array_equal(picture, unpack(plain)[1])
    assert web.get("/api/runs/cam/frame/2?over=none", headers=HEADER).status_code == 404
    assert web.get("/api/runs/cam/frame/2?over=..%2f..", headers=HEADER).status_code == 404


def test_a_coarse_level_is_read_when_the_page_needs_no_more(tmp_path: Path) -> None:
    with Ledger(tmp_path, fsync=False) as ledger:
        shape = (600, 1100)
        options = StoreOptions(low_water_mb=0, fsync=False)
        writer = RunWriter(tmp_path, ledger.run_for("big", "big", shape, "uint16", None), ledger, options, {})
        pixels = np.zeros(shape, np.uint16)
        pixels[100:200, 300:500] = 1000
        writer.write_frames([FrameRecord(pixels, Origin("0", 0, 1, 1, 1), 1.0, (12.0, 0.0), 1.0)])
        writer.close()
    shelf = Stored(tmp_path)
    assert shelf.frame("big", 0, 2000).pixels.shape == shape
    assert shelf.frame("big", 0, 512).pixels.shape == (300, 550)
    web = client(Latest(), shelf)  # pages of 64 px
    header, picture, _ = unpack(web.get("/api/runs/big/frame/0", headers=HEADER).content)
    assert header["shape"] == [600, 1100]
    assert header["factor"] == pytest.approx(1100 / 64, rel=0.02)
    assert picture[round(150 / header["factor"]), round(400 / header["factor"])] > 200
    with pytest.raises(NotARun):
        shelf.frame("../big", 0)


# ---- who stays in


def gate(key: bytes | None, token: str) -> TestClient:
    app = client(Latest(), None).app.app  # type: ignore[attr-defined]
    return TestClient(
        Gate(app, address=Address("127.0.0.1", 8765), token=token, key=key), base_url="http://127.0.0.1:8765"
    )


def test_a_page_that_was_let_in_stays_in_when_the_daemon_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "page.key"
    key = lasting_key(path)
    assert key is not None
    assert path.stat().st_mode & 0o077 == 0
    assert lasting_key(path) == key
    first = gate(key, "one")
    assert first.get("/?token=one").status_code == 200
    second = gate(lasting_key(path), "two")
    second.cookies.update(first.cookies)
    assert second.get("/api/status").status_code == 200
    stranger = gate(b"x" * 32, "two")
    stranger.cookies.update(first.cookies)
    assert stranger.get("/api/status").status_code == 401


def test_a_key_that_others_could_read_or_have_put_there_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "page.key"
    lasting_key(path)
    os.chmod(path, 0o644)
    assert lasting_key(path) is None
    link = tmp_path / "link.key"
    os.chmod(path, 0o600)
    link.symlink_to(path)
    assert lasting_key(link) is None
