"""Stretches of a run linked apart and joined: the same tracks and events as in one pass, wherever the run is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from emstream.measure import MeasureOptions, Relinked, link, now, particles, relink, rows, start_tracks
from emstream.measure.gaps import Joined, in_px, join, renamed
from emstream.measure.retrace import lives, retrace
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
        start=start, end=stop == len(images), **how,
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


def traced(
    images: list[np.ndarray], table: dict[str, np.ndarray], cuts: list[int]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Joined]:
    """Kinetics of the run and what its particles do, gone through in stretches."""
    spans = list(zip([0, *cuts], [*cuts, len(images)]))
    made = [stretch(images, table, a, b, warm_up(OPTIONS)) for a, b in spans]
    found, track = (
        join([m for m, _ in made], np.arange(len(images)), None, SIZE, OPTIONS),
        np.full(len(table["frame"]), -1),
    )
    for (m, given), names in zip(made, found.names):
        track[given[m.track >= 0]] = renamed(m.track[m.track >= 0], *names)
    rows_px, kinetics, gained = in_px(table, SIZE), [], 0.0
    does = {n: np.full(len(track), np.nan) for n in ("growth", "growth_error", "diameter_error")}
    for (start, stop), known in zip(spans, lives(found, [m for m, _ in made], spans, np.arange(len(images)), OPTIONS)):
        frames = np.arange(known["first"], stop)
        given = np.isin(table["frame"], frames)
        does_here, told, left = retrace(
            {n: v[given] for n, v in rows_px.items()}, track[given], known, frames, TIMES[frames], [(0, 160, 0, 160)] * len(frames),
            OPTIONS, start=start,
        )  # fmt: skip
        told["ripened"] += gained
        gained += left
        kinetics.append(told)
        mine = (table["frame"][given] >= start).nonzero()[0]
        for n, v in does_here.items():
            does[n][np.flatnonzero(given)[mine]] = v[mine]
    return {n: np.concatenate([k[n] for k in kinetics]) for n in kinetics[0]}, does, found


def test_kinetics_of_a_run_cut_anywhere_are_those_of_one_that_was_not_cut(
    images: list[np.ndarray], table: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "OPTIONS", MeasureOptions(rate_frames=8))  # else all begin with frame 0
    (whole, does, _), (cut, cut_does, _) = traced(images, table, []), traced(images, table, [41, 77, 112, 139])
    for name in whole:
        if "critical" not in name:  # the rates remember more than they were shown, a little
            assert cut[name] == pytest.approx(whole[name], rel=1e-9, abs=1e-9, nan_ok=True), name
    sure = whole["critical_radius_error"] < whole["critical_radius"]
    off = np.abs(cut["critical_radius"] - whole["critical_radius"]) / (
        whole["critical_radius_error"]
        + 0.02 * whole["critical_radius"]  # of three particles the line may fit as if exact
    )
    assert sure.sum() > N // 2
    assert np.nanquantile(off[sure], 0.95) < 0.5
    off = np.abs(cut_does["growth"] - does["growth"]) / does["growth_error"]
    assert np.nanquantile(off, 0.95) < 0.1
    assert whole["ripened"][-1] > 0


def test_kinetics_count_the_events_that_the_events_table_tells_and_the_volume_that_coalesced(
    images: list[np.ndarray], table: dict[str, np.ndarray]
) -> None:
    kinetics, _, found = traced(images, table, [77])
    for kind in ("nucleation", "dissolution", "coalescence", "split", "detachment"):
        at = np.sort(found.events["frame"][found.events["kind"] == kind])
        assert np.array_equal(kinetics[f"{kind}s"], np.searchsorted(at, np.arange(N), side="right")), kind
    gone = found.events["other_track"][found.events["kind"] == "coalescence"]
    radius = found.tracks["last_diameter_nm"][np.searchsorted(found.tracks["track"], gone)] / 2 / SIZE[0]
    assert kinetics["coalesced"][-1] == pytest.approx((4 / 3 * np.pi * radius**3).sum(), rel=0.1)


def test_kinetics_after_the_fact_are_those_that_live_tells() -> None:
    """The same crowd, by a segmentation that misses nobody."""
    scene = movie(
        80, (160, 160), particles=24, wander=0.8, coalesce=True, nucleate=0.1, grow=0.05, dissolve=0.004,
        drift_per_frame=(0, 0), jitter=0, seed=5,
    )  # fmt: skip
    images, state, told, growth, columns = [scene.labels(i) for i in range(80)], start_tracks(OPTIONS), [], [], []
    for i, labels in enumerate(images):
        columns.append(particles(labels) | {"frame": i, "time_s": TIMES[i], "track": -1})
        state, ids, _ = link(state, labels, columns[-1], i, TIMES[i])
        told.append(state.kinetics or {})
        growth.append(now(state, ids)["growth"])
    made = [rows("particles", c, SIZE) for c in columns]
    kinetics, does, _ = traced(images, {n: np.concatenate([m[n] for m in made]) for n in made[0]}, [])
    for name in ("covered", "count", "density", "mean_radius", "radius_q10", "thickness", "neighbour", "clustering"):
        assert kinetics[name] == pytest.approx([float(row[name]) for row in told], nan_ok=True, rel=1e-9), name
    live, later = np.concatenate(growth), does["growth"]
    assert np.isfinite(later).sum() >= 0.99 * np.isfinite(live).sum()
    assert np.mean((np.abs(later - live) < 1e-9)[np.isfinite(live)]) > 0.8  # but where a contact came to nothing
    last = {name: float(kinetics[name][-1]) for name in kinetics}
    for kind in ("nucleations", "coalescences", "dissolutions", "splits"):
        assert abs(last[kind] - told[-1][kind]) <= 1, kind  # what is believed only later counts already
    assert last["ripened"] == pytest.approx(told[-1]["ripened"], rel=0.1)
    assert last["coalesced"] == pytest.approx(told[-1]["coalesced"], rel=0.1)
