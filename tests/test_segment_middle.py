"""Particles come apart by where their pixels point, and each is taken from the size at which it is seen best."""

from __future__ import annotations

import numpy as np

from emstream.learn.targets import targets
from emstream.segment.listed import Listed, components_of, listed
from emstream.segment.middle import parted
from emstream.segment.scales import finer, specks, typical
from emstream.segment.unet import FAR


def discs(shape: tuple[int, int], centres: list[tuple[float, float, float]]) -> np.ndarray:
    """Labels of discs (y, x, radius); a pixel within two is the nearer one's."""
    yy, xx = np.mgrid[0 : shape[0], 0 : shape[1]]
    depth = np.stack([np.hypot(yy - y, xx - x) / r for y, x, r in centres])
    return np.where(depth.min(0) < 1, depth.argmin(0) + 1, 0).astype(np.int32)


def perfect(labels: np.ndarray) -> tuple[Listed, np.ndarray, np.ndarray]:
    """Components, depth and way (px) as a perfect network gives them."""
    _, depth, _, *way = targets(labels)
    whole = components_of(labels > 0)
    return whole, depth.ravel()[whole.at], np.stack([w.ravel()[whole.at] for w in way]) * FAR


def same(a: np.ndarray, b: np.ndarray) -> float:
    """Share of pixels on which two labellings agree, whatever the numbers."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1, return_counts=True)
    best: dict[int, int] = {}
    for of_a, count in zip(pairs[0][0].tolist(), pairs[1].tolist(), strict=True):
        best[of_a] = max(best.get(of_a, 0), count)
    return sum(best.values()) / a.size


def test_two_touching_discs_are_two_and_their_pixels_agree() -> None:
    truth = discs((80, 120), [(40, 40, 20), (40, 78, 19)])
    whole, depth, way = perfect(truth)
    assert len(whole) == 1
    labels, restless = parted(whole, depth, way)
    assert len(labels) == 2
    assert same(labels.picture(), truth) > 0.99
    assert restless[1:].max() < 0.05


def test_a_small_disc_comes_off_a_large_one() -> None:
    labels, _ = parted(*perfect(discs((120, 160), [(60, 60, 40), (60, 112, 13)])))
    assert len(labels) == 2


def test_three_hundred_discs_in_one_heap_are_all_told_apart() -> None:
    truth = discs((330, 330), [(15 + 18 * i, 15 + 18 * j, 9.6) for i in range(17) for j in range(17)])
    whole, depth, way = perfect(truth)
    assert len(whole) == 1
    labels, _ = parted(whole, depth, way)
    assert len(labels) == 17 * 17
    assert same(labels.picture(), truth) > 0.98


def test_a_large_particle_stays_one_though_its_pixels_point_a_little_aside() -> None:
    rng = np.random.default_rng(0)
    whole, depth, way = perfect(discs((200, 200), [(100, 100, 80)]))
    labels, restless = parted(whole, depth, way + 8 * rng.standard_normal((2, 200))[:, whole.at % 200])
    assert len(labels) == 1
    assert restless[1] < 0.3


def test_pixels_that_point_nowhere_are_restless() -> None:
    whole, depth, way = perfect(discs((100, 100), [(50, 50, 30)]))
    _, restless = parted(whole, depth, 0 * way, split=False)
    assert restless[1] > 0.5


def test_without_split_components_stay_whole() -> None:
    whole, depth, way = perfect(discs((80, 120), [(40, 40, 20), (40, 78, 19)]))
    assert parted(whole, depth, way, split=False)[0].label.max() == 1


def test_a_large_particle_that_the_finer_size_cuts_apart_is_taken_from_the_coarser_one() -> None:
    coarse = discs((64, 64), [(32, 32, 20)])
    fine = discs((128, 128), [(64, 64, 40), (10, 10, 4)])
    pieces = np.where((fine == 1) & (np.arange(128) > 64), 3, fine).astype(np.int32)
    foreground = (fine > 0).astype(np.float32)
    calm, torn = np.array([0, 0.1]), np.array([0, 0.5, 0.1, 0.5])
    labels, restless = finer(listed(coarse), calm, listed(pieces), torn, foreground, 0.5)
    assert len(labels) == 2  # the large one whole, the small one kept
    assert len(restless) == 3
    assert same(labels.picture(), fine) > 0.999  # the edge is the finer one's
    kept, _ = finer(listed(coarse), np.array([0, 0.6]), listed(pieces), torn, foreground, 0.5)
    assert np.array_equal(kept.picture(), pieces)


def test_small_particles_are_never_taken_from_the_coarser_size() -> None:
    coarse, fine = listed(discs((64, 64), [(32, 32, 6)])), listed(discs((128, 128), [(64, 64, 12)]))
    labels, _ = finer(coarse, np.zeros(2), fine, np.ones(2), (fine.picture() > 0).astype(np.float32), 0.5)
    assert labels is fine


def test_faint_specks_beside_large_particles_are_told_and_sure_ones_are_not() -> None:
    labels = discs((200, 200), [(100, 100, 60), (10, 10, 5), (10, 40, 5)])
    foreground = np.where(labels == 2, 0.7, np.where(labels > 0, 0.95, 0)).astype(np.float32)
    some = listed(labels)
    assert specks(some, foreground, typical(some.area)).tolist() == [False, False, True, False]
    alone = listed(np.maximum(labels - 1, 0))
    assert not specks(alone, foreground, typical(alone.area)).any()
