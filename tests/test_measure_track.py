"""Tracks and events of simulated movies with known truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from emstream.errors import BadImage, FrameOutOfRange
from emstream.measure import MeasureOptions, TrackState, dump, finish, link, load, particles, rows, start_tracks
from emstream.messages import Rect
from emstream.simulate import Movie, movie


def laid(movie: Movie, i: int) -> tuple[np.ndarray, Rect, tuple[float, float]]:
    """Frame i's true labels moved by the whole part of its shift, what it covers, and the rest of the shift."""
    shape, shift = movie.shape, movie.shift[i]
    whole = np.rint(shift).astype(int)
    out = np.zeros(shape, np.int32)
    y0, x0 = np.maximum(whole, 0)
    y1, x1 = np.minimum(np.array(shape) + whole, shape)
    if y1 > y0 and x1 > x0:
        out[y0:y1, x0:x1] = movie.labels(i)[y0 - whole[0] : y1 - whole[0], x0 - whole[1] : x1 - whole[1]]
    return out, (int(y0), int(y1), int(x0), int(x1)), (float(shift[0] - whole[0]), float(shift[1] - whole[1]))


def followed(
    movie: Movie, options: MeasureOptions | None = None, spoil: Callable[[int, np.ndarray], np.ndarray] | None = None
) -> Iterator[tuple[int, dict[str, np.ndarray], np.ndarray, list[dict[str, Any]], Any]]:
    """(frame, columns, tracks, events, state) of each frame of a movie, from its true labels."""
    state = start_tracks(options)
    for i in range(len(movie)):
        labels, valid, rest = laid(movie, i)
        if spoil is not None:
            labels = spoil(i, labels)
        columns = particles(labels, valid=valid, shift_rest=rest)
        state, ids, events = link(state, labels, columns, i, float(movie.time_s[i]), valid=valid)
        yield i, columns, ids, events, state


def identity_switches(names: list[np.ndarray], ids: list[np.ndarray]) -> tuple[int, int]:
    """(how often a true particle's track changed, sightings): the identity part of MOTA (Bernardin 2008)."""
    last: dict[int, int] = {}
    switches = sightings = 0
    for name, track in zip(names, ids):
        for n, t in zip(name.tolist(), track.tolist()):
            sightings += 1
            switches += last.get(n, t) != t
            last[n] = t
    return switches, sightings


def f1(result: dict[str, Any], kind: str) -> tuple[float, float, float]:
    """(F1, precision, recall): what was told against all that happened, what could be seen against what was told."""
    told, happened, visible = result["found"][kind], result["all"][kind], result["true"][kind]
    precision = sum(any(same(t, e) for e in happened) for t in told) / max(len(told), 1)
    recall = sum(any(same(t, e) for t in told) for e in visible) / max(len(visible), 1)
    return 2 * precision * recall / max(precision + recall, 1e-12), precision, recall


def agreement(scene: Movie, spoil: Callable[[int, np.ndarray], np.ndarray] | None = None) -> dict[str, Any]:
    """Identity score, and the events found and true as {kind: {(frame, particle, other)}}; particles by their truth."""
    names, ids, found, who = [], [], [], {}  # type: ignore[var-annotated]
    seen: dict[int, list[int]] = {}
    whole: dict[tuple[int, int], bool] = {}
    for i, columns, tracks, events, _ in followed(scene, spoil=spoil):
        particle = columns["label"] - 1
        names.append(particle)
        ids.append(tracks)
        found += events
        for p, t, cut in zip(particle.tolist(), tracks.tolist(), columns["touches_border"].tolist()):
            seen.setdefault(p, []).append(i)
            whole[p, i] = not cut
            who.setdefault(t, Counter())[p] += 1
    switches, sightings = identity_switches(names, ids)
    owner = {t: count.most_common(1)[0][0] for t, count in who.items()} | {-1: -1}
    true: dict[str, set[Any]] = {"nucleation": set(), "dissolution": set(), "coalescence": set()}
    happened: dict[str, set[Any]] = {kind: set() for kind in true}
    for e in scene.events.tolist():
        frame, kind, particle, other = e[:4]
        happened[kind].add((frame, particle, other))
        shown = seen.get(particle, [])
        if kind == "nucleation":
            visible = bool(shown) and shown[0] == frame and len(shown) >= 3
        elif kind == "dissolution":
            visible = bool(shown) and shown[-1] == frame - 1 and len(shown) >= 3 and whole[particle, frame - 1]
        else:
            partner = seen.get(other, [])
            visible = bool(partner) and partner[-1] == frame - 1 and len(partner) >= 3 and whole[other, frame - 1]
            visible = visible and particle in seen and frame in shown and whole[particle, frame]
        if visible and frame < len(scene) - 4:
            true[kind].add((frame, particle, other))
    told = {
        kind: {_named(e, owner) for e in found if e["kind"] == kind} for kind in {e["kind"] for e in found} | set(true)
    }
    return {"score": 1 - switches / sightings, "found": told, "true": true, "all": happened, "sightings": sightings}


