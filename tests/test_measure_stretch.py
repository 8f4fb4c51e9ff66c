"""Stretches of a run linked apart and joined: the same tracks and events as in one pass, wherever the run is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from emstream.measure import MeasureOptions, Relinked, particles, relink, rows
from emstream.measure.gaps import Joined, in_px, join, renamed
from emstream.measure.stretch import Stretch, carried, link_stretch, resumed, warm_up
from emstream.simulate import movie

N, SIZE, OPTIONS = 150, (0.5, 0.5), MeasureOptions()
TIMES = np.arange(N) / 2


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """A crowd that wanders, nucleates, grows, coalesces and dissolves, seen by a segmentation that misses one in thirty,
    and now and then all in a corner for longer than the linker remembers."""
    scene = movie(
        N, (160, 160), particles=24, wander=0.8, coalesce=True, nucleate=0.1, grow=0.05, dissolve=0.004,
        drift_per_frame=(0, 0), jitter=0, seed=5,
    )  # fmt: skip
    rng, found = np.random.default_rng(2), [scene.labels(i) for i in range(N)]
    for labels in found:
        labels[np.isin(labels, np.flatnonzero(rng.random(200) < 1 / 30))] = 0
    for i in (15, 38, 70, 95, 110):
        y, x = rng.integers(0, 80, 2)
        for labels in found[i : i + 7]:
            labels[np.isin(labels, labels[y : y + 80, x : x + 80])] = 0
    return found


@pytest.fixture(scope="module")
def table(images: list[np.ndarray]) -> dict[str, np.ndarray]:
    made = []
    for i, labels in enumerate(images):
        c = particles(labels)
        made.append(
            rows("particles", c | {"track": np.full(len(c["label"]), -1), "frame": i, "time_s": TIMES[i]}, SIZE)
        )
    return {name: np.concatenate([m[name] for m in made]) for name in made[0]}


@pytest.fixture(scope="module")
def at_once(images: list[np.ndarray], table: dict[str, np.ndarray]) -> Relinked:
    return relink(table, images.__getitem__, np.arange(N), TIMES, pixel_size_nm=SIZE)


def stretch(
    images: list[np.ndarray], table: dict[str, np.ndarray], start: int, stop: int, warm: int, **how: Any
) -> tuple[Stretch, np.ndarray]:
    """Frames start to stop, linked after a look at the `warm` ones before them; the rows of the table that are its own."""
    frames = np.arange(max(0, start - warm), stop)
    given = np.isin(table["frame"], frames)
    made = link_stretch(
        {n: v[given] for n, v in in_px(table, SIZE).items()}, images.__getitem__, frames, TIMES[frames], None, None, OPTIONS,
        start=start, end=stop == N, **how,
    )  # fmt: skip
    return made, np.flatnonzero(given)


def stitched(
    images: list[np.ndarray], table: dict[str, np.ndarray], cuts: list[int], warm: int
) -> tuple[np.ndarray, Joined, int]:
    """Tracks of all rows, the joined tables, and how many stretches had to be linked again."""
    ends = list(zip([0, *cuts], [*cuts, N]))
    made = [stretch(images, table, a, b, warm) for a, b in ends]
    again = 0
    for k in range(1, len(made)):
        memory = made[k - 1][0].after
        if carried(memory, made[k][0].before, OPTIONS) is None:
            again += 1
            made[k] = stretch(images, table, *ends[k], 0, state=resumed(memory, images.__getitem__, OPTIONS))
    found = join([m for m, _ in made], np.arange(N), None, SIZE, OPTIONS)
    track = np.full(len(table["frame"]), -1)
    for (m, given), names in zip(made, found.names):
        own = m.track >= 0
        track[given[own]] = renamed(m.track[own], *names)
    return track, found, again


def same(track: np.ndarray, found: Joined, at_once: Relinked) -> None:
    assert np.array_equal(track, at_once.track)
    assert found.closed == at_once.closed
    for name, value in at_once.events.items():
        assert np.array_equal(found.events[name], value), name
    for name, value in at_once.tracks.items():
        if value.dtype.kind == "f":
            assert found.tracks[name] == pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True), name
        else:
            assert np.array_equal(found.tracks[name], value), name


def test_cut_anywhere_and_joined_is_what_one_pass_finds(
    images: list[np.ndarray], table: dict[str, np.ndarray], at_once: Relinked
) -> None:
    assert {"nucleation", "coalescence", "dissolution"} <= set(at_once.events["kind"])
    assert at_once.closed > 3
    track, found, again = stitched(images, table, [41, 77, 112], warm_up(OPTIONS))
    assert again == 0  # the memories of both sides of every seam agreed
    same(track, found, at_once)


def test_where_the_memories_differ_it_is_seen_and_the_stretch_linked_again(
    images: list[np.ndarray], table: dict[str, np.ndarray], at_once: Relinked
) -> None:
    track, found, again = stitched(images, table, [20, 40, 43, 60, 99, 130], 3)  # too few frames to remember enough
    assert again > 2
    same(track, found, at_once)


def test_a_memory_that_is_wrong_in_one_number_does_not_pass(
    images: list[np.ndarray], table: dict[str, np.ndarray]
) -> None:
    left, right = stretch(images, table, 0, 50, 0)[0], stretch(images, table, 50, N, warm_up(OPTIONS))[0]
    names = carried(left.after, right.before, OPTIONS)
    assert names is not None
    assert set(left.after["tracks.track"]) <= set(names.values())
    for field in ("tracks.label", "tracks.y", "tracks.areas", "tracks.missed"):
        wrong = right.before | {field: right.before[field].copy()}
        wrong[field][0] += 1
        assert carried(left.after, wrong, OPTIONS) is None, field
