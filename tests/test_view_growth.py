"""How fast particles grow: planted radii, at any frame rate, in bounded memory."""

from __future__ import annotations

import time

import numpy as np
import pytest

from emstream.measure.kinetics import growth_rate
from emstream.view.growth import POINTS, Growth

RATES = np.array([0.5, -0.2, 0.0, 0.05])  # px/s
START = np.array([20.0, 30.0, 10.0, 15.0])  # px, radii


def grown(fps: float, seconds: float, noise: float = 0.0, **more: np.ndarray) -> Growth:
    growth, rng = Growth(), np.random.default_rng(0)
    for i in range(int(fps * seconds)):
        order = rng.permutation(4)
        radii = START + RATES * i / fps + noise * rng.normal(size=4)
        growth.add(1e9 + i / fps, np.arange(4)[order], 2 * radii[order], more.get("whole"))
    return growth


@pytest.mark.parametrize(("fps", "seconds"), [(0.2, 200), (1, 60), (30, 2), (30, 90), (300, 20)])
def test_planted_rates_come_back_at_any_frame_rate(fps: float, seconds: float) -> None:
    rate, error = grown(fps, seconds).of(np.arange(4))
    np.testing.assert_allclose(rate, RATES, atol=1e-6)
    assert (error < 1e-6).all()


def test_the_error_is_that_of_least_squares_and_covers_the_truth() -> None:
    rates, errors = grown(1, 40, noise=0.3).of(np.arange(4))
    assert (np.abs(rates - RATES) < 4 * errors).all()
    times, radii = np.arange(20.0), START[0] + 0.3 * np.random.default_rng(1).normal(size=20)
    growth = Growth()
    for t, r in zip(times, radii):
        growth.add(float(t), np.array([7]), np.array([2 * r]))
    told, same = growth.of(np.array([7])), growth_rate(times, radii)
    assert told[0][0] == pytest.approx(same.slope)
    assert told[1][0] == pytest.approx(same.error)


def test_the_mean_over_the_particles_comes_with_its_error_and_their_number() -> None:
    pace = grown(1, 40).pace
    assert pace.rate == pytest.approx(RATES.mean(), abs=1e-6)
    assert pace.error == pytest.approx(RATES.std(ddof=1) / 2, abs=1e-6)
    assert pace.particles == 4


def test_what_is_cut_or_not_tracked_or_seen_too_seldom_has_no_rate() -> None:
    growth = Growth()
    for i in range(10):
        seen = np.array([1, 2, -1, 3] if i > 7 else [1, 2, -1])
        growth.add(float(i), seen, np.full(len(seen), 20.0 + i), np.array([True, False, True, True])[: len(seen)])
    rate, _ = growth.of(np.array([1, 2, -1, 3, 99]))
    assert rate[0] == pytest.approx(0.5)
    assert np.isnan(rate[1:]).all()


def test_it_forgets_what_is_older_than_its_window_and_what_another_recording_showed() -> None:
    growth = Growth(window_s=10.0)
    for i in range(100):
        growth.add(float(i), np.array([0]), np.array([20.0 + max(0, i - 60)]))
    assert growth.of(np.array([0]))[0][0] == pytest.approx(0.5)
    growth.add(3.0, np.array([0]), np.array([20.0]))
    assert np.isnan(growth.of(np.array([0]))[0][0])


def test_its_memory_and_its_cost_do_not_grow_with_the_run() -> None:
    growth, tracks = Growth(), np.arange(200)
    for i in range(20_000):
        growth.add(i / 30, tracks, np.full(200, 20.0))
    assert len(growth._frames) <= 2 * POINTS + 1
    began = time.process_time()
    _ = growth.pace
    assert time.process_time() - began < 1.0
