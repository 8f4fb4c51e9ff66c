"""Where not everything in view moves together the shift is flagged, and not called sure."""

from __future__ import annotations

import numpy as np
import pytest

from emstream import align, simulate
from emstream.messages import Status


def followed(movie: simulate.Movie) -> list[align.Estimate]:
    state = align.start(movie.shape, movie.dtype)
    found = []
    for frame in movie:
        state, estimate = align.follow(state, frame)
        found.append(estimate)
    return found


def flagged(found: list[align.Estimate]) -> list[int]:
    return [i for i, f in enumerate(found) if f.status & Status.SUSPECT]


def wrong_and_sure(found: list[align.Estimate], movie: simulate.Movie) -> int:
    off = np.hypot(*(np.array([f.shift for f in found]) - movie.shift).T)
    return int((off > 1)[np.array([f.confidence >= 0.9 for f in found])].sum())


@pytest.mark.parametrize("dose", [4.0, 20.0])
def test_particles_that_flow_together_over_a_still_film_are_told_from_drift(dose: float) -> None:
    movie = simulate.movie(32, dose=dose, flow=(0.5, 0.38), particles=30, seed=61)
    found = followed(movie)
    assert flagged(found)[0] < 20
    assert found[-1].confidence < 0.5
    assert wrong_and_sure(found, movie) == 0


def test_a_detector_pattern_that_holds_the_image_is_flagged() -> None:
    movie = simulate.movie(40, dose=4.0, gain_rms=0.1, seed=62)
    found = followed(movie)
    assert flagged(found)[0] <= 32
    assert found[-1].confidence < 0.5


@pytest.mark.parametrize(
    "scene", [{"dose": 20.0}, {"dose": 4.0}, {"dose": 1.0}, {"dose": 4.0, "gain_rms": 0.03}, {"dose": 4.0, "grow": 0.2}]
)
def test_what_moves_as_one_is_not_flagged(scene: dict[str, float]) -> None:
    movie = simulate.movie(40, seed=63, **scene)  # type: ignore[arg-type]
    assert flagged(followed(movie)) == []


def test_the_doubt_survives_a_restart() -> None:
    movie = simulate.movie(28, dose=4.0, flow=(0.5, 0.38), particles=30, seed=64)
    whole = followed(movie)
    state, found = align.start(movie.shape, movie.dtype), []
    for i, frame in enumerate(movie):
        if i % 5 == 4:
            state = align.load(align.dump(state))
        state, estimate = align.follow(state, frame)
        found.append(estimate)
    assert flagged(found) == flagged(whole) != []
