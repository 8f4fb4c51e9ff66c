"""Particles that live: what is recorded is what happened, and volume is kept where physics keeps it."""

from __future__ import annotations

import numpy as np
import pytest

from emstream.simulate import Movie, movie
from emstream.simulate.life import RELAX, ripe


def volumes(m: Movie) -> np.ndarray:
    """Sum of radius³ of the round particles in each frame, px³."""
    return np.bincount(m.table["frame"], m.table["radius"] ** 3, len(m))


def test_coarsening_keeps_the_volume_and_feeds_the_large_on_the_small() -> None:
    m = movie(200, (512, 512), particles=60, diameter=(8, 20), coarsen=1.5, drift_per_frame=(0, 0), jitter=0, seed=1)
    np.testing.assert_allclose(volumes(m), volumes(m)[0], rtol=1e-9)
    counts = np.bincount(m.table["frame"])
    assert counts[-1] < 0.8 * counts[0]
    first, last = (m.table[m.table["frame"] == i] for i in (0, 199))
    kept = first[np.isin(first["particle"], last["particle"])]
    largest = np.argmax(kept["radius"])
    assert last["radius"][largest] > kept["radius"][largest]
    gone = np.setdiff1d(first["particle"], last["particle"])
    assert first["radius"][np.isin(first["particle"], gone)].max() < np.median(first["radius"])


def test_the_mean_radius_cubed_grows_in_proportion_to_time() -> None:
    """Lifshitz–Slyozov–Wagner: d<R>³/dt = 4/9 of K once the distribution is self-similar."""
    k = 1.0
    m = movie(2500, (1024, 1024), particles=900, diameter=(8, 16), coarsen=k, drift_per_frame=(0, 0), jitter=0, seed=2)
    counts = np.bincount(m.table["frame"])
    mean = np.bincount(m.table["frame"], m.table["radius"]) / counts
    rate = np.polyfit(np.arange(1000, 2500), mean[1000:] ** 3, 1)[0]
    assert rate == pytest.approx(4 / 9 * k, rel=0.15)


def test_touching_particles_become_one_of_their_joint_volume() -> None:
    m = movie(
        120,
        (256, 256),
        particles=25,
        diameter=(10, 30),
        wander=2.0,
        coalesce=True,
        drift_per_frame=(0, 0),
        jitter=0,
        seed=3,
    )
    assert len(m.events) > 3
    assert set(m.events["kind"]) == {"coalescence"}
    np.testing.assert_allclose(volumes(m)[-1], volumes(m)[0], rtol=0.3)  # those that still relax are not round yet
    e = m.events[0]
    rows = {i: m.table[m.table["frame"] == i] for i in (e["frame"] - 1, e["frame"], e["frame"] + RELAX)}
    before = rows[e["frame"] - 1]
    pair = np.isin(before["particle"], (e["particle"], e["other"]))
    assert pair.sum() == 2
    joint = (before["radius"][pair] ** 3).sum()
    assert e["other"] not in rows[e["frame"]]["particle"]
    after = rows[e["frame"] + RELAX]
    assert after["radius"][after["particle"] == e["particle"]] ** 3 == pytest.approx(joint)


def test_a_coalescing_pair_is_one_label_of_the_area_and_place_that_tracks_tell() -> None:
    m = movie(
        60,
        (256, 256),
        particles=20,
        diameter=(16, 30),
        wander=1.5,
        coalesce=True,
        drift_per_frame=(0.2, 0),
        jitter=0.2,
        seed=5,
    )
    checked = 0
    for row in m.tracks[m.tracks["inside"]]:
        relaxing = m.table[(m.table["frame"] == row["frame"]) & (m.table["particle"] == row["particle"])]["lobe_radius"]
        if relaxing[0] == 0:
            continue
        at = np.argwhere(m.labels(row["frame"]) == row["particle"] + 1)
        assert len(at) == pytest.approx(np.pi * row["diameter"] ** 2 / 4, rel=0.03)
        assert np.abs(at.mean(axis=0) - (row["y"], row["x"])).max() < 0.25
        checked += 1
    assert checked > 5


def test_nucleation_and_dissolution_are_told_on_their_frame() -> None:
    m = movie(150, (256, 256), particles=10, diameter=(8, 16), nucleate=0.2, dissolve=0.01, seed=6)
    for e in m.events:
        frames = m.table["frame"][m.table["particle"] == e["particle"]]
        if e["kind"] == "nucleation":
            assert frames.min() == e["frame"]
        else:
            assert frames.max() == e["frame"] - 1
    born = m.table["particle"][(m.table["frame"] > 0)]
    assert {*np.unique(born)} - {*m.table["particle"][m.table["frame"] == 0]} == {
        *m.events["particle"][m.events["kind"] == "nucleation"]
    }


def test_particles_grow_and_flow_as_told() -> None:
    m = movie(
        50, (128, 128), particles=4, diameter=(10, 12), grow=0.05, flow=(0.5, -0.25), drift_per_frame=(0, 0), jitter=0
    )
    path = m.table[m.table["particle"] == 0]
    np.testing.assert_allclose(np.diff(path["radius"]), 0.05)
    np.testing.assert_allclose(np.diff(path["y"]), 0.5)
    np.testing.assert_allclose(np.diff(path["x"]), -0.25)


@pytest.mark.parametrize(("exponent", "constant"), [(2.0, 1 / 2), (3.0, 4 / 9), (4.0, 27 / 64)])
def test_a_ripe_movie_coarsens_by_its_law_from_the_first_frame(exponent: float, constant: float) -> None:
    """R*^n grows by c K per frame, c = n (n-1)^(n-1) / n^n: 1/2 for Wagner's interfaces, 4/9 for LSW's diffusion."""
    k, life = {2.0: 0.12, 3.0: 1.0, 4.0: 8.0}[exponent], {"exponent": exponent, "ripe": True}
    m = movie(400, (1000, 1000), particles=1100, diameter=(4, 18), coarsen=k, drift_per_frame=(0, 0), jitter=0, **life)
    t, r = m.table["frame"], m.table["radius"]
    critical = np.bincount(t, r ** (4 - exponent)) / np.bincount(t, r ** (3 - exponent))
    rate = np.polyfit(np.arange(400), critical**exponent, 1)[0]
    assert rate == pytest.approx(constant * k, rel=0.08)
    np.testing.assert_allclose(volumes(m), volumes(m)[0], rtol=1e-6)
    half = critical[200] ** exponent - (critical[0] ** exponent + critical[399] ** exponent) / 2
    assert abs(half) < 0.05 * (critical[399] ** exponent - critical[0] ** exponent)  # straight: no run-in


def test_ripe_sizes_are_those_of_lifshitz_slyozov_and_wagner() -> None:
    u = np.sort(ripe(100_000, 3.0, 3.0, np.random.default_rng(0)))  # in units of R*
    assert u.max() <= 1.5
    assert u.mean() == pytest.approx(1.0, abs=2e-3)
    x = np.linspace(1e-6, 1.5 - 1e-6, 20_000)
    shape = x**2 * (3 / (3 + x)) ** (7 / 3) * (1.5 / (1.5 - x)) ** (11 / 3) * np.exp(-x / (1.5 - x))
    share = np.cumsum(shape) / shape.sum()
    assert np.abs(np.searchsorted(u, x) / len(u) - share).max() < 0.003
