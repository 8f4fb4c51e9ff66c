"""Gain, dark and defects: read from whatever holds them, and left out with a word when they do not fit."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile

from emstream.errors import BadSettings
from emstream.source import SourceOptions
from emstream.source.correct import Correction, load_correction
from emstream.source.play import MrcWriter

SHAPE = (12, 20)


def gain() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.5, 2, SHAPE).astype(np.float32)


def test_no_setting_means_no_correction() -> None:
    assert load_correction(SourceOptions()) is None


@pytest.mark.parametrize("suffix", ["tif", "npy", "mrc"])
def test_a_gain_is_read_from_any_format(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"gain.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, gain())
    elif suffix == "npy":
        np.save(path, gain())
    else:
        camera = MrcWriter(path, SHAPE, np.dtype("f4"), None, 1)
        list(camera.frame(0, gain()))
        camera.close()
    found = load_correction(SourceOptions(gain=str(path)))
    assert found is not None
    maps = found.maps(SHAPE)
    assert list(maps) == ["gain"]
    assert maps["gain"].dtype == np.float32
    assert np.array_equal(maps["gain"], gain())


def test_a_dark_movie_is_averaged(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).poisson(30, (7, *SHAPE)).astype(np.uint16)
    np.save(tmp_path / "dark.npy", frames)
    found = load_correction(SourceOptions(dark=str(tmp_path / "dark.npy")))
    assert found is not None
    assert found.maps(SHAPE)["dark"] == pytest.approx(frames.mean(0), rel=1e-6)


def test_defects_are_pixels_that_are_not_zero_in_an_image(tmp_path: Path) -> None:
    bad = np.zeros(SHAPE, np.uint8)
    bad[3, 4] = bad[7] = 200
    np.save(tmp_path / "bad.npy", bad)
    found = load_correction(SourceOptions(defects=str(tmp_path / "bad.npy")))
    assert found is not None
    defects = found.maps(SHAPE)["defects"]
    assert defects.dtype == bool
    assert np.array_equal(defects, bad > 0)


def test_defects_are_rectangles_x_y_w_h_in_a_text(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("# camera 1\n3 2 4 1\n\n10, 0, 1, 12  # a column\n19 11 50 50\n")
    found = load_correction(SourceOptions(defects=str(tmp_path / "bad.txt")))
    assert found is not None
    expected = np.zeros(SHAPE, bool)
    expected[2, 3:7] = expected[:, 10] = expected[11, 19] = True
    assert np.array_equal(found.maps(SHAPE)["defects"], expected)
    assert np.array_equal(found.maps(SHAPE)["defects"], expected)  # asking does not wear it


def test_a_reference_of_another_size_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    correction = Correction(dark=np.ones(SHAPE, np.float32), gain=np.ones((5, 5), np.float32))
    with caplog.at_level(logging.WARNING, "emstream.source"):
        maps = correction.maps(SHAPE)
    assert list(maps) == ["dark"]
    (record,) = caplog.records
    assert record.setting == "source.gain"
    assert record.reference == (5, 5)
    assert record.frames == SHAPE


@pytest.mark.parametrize("name", ["gain", "dark", "defects"])
def test_a_file_that_is_missing_is_named_with_its_setting(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere.mrc")
    with pytest.raises(BadSettings) as caught:
        load_correction(SourceOptions(**{name: path}))  # type: ignore[arg-type]
    assert f"source.{name}" in str(caught.value)
    assert "nowhere.mrc" in str(caught.value)


def test_references_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    broken = gain()
    broken[2, 2] = np.nan
    np.save(tmp_path / "gain.npy", broken)
    with pytest.raises(BadSettings, match="NaN"):
        load_correction(SourceOptions(gain=str(tmp_path / "gain.npy")))
    for text in ("1 2 3\n", "1 2 three 4\n", "\n1 2 3 4 5"):
        (tmp_path / "bad.txt").write_text(text)
        with pytest.raises(BadSettings, match=r"source\.defects"):
            load_correction(SourceOptions(defects=str(tmp_path / "bad.txt")))
    with pytest.raises(BadSettings, match=r"source\.defects"):
        load_correction(SourceOptions(defects=str(tmp_path / "no.txt")))


def test_a_rectangle_that_begins_outside_the_frame_marks_only_what_lies_inside(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("-2 -3 4 5\n")
    found = load_correction(SourceOptions(defects=str(tmp_path / "bad.txt")))
    assert found is not None
    expected = np.zeros(SHAPE, bool)
    expected[:2, :2] = True
    assert np.array_equal(found.maps(SHAPE)["defects"], expected)
