"""Numbering, splitting and dropping of particles."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from emstream.segment.instances import components, drop_small, fill_holes, shared


def disc(shape: tuple[int, int], y: float, x: float, r: float) -> np.ndarray:
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(yy - y, xx - x) < r


def grow(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The mask taken apart by blobs, one for each particle."""
    whole = components(mask)
    return shared(whole, components(seeds & mask), int(whole.max()))


def test_two_touching_discs_come_apart_between_their_seeds() -> None:
    a, b = disc((60, 90), 30, 30, 16), disc((60, 90), 30, 58, 14)
    labels = grow(a | b, disc((60, 90), 30, 30, 8) | disc((60, 90), 30, 58, 7))
    left, right = labels[30, 30], labels[30, 58]
    assert left != right
    assert ((labels == left) & a & ~b).sum() / (a & ~b).sum() > 0.98
    assert ((labels == right) & b & ~a).sum() / (b & ~a).sum() > 0.98
    assert np.array_equal(labels > 0, a | b)


def test_a_particle_without_a_seed_stays_and_a_seed_outside_is_nothing() -> None:
    a, b = disc((50, 90), 25, 20, 10), disc((50, 90), 25, 60, 10)
    labels = grow(a | b, disc((50, 90), 25, 20, 4) | disc((50, 90), 5, 85, 3))
    assert len(np.unique(labels)) == 3
    assert np.array_equal(labels > 0, a | b)


def test_a_seed_of_a_neighbour_that_does_not_touch_takes_nothing() -> None:
    shape = (60, 60)
    long = np.zeros(shape, bool)
    long[10:14, 2:58] = True  # a thin rod with two seeds at its ends, and a disc near its middle
    ends = np.zeros(shape, bool)
    ends[11:13, 3:6] = ends[11:13, 54:57] = True
    near = disc(shape, 22, 30, 6)
    labels = grow(long | near, ends | disc(shape, 20, 30, 3))
    assert len(np.unique(labels)) == 4
    assert len(np.unique(labels[near])) == 1
    assert not set(np.unique(labels[near])) & set(np.unique(labels[long]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 0.7))
def test_growing_keeps_the_foreground_and_one_component_for_each_number(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal((48, 48)), 2)
    mask = smooth > np.quantile(smooth, share)
    labels = grow(mask, smooth > np.quantile(smooth, 0.5 + share / 2))
    assert np.array_equal(labels > 0, mask)
    whole = components(mask)
    for k in set(np.unique(labels)) - {0}:
        assert len(np.unique(whole[labels == k])) == 1


def test_components_agree_with_scipy() -> None:
    mask = np.random.default_rng(0).random((64, 64)) < 0.4
    expected, n = ndimage.label(mask, np.ones((3, 3)))
    found = components(mask)
    assert found.max() == n
    assert len(set(zip(found[mask].tolist(), expected[mask].tolist(), strict=True))) == n


def test_small_ones_are_dropped_and_the_rest_numbered_without_gaps() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[0:2, 0:2], labels[5:10, 5:10], labels[15:18, 15:18] = 1, 2, 3
    out = drop_small(labels, 9)
    assert out.max() == 2
    assert (out == 1).sum() == 25
    assert (out == 2).sum() == 9


def test_small_holes_are_filled_and_large_ones_and_bays_are_not() -> None:
    mask = disc((100, 100), 50, 50, 40) & ~disc((100, 100), 50, 40, 3) & ~disc((100, 100), 50, 62, 15)
    mask[50, 0:15] = False
    out = fill_holes(mask, 100)
    assert out[50, 40]
    assert not out[50, 62]
    assert not out[0, 0]