def _named(event: dict[str, Any], owner: dict[int, int]) -> tuple[int, int, int]:
    return event["frame"], owner[event["track"]], owner[event["other_track"]]


def same(a: tuple[int, int, int], b: tuple[int, int, int]) -> bool:
    return abs(a[0] - b[0]) <= 2 and {a[1], a[2]} == {b[1], b[2]}


@pytest.fixture(scope="module")
def coarsening() -> dict[str, Any]:
    """Drifting, wandering particles that exchange material, touch, nucleate and dissolve."""
    return agreement(
        movie(120, particles=110, diameter=(8, 30), coarsen=2.0, wander=0.8, coalesce=True, nucleate=0.2, seed=3)
    )


def test_particles_of_a_coarsening_movie_keep_their_track(coarsening: dict[str, Any]) -> None:
    assert coarsening["sightings"] > 5000
    assert coarsening["score"] >= 0.99


def test_tracks_survive_a_segmentation_that_misses_one_particle_in_twenty() -> None:
    rng = np.random.default_rng(0)

    def spoil(_: int, labels: np.ndarray) -> np.ndarray:
        missed = rng.random(int(labels.max()) + 1) < 0.05
        missed[0] = False
        return np.where(missed[labels], 0, labels)

    assert agreement(movie(80, particles=110, diameter=(8, 30), wander=0.8, seed=4), spoil)["score"] >= 0.99


def test_coalescences_are_found_where_they_were_planted() -> None:
    scene = movie(150, particles=170, diameter=(8, 30), wander=1.0, coalesce=True, drift_per_frame=(0.4, -0.7), seed=1)
    result = agreement(scene)
    score, precision, recall = f1(result, "coalescence")
    assert len(result["true"]["coalescence"]) >= 20
    assert score >= 0.9, (score, precision, recall)
    assert not result["found"]["nucleation"]
    assert not result["found"]["dissolution"]


def test_births_and_deaths_are_found_where_they_were_planted() -> None:
    scene = movie(120, particles=60, diameter=(10, 30), nucleate=0.4, dissolve=0.004, seed=2)
    result = agreement(scene)
    for kind in ("nucleation", "dissolution"):
        score, precision, recall = f1(result, kind)
        assert len(result["true"][kind]) >= 15, kind
        assert score >= 0.9, (kind, score, precision, recall)
    assert not result["found"]["coalescence"]
    assert len(result["found"].get("detachment", ())) == 0


def test_particles_that_drift_in_and_out_are_neither_born_nor_dead() -> None:
    scene = movie(80, particles=60, drift_per_frame=(2.5, -3.0), jitter=0.5, seed=5)
    told = [e for *_, events, _ in followed(scene) for e in events]
    assert told == []


def square(*places: tuple[int, int, int, int]) -> np.ndarray:
    labels = np.zeros((96, 96), np.int32)
    for name, (y, x, height, width) in enumerate(places, 1):
        labels[y : y + height, x : x + width] = name
    return labels


def play(
    images: list[np.ndarray], options: MeasureOptions | None = None
) -> tuple[list[list[int]], list[Any], TrackState]:
    state, all_ids, all_events = start_tracks(options), [], []
    for i, labels in enumerate(images):
        state, ids, events = link(state, labels, particles(labels), i, i * 0.5)
        all_ids.append(ids.tolist())
        all_events += events
    return all_ids, all_events, state


def test_a_split_is_told_once_both_halves_have_lasted() -> None:
    one, two = square((40, 30, 12, 30)), square((40, 30, 12, 17), (40, 48, 12, 12))
    ids, events, _ = play([one] * 4 + [two] * 5)
    assert ids[-1] == [0, 1]
    assert [(e["kind"], e["frame"], e["time_s"], e["track"], e["other_track"]) for e in events] == [
        ("split", 4, 2.0, 0, 1)
    ]
    assert (events[0]["y"], events[0]["x"]) == (45.5, 53.5)


def test_touching_for_one_frame_is_no_coalescence_and_both_keep_their_track() -> None:
    apart, touching = square((40, 30, 12, 17), (40, 48, 12, 12)), square((40, 30, 12, 30))
    ids, events, _ = play([apart] * 4 + [touching] + [apart] * 6)
    assert ids[-1] == ids[0] == [0, 1]
    assert events == []


def test_touching_for_many_frames_is_no_coalescence_while_the_pair_stays_long() -> None:
    apart, touching = square((40, 30, 12, 17), (40, 48, 12, 12)), square((40, 30, 12, 30))
    ids, events, _ = play([apart] * 4 + [touching] * 12 + [apart] * 6)
    assert ids[-1] == ids[0] == [0, 1]
    assert events == []


