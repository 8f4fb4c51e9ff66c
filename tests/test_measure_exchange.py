"""The law of ripening from single paths, and what went by coalescence: against movies whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from emstream.measure import study_run
from emstream.measure.exchange import exchange, growth_paths, shares
from emstream.simulate import Movie, movie


def ripening(exponent: float, k: float, seed: int = 0) -> Movie:
    return movie(
        300, (512, 512), particles=200, diameter=(4, 22), coarsen=k, exponent=exponent, ripe=True, wander=0.3,
        coalesce=True, drift_per_frame=(0, 0), jitter=0, seed=seed,
    )  # fmt: skip


def sightings(m: Movie, noise: float) -> tuple[np.ndarray, ...]:
    """track, frame, time (10 frames a second), radius with noise, and the jumps."""
    t = m.tracks[m.tracks["inside"]]
    t = t[t["diameter"] > 3]
    radius = t["diameter"] / 2 + np.random.default_rng(1).normal(0, noise, len(t))
    jumps = m.events[m.events["kind"] == "coalescence"]
    return t["particle"], t["frame"], t["frame"] / 10.0, radius, np.column_stack((jumps["particle"], jumps["frame"]))


@pytest.mark.parametrize(("exponent", "k"), [(2.0, 0.25), (3.0, 2.5), (4.0, 25.0)])
def test_the_exponent_of_two_hundred_particles_comes_back_within_five_percent(exponent: float, k: float) -> None:
    found = exchange(*sightings(ripening(exponent, k), noise=0.2))
    assert found.exponent == pytest.approx(exponent, rel=0.05)
    assert abs(found.exponent - exponent) < 4 * found.exponent_error
    assert found.exponent_error < 0.1


def test_too_few_paths_tell_no_law() -> None:
    track, frame, time_s, radius, jumps = sightings(ripening(3.0, 2.5), 0.0)
    few = track < 2
    assert np.isnan(exchange(track[few], frame[few], time_s[few], radius[few], jumps).exponent)


def test_growth_against_size_is_that_of_a_planted_path() -> None:
    frame = np.tile(np.arange(40), 2)
    track = np.repeat([3, 8], 40)
    radius = np.where(track == 3, 5 + 0.02 * frame, 9 - 0.01 * frame)
    found = growth_paths(track, frame, frame / 10.0, radius, 20)
    assert found["track"].tolist() == [3, 3, 8, 8]
    assert found["growth"] == pytest.approx([0.2, 0.2, -0.1, -0.1])
    assert found["radius"] == pytest.approx([5.19, 5.59, 8.905, 8.705])


def test_ripening_and_coalescence_are_told_apart() -> None:
    """One particle takes another up (8 of 27 volumes), a third grows by as much from solution while a fourth shrinks."""
    frames = np.arange(30)
    path = {0: np.where(frames < 15, 3.0, 35 ** (1 / 3)), 1: np.where(frames < 15, 2.0, np.nan),
            2: np.linspace(3, 35 ** (1 / 3), 30), 3: np.linspace(3, 2, 30)}  # fmt: skip
    track, frame = np.repeat(list(path), 30), np.tile(frames, 4)
    radius = np.concatenate(list(path.values()))
    seen = np.isfinite(radius)
    events = {"kind": np.array(["coalescence"]), "track": np.array([0]), "other_track": np.array([1])}
    found = shares(track[seen], frame[seen], radius[seen], np.zeros(seen.sum(), bool), events)
    assert found.coalesced == pytest.approx(4 / 3 * np.pi * 8)
    assert found.ripened == pytest.approx(4 / 3 * np.pi * 8, rel=0.15)  # the ends are medians of five sightings
    assert found.coalesced_share == pytest.approx(0.5, abs=0.05)
    assert 0 < found.share_error < 0.5


def test_particles_that_are_drawn_too_small_are_not_fitted_and_still_feed_the_others() -> None:
    track, frame, time_s, radius, jumps = sightings(ripening(3.0, 2.5), noise=0.1)
    edge = float(np.percentile(radius, 20))
    drawn = np.where(radius < edge, edge * (np.maximum(radius, 0.1) / edge) ** 1.3, radius)  # seem to change faster
    wrong, right = (exchange(track, frame, time_s, drawn, jumps, smallest=least) for least in (0.0, edge))
    assert abs(wrong.exponent - 3) > 0.15
    assert abs(right.exponent - 3) < abs(wrong.exponent - 3) / 2
    assert right.steps < wrong.steps
    every = exchange(track, frame, time_s, drawn, jumps, smallest=1e6)  # none is as large: all are fitted
    assert every.exponent == wrong.exponent


def test_a_run_is_studied_from_its_tables_alone() -> None:
    m = ripening(3.0, 2.5)
    track, frame, time_s, radius, _ = sightings(m, 0.2)
    table = {
        "track": track,
        "frame": frame,
        "time_s": time_s,
        "diameter_nm": radius,
        "touches_border": np.zeros(len(track), bool),
    }
    events = {
        "kind": m.events["kind"],
        "track": m.events["particle"],
        "other_track": m.events["other"],
        "frame": m.events["frame"],
    }
    found = study_run(table, events)  # radius / 2, so that lengths are half as long
    assert found.paths.exponent == pytest.approx(3.0, rel=0.05)
    assert found.paths.rate == pytest.approx(25.0 / 8, rel=0.3)
    assert found.scatter == pytest.approx(0.1, rel=0.1)
    assert {"coarsening exponent, from single particles", "share of coalescence"} <= set(found.told())
