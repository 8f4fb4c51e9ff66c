"""The newest result, the curves, the picture and the outlines."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

from emstream.view.history import History
from emstream.view.latest import Latest
from emstream.view.preview import outlines, preview
from emstream.view.shown import Shown
from emstream.view.wire import pack, unpack


def shown(frame: int, run: str = "a", count: int | None = 2, **more: object) -> Shown:
    sizes = np.arange(1.0, (count or 0) + 1, dtype=np.float32)
    return Shown(
        run=run, frame=frame, time_s=1000.0 + frame, pixels=np.zeros((8, 8), np.uint8), shift=(frame * 0.5, -1.0),
        confidence=0.5, count=count, diameters=sizes, **more,
    )  # type: ignore[arg-type]  # fmt: skip


def test_the_newest_frame_stays_when_an_older_one_comes_late() -> None:
    latest = Latest()
    for frame in (0, 5, 3):
        latest.show(shown(frame))
    newest = latest.newest()
    assert newest is not None
    assert newest.frame == 5
    curves = latest.curves()
    assert curves is not None
    assert curves["frame"] == [0, 3, 5]


def test_a_frame_without_labels_leaves_the_labels_that_there_are() -> None:
    latest = Latest()
    latest.show(shown(1))
    latest.show(shown(2, count=None))
    seen = latest.look()
    assert seen is not None
    assert (seen[1].frame, seen[2].frame if seen[2] else None) == (2, 1)


def test_keeps_the_newest_frames_of_few_runs_only() -> None:
    latest = Latest()
    for i in range(10):
        latest.show(shown(0, run=f"run {i}"))
    assert "run 9" in latest.runs()
    assert len(latest.runs()) <= 4
    assert latest.current == "run 9"


def test_readers_and_a_writer_in_other_threads_agree() -> None:
    latest, seen, stop = Latest(history=64), [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            if (newest := latest.newest()) is not None:
                seen.append(newest.frame)
            latest.curves()

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for frame in range(500):
        latest.show(shown(frame))
    stop.set()
    for reader in readers:
        reader.join()
    newest = latest.newest()
    assert newest is not None
    assert newest.frame == 499
    assert all(0 <= frame < 500 for frame in seen)


def test_a_long_run_is_thinned_evenly_and_keeps_its_newest_point() -> None:
    history = History(capacity=64)
    for frame in range(10_000):
        history.add(shown(frame))
    all_of_it = history.since()
    frames = all_of_it["frame"]
    assert 32 <= len(frames) <= 64
    assert frames[-1] == 9999
    assert set(np.diff(frames[:-1]).tolist()) == {all_of_it["stride"]}
    assert all_of_it["time_s"] == [1000.0 + f for f in frames]


def test_a_reader_gets_only_what_changed() -> None:
    history = History(capacity=64)
    for frame in range(10):
        history.add(shown(frame, count=None))
    first = history.since()
    history.add(shown(4, count=3))  # measured later than aligned
    history.add(shown(10, count=None))
    change = history.since(first["version"], first["stride"])
    assert change["reset"] is False
    assert change["frame"] == [4, 10]
    assert change["particles"] == [3.0, None]
    assert change["shift_y"] == [2.0, 5.0]


def test_a_measurement_without_speed_does_not_erase_the_speed() -> None:
    history = History()
    history.add(shown(0, count=None, drift_speed=2.5))
    history.add(shown(0))
    assert history.since()["speed"] == [2.5]


def test_the_picture_is_the_area_average() -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 60000, (128, 96)).astype(np.uint16)
    image, factor, (low, high) = preview(pixels, 32)
    assert image.shape == (32, 24)
    assert factor == 4.0
    means = pixels.astype(float).reshape(32, 4, 24, 4).mean(axis=(1, 3))
    expected = np.clip((means - low) / (high - low), 0, 1) * 255
    assert np.abs(image - expected).max() <= 1.0


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "uint32", "float32", "float64", ">u2", ">i2"])
def test_every_camera_type_gives_the_same_picture(dtype: str) -> None:
    pixels = np.arange(64 * 64).reshape(64, 64) % 120
    image = preview(pixels.astype(dtype), 64)[0]
    assert np.array_equal(image, preview(pixels.astype("float64"), 64)[0])


def test_what_no_frame_covers_neither_shows_nor_decides_the_stretch() -> None:
    pixels = np.full((100, 100), 1000, np.uint16)
    pixels[:, 50:] = 1100
    moved = pixels.copy()
    moved[:20] = 0
    image, _, window = preview(moved, 100, valid=(20, 100, 0, 100))
    assert window == preview(pixels[20:], 100)[2]
    assert not image[:20].any()
    assert image[20:, 50:].min() == 255


def test_a_flat_or_broken_frame_still_gives_a_picture() -> None:
    for pixels in (np.zeros((16, 16), np.uint8), np.full((16, 16), np.nan, np.float32), np.ones((1, 1), np.float64)):
        image, _, _ = preview(pixels, 16)
        assert image.shape == pixels.shape
        assert image.dtype == np.uint8


def test_outlines_lie_on_the_borders_of_their_particles() -> None:
    y, x = np.mgrid[:200, :300]
    labels = np.zeros((200, 300), np.int32)
    labels[np.hypot(y - 60, x - 80) < 30] = 4
    labels[np.hypot(y - 140, x - 220) < 20] = 9
    lines = outlines(labels)
    assert lines.particle.tolist() == [4, 9]
    for i, (cy, cx, radius) in enumerate([(60, 80, 30), (140, 220, 20)]):
        points = lines.points[lines.starts[i] : lines.starts[i + 1]] / 65536 * [300, 200] - 0.5
        assert np.abs(np.hypot(points[:, 1] - cy, points[:, 0] - cx) - radius).max() < 1.5


def test_touching_particles_keep_an_outline_each() -> None:
    labels = np.zeros((50, 50), np.int32)
    labels[10:30, 10:25], labels[10:30, 25:40] = 1, 2
    assert outlines(labels).particle.tolist() == [1, 2]
    assert outlines(np.zeros((50, 50), np.int32)).starts.tolist() == [0]


def test_a_message_carries_picture_outlines_and_numbers() -> None:
    labels = np.zeros((40, 60), np.int32)
    labels[5:15, 5:15] = 7
    frame = dataclasses.replace(
        shown(3), pixels=np.arange(2400, dtype=np.uint16).reshape(40, 60), label_image=labels, status=1 | 32
    )
    header, picture, lines = unpack(pack(frame, size=512)[0])
    assert header["frame"] == 3
    assert header["status"] == ["aligned", "jump"]
    assert header["confidence"] == 0.5
    assert header["drift_speed_px_per_s"] is None
    assert np.array_equal(picture, preview(frame.pixels, 512)[0])
    assert lines is not None
    assert np.array_equal(lines.points, outlines(labels).points)


def test_outlines_of_the_last_segmented_frame_are_borrowed_and_named_but_not_across_anchors() -> None:
    labels = np.zeros((8, 8), np.int32)
    labels[2:6, 2:6] = 1
    segmented, bare = shown(3, label_image=labels), shown(5, count=None)
    header, _, lines = unpack(pack(bare, segmented)[0])
    assert (header["frame"], header["outlines_frame"], header["particles"]) == (5, 3, 2)
    assert lines is not None
    header, _, lines = unpack(pack(dataclasses.replace(bare, anchor=1), segmented)[0])
    assert header["outlines_frame"] is None
    assert lines is None


def test_uncalibrated_lengths_say_px() -> None:
    numbers = shown(0, drift_speed=3.0).numbers()
    assert numbers["sizes"]["unit"] == "px"
    assert numbers["drift_speed_nm_per_s"] is None
    assert numbers["drift_speed_px_per_s"] == 3.0
