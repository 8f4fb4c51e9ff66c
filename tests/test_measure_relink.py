"""A whole run linked anew: what the causal linker had to leave apart is joined, and a peer sees it alike."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from emstream.errors import BadImage
from emstream.measure import Relinked, particles, relink, rows
from emstream.simulate import movie

SIZE = (0.5, 0.5)


def table_of(images: list[np.ndarray], size: tuple[float, float] | None = SIZE) -> dict[str, np.ndarray]:
    """The particle table of label images, 2 frames a second, without tracks."""
    made = [
        rows("particles", {**(c := particles(labels)), "track": np.full(len(c["label"]), -1), "frame": i, "time_s": i / 2}, size)
        for i, labels in enumerate(images)
    ]  # fmt: skip
    return {name: np.concatenate([m[name] for m in made]) for name in made[0]}


def linked(images: list[np.ndarray], **more: Any) -> Relinked:
    n = len(images)
    return relink(table_of(images), images.__getitem__, np.arange(n), np.arange(n) / 2, pixel_size_nm=SIZE, **more)


def squares(*places: tuple[int, int, int, int]) -> np.ndarray:
    labels = np.zeros((96, 96), np.int32)
    for name, (y, x, height, width) in enumerate(places, 1):
        labels[y : y + height, x : x + width] = name
    return labels


def kinds(found: Relinked) -> list[str]:
    return list(found.events["kind"])


def test_a_particle_out_of_sight_for_longer_than_the_memory_keeps_its_track() -> None:
    both, one = squares((40, 30, 12, 12), (70, 60, 10, 10)), squares((40, 30, 12, 12))
    found = linked([both] * 6 + [one] * 8 + [both] * 8)
    assert found.closed == 1
    assert found.tracks["track"].tolist() == [0, 1]
    assert found.tracks["frames"].tolist() == [22, 14]
    assert found.tracks["last_frame"].tolist() == [21, 21]
    assert found.tracks["ended"].tolist() == ["end", "end"]
    assert kinds(found) == []


def test_particles_that_touched_for_a_while_did_not_coalesce() -> None:
    apart, touching = squares((40, 30, 12, 17), (40, 48, 12, 12)), squares((40, 30, 12, 30))
    found = linked([apart] * 6 + [touching] * 8 + [apart] * 8)
    assert found.track.tolist() == [0, 1] * 6 + [0] * 8 + [0, 1] * 8
    assert kinds(found) == []


def test_what_never_parts_again_coalesced() -> None:
    apart, touching = squares((40, 30, 12, 17), (40, 48, 12, 12)), squares((40, 30, 12, 30))
    found = linked([apart] * 6 + [touching] * 26)
    assert (kinds(found), found.events["frame"].tolist()) == (["coalescence"], [6])
    assert found.events["x_nm"][0] == pytest.approx(44.5 * 0.5)
    assert found.tracks["other_track"].tolist() == [-1, 0]


def test_a_nucleus_that_flickers_at_first_is_born_when_it_was_first_seen() -> None:
    nothing, there = squares((40, 30, 12, 12)), squares((40, 30, 12, 12), (70, 60, 8, 8))
    found = linked([nothing] * 5 + [there] * 2 + [nothing] * 6 + [there] * 10)
    assert (kinds(found), found.events["frame"].tolist()) == (["nucleation"], [5])
    assert found.tracks["began"].tolist() == ["start", "nucleation"]
    assert found.tracks["frames"].tolist() == [23, 12]


def test_nothing_is_joined_across_a_lost_lock() -> None:
    labels = squares((40, 30, 12, 12))
    found = linked([labels] * 12, anchor=np.repeat([0, 1], 6))
    assert found.closed == 0
    assert found.tracks["ended"].tolist() == ["lost", "end"]


def test_rows_in_any_order_get_the_same_tracks_and_pixels_do_as_well_as_nanometres() -> None:
    scene = movie(30, (256, 256), particles=30, wander=1.0, coalesce=True, drift_per_frame=(0, 0), jitter=0, seed=6)
    images = [scene.labels(i) for i in range(30)]
    found, table = linked(images), table_of(images, None)
    turned = np.random.default_rng(0).permutation(len(table["frame"]))
    again = relink({n: v[turned] for n, v in table.items()}, images.__getitem__, np.arange(30), np.arange(30) / 2)
    assert np.array_equal(again.track, found.track[turned])
    assert again.tracks["growth_px_per_s"] == pytest.approx(found.tracks["growth_nm_per_s"] / 0.5, nan_ok=True)


def test_a_table_in_the_wrong_unit_is_named() -> None:
    images = [squares((40, 30, 12, 12))]
    with pytest.raises(BadImage, match="without y_px"):
        relink(table_of(images), images.__getitem__, [0], np.zeros(1))


def test_laptrack_links_a_moving_crowd_alike() -> None:
    """A second opinion: the peer sees centroids alone, so it is given a movie in which nobody touches."""
    peer = pytest.importorskip("laptrack")
    pandas = pytest.importorskip("pandas")
    scene = movie(25, (384, 384), particles=45, diameter=(10, 20), wander=0.7, drift_per_frame=(0, 0), jitter=0, seed=8)
    images = [scene.labels(i) for i in range(len(scene))]
    rng = np.random.default_rng(1)
    for labels in images:  # a segmentation that misses one in twenty
        labels[np.isin(labels, np.flatnonzero(rng.random(60) < 0.05))] = 0
    table = table_of(images, None)
    found = relink(table, images.__getitem__, np.arange(25), np.arange(25) / 2)
    spots = pandas.DataFrame({n: table[n] for n in ("frame", "y_px", "x_px")})
    lap = peer.LapTrack(
        cutoff=8.0**2, gap_closing_cutoff=10.0**2, gap_closing_max_frame_count=3, splitting_cutoff=False
    )
    theirs = lap.predict_dataframe(spots, ["y_px", "x_px"], frame_col="frame", only_coordinate_cols=False)[0]
    ours, lap = found.track.tolist(), theirs["track_id"].tolist()
    pairs = Counter(zip(ours, lap))
    agreed = sum(max(n for (a, _), n in pairs.items() if a == track) for track in set(ours))
    assert agreed / len(ours) >= 0.95  # the peer breaks some tracks at gaps ...
    assert len({theirs for _, theirs in pairs}) == len(pairs)  # ... and joins nobody whom we keep apart
    assert len(set(zip(ours, table["label"].tolist()))) == len(set(ours)) == len(set(table["label"].tolist()))


@pytest.mark.parametrize("size", [SIZE, None])
@pytest.mark.parametrize("frames", [0, 4])
def test_a_run_in_which_nothing_was_found_has_empty_tables(size: Any, frames: int) -> None:
    nothing = table_of([squares()] * 4, size)
    found = relink(nothing, lambda frame: squares(), np.arange(frames), np.arange(frames) / 2, pixel_size_nm=size)
    assert (len(found.track), len(found.tracks["track"]), kinds(found), found.closed) == (0, 0, [], 0)
    assert found.tracks.keys() == linked([squares((40, 30, 12, 12))] * 4).tracks.keys() or size is None
