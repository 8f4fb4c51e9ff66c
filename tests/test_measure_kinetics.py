"""Distributions and rates: planted laws come back."""

import numpy as np
import pytest

from emstream.errors import BadImage
from emstream.measure import histogram, link, particles, start_tracks, summarize
from emstream.measure.distribution import edges, volume_weighted
from emstream.measure.kinetics import coarsening, critical_radius, growth_rate, nearest_neighbours, spacing
from emstream.simulate import movie


def test_a_planted_growth_rate_comes_back_within_its_error() -> None:
    rng = np.random.default_rng(0)
    t = np.linspace(100.0, 130.0, 200)
    pulls = [
        (rate.slope - 0.35) / rate.error
        for rate in (growth_rate(t, 4 + 0.35 * t + rng.normal(0, 0.5, t.size)) for _ in range(300))
    ]
    assert abs(np.mean(pulls)) < 0.2
    assert np.std(pulls) == pytest.approx(1.0, abs=0.15)  # the error is neither boastful nor shy


def test_two_points_have_a_slope_but_no_error_and_one_has_neither() -> None:
    two = growth_rate(np.array([0.0, 2.0, 3.0]), np.array([1.0, 2.0, np.nan]))
    assert two.slope == 0.5
    assert np.isnan(two.error)
    assert np.isnan(growth_rate(np.array([1.0]), np.array([1.0])).slope)


def test_the_critical_radius_of_a_ripening_movie_is_that_of_the_exchange_law() -> None:
    scene = movie(40, particles=200, shape=(1024, 1024), diameter=(20, 40), coarsen=1.5, drift_per_frame=(0, 0), seed=0)
    table = scene.tracks
    radius = {i: table[table["frame"] == i] for i in (10, 20, 30)}
    common = [p for p in radius[10]["particle"] if p in radius[30]["particle"] and p in radius[20]["particle"]]
    at = {i: np.array([r["diameter"][r["particle"] == p][0] / 2 for p in common]) for i, r in radius.items()}
    found = critical_radius(at[20], (at[30] - at[10]) / 20)
    assert found.radius == pytest.approx(float(radius[20]["diameter"].mean() / 2), rel=0.03)
    assert found.rate == pytest.approx(1.5, rel=0.05)


@pytest.mark.parametrize("exponent", [2.0, 3.0, 4.0])
def test_the_coarsening_exponent_comes_back_within_its_uncertainty(exponent: float) -> None:
    rng = np.random.default_rng(1)
    t = np.linspace(0, 3000, 400)
    r = (5.0**exponent + (20.0**exponent - 5.0**exponent) * t / 3000) ** (1 / exponent)
    found = coarsening(t + 1.7e9, r + rng.normal(0, 0.05, t.size))
    assert abs(found.exponent - exponent) < 4 * found.exponent_error
    assert found.exponent_error < 0.2
    assert found.start == pytest.approx(5.0, rel=0.03)


def test_no_growth_is_no_coarsening() -> None:
    t = np.arange(50.0)
    with pytest.raises(BadImage, match="does not grow"):
        coarsening(t, 10 - 0.01 * t)
    with pytest.raises(BadImage, match="five"):
        coarsening(t[:3], t[:3])


def test_particles_at_the_border_count_but_lend_no_size() -> None:
    labels = np.zeros((100, 100), np.int32)
    labels[0:10, 0:10], labels[40:50, 40:50] = 1, 2
    labels[70:90, 70:90] = 3
    seen = summarize(particles(labels), (0, 100, 0, 100))
    assert (seen.count, seen.whole) == (3, 2)
    assert seen.area_fraction == pytest.approx(0.06)
    small, large = 20 / np.sqrt(np.pi), 40 / np.sqrt(np.pi)
    for_small, for_large = 1 / (100 - small) ** 2, 1 / (100 - large) ** 2  # the large one stands for more that are cut
    assert seen.density == pytest.approx(for_small + for_large)
    assert seen.mean == pytest.approx((for_small * small + for_large * large) / (for_small + for_large))


def test_an_empty_frame_has_no_size() -> None:
    seen = summarize(particles(np.zeros((20, 20), np.int32)), (0, 20, 0, 20))
    assert (seen.count, seen.area_fraction) == (0, 0.0)
    assert np.isnan([seen.mean, seen.median, *seen.quantiles]).all()


def test_every_particle_is_in_one_bin_of_a_round_width() -> None:
    bins = edges(37.0)
    assert bins[1] == 1.0
    assert bins[-1] >= 37.0
    d = np.array([0.0, 0.5, 1.0, 36.9, 99.0])
    counts = histogram(d, bins)
    assert counts.sum() == 5
    assert (counts[0], counts[1], counts[36], counts[-1]) == (2, 1, 1, 1)
    assert histogram(d, bins, np.array([True, False, False, False, False])).sum() == 1


def test_the_volume_mean_of_equal_spheres_is_their_diameter() -> None:
    assert volume_weighted(np.full(7, 3.0)) == pytest.approx(3.0)
    assert volume_weighted(np.array([1.0, 10.0])) == pytest.approx((1 + 1e4) / (1 + 1e3))


def test_random_places_do_not_cluster_and_a_lattice_is_regular() -> None:
    rng = np.random.default_rng(0)
    window = (0, 1000, 0, 1000)
    places = rng.uniform(0, 1000, (2, 4000))
    assert spacing(*places, window)[1] == pytest.approx(1.0, abs=0.03)
    assert spacing(*np.hstack((places, places + 1.0)), window)[1] < 0.3
    grid = np.mgrid[0:20, 0:20].reshape(2, -1) * 10.0 + 5
    assert (nearest_neighbours(*grid) == 10.0).all()
    assert spacing(*grid, (0, 200, 0, 200)) == pytest.approx((10.0, 2.0))
    assert np.isnan(nearest_neighbours(np.zeros(1), np.zeros(1))).all()
    assert np.isnan(spacing(np.zeros(1), np.zeros(1), window)).all()


def test_no_statistic_jumps_when_the_drift_leaves_less_of_the_picture() -> None:
    """The same particles through a window that a stage jump makes smaller: the plain means drop, what is told stays."""
    corners = [(y, y + 130, x, x + 130) for y in (0, 190) for x in (0, 190)]
    told: dict[bool, list[tuple[float, ...]]] = {True: [], False: []}
    for seed in range(30):
        scene = movie(1, (320, 320), particles=25, diameter=(10, 70), drift_per_frame=(0, 0), seed=seed)
        labels = scene.labels(0)
        for window in ((0, 320, 0, 320), *corners):
            columns = particles(labels, valid=window)
            state, _, _ = link(start_tracks(), labels, columns, 0, 0.0, valid=window)
            assert state.kinetics is not None
            density, mean = (float(np.nan_to_num(state.kinetics[n])) for n in ("density", "mean_radius"))
            plain = columns["diameter"][~columns["touches_border"]] / 2
            told[window in corners].append((density, density * mean, plain.sum(), len(plain)))
    part, whole = (np.array(told[which]).mean(axis=0) for which in (True, False))
    assert (part[2] / part[3]) / (whole[2] / whole[3]) < 0.93
    assert (part[1] / part[0]) / (whole[1] / whole[0]) == pytest.approx(1.0, abs=0.03)
    assert part[0] / whole[0] == pytest.approx(1.0, abs=0.06)
