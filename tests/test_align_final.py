"""Final shifts: what later frames tell is used, a frame never sees itself, and nothing else is changed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from emstream import align, simulate
from emstream.align.final import Link, corrections, solve
from emstream.align.later import BLOCK, CONTEXT, Settling, finish, resume, settle, solve_series
from emstream.align.later import _gain_of as gain_of
from emstream.align.reference import admit, blank_canvas
from emstream.errors import BadSettings
from emstream.messages import Status

NOISE = 0.3  # px per axis


def planted(t: int = 120, seed: int = 0, shake: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True shifts (t, 2), what was measured of them, and its covariance."""
    r = np.random.default_rng(seed)
    path = np.cumsum(np.full((t, 2), (0.3, -0.2)) + np.cumsum(0.004 * r.standard_normal((t, 2)), axis=0), axis=0)
    truth = path + shake * r.standard_normal((t, 2))
    return truth, truth + NOISE * r.standard_normal((t, 2)), np.tile(NOISE**2 * np.eye(2), (t, 1, 1))


def laid(measured: np.ndarray, noise: np.ndarray, **more: object) -> np.ndarray:
    causal = np.where(np.isfinite(measured), measured, 0)
    return solve(measured, noise, causal=causal, jitter_px=0.2, drift_noise_px=0.02, **more).shift  # type: ignore[arg-type]


def rms(error: np.ndarray) -> float:
    """2-D, px."""
    return float(np.sqrt((error**2).sum(axis=1).mean()))


