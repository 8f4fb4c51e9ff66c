"""The drift of a whole series, block by block: better than causal, jumps and gaps between blocks, anchors."""

from __future__ import annotations

import numpy as np
import pytest

from emstream import align, simulate
from emstream.align import block
from emstream.align.block import Bench, Guess, alone, among
from emstream.align.exclude import frame_mask
from emstream.align.final import Link, agreed
from emstream.align.keyframe import Keyframe, link, load_keyframe
from emstream.align.stack import Sight, fine_grid, packed
from emstream.messages import Status

B, N = 16, 48


def blocks(frames: np.ndarray, bad: tuple[int, ...] = ()) -> tuple[list[Bench], list[Guess], list[Keyframe]]:
    benches, guesses, keys = [], [], []
    for start in range(0, len(frames), B):
        inside = [i - start for i in bad if start <= i < start + B]
        bench = Bench(frames[start : start + B], align.AlignOptions(), references={}, bad=inside)
        guess, (key,), _ = alone(bench)
        benches.append(bench)
        guesses.append(guess)
        keys.append(key)
    return benches, guesses, keys


def solved(benches: list[Bench], guesses: list[Guess], keys: list[Keyframe]) -> np.ndarray:
    """Places (n, 2) of all frames on the first block's canvas."""
    links = []
    for k in range(1, len(keys)):
        found = link(keys[k - 1], keys[k], guesses[k - 1].place[-1] - guesses[k].place[0], benches[0].grid)
        assert found is not None
        links.append(Link(k - 1, k, *found))
    offset, group = agreed(links, len(keys))
    assert not group.any()
    out = []
    for k, (bench, guess) in enumerate(zip(benches, guesses)):
        around = [[(keys[j], offset[j] - offset[k]) for j in range(len(keys)) if j != k]]
        before = guesses[k - 1].cut(slice(-8, None), offset[k - 1] - offset[k]).rows() if k else None
        sights = [bench.sight(i, None) for i in range(len(bench))]
        out.append(among(bench, sights, guess, around, before).place + offset[k])
    return np.concatenate(out)


def causal(movie: simulate.Movie) -> np.ndarray:
    state, found = align.start(movie.shape, movie.dtype), []
    for frame in movie:
        state, e = align.follow(state, frame)
        found.append(e.shift)
    return np.array(found)


def error(shifts: np.ndarray, truth: np.ndarray) -> float:
    off = (shifts - truth)[4:]
    return float(np.sqrt(((off - off.mean(0)) ** 2).sum(1).mean()))


def test_spectra_that_are_not_kept_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    movie = simulate.movie(B, (96, 128), dose=20, seed=3)
    frames, seen = np.stack(list(movie)), np.ones((96, 128), bool)
    seen[:, 40:60] = False
    found = []
    for kept in (0.0, 100.0):
        monkeypatch.setattr(block, "KEPT", kept)
        bench = Bench(frames, align.AlignOptions(), references={})
        sights = [bench.sight(i, seen) for i in range(B)]
        assert all(callable(s.spectrum) == (kept == 0) for s in sights if s is not None)
        guess, _, _ = alone(Bench(frames, align.AlignOptions(), references={}), lambda i: ~seen)
        found.append((guess, among(bench, sights, guess, [[]])))
    assert np.array_equal(found[0][0].measured, found[1][0].measured)
    assert np.array_equal(found[0][1].place, found[1][1].place)
    assert np.isfinite(found[0][0].measured).all()


def test_a_smoothed_mask_is_packed_without_loss() -> None:
    grid = fine_grid((75, 225), 0, np)
    holes = np.zeros(grid.frame, bool)
    holes[20:30, 100:140] = True
    mask = frame_mask(holes, np.zeros(2), 3.0, grid)
    assert mask is not None
    assert 0 < mask.mean() < 1
    window = Sight(np.empty(0), packed(mask, grid)).window(grid)
    assert np.allclose(window, grid.window * mask, atol=1e-6)


def test_a_series_that_is_whole_is_aligned_better_than_one_that_comes_frame_by_frame() -> None:
    squares = np.zeros(2)
    for seed in (11, 12):
        movie = simulate.movie(N, (256, 256), dose=4.0, seed=seed)
        shifts = solved(*blocks(movie.frames))
        squares += error(shifts, movie.shift) ** 2, error(causal(movie), movie.shift) ** 2
    assert squares[0] < 0.85**2 * squares[1]


@pytest.fixture(scope="module")
def jumping() -> simulate.Movie:
    """The stage jumps by 57 px just where a block ends."""
    return simulate.movie(N, (256, 256), dose=8.0, seed=5, jump=(2 * B, (45.6, -34.2)))


def test_a_jump_between_two_blocks_is_found_by_their_keyframes(jumping: simulate.Movie) -> None:
    assert error(solved(*blocks(jumping.frames)), jumping.shift) < 0.2


def test_a_frame_that_cannot_be_read_is_laid_on_the_path_and_left_out_of_the_keyframe(jumping: simulate.Movie) -> None:
    frames = jumping.frames[:B].copy()
    frames[5] = 0
    _, (guess,), (key,) = blocks(frames, bad=(5,))
    assert guess.status[5] == Status.REJECTED | Status.BLANK
    assert np.isnan(guess.measured[5]).all()
    assert key.canvas.count == B - 1
    assert np.abs(guess.place[5] - (guess.place[4] + guess.place[6]) / 2).max() < 1.5


def test_what_travels_comes_back_as_it_was(jumping: simulate.Movie) -> None:
    (bench, *_), (guess, *_), (key, other, _) = blocks(jumping.frames[:40])
    again = load_keyframe(key.dump())
    start = guess.place[-1]
    assert np.array_equal(link(again, other, start, bench.grid)[0], link(key, other, start, bench.grid)[0])  # type: ignore[index]
    assert np.array_equal(Guess.load(guess.dump()).place, guess.place)


def test_keyframes_that_nothing_links_are_groups_and_a_wrong_link_is_outvoted() -> None:
    true = np.cumsum(np.random.default_rng(1).normal(0, 3, (12, 2)), axis=0)
    noise = np.eye(2) * 1e-4
    pairs = [(k - lag, k) for k in range(12) for lag in (1, 2, 4) if k >= lag and (k < 9) == (k - lag < 9)]
    links = [Link(a, b, true[b] - true[a], noise) for a, b in pairs]
    wrong = links.index(next(k for k in links if (k.a, k.b) == (3, 4)))
    links[wrong] = Link(3, 4, true[4] - true[3] + 20, noise)
    place, group = agreed(links, 12)
    assert group.tolist() == [0] * 9 + [1] * 3
    assert np.abs(place[:9] - (true[:9] - true[0])).max() < 0.05
    assert np.abs(place[9:] - (true[9:] - true[9])).max() < 1e-3
