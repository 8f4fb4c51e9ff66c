"""Labels as lists of pixels, and some of them side by side in a small picture."""

from __future__ import annotations

import numpy as np
import pytest

from emstream.segment.listed import components_of, listed
from emstream.segment.mosaic import GAP, mosaic


@pytest.fixture
def labels() -> np.ndarray:
    """(40, 60): three rectangles."""
    out = np.zeros((40, 60), np.int32)
    out[2:12, 3:9], out[20:24, 10:50], out[30:38, 52:60] = 1, 2, 3
    return out


def test_a_list_becomes_the_same_picture_again(labels: np.ndarray) -> None:
    pixels = listed(labels)
    assert len(pixels) == 3
    assert pixels.area.tolist() == [0, 60, 160, 64]
    assert np.array_equal(pixels.picture(), labels)
    assert np.array_equal(components_of(labels > 0).picture() > 0, labels > 0)


def test_labels_that_are_dropped_leave_no_gap_in_the_numbers(labels: np.ndarray) -> None:
    left = listed(labels).kept(np.array([True, False, True, True]))
    assert np.array_equal(left.picture(), np.maximum(labels - 1, 0))
    assert left.area.tolist() == [0, 160, 64]
    whole = listed(labels)
    assert whole.kept(np.array([False, True, True, True])) is whole


def test_the_mean_over_each_label_is_that_of_its_pixels(labels: np.ndarray) -> None:
    values = np.random.default_rng(0).random(labels.shape, dtype=np.float32)
    expected = [0] + [values[labels == k].mean() for k in (1, 2, 3)]
    assert listed(labels).mean(values) == pytest.approx(expected, rel=1e-5)


def test_an_empty_frame_has_no_labels() -> None:
    nothing = components_of(np.zeros((8, 9), bool))
    assert len(nothing) == 0
    assert not nothing.picture().any()


def test_each_label_of_a_mosaic_keeps_its_shape_and_stays_apart_from_the_others(labels: np.ndarray) -> None:
    pixels = listed(np.where(labels == 2, 0, labels), 3)
    small = mosaic(pixels.label, *np.divmod(pixels.at, 60), 3)
    picture = np.zeros(small.shape, np.int32)
    picture.ravel()[small.places(pixels.label, *np.divmod(pixels.at, 60))] = pixels.label
    for k in (1, 3):
        rows, columns = np.nonzero(picture == k)
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == ((10, 6) if k == 1 else (8, 8))
        assert (picture == k).sum() == (labels == k).sum()
        around = picture[rows.min() - GAP : rows.max() + GAP + 1, columns.min() - GAP : columns.max() + GAP + 1]
        assert set(np.unique(around)) == {0, k}


def test_a_place_beside_its_box_comes_to_the_edge_of_the_box(labels: np.ndarray) -> None:
    pixels = listed(labels)
    small = mosaic(pixels.label, *np.divmod(pixels.at, 60), 3)
    one = np.array([1])
    assert small.places(one, np.array([-50.0]), np.array([4.2])) == small.places(one, np.array([2]), np.array([4]))


def test_hundreds_of_boxes_fit_without_touching() -> None:
    rng = np.random.default_rng(1)
    grid = np.zeros((400, 400), np.int32)
    for k in range(1, 301):
        y, x = 20 * ((k - 1) // 20) + 2, 20 * ((k - 1) % 20) + 2
        grid[y : y + rng.integers(3, 16), x : x + rng.integers(3, 16)] = k
    pixels = listed(grid)
    small = mosaic(pixels.label, *np.divmod(pixels.at, 400), 300)
    picture = np.zeros(small.shape, bool)
    picture.ravel()[small.places(pixels.label, *np.divmod(pixels.at, 400))] = True
    assert picture.sum() == len(pixels.at)
    assert len(components_of(picture)) == 300
