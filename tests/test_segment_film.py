"""Film without particles stays empty: what stands out no more than the film's own hills is not taken for a particle."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from emstream import simulate
from emstream.segment import SegmentOptions, load
from emstream.segment.film import stands_out
from emstream.segment.listed import Listed, listed

SIDE = 192


def film(dose: float, seed: int, contrast: float = 0.0, y: int = 96, x: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Counts of a film with hills of 4 %, with a dark disc of 40 px; and the disc."""
    rng = np.random.default_rng(seed)
    hills = cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE)), (0, 0), 10)
    yy, xx = np.mgrid[:SIDE, :SIDE]
    disc = np.hypot(yy - y, xx - x) < 20
    clean = (1 + 0.04 * hills / hills.std()) * (1 - contrast * disc)
    return rng.poisson(dose * clean).astype(np.float32), disc


def hill(image: np.ndarray, sign: float) -> Listed:
    """The highest place, or the lowest, of a blurred image as one label of some 40 px."""
    smooth = sign * cv2.GaussianBlur(image, (0, 0), 11)[30:-30, 30:-30]
    y, x = (int(v) + 30 for v in np.unravel_index(np.argmax(smooth), smooth.shape))
    yy, xx = np.mgrid[:SIDE, :SIDE]
    return listed((np.hypot(yy - y, xx - x) < 20).astype(np.int32))


@pytest.mark.parametrize("dose", [4, 20])
def test_the_highest_hill_and_the_deepest_valley_of_a_film_do_not_stand_out(dose: float) -> None:
    for seed in range(5):
        image, _ = film(dose, seed)
        assert not stands_out(hill(image, 1), image)
        assert not stands_out(hill(image, -1), image)


@pytest.mark.parametrize("dose", [4, 20])
def test_a_particle_on_the_same_film_does_in_any_unit_and_of_either_sign(dose: float) -> None:
    for seed in range(5):
        image, disc = film(dose, seed, contrast=0.25)
        for shown in (image, 7 - 0.01 * image):
            assert stands_out(listed(disc.astype(np.int32)), shown)


def test_one_clear_particle_is_enough_for_the_faint_ones_beside_it() -> None:
    image, disc = film(20, 0, contrast=0.25)
    both = hill(film(20, 0)[0], 1).picture()
    both[disc] = 2
    assert stands_out(listed(both), image)


def test_a_frame_without_noise_is_left_to_the_network() -> None:
    image, _ = film(1e6, 1)
    assert stands_out(hill(image, 1), image)


def test_what_is_not_covered_says_nothing_of_the_film() -> None:
    image, disc = film(20, 3, contrast=0.25, y=60)
    image = image / image.mean() - 1
    valid = (0, 120, 0, SIDE)
    image[120:] = 0
    assert stands_out(listed(disc.astype(np.int32)), image, valid)
    image, _ = film(20, 4)
    image = image / image.mean() - 1
    image[:, 150:] = 0
    assert not stands_out(hill(image[:, :].copy(), 1), image, (0, SIDE, 0, 150))


def test_the_network_sees_nothing_in_empty_film() -> None:
    movie = simulate.movie(40, (256, 256), dose=20.0, particles=0, seed=21)
    network = load(SegmentOptions(judge_every=0), threads=1)
    assert [int(network(movie.frame(i)).labels.max()) for i in (3, 4, 5, 8, 10, 14)] == [0] * 6
