"""The loop that live, reprocess and bench share: nothing lost, newest first, the same result however fast frames come."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from emstream import simulate
from emstream.align import AlignOptions
from emstream.measure import MeasureOptions
from emstream.messages import Frame, Labelled, Origin, Status
from emstream.metrics import Metrics
from emstream.pipeline import Lane, Loop, Result, Sinks, Steps, StoreKeeper, drift, lane
from emstream.source.ahead import ReadAhead
from emstream.store import Ledger, Run, RunWriter, StoreOptions, TableWriter, WriteBehind

SIDE = 160


@pytest.fixture(scope="module")
def movie() -> simulate.Movie:
    return simulate.movie(
        40, (SIDE, SIDE), particles=8, diameter=(14, 28), contrast=(0.3, 0.4), dose=60, jitter=0.2, seed=4
    )


def frames_of(movie: simulate.Movie, start: int = 0, stop: int | None = None, series: str = "cam") -> list[Frame]:
    return [
        Frame(
            series, Origin(f"{series}/{i:05d}.tif", 0, 1000, 1 + i, 100 + i), movie.frame(i), 1e9 + i * 0.1, (0.5, 0.5)
        )
        for i in range(start, len(movie) if stop is None else stop)
    ]


class Threshold:
    """Particles are what is a fifth darker than the film; no state, so that a frame has the same labels whenever."""

    name, sha256 = "threshold", ""
    memory: Any = None

    def __call__(
        self, pixels: np.ndarray, *, valid: tuple[int, int, int, int], pixel_size_nm: object = None
    ) -> Labelled:
        y0, y1, x0, x1 = valid
        labels = np.zeros(pixels.shape, np.int32)
        smooth = ndimage.gaussian_filter(pixels[y0:y1, x0:x1].astype(np.float32), 1.5)
        labels[y0:y1, x0:x1], _ = ndimage.label(smooth < 0.85 * np.median(smooth))
        return Labelled(labels, self.name, self.sha256)

    def look(self, pixels: np.ndarray, **told: Any) -> Callable[[], Labelled]:
        return lambda: self(pixels, **told)

    def warm_up(self, shape: tuple[int, int], dtype: str = "uint16") -> None:
        pass

    def reset(self, polarity: str = "auto") -> None:
        pass


class Rig:
    """Ledger, queues and a loop on a folder; `shown` is what the page would get, in order."""

    def __init__(self, out: Path, segment: bool = True, align: bool = True) -> None:
        self.out, self.shown = out, list[Result]()
        self.metrics = Metrics()
        self.steps = Steps(
            align=AlignOptions(enabled=align), measure=MeasureOptions(), segmenter=Threshold() if segment else None
        )

    def process(
        self,
        frames: Sequence[Frame],
        *,
        batch: int = 16,
        die: bool = False,
        save: bool = True,
        one_by_one: bool = False,
    ) -> None:
        """Run the loop over frames; `die` leaves everything open, as a killed process does."""
        with Ledger(self.out) as ledger:
            sinks = Sinks()
            behind = WriteBehind(sinks, 64 << 20)

            def open_lane(frame: Frame) -> Lane:
                name = frame.pixels.dtype.name
                row = ledger.run_for(frame.series, frame.series, frame.pixels.shape, name, frame.pixel_size_nm)
                keeper = StoreKeeper(
                    RunWriter(self.out, row, ledger, StoreOptions()), behind, sinks, self.metrics, self.shown.append,
                    row.pixel_size_nm,
                )  # fmt: skip
                return Lane(frame.series, keeper, self.steps, self.metrics, row.shape, frame.pixels.dtype)

            self.loop = loop = Loop(ReadAhead(iter(()), 1), open_lane, batch=batch)
            loop.ahead = ahead = ReadAhead(self.paced(frames) if one_by_one else iter(frames), 1 << 30)
            if not one_by_one:
                ahead.join()  # everything waits: the branch is behind from the start
            if die:
                for frame in frames:
                    loop._keep([frame])
                    loop._branch()
                if save:
                    loop.lanes[0].save()
            else:
                loop.run()
            behind.close()

    def paced(self, frames: Sequence[Frame]) -> Iterator[Frame]:
        """The next frame only when the loop has finished the one before."""
        yield frames[0]
        for before, frame in itertools.pairwise(frames):
            number = before.origin.mtime_ns  # 1 + its place in the movie
            while not self.loop.lanes or self.loop.lanes[0].linked < number:
                time.sleep(0.001)
            yield frame


def drift_error(run: Run, movie: simulate.Movie) -> float:
    error = run.column("shift") - movie.shift[: run.n]
    error = error[8:] - error[8:].mean(axis=0)
    return float(np.sqrt((error**2).sum(axis=1).mean()))


def test_every_frame_is_aligned_stored_segmented_and_tabled(movie: simulate.Movie, tmp_path: Path) -> None:
    Rig(tmp_path).process(frames_of(movie))
    run = Run(tmp_path / "cam.zarr")
    assert run.n == len(movie)
    assert run.state == "closed"
    assert drift_error(run, movie) < 0.3
    status = run.column("status")
    assert np.all(status & Status.SEGMENTED)
    shift, whole = run.column("shift"), np.rint(run.column("shift")).astype(int)
    inner = (slice(30, -30), slice(30, -30))
    for i in (5, 39):
        assert np.array_equal(np.roll(movie.frame(i), tuple(whole[i]), (0, 1))[inner], run.frame(i)[inner])
    particles = run.table("particles")
    assert sorted(particles["frame"].unique()) == list(range(len(movie)))
    assert np.array_equal(particles.groupby("frame").size().to_numpy(), run.column("particles"))
    assert {"y_nm", "x_nm", "area_nm2", "diameter_nm", "track"} <= set(particles.columns)
    assert np.isfinite(shift).all()


def test_when_behind_the_newest_frame_is_shown_first_and_the_rest_follows_in_order(
    movie: simulate.Movie, tmp_path: Path
) -> None:
    rig = Rig(tmp_path)
    rig.process(frames_of(movie, 0, 20), batch=20)
    segmented = [r.frame for r in rig.shown if r.measured is not None]
    assert segmented[0] == 19
    assert segmented[1:] == list(range(20))
    run = Run(tmp_path / "cam.zarr")
    assert run.table("particles")["frame"].is_monotonic_increasing


def test_each_frames_latency_is_counted_once_also_of_those_that_waited_in_the_store(
    movie: simulate.Movie, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # three frames: the others are read back when it is their turn
    monkeypatch.setattr(lane, "MEMORY", 3 * SIDE**2 * 2)
    rig = Rig(tmp_path)
    ago = time.time() - 5
    rig.process([replace(f, closed_at=ago) for f in frames_of(movie, 0, 20)], batch=20)
    for step in ("seen", "committed", "segmented"):
        samples = {s.name: s.value for s in rig.metrics._latency.collect()[0].samples if s.labels["to"] == step}
        assert samples["emstream_frame_latency_seconds_count"] == 20, step
        assert samples["emstream_frame_latency_seconds_sum"] >= 20 * 5 * (step != "seen"), step


def test_nothing_is_told_before_it_is_committed(movie: simulate.Movie, tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    committed_when_shown = []
    keep = rig.shown
    rig.shown = type(
        "Spy", (list,), {"append": lambda self, r: committed_when_shown.append(count()) or keep.append(r)}
    )()

    def count() -> int:
        import sqlite3

        db = sqlite3.connect(tmp_path / ".emstream" / "ledger.sqlite")
        n = db.execute("SELECT count(*) FROM frames WHERE state IN ('COMMITTED', 'SEGMENTED')").fetchone()[0]
        db.close()
        return int(n)

    rig.process(frames_of(movie, 0, 6))
    assert len(committed_when_shown) >= 12
    assert all(n > r.frame for n, r in zip(committed_when_shown, keep))


def test_labels_and_tracks_do_not_depend_on_how_fast_the_frames_came(movie: simulate.Movie, tmp_path: Path) -> None:
    Rig(tmp_path / "slow", align=False).process(frames_of(movie, 0, 16), one_by_one=True)
    Rig(tmp_path / "fast", align=False).process(frames_of(movie, 0, 16), batch=16)
    slow, fast = Run(tmp_path / "slow" / "cam.zarr"), Run(tmp_path / "fast" / "cam.zarr")
    assert np.array_equal(slow.labels.compute(), fast.labels.compute())
    pd.testing.assert_frame_equal(slow.table("particles"), fast.table("particles"))


def test_the_particles_in_the_way_of_the_aligner_may_be_older_when_it_is_behind(
    movie: simulate.Movie, tmp_path: Path
) -> None:
    Rig(tmp_path / "slow").process(frames_of(movie), one_by_one=True)
    Rig(tmp_path / "fast").process(frames_of(movie), batch=40)
    for name in ("slow", "fast"):
        assert drift_error(Run(tmp_path / name / "cam.zarr"), movie) < 0.3


def test_a_run_that_died_goes_on_without_a_jump_or_a_double_row(movie: simulate.Movie, tmp_path: Path) -> None:
    Rig(tmp_path / "whole").process(frames_of(movie), one_by_one=True)
    Rig(tmp_path / "cut").process(frames_of(movie, 0, 20), die=True)
    assert Run(tmp_path / "cut" / "cam.zarr").state == "live"
    Rig(tmp_path / "cut").process(frames_of(movie, 20), one_by_one=True)
    whole, cut = Run(tmp_path / "whole" / "cam.zarr"), Run(tmp_path / "cut" / "cam.zarr")
    assert cut.n == whole.n == len(movie)
    assert cut.state == "closed"
    assert np.abs(whole.column("shift") - cut.column("shift")).max() < 0.05
    for run in (whole, cut):
        particles = run.table("particles")
        assert not particles.duplicated(["frame", "label"]).any()
        assert sorted(particles["frame"].unique()) == list(range(len(movie)))
        assert not run.table("tracks").duplicated("track").any()
    assert track_lengths(whole).max() == track_lengths(cut).max() == len(movie)


def test_a_run_whose_state_is_lost_goes_on_where_its_last_frames_lie(
    movie: simulate.Movie, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "REPLAY", 5)  # the anchor is not among the frames that are seen again
    Rig(tmp_path, segment=False).process(frames_of(movie, 0, 20), die=True, save=False)
    for state in tmp_path.rglob("*.npz"):
        state.unlink()
    Rig(tmp_path, segment=False).process(frames_of(movie, 20))
    run = Run(tmp_path / "cam.zarr")
    assert run.n == len(movie)
    assert np.abs(run.column("shift") - movie.shift)[20:].max() < 1
    assert not run.column("anchor").any()


def track_lengths(run: Run) -> pd.Series:
    return run.table("particles").groupby("track").size()


def test_a_closed_run_opens_again_when_its_folder_grows(movie: simulate.Movie, tmp_path: Path) -> None:
    Rig(tmp_path).process(frames_of(movie, 0, 12))
    Rig(tmp_path).process(frames_of(movie, 12, 24))
    run = Run(tmp_path / "cam.zarr")
    assert run.n == 24
    assert [p.name for p in tmp_path.glob("*.zarr")] == ["cam.zarr"]
    assert drift_error(run, movie) < 0.3
    assert not run.table("tracks").duplicated("track").any()


def test_only_the_thread_that_writes_touches_a_runs_tables_and_closes_it(
    movie: simulate.Movie, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}

    def noted(name: str, call: Any) -> Any:
        def wrapped(*args: Any, **more: Any) -> Any:
            seen.setdefault(name, set()).add(threading.current_thread().name)
            return call(*args, **more)

        return wrapped

    for owner, name in ((TableWriter, "flush"), (TableWriter, "drop"), (RunWriter, "close"), (RunWriter, "flush")):
        monkeypatch.setattr(owner, name, noted(name, getattr(owner, name)))
    Rig(tmp_path).process(frames_of(movie, 0, 6), die=True)
    Rig(tmp_path).process(frames_of(movie, 6, 12))
    assert seen.keys() == {"flush", "drop", "close"}
    assert set().union(*seen.values()) == {"write-behind_0"}


@pytest.mark.parametrize("known_first", [True, False])
def test_a_run_goes_on_in_its_own_unit_with_frames_that_know_another_one_or_none(
    known_first: bool, movie: simulate.Movie, tmp_path: Path
) -> None:
    first, then = frames_of(movie, 0, 8), frames_of(movie, 8, 16)
    unknown = [replace(f, pixel_size_nm=None) for f in (then if known_first else first)]
    Rig(tmp_path).process(first if known_first else unknown)
    Rig(tmp_path).process(unknown if known_first else then)
    (path,) = tmp_path.glob("*.zarr")
    table = Run(path).table("particles")
    assert sorted(table["frame"].unique()) == list(range(16))
    assert ("area_nm2" in table, "area_px" in table) == (known_first, not known_first)


def test_the_tables_of_a_live_run_hold_every_row_soon_after_the_last_frame(
    movie: simulate.Movie, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emstream.pipeline.keep.ROWS_EVERY_S", 0.0)
    Rig(tmp_path).process(frames_of(movie, 0, 10), die=True, save=False)
    run = Run(tmp_path / "cam.zarr")
    assert run.state == "live"
    assert sorted(run.table("particles")["frame"].unique()) == list(range(10))


def test_a_frame_that_comes_twice_is_stored_once(movie: simulate.Movie, tmp_path: Path) -> None:
    frames = frames_of(movie, 0, 8)
    Rig(tmp_path, segment=False).process([*frames, frames[3], frames[7]])
    assert Run(tmp_path / "cam.zarr").n == 8


def test_another_shape_begins_another_run_and_both_are_finished(movie: simulate.Movie, tmp_path: Path) -> None:
    small = simulate.movie(6, (96, 96), particles=3, seed=1)
    renamed = [
        Frame("cam", Origin(f"cam/{100 + i}.tif", 0, 7, 7 + i, 900 + i), small.frame(i), 2e9 + i)
        for i in range(len(small))
    ]
    Rig(tmp_path).process([*frames_of(movie, 0, 6), *renamed])
    first, second = Run(tmp_path / "cam.zarr"), Run(tmp_path / "cam-2.zarr")
    assert (first.n, second.n) == (6, 6)
    assert second.shape == (96, 96)
    assert second.pixel_size_nm is None
    assert "y_px" in second.table("particles").columns


def test_frames_too_small_to_align_are_stored_as_they_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 9, (5, 16, 16)).astype(np.uint16)
    frames = [Frame("tiny", Origin(f"{i}.tif", 0, 1, 1, i), p, float(i)) for i, p in enumerate(pixels)]
    Rig(tmp_path, segment=False).process(frames)
    run = Run(tmp_path / "tiny.zarr")
    assert np.array_equal(run.frames.compute(), pixels)
    assert not np.any(run.column("status") & Status.ALIGNED)


def test_a_frame_without_a_finite_pixel_is_kept_bit_by_bit_and_flagged(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    scene = rng.normal(100, 10, (64, 64)).astype(np.float32)
    pixels = [scene, np.full_like(scene, np.nan), scene]
    frames = [Frame("cam", Origin(f"{i}.tif", 0, 1, 1, i), p, float(i)) for i, p in enumerate(pixels)]
    Rig(tmp_path, segment=False).process(frames)
    run = Run(tmp_path / "cam.zarr")
    assert run.n == 3
    assert np.isnan(run.frame(1)).all()
    assert run.column("status")[1] & Status.BLANK
    assert not run.column("status")[2] & Status.BLANK


def test_without_segmentation_frames_are_still_aligned_and_stored(movie: simulate.Movie, tmp_path: Path) -> None:
    rig = Rig(tmp_path, segment=False)
    rig.process(frames_of(movie, 0, 20))
    run = Run(tmp_path / "cam.zarr")
    assert run.n == 20
    assert not np.any(run.column("status") & Status.SEGMENTED)
    assert len(run.table("particles")) == 0
    assert [r.frame for r in rig.shown] == list(range(20))


class Counting(Threshold):
    """Numbers the frames of a series from 1 on, as agreement."""

    memory: Any = 0

    def __call__(self, pixels: np.ndarray, **told: Any) -> Labelled:
        self.memory += 1
        return replace(super().__call__(pixels, **told), agreement=float(self.memory))

    def look(self, pixels: np.ndarray, **told: Any) -> Callable[[], Labelled]:
        seen = self(pixels, **told)
        return lambda: seen

    def reset(self, polarity: str = "auto") -> None:
        self.memory = 0


def test_of_two_detectors_that_record_at_once_each_goes_on_with_what_was_learned_of_it(
    movie: simulate.Movie, tmp_path: Path
) -> None:
    rig = Rig(tmp_path)
    rig.steps = replace(rig.steps, segmenter=Counting())
    pairs = zip(frames_of(movie, 0, 8, "adf"), frames_of(movie, 10, 18, "bf"), strict=True)
    rig.process(list(itertools.chain.from_iterable(pairs)), die=True, save=False)
    for name in ("adf", "bf"):
        seen = {r.frame: r.labelled.agreement for r in rig.shown if r.run == name and r.labelled}
        assert [seen[i] for i in range(8)] == [1, 2, 3, 4, 5, 6, 7, 8]
