"""What a drifting series may meet: low dose, hot pixels, flowing particles, jumps, blank frames, a sample that leaves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from emstream import align, simulate
from emstream.messages import Status


def followed(movie: simulate.Movie, *, masks: bool = False) -> list[align.Estimate]:
    state = align.start(movie.shape, movie.dtype)
    found: list[align.Estimate] = []
    for i, frame in enumerate(movie):
        exclude = None
        if masks and i:
            exclude = align.move((movie.labels(i - 1) > 0).astype(np.uint8), found[-1].shift)[0] > 0
        state, estimate = align.follow(state, frame, exclude=exclude)
        found.append(estimate)
    return found


def error(found: list[align.Estimate], truth: np.ndarray) -> float:
    """2-D rms px after frame 8, the mean error removed."""
    e = (np.array([f.shift for f in found]) - truth)[8:]
    return float(np.sqrt(((e - e.mean(axis=0)) ** 2).sum(axis=1).mean()))


def frames_with(found: list[align.Estimate], flag: Status) -> list[int]:
    return [i for i, f in enumerate(found) if f.status & flag]


@pytest.mark.parametrize(("dose", "limit"), [(20.0, 0.1), (4.0, 0.25)])
def test_a_drifting_sample_is_followed_at_low_dose(dose: float, limit: float) -> None:
    movie = simulate.movie(32, dose=dose, seed=41)
    assert error(followed(movie), movie.shift) < limit


def test_hot_pixels_are_found_and_do_not_hold_the_image() -> None:
    movie = simulate.movie(32, dose=4.0, hot=1e-4, gain_rms=0.03, seed=42)
    found = followed(movie)
    assert error(found, movie.shift) < 0.3
    strong = int((movie.hot > movie.dose).sum())
    assert found[16].defects >= 0.95 * strong
    assert found[-1].defects <= int((movie.hot > 0).sum()) + 10


def test_particles_that_flow_together_do_not_take_the_shift_along_when_they_are_excluded() -> None:
    movie = simulate.movie(32, dose=4.0, flow=(0.5, 0.38), particles=30, seed=43)
    assert error(followed(movie, masks=True), movie.shift) < 0.35


@pytest.mark.parametrize("seed", [2, 4])
def test_where_the_film_alone_shows_too_little_particles_vote(seed: int) -> None:
    movie = simulate.movie(60, (160, 128), dose=5.0, particles=10, seed=seed)
    assert error(followed(movie, masks=True), movie.shift) < 0.42


def test_particles_that_flow_over_a_film_that_shows_little_are_not_believed_for_long() -> None:
    movie = simulate.movie(60, (160, 128), dose=5.0, flow=(0.5, 0.38), particles=8, seed=5)
    assert error(followed(movie), movie.shift) > 5
    assert error(followed(movie, masks=True), movie.shift) < 1.0


def test_a_jump_of_the_stage_is_found_and_flagged_on_its_frame() -> None:
    movie = simulate.movie(32, dose=4.0, jump=(20, (45.6, -34.2)), seed=44)
    found = followed(movie)
    assert frames_with(found, Status.JUMP) == [20]
    assert error(found, movie.shift) < 0.3


def test_blank_frames_are_flagged_exactly_and_predicted() -> None:
    movie = simulate.movie(32, dose=4.0, blank=(12, 20, 21), seed=45)
    found = followed(movie)
    assert frames_with(found, Status.BLANK) == [12, 20, 21]
    assert frames_with(found, Status.REJECTED) == [12, 20, 21]


@pytest.mark.parametrize(("dose", "limit"), [(4.0, 0.15), (1.0, 0.3)])
def test_a_lattice_never_jumps_a_cell(dose: float, limit: float) -> None:
    rng, n, t = np.random.default_rng(46), 256, 32
    path = np.cumsum(0.3 + 0.2 * rng.standard_normal((t, 2)), axis=0)
    path -= path[0]
    y, x = np.mgrid[:n, :n]
    state, found, off = align.start((n, n), np.uint16), [], []
    for dy, dx in path:
        k, u, v = 2 * np.pi / 11.3, y - dy, x - dx
        wave = np.cos(k * (0.98 * u + 0.2 * v)) + np.cos(k * (-0.2 * u + 0.98 * v))
        state, estimate = align.follow(state, rng.poisson(dose * (1 + 0.12 * wave)).astype(np.uint16))
        off.append(np.abs(np.add(estimate.shift, (dy, dx))).max())
        found.append(estimate)
    assert max(off) < 1.0
    assert error(found, -path) < limit


def test_a_sample_that_leaves_begins_an_anchor_whose_link_is_known() -> None:
    t, n = 50, 256
    movie = simulate.movie(t, (n, n), dose=20.0, trajectory=np.outer(np.arange(t), (6.0, 1.0)), seed=47)
    found = followed(movie)
    begun = frames_with(found, Status.LOST_LOCK)
    assert len(begun) == 1
    assert found[-1].anchor == 1
    link = found[begun[0]].link
    assert link is not None
    np.testing.assert_allclose(np.add(found[-1].shift, link), movie.shift[-1], atol=0.6)


def test_a_pair_without_noise_is_registered_to_a_few_thousandths_of_a_pixel() -> None:
    movie = simulate.movie(2, dose=1.0, trajectory=np.array([(0, 0), (8.9, -8.9)]), seed=48)
    shift, confidence = align.register(movie.clean(0), movie.clean(1))
    assert np.hypot(*(shift - movie.shift[1])) < 0.003
    assert confidence > 0.9


def test_strong_vibration_is_followed_and_is_no_jump() -> None:
    r, t = np.random.default_rng(49), 32
    path = np.arange(t)[:, None] * 0.1 + 3 / np.sqrt(2) * r.standard_normal((t, 2))
    movie = simulate.movie(t, dose=4.0, trajectory=path, seed=49)
    found = followed(movie)
    assert error(found, movie.shift) < 0.3
    assert frames_with(found, Status.JUMP) == []


def test_a_tour_of_one_and_a_half_frame_widths_ends_where_it_began() -> None:
    t, n = 110, 256
    u = np.arange(t)[:, None] / (t - 1)
    movie = simulate.movie(t, (n, n), dose=20.0, trajectory=1.5 * n * np.sin(np.pi * u) * (0.8, 0.6), seed=50)
    found = followed(movie)
    base, shifts = np.zeros(2), []
    for f in found:
        base = base + (f.link or (0.0, 0.0))
        shifts.append(base + f.shift)
    off = np.array(shifts) - movie.shift
    assert np.hypot(*(off[-8:].mean(axis=0) - off[8:16].mean(axis=0))) < 0.3
    assert frames_with(found, Status.JUMP) == []


def test_particles_that_fade_hardly_harm() -> None:
    t = 60
    movie = simulate.movie(t, (256, 256), dose=8.0, seed=51)
    half = np.random.default_rng(51).permutation(len(movie.contrast))[::2]
    errors = []
    for fade in (0.0, 1.0):
        state, found = align.start(movie.shape, movie.dtype), []
        for i in range(t):
            contrast = movie.contrast.copy()
            contrast[half] *= 1 - fade * i / (t - 1)
            state, estimate = align.follow(state, dataclasses.replace(movie, contrast=contrast).frame(i))
            found.append(estimate)
        errors.append(error(found, movie.shift))
    assert errors[1] < 1.5 * errors[0]


def test_of_frames_called_sure_ninety_nine_in_a_hundred_are_right_within_a_pixel() -> None:
    flow = {"flow": (0.5, 0.38), "particles": 8}
    shake = 2.1 * np.random.default_rng(52).standard_normal((24, 2))
    scenes: list[dict[str, object]] = [
        {"dose": 20.0}, {"dose": 10.0}, {"dose": 1.0}, {"dose": 0.3}, {"dose": 4.0, "gain_rms": 0.1},
        {"dose": 4.0, **flow}, {"dose": 20.0, **flow}, {"dose": 10.0, "hot": 1e-4, "gain_rms": 0.03},
        {"dose": 10.0, "jump": (12, (20.0, -12.0))}, {"dose": 10.0, "blank": (5, 12, 13)},
        {"dose": 10.0, "wander": 0.6}, {"dose": 10.0, "trajectory": shake}, {"dose": 10.0, "grow": 0.2},
        {"dose": 10.0, "particles": 0, "film": 0.01},
    ]  # fmt: skip
    sure = wrong = 0
    for seed, scene in enumerate(scenes * 2, 53):
        movie = simulate.movie(24, (256, 256), seed=seed, **scene)  # type: ignore[arg-type]
        found = followed(movie)
        called = np.array([f.confidence >= 0.9 for f in found])
        off = np.hypot(*(np.array([f.shift for f in found]) - movie.shift).T)
        sure, wrong = sure + int(called.sum()), wrong + int((called & (off > 1)).sum())
    assert sure > 60
    assert wrong <= 0.01 * sure