def relative(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Error, the mean of the settled frames removed."""
    error = found - truth
    return np.asarray(error - error[8:].mean(axis=0))


@pytest.mark.parametrize("seed", range(3))
def test_a_path_through_all_frames_has_a_third_of_the_noise(seed: int) -> None:
    truth, measured, noise = planted(seed=seed)
    assert rms(laid(measured, noise) - truth) < 0.45 * rms(measured - truth)


def test_vibration_that_is_stronger_than_the_noise_is_not_smoothed_away() -> None:
    truth, measured, noise = planted(shake=3.0)
    assert rms(laid(measured, noise) - truth) < 1.05 * rms(measured - truth)


def test_one_wild_frame_does_not_bend_the_path_of_its_neighbours() -> None:
    truth, measured, noise = planted()
    clean = laid(measured, noise)
    measured[60] += (9.0, 7.0)
    wild = laid(measured, noise)
    others = np.arange(120) != 60
    assert np.abs(wild - clean)[others].max() < 0.1
    assert rms(wild[others] - truth[others]) < 0.5 * rms(measured[others] - truth[others])


def test_frames_of_which_nothing_was_measured_lie_between_their_neighbours() -> None:
    truth, measured, noise = planted(shake=0.0)
    measured[50:54] = np.nan
    assert rms((laid(measured, noise) - truth)[50:54]) < NOISE


def test_a_jump_of_the_stage_stays_a_jump() -> None:
    truth, measured, noise = planted()
    truth[60:] += (40.0, -30.0)
    measured[60:] += (40.0, -30.0)
    error = laid(measured, noise, breaks=np.arange(120) == 60) - truth
    assert np.abs(error[50:70]).max() < 4 * NOISE
    assert rms(error) < 0.45 * rms(measured - truth)


def test_linked_keyframes_take_out_a_slow_error_though_a_link_is_wrong() -> None:
    r, n, frames = np.random.default_rng(1), 24, 8
    slow = np.cumsum(0.15 * r.standard_normal((n, 2)), axis=0)
    links = [
        Link(a, a + lag, slow[a] - slow[a + lag] + 0.03 * r.standard_normal(2), 0.03**2 * np.eye(2))
        for lag in (1, 2, 4, 8)
        for a in range(n - lag)
    ]
    links[40] = Link(links[40].a, links[40].b, links[40].shift + 5.0, links[40].noise)
    found = corrections(links, n, frames, n * frames, 0.1).reshape(n, frames, 2).mean(axis=1)
    rest = found + slow
    assert rms(slow - slow.mean(axis=0)) > 0.2
    assert rms(rest - rest.mean(axis=0)) < 1.5 * 0.03 * math.sqrt(2)  # of the links' own noise
    measured = np.repeat(slow, frames, axis=0)
    noise = np.tile(0.05**2 * np.eye(2), (len(measured), 1, 1))
    whole = laid(measured, noise, links=links, keyframe=frames, walk_px=0.1)
    assert rms(whole - whole.mean(axis=0)) < 1.5 * 0.03 * math.sqrt(2)


def test_shapes_that_do_not_fit_are_told() -> None:
    _, measured, noise = planted()
    with pytest.raises(BadSettings, match="needed"):
        solve(measured, noise[:5], causal=measured, jitter_px=0.1, drift_noise_px=0.1)


def test_what_a_frame_weighs_in_the_reference_is_known_also_after_forgetting() -> None:
    state = align.start((64, 64), np.uint16)
    canvas, memory = blank_canvas(state.grid), 5
    one = np.ones(state.grid.shape, np.float32)
    for _ in range(12):
        canvas = admit(canvas, (0, 0), one, one, state.grid, memory)
    for joined in (0, 4, 5, 11):
        before = [d.max() for d in _sums(joined, memory)]
        assert gain_of(joined, canvas, memory) == pytest.approx(before[0], rel=1e-5)


def _sums(joined: int, memory: int) -> list[np.ndarray]:
    """The weight of the frame that joined at that place, from a canvas with nothing else on it."""
    grid = align.start((64, 64), np.uint16).grid
    canvas = blank_canvas(grid)
    one = np.ones(grid.shape, np.float32)
    for i in range(12):
        canvas = admit(canvas, (0, 0), one, one * (i == joined), grid, memory)
    return [canvas.den[0] + canvas.den[1]]


def followed(movie: simulate.Movie, lag: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Causal and final shifts (t, 2), as live."""
    state, s = align.start(movie.shape, movie.dtype), Settling(lag)
    causal, final = [], {}
    for i, frame in enumerate(movie):
        state, e = align.follow(state, frame)
        causal.append(e.shift)
        s, done = settle(s, state, e, i)
        assert len(s.waiting) < lag + BLOCK
        assert len(s.past) <= CONTEXT
        assert all(w.seen is None for w in s.past)
        assert not {f.slot for f in done} & final.keys()  # once final, always final
        final |= {f.slot: f.shift for f in done}
    s, done = finish(s)
    final |= {f.slot: f.shift for f in done}
    assert sorted(final) == list(range(len(movie)))
    return np.array(causal), np.array([final[i] for i in sorted(final)])


def test_the_first_frames_of_a_low_dose_movie_are_laid_better_once_later_ones_were_seen() -> None:
    first, rest = np.zeros(2), np.zeros(2)
    for seed in range(31, 35):
        movie = simulate.movie(40, (256, 256), dose=2.0, seed=seed)
        errors = [relative(s, movie.shift) for s in followed(movie)]
        first += [rms(e[:8]) ** 2 for e in errors]
        rest += [rms(e[8:]) ** 2 for e in errors]
    assert first[1] < 0.8**2 * first[0]
    assert rest[1] < rest[0]


def test_blank_frames_lie_between_their_neighbours_once_these_were_seen() -> None:
    blank, error = [20, 21, 22, 23], np.zeros(2)
    for seed in (5, 6, 7):
        movie = simulate.movie(40, (256, 256), dose=4.0, blank=blank, seed=seed, jitter=0.05, drift_per_frame=(0.6, 0))
        error += [rms(relative(s, movie.shift)[blank]) ** 2 for s in followed(movie)]
    assert error[1] < 0.8**2 * error[0]


def test_a_series_without_structure_is_not_laid_by_its_own_noise() -> None:
    r = np.random.default_rng(3)
    state, s, moved = align.start((128, 128), np.uint16), Settling(8), []
    for i in range(40):
        state, e = align.follow(state, r.poisson(4.0, (128, 128)).astype(np.uint16))
        s, done = settle(s, state, e, i)
        moved += [math.hypot(*f.shift) for f in done]
    confident = [w for w in s.past if np.isfinite(w.noise).all()]
    assert len(confident) < 10  # a frame that found itself in the reference would be sure of where it was laid
    assert np.isfinite(moved).all()


def test_with_lag_nought_every_shift_is_final_as_it_was() -> None:
    causal, final = followed(simulate.movie(6, (128, 128), dose=20.0, seed=2), lag=0)
    np.testing.assert_array_equal(causal, final)


def test_a_series_solved_as_a_whole_keeps_the_causal_shifts_beside_it() -> None:
    movie = simulate.movie(40, (256, 256), dose=2.0, seed=33)
    causal, final, estimates = solve_series(iter(movie))
    np.testing.assert_array_equal(causal, [e.shift for e in estimates])
    error = [rms(relative(s, movie.shift)) for s in (causal, final)]
    assert error[1] < 0.9 * error[0]
    assert solve_series([])[0].shape == (0, 2)


def test_a_new_anchor_without_a_link_is_laid_on_its_own() -> None:
    one, other = (simulate.movie(24, (128, 128), dose=40.0, seed=s) for s in (7, 8))
    options = align.AlignOptions(give_up=3)
    causal, final, estimates = solve_series([*one, *other], options, lag=8)
    anchors = np.array([e.anchor for e in estimates])
    assert anchors.max() >= 1
    begun = int(np.flatnonzero(anchors)[0])
    assert Status(estimates[begun].status) & Status.LOST_LOCK
    assert np.abs(final[begun:] - causal[begun:]).max() < 0.5
    assert np.abs(final[:20] - one.shift[:20]).max() < 0.5


def test_frames_that_waited_when_the_run_was_left_become_final_all_the_same() -> None:
    movie = simulate.movie(48, (256, 256), dose=4.0, seed=9)
    _, whole = followed(movie)
    state, s, shifts = align.start(movie.shape, movie.dtype), Settling(16), []
    final = {}
    for i in range(30):
        state, e = align.follow(state, movie.frame(i))
        shifts.append(e)
        s, done = settle(s, state, e, i)
        final |= {f.slot: f.shift for f in done}
    first = max(final) + 1
    rows = [
        (i, movie.frame(i), shifts[i].shift, not Status(shifts[i].status) & Status.REJECTED) for i in range(first, 30)
    ]
    state = align.load(align.dump(state))
    s = resume(16, state, rows)
    for i in range(30, 48):
        state, e = align.follow(state, movie.frame(i))
        s, done = settle(s, state, e, i)
        final |= {f.slot: f.shift for f in done}
    s, done = finish(s)
    final |= {f.slot: f.shift for f in done}
    assert sorted(final) == list(range(48))
    again = np.array([final[i] for i in range(48)])
    np.testing.assert_array_equal(again[:first], whole[:first])
    assert rms(again - whole) < 0.1
    assert rms(relative(again, movie.shift)) < 1.1 * rms(relative(whole, movie.shift))
