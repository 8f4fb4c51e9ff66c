"""Small particles beside large ones in a noisy frame: found by what noise cannot be, and not where nothing is."""

from __future__ import annotations

import numpy as np
import pytest

from emstream import simulate
from emstream.segment import SegmentOptions, load
from emstream.segment.listed import Listed, listed
from emstream.segment.small import add_small

SIDE = 384


def frame(small: float, noise: float, seed: int = 0, contrast: float = -1.0) -> tuple[np.ndarray, Listed, np.ndarray]:
    """Noise of mean 0, six discs of 40 px that are known, and 25 small ones that are not; the true small ones."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:SIDE, :SIDE]
    known, clean, truth = np.zeros((SIDE, SIDE), np.int32), np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE), np.int32)
    for k in range(6):
        disc = np.hypot(yy - (60 + 130 * (k // 3)), xx - (60 + 130 * (k % 3))) < 20
        known[disc], clean[disc] = k + 1, contrast
    for k in range(25 if small else 0):
        y, x = 300 + 24 * (k // 13) + rng.uniform(-2, 2), 28 + 27 * (k % 13) + rng.uniform(-2, 2)
        cover = np.clip(small / 2 + 0.5 - np.hypot(yy - y, xx - x), 0, 1)
        clean += contrast * cover
        truth[cover > 0.5] = k + 1
    return (clean + rng.normal(0, noise, clean.shape)).astype(np.float32), listed(known), truth


@pytest.mark.parametrize("contrast", [-1.0, 1.0])
@pytest.mark.parametrize(("diameter", "noise"), [(5, 0.6), (7, 0.8), (9, 1.1)])
def test_dots_that_stand_out_of_the_noise_are_found_with_their_size(
    diameter: float, noise: float, contrast: float
) -> None:
    image, known, truth = frame(diameter, noise, contrast=contrast)
    after, foreground = add_small(known, np.zeros(image.shape, np.float32), image)
    new = after.picture()
    new[new <= len(known)] = 0
    hit = np.unique(truth[new > 0])
    assert (hit > 0).sum() >= 25 * 0.9
    assert len(after) - len(known) <= 28
    area = after.area[len(known) + 1 :]
    assert np.sqrt(4 / np.pi * area).mean() == pytest.approx(diameter, rel=0.25)
    assert (foreground[new > 0] == 1).all()


def test_known_particles_stay_and_all_are_numbered_in_the_order_of_the_frame() -> None:
    image, known, _ = frame(7, 0.6)
    after, _ = add_small(known, np.zeros(image.shape, np.float32), image)
    assert (np.diff(after.at) > 0).all()
    assert set(np.unique(after.label)) == set(range(1, len(after) + 1))
    picture = after.picture()
    assert (picture[known.picture() > 0] == known.picture()[known.picture() > 0]).all()


def test_noise_alone_gives_next_to_nothing() -> None:
    added = 0
    for seed in range(24):
        image, known, _ = frame(0, 0.5 + seed % 3, seed)
        added += len(add_small(known, np.zeros(image.shape, np.float32), image)[0]) - len(known)
    assert added <= 5


def test_grain_of_both_signs_silences_the_search() -> None:
    image, known, _ = frame(0, 0.5)
    rng = np.random.default_rng(1)
    for sign in (1, -1):
        for y, x in rng.integers(10, SIDE - 10, (60, 2)):
            image[y - 2 : y + 3, x - 2 : x + 3] += sign * 0.8
    after, _ = add_small(known, np.zeros(image.shape, np.float32), image)
    assert len(after) - len(known) <= 3


def test_clear_frames_and_frames_without_particles_are_left_to_the_network() -> None:
    image, known, _ = frame(7, 0.1)
    assert add_small(known, np.zeros(image.shape, np.float32), image)[0] is known
    image, _, _ = frame(7, 0.6)
    nobody = listed(np.zeros((SIDE, SIDE), np.int32))
    assert add_small(nobody, np.zeros(image.shape, np.float32), image)[0] is nobody


def test_particles_as_bright_as_the_film_around_them_are_compared_with_nothing() -> None:
    counts, known, _ = frame(0, 0.0, contrast=0.0)
    counts += np.random.default_rng(0).poisson(4, counts.shape)  # whole numbers: both medians are the same
    assert add_small(known, np.zeros(counts.shape, np.float32), counts)[0] is known


def test_nothing_is_added_outside_the_covered_pixels() -> None:
    image, known, _ = frame(7, 0.6)
    after, _ = add_small(known, np.zeros(image.shape, np.float32), image, (0, 290, 0, SIDE))
    assert (after.at[after.label > len(known)] // SIDE < 290).all()


def test_a_mixed_frame_at_twenty_electrons_is_counted_to_three_percent() -> None:
    movies = [simulate.movie(1, (512, 512), dose=20, diameter=(5, 60), contrast=(0.3, 0.5), seed=s) for s in (1, 2)]
    segment = load(SegmentOptions(judge_every=0), threads=1)
    found = [segment(m.frame(0)).labels for m in movies]
    true = [m.labels(0) for m in movies]
    count = sum(int(f.max()) for f in found), sum(len(np.unique(t)) - 1 for t in true)
    assert count[0] == pytest.approx(count[1], rel=0.03)