def test_a_pair_that_becomes_round_is_one_at_once_and_one_that_stays_long_in_the_end() -> None:
    apart, touching, round_ = (
        square((40, 30, 12, 17), (40, 48, 12, 12)),
        square((40, 30, 12, 30)),
        square((37, 36, 18, 18)),
    )
    for images in ([apart] * 4 + [touching] * 2 + [round_] * 4, [apart] * 4 + [touching] * 21):
        _, events, _ = play(images)
        assert [(e["kind"], e["frame"], e["track"], e["other_track"]) for e in events] == [("coalescence", 4, 0, 1)]


def test_a_particle_overrun_without_gain_of_volume_is_no_coalescence() -> None:
    both, gone = square((40, 20, 20, 20), (45, 42, 14, 14)), square((40, 23, 20, 20))
    _, events, _ = play([both] * 5 + [gone] * 8)
    assert [e["kind"] for e in events] == ["detachment"]


def test_a_fast_particle_is_followed_without_overlap_and_the_size_decides() -> None:
    before = square((30, 30, 4, 4), (30, 40, 9, 9))
    after = square((30, 44, 9, 9), (31, 34, 4, 4))
    ids, _, _ = play([before, after], MeasureOptions(search_px=8.0))
    assert ids == [[0, 1], [1, 0]]


def test_a_lost_lock_ends_all_tracks_without_events() -> None:
    labels = square((30, 30, 12, 12), (60, 60, 10, 10))
    _, _, state = play([labels] * 5)
    state, ids, events = link(state, labels, particles(labels), 5, 2.5, anchor=1)
    assert ids.tolist() == [2, 3]
    assert events == []
    assert state.finished is not None
    assert state.finished["ended"].tolist() == ["lost", "lost"]


def test_a_replay_from_a_dumped_state_goes_on_as_if_nothing_had_happened() -> None:
    scene = movie(60, shape=(256, 256), particles=40, wander=1.0, coalesce=True, nucleate=0.2, seed=6)

    def run(stop_at: int | None) -> tuple[list[list[int]], list[dict[str, Any]], dict[str, np.ndarray]]:
        state, ids, events = start_tracks(), [], []
        for i in range(len(scene)):
            labels, valid, rest = laid(scene, i)
            state, tracks, told = link(state, labels, particles(labels, shift_rest=rest), i, i * 0.1, valid=valid)
            ids.append(tracks.tolist())
            events += told
            if i == stop_at:
                state = load({name: a.copy() for name, a in dump(state).items()})
        return ids, events, finish(state)

    straight, resumed = run(None), run(31)
    assert resumed[:2] == straight[:2]
    for name, column in straight[2].items():
        assert np.array_equal(column, resumed[2][name], equal_nan=column.dtype.kind == "f"), name


def test_every_track_leaves_one_row_and_memory_stays_bounded() -> None:
    scene = movie(100, shape=(256, 256), particles=30, nucleate=1.0, dissolve=0.05, diameter=(8, 20), seed=7)
    done, most, state = [], 0, start_tracks()
    for *_, state in followed(scene):
        assert state.finished is not None
        done += state.finished["track"].tolist()
        most = max(most, len(state.tracks))
    done += finish(state)["track"].tolist()
    assert sorted(done) == list(range(state.next_track))
    assert most < state.next_track / 2


def test_the_tracks_table_tells_how_fast_the_radius_grows() -> None:
    yy, xx = np.indices((128, 128))
    images = [(np.hypot(yy - 64, xx - 64) < 12 + 0.4 * i).astype(np.int32) for i in range(60)]
    _, _, state = play(images)
    table = rows("tracks", finish(state), (0.5, 0.5))
    assert table["growth_nm_per_s"][0] == pytest.approx(0.4 * 0.5 / 0.5, rel=0.01)
    assert 0 < table["growth_error_nm_per_s"][0] < 0.01
    assert (table["began"][0], table["ended"][0], table["frames"][0]) == ("start", "end", 60)


def test_frames_must_rise_and_the_canvas_must_stay() -> None:
    labels = square((30, 30, 12, 12))
    _, _, state = play([labels] * 2)
    with pytest.raises(FrameOutOfRange, match="frame 1 cannot be linked after frame 1"):
        link(state, labels, particles(labels), 1, 0.0)
    small = labels[:64]
    with pytest.raises(BadImage, match="frame 2"):
        link(state, small, particles(small), 2, 0.0)


def test_empty_frames_are_bridged() -> None:
    labels, nothing = square((30, 30, 12, 12), (60, 60, 10, 10)), np.zeros((96, 96), np.int32)
    ids, events, _ = play([nothing, labels, labels, labels, nothing, nothing, labels])
    assert ids[-1] == ids[1]
    assert {e["kind"] for e in events} <= {"nucleation"}
