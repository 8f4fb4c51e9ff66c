"""Frames of few electrons are segmented together with those before them: how many, which, and always the same."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest
from device_stand_in import device  # noqa: F401
from test_pipeline import Rig

from emstream import align, simulate
from emstream.config import load
from emstream.jobs import job as sizes
from emstream.jobs.reprocess import reprocess
from emstream.messages import Aligned, Frame, Origin, Status
from emstream.metrics import Metrics
from emstream.pipeline import lane, make_steps, through
from emstream.segment.average import Seen, added, reach, together
from emstream.store import Run

SHAPE = (512, 512)
RNG = np.random.default_rng(7)


def seen(i: int, pixels: np.ndarray, valid: tuple[int, int, int, int] | None = None, **told: int) -> Seen:
    """Frame i of a series, 10 a second."""
    frame = Frame("cam", Origin("", i, 0, 0, 0), pixels, 0.1 * i)
    whole = (0, pixels.shape[0], 0, pixels.shape[1])
    return Seen(
        Aligned(frame, pixels, (0.0, 0.0), 1.0, told.get("anchor", 0), told.get("status", 1), valid or whole), pixels
    )


def noise(dose: float, n: int = 6) -> list[Seen]:
    return [seen(i, RNG.poisson(dose, SHAPE).astype(np.uint16)) for i in range(n)]


def aligned(movie: simulate.Movie, n: int) -> list[Seen]:
    """The first frames of a movie where they truly lie."""
    found = []
    for i in range(n):
        shift = (float(movie.shift[i, 0]), float(movie.shift[i, 1]))
        moved, valid = align.move(movie.frame(i), shift)
        found.append(seen(i, moved, valid))
    return found


def test_frames_that_were_compared_are_let_go() -> None:
    frames = [seen(i, RNG.poisson(5, SHAPE).astype(np.uint8)) for i in range(4)]
    first = ref(frames[0])
    for older, newer in itertools.pairwise(frames):
        assert newer.dose(older) == newer.dose(older) == pytest.approx(5, rel=0.3)
    del older, newer, frames[0]
    assert first() is None


@pytest.mark.parametrize(("dose", "gain"), [(1, 1), (4, 1), (4, 57), (20, 1)])
def test_the_dose_is_measured_within_a_tenth_whatever_a_camera_counts_for_an_electron(dose: float, gain: int) -> None:
    frames = noise(dose)
    frames = [seen(i, s.pixels * np.uint16(gain)) for i, s in enumerate(frames)]
    found = np.median([b.dose(a) for a, b in itertools.pairwise(frames)])
    assert found == pytest.approx(dose, rel=0.1)


@pytest.mark.parametrize(("dose", "n"), [(1, 6), (4, 5), (10, 2), (40, 1)])
def test_so_many_frames_are_added_that_twenty_electrons_a_pixel_come_together(dose: float, n: int) -> None:
    assert len(together(noise(dose), 0)) == n


def test_what_a_larger_frame_is_reduced_by_counts_as_well() -> None:
    assert len(together(noise(1.6), 0, long_side_px=256)) == 3
    assert len(together(noise(8), 0, long_side_px=256)) == 1


def test_fewer_frames_are_added_where_the_particles_run() -> None:
    def scene(wander: float) -> list[Seen]:
        movie = simulate.movie(
            8, SHAPE, dose=4, particles=120, diameter=(10, 24), contrast=(0.3, 0.6), wander=wander, seed=2
        )
        return aligned(movie, 8)[-6:]

    assert len(together(scene(0.3), 0)) >= 5
    assert len(together(scene(8.0), 0)) == 1


def test_a_brighter_or_darker_beam_is_no_other_scene() -> None:
    frames = [seen(i, RNG.poisson(4 * (1 + 0.1 * (i % 2)), SHAPE).astype(np.uint16)) for i in range(6)]
    assert len(together(frames, 0)) == 5


@pytest.mark.parametrize("spoiled", [Status.BLANK, Status.REJECTED, Status.LATE])
def test_frames_that_are_not_found_are_left_out_and_looked_at_alone(spoiled: Status) -> None:
    frames = noise(4)
    frames[3] = seen(3, frames[3].pixels, status=int(spoiled))
    assert [s.aligned.frame.origin.sub for s in together(frames, 4)] == [1, 2, 4, 5]
    assert [s.aligned.frame.origin.sub for s in together(frames[:4], 4)] == [3]


def test_nothing_is_added_across_a_jump_a_new_anchor_or_a_pause() -> None:
    frames = noise(4)
    jump = [*frames[:3], seen(3, frames[3].pixels, status=int(Status.ALIGNED | Status.JUMP)), *frames[4:]]
    assert len(together(jump, 6)) == 3
    anchors = [seen(i, s.pixels, anchor=int(i > 1)) for i, s in enumerate(frames)]
    assert len(together(anchors, 6)) == 4
    late = [replace(s.aligned, frame=replace(s.aligned.frame, time_s=s.aligned.frame.time_s + 60)) for s in frames[4:]]
    assert len(together([*frames[:4], *(Seen(a, a.pixels) for a in late)], 6)) == 2


def test_a_pixel_counts_the_same_however_many_frames_cover_it() -> None:
    rects = [(0, 60, 10, 64), (5, 64, 0, 64), (0, 64, 0, 50), (4, 64, 0, 64)]
    frames = []
    for i, (y0, y1, x0, x1) in enumerate(rects):
        pixels = np.zeros((64, 64), np.uint16)
        pixels[y0:y1, x0:x1] = 30
        frames.append(seen(i, pixels, (y0, y1, x0, x1)))
    total = added(frames)
    assert total.dtype == np.uint16
    assert np.array_equal(total, np.where(np.arange(64)[:, None] >= 4, 120, 0) * np.ones((1, 64), int))


def test_sums_that_sixteen_bits_do_not_hold_are_kept_in_floats() -> None:
    frames = [seen(i, np.full((16, 16), 30_000, np.uint16)) for i in range(3)]
    assert (added(frames) == 90_000).all()
    assert (added(frames[:2]) == 60_000).all()
    assert added(frames[:1]) is frames[0].pixels


def test_the_same_frames_are_added_on_a_device(device: Any) -> None:  # noqa: F811
    host = [seen(i, s.pixels, (i, 512, 0, 512 - 3 * i)) for i, s in enumerate(noise(4))]
    there = [Seen(s.aligned, device.asarray(s.pixels)) for s in host]
    assert len(together(there, 0)) == len(together(host, 0)) == 5
    total = added(there[-5:])
    assert not isinstance(total, np.ndarray)
    assert np.array_equal(total.get(), added(host[-5:]))


def test_no_frame_is_asked_for_that_is_not_needed() -> None:
    assert (reach(1), reach(2), reach(0), reach(9)) == (0, 5, 5, 8)


# ---- live, after a kill, over an archive --------------------------------------------------------------------------

N, BLOCK = 32, 16


@pytest.fixture(scope="module")
def movie() -> simulate.Movie:
    return simulate.movie(
        N, (160, 128), particles=6, diameter=(14, 26), contrast=(0.3, 0.4), dose=20, seed=4, pixel_size_nm=(0.5, 0.5)
    )


def frames_of(movie: simulate.Movie, start: int = 0, stop: int = N) -> list[Frame]:
    return [
        Frame("cam", Origin(f"cam/{i}.tif", 0, 1, 1 + i, 100 + i), movie.frame(i), 100 + 0.1 * i, (0.5, 0.5))
        for i in range(start, stop)
    ]


def rig(out: Path) -> Rig:
    made = Rig(out)
    made.steps = replace(made.steps, average=4)
    return made


def test_labels_do_not_depend_on_how_far_the_branch_lags_or_on_what_is_in_memory(
    movie: simulate.Movie, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = rig(tmp_path / "slow"), rig(tmp_path / "fast")
    slow.steps, fast.steps = (replace(r.steps, align=replace(r.steps.align, enabled=False)) for r in (slow, fast))
    slow.process(frames_of(movie), one_by_one=True)
    monkeypatch.setattr(lane, "MEMORY", 3 * 160 * 128 * 2)
    fast.process(frames_of(movie), batch=20)
    first, second = (Run(tmp_path / name / "cam.zarr").labels.compute() for name in ("slow", "fast"))
    assert first.any()
    assert np.array_equal(first, second)


def test_a_run_that_was_killed_goes_on_with_the_frames_before(movie: simulate.Movie, tmp_path: Path) -> None:
    rig(tmp_path / "cut").process(frames_of(movie, 0, 17), die=True)
    rig(tmp_path / "cut").process(frames_of(movie, 17), one_by_one=True)
    cut = Run(tmp_path / "cut" / "cam.zarr")
    expected = rig(tmp_path / "again")  # the same frames where they were laid
    steps, frames = expected.steps, []
    from emstream.pipeline import steps as step

    for i in range(N):
        shift = tuple(float(v) for v in cut.column("shift")[i])
        pixels = cut.frame(i)
        frame = Frame("cam", Origin("", i, 0, 0, 0), pixels, float(cut.column("time_s")[i]))
        told = {name: int(cut.column(name)[i]) for name in ("anchor", "status")}
        frames.append(
            Seen(Aligned(frame, pixels, shift, 1.0, valid=align.covered(pixels.shape, shift), **told), pixels)
        )
        labels = step.look(steps, step.looked_at(steps, frames[-6:]))().labels
        assert np.array_equal(cut.label(i), labels), i


@pytest.mark.parametrize("how", ["keep", "again"])
def test_an_archives_labels_do_not_depend_on_where_its_blocks_end(
    how: str, movie: simulate.Movie, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load(env={}, sets=["store.fsync=false", "segment.model=classical", "segment.settle_frames=0"])
    settings = replace(settings, segment=replace(settings.segment, average_frames=4))
    steps = replace(make_steps(settings), segmenter=Rig(tmp_path).steps.segmenter)
    monkeypatch.setattr("emstream.jobs.block.steps_of", lambda job: steps)
    through(iter(frames_of(movie)), tmp_path, settings, steps, Metrics(), name="cam")
    labels = {}
    for block in (BLOCK, 64):
        monkeypatch.setattr(sizes, "FRAMES", block)
        monkeypatch.setattr(sizes, "LONGER", 1)
        (row,) = reprocess([tmp_path / "cam.zarr"], tmp_path / str(block), settings, cluster="here", align=how)
        run = Run(Path(row["run"]))
        labels[block] = run.labels.compute(), np.floor(run.column("shift") + 0.5)
    (small, at), (whole, place) = labels[BLOCK], labels[64]
    same = [(at[max(0, i - 3) : i + 1] == place[max(0, i - 3) : i + 1]).all() for i in range(N)]
    assert np.mean(same[BLOCK : BLOCK + 4]) >= 0.5
    for i in np.flatnonzero(same):
        assert np.array_equal(small[i], whole[i]), i
    if how == "keep":
        assert all(same)
        assert np.array_equal(whole, Run(tmp_path / "cam.zarr").labels.compute())
