"""Archives in blocks: the same as live and better, whoever does the blocks, in whatever order, however often killed."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import tifffile
import zarr

from emstream import simulate
from emstream.config import Settings, load
from emstream.errors import BadSettings, JobFailed, StoreBusy
from emstream.export.kinetics import told
from emstream.jobs import job as sizes
from emstream.jobs import reprocess as jobs
from emstream.jobs.reprocess import reprocess
from emstream.jobs.waves import Here
from emstream.messages import Frame, Origin, Status
from emstream.metrics import Metrics
from emstream.pipeline import make_steps, through
from emstream.source.archive import look
from emstream.store import Run
from emstream.store.check import check

N, BLOCK = 40, 16
SETTINGS = load(env={}, sets=["store.fsync=false"])


@pytest.fixture(scope="module")
def movie() -> simulate.Movie:
    return simulate.movie(
        N, (160, 128), particles=6, diameter=(14, 26), contrast=(0.3, 0.4), dose=20, seed=4, pixel_size_nm=(0.5, 0.5)
    )


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "FRAMES", BLOCK)
    monkeypatch.setattr(sizes, "LONGER", 1)


@pytest.fixture(scope="module")
def live(movie: simulate.Movie, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The movie as a live run took it, with the network."""
    out = tmp_path_factory.mktemp("live")
    frames = (
        Frame("cam", Origin("cam.tif", i, 1, 1, 1), movie.frame(i), 100.0 + i, movie.pixel_size_nm) for i in range(N)
    )
    through(frames, out, SETTINGS, make_steps(SETTINGS), Metrics(), name="cam")
    return out / "cam.zarr"


@pytest.fixture(scope="module")
def undisturbed(live: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizes, "FRAMES", BLOCK)
        patch.setattr(sizes, "LONGER", 1)
        one(live, out)
    return out / "cam.zarr"


def one(archive: Path, out: Path | None, settings: Settings = SETTINGS, **how: Any) -> dict[str, Any]:
    """One archive, in this process unless a cluster is named."""
    (row,) = reprocess([archive], out, settings, **{"cluster": "here", **how})
    return row


def tree(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


def error(shifts: np.ndarray, movie: simulate.Movie) -> float:
    off = shifts - movie.shift
    return float(np.sqrt(((off - off.mean(0)) ** 2).sum(1).mean()))


class Disorder(Here):
    """Tasks in any order, some of them twice, as a cluster does that loses workers."""

    def run(
        self, task: Callable[..., Any], calls: Sequence[tuple[Any, ...]], told: Callable[[Any], None] = lambda r: None
    ) -> list[Any]:
        order = [*range(len(calls)), *range(0, len(calls), 2)]
        random.Random(7).shuffle(order)
        results = {i: task(*calls[i]) for i in order}
        return [results[i] for i in range(len(calls))]


class Killed(Exception):
    pass


def dies_after(tasks: int) -> type[Here]:
    """A process that is killed after so many tasks."""

    class Dying(Here):
        left = itertools.count(tasks, -1)

        def run(self, task: Callable[..., Any], calls: Any, told: Any = lambda r: None) -> list[Any]:
            results = []
            for call in calls:
                if next(self.left) <= 0:
                    raise Killed
                results.append(task(*call))
            return results

    return Dying


def test_shifts_are_better_than_live_and_labels_the_same_where_the_pixels_are(
    live: Path, undisturbed: Path, movie: simulate.Movie
) -> None:
    before, after = Run(live), Run(undisturbed)
    assert error(after.column("shift"), movie) < error(before.column("shift"), movie)
    same = (np.floor(before.column("shift") + 0.5) == np.floor(after.column("shift") + 0.5)).all(axis=1)
    assert same.sum() > N // 2
    for i in np.flatnonzero(same):
        assert np.array_equal(before.frame(i), after.frame(i))
        assert np.array_equal(before.label(i), after.label(i))
    assert np.array_equal(before.column("particles")[same], after.column("particles")[same])
    assert np.array_equal(before.column("time_s"), after.column("time_s"))


def test_a_reprocessed_run_tells_the_kinetics_as_a_live_one_does(live: Path, undisturbed: Path) -> None:
    before, after = Run(live), Run(undisturbed)
    a, b = before.table("kinetics"), after.table("kinetics")
    assert list(a.columns) == list(b.columns)
    assert np.array_equal(b.frame, np.arange(N))
    assert np.array_equal(b["count"], after.column("particles"))
    same = (np.floor(before.column("shift") + 0.5) == np.floor(after.column("shift") + 0.5)).all(axis=1)
    once = ["covered", "density", "mean_radius", "radius_spread", "median_radius", "thickness", "neighbour"]
    for name in [c for c in b.columns if c.removesuffix("_nm").removesuffix("_nm2").removesuffix("_per_nm2") in once]:
        assert b[name][same].to_numpy() == pytest.approx(a[name][same].to_numpy(), rel=1e-9, nan_ok=True), name
    p, q = (run.table("particles").sort_values(["frame", "label"]) for run in (before, after))
    assert q.growth_nm_per_s.notna().mean() == pytest.approx(p.growth_nm_per_s.notna().mean(), abs=0.1)
    last_p, last_q = (t[(t.frame == N - 1) & ~t.touches_border] for t in (p, q))
    assert np.sort(last_q.growth_nm_per_s) == pytest.approx(np.sort(last_p.growth_nm_per_s), abs=0.02)
    assert told(undisturbed)[0]["quantity"] == "particles, first frames"


def test_a_reprocessed_run_is_whole_valid_and_says_how_it_was_made(undisturbed: Path) -> None:
    from ome_zarr_models import open_ome_zarr

    report = check(undisturbed)
    assert report.problems == ()
    assert (report.frames, report.segmented, report.checksums) == (N, N, "origins.jsonl")
    open_ome_zarr(zarr.open_group(undisturbed, mode="r"))
    run = Run(undisturbed)
    assert run.state == "closed"
    assert run.attrs["models"][0]["sha256"]
    assert run.attrs["anchors"] == [{"anchor": 0, "frame": 0, "link": None}]
    assert np.array_equal(run.column("shift"), run.column("final_shift"))
    assert np.array_equal(run.frames[5].compute(), run.frame(5))
    particles, tracks = run.table("particles"), run.table("tracks")
    assert set(particles.track) == set(tracks.track)
    assert (particles.groupby("frame").size() == run.column("particles")).all()
    assert (tracks.frames > N // 2).any()
    assert not list(undisturbed.parent.glob(".emstream/jobs/*"))


def test_frames_lie_in_few_files_and_one_pixels_course_is_read_from_small_tiles(undisturbed: Path) -> None:
    array = zarr.open_array(undisturbed / "0", mode="r")
    assert array.shards == (BLOCK, 160, 128)
    assert array.chunks[0] == 8
    assert len(list((undisturbed / "0").glob("c.*"))) == -(-N // BLOCK)


def test_small_frames_of_few_electrons_are_placed_also_in_a_short_last_block(tmp_path: Path) -> None:
    """Without its particles such a frame shows next to nothing: they vote."""
    dim = simulate.movie(36, (160, 128), particles=6, diameter=(14, 26), contrast=(0.3, 0.4), dose=3, seed=4)
    array = zarr.create_array(tmp_path / "dim.zarr", shape=(36, 160, 128), chunks=(1, 160, 128), dtype="uint16")
    array[:] = dim.frames
    one(tmp_path / "dim.zarr", tmp_path / "out")
    run = Run(tmp_path / "out" / "dim.zarr")
    assert not (run.column("status") & int(Status.REJECTED)).any()
    assert not run.column("anchor").any()
    off = run.column("shift") - dim.shift
    far = np.hypot(*(off - np.median(off[:32], axis=0)).T)
    assert np.median(far) < 0.5
    assert far[32:].max() < 1.5


def test_neither_order_nor_repetition_of_the_blocks_changes_a_byte(
    live: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "Here", Disorder)
    one(live, tmp_path)
    assert tree(tmp_path / "cam.zarr") == tree(undisturbed)


def test_tracks_linked_in_stretches_are_those_of_one_pass(
    live: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sizes, "STRETCH", BLOCK)
    monkeypatch.setattr("emstream.jobs.tracks.warm_up", lambda options: 2)  # too little to remember enough
    caplog.set_level("INFO", "emstream.jobs")
    one(live, tmp_path, load(env={}, sets=["store.fsync=false"]))
    assert "stretches are linked again" in caplog.text
    cut, whole = Run(tmp_path / "cam.zarr"), Run(undisturbed)
    assert len(list((cut.path / "tables" / "particles.parquet").glob("part-*"))) == -(-N // BLOCK)
    assert len(list((whole.path / "tables" / "particles.parquet").glob("part-*"))) == 1
    for name in ("particles", "tracks", "events", "kinetics"):
        pandas.testing.assert_frame_equal(cut.table(name), whole.table(name))
    assert check(cut.path).problems == ()


@pytest.mark.slow
def test_three_workers_of_which_two_are_killed_give_the_same_bytes(
    live: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = iter([1, 3])
    due = next(kills)
    finished = 0

    def tell(self: Any, frames: int) -> None:
        nonlocal due, finished
        finished += 1
        if finished == due:
            os.kill(random.Random(finished).choice(children()), signal.SIGKILL)
            due = next(kills, -1)

    monkeypatch.setattr("emstream.jobs.progress.Progress.advance", tell)
    one(live, tmp_path, cluster="local", workers=3)
    assert due == -1
    assert tree(tmp_path / "cam.zarr") == tree(undisturbed)


def children() -> list[int]:
    """Worker processes: below this one, and busy with python's spawned work."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == os.getpid() and b"spawn_main" in command:
            found.append(int(stat.parent.name))
    return found


def test_a_job_that_is_killed_goes_on_and_does_not_do_twice_what_it_verified(
    live: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = -(-N // BLOCK)
    monkeypatch.setattr(jobs, "Here", dies_after(blocks + 3 + 2))  # the first pass, three links, two blocks
    with pytest.raises(Killed):
        one(live, tmp_path)
    assert not list(tmp_path.glob("*.zarr"))
    (work,) = (tmp_path / ".emstream" / "jobs").iterdir()
    shard = work / "run.zarr" / "0" / "c.1.0.0"
    shard.write_bytes(shard.read_bytes()[:-1])  # what a power cut may leave of a file
    made = (work / "run.zarr" / "0" / "c.0.0.0").stat().st_ino
    monkeypatch.setattr(jobs, "Here", Here)
    one(live, tmp_path)
    assert tree(tmp_path / "cam.zarr") == tree(undisturbed)
    assert (tmp_path / "cam.zarr" / "0" / "c.0.0.0").stat().st_ino == made


def test_the_same_command_again_verifies_a_finished_run_and_mends_what_is_damaged(
    live: Path, undisturbed: Path, tmp_path: Path
) -> None:
    one(live, tmp_path)
    run = tmp_path / "cam.zarr"
    assert one(live, tmp_path)["mended"] == 0
    (run / "1" / "c.0.0.0").unlink(missing_ok=True)
    damaged = run / "labels" / "particles" / "0" / "c.2.0.0"
    data = bytearray(damaged.read_bytes())
    data[10] ^= 1
    damaged.write_bytes(data)
    assert {p.array for p in check(run).problems} == {"labels/particles/0"}
    assert one(live, tmp_path)["mended"] == 1
    assert tree(run) == tree(undisturbed)
    one(live, tmp_path, load(env={}, sets=["segment.enabled=false"]))
    assert (tmp_path / "cam-2.zarr").is_dir()


def test_ctrl_c_says_that_the_same_command_goes_on(
    live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Interrupted(Here):
        def run(self, *args: Any) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "Here", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        one(live, tmp_path)
    assert "the same command goes on" in caplog.text


def test_two_at_once_do_not_do_the_same_job(live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nosy(Here):
        def run(self, *args: Any) -> Any:
            monkeypatch.setattr(jobs, "Here", Here)
            with pytest.raises(StoreBusy):
                one(live, tmp_path)
            raise Killed

    monkeypatch.setattr(jobs, "Here", Nosy)
    with pytest.raises(Killed):
        one(live, tmp_path)


@pytest.fixture
def holed(movie: simulate.Movie, tmp_path: Path) -> Path:
    """A Zarr stack with a damaged chunk: frame 18."""
    array = zarr.create_array(
        tmp_path / "stack.zarr", shape=(N, 160, 128), chunks=(1, 160, 128), dtype="uint16", config={"order": "C"}
    )
    array[:] = movie.frames
    (tmp_path / "stack.zarr" / "c" / "18" / "0" / "0").write_bytes(b"broken")
    return tmp_path / "stack.zarr"


def test_a_damaged_chunk_is_named_and_left_blank_only_when_asked(
    holed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(JobFailed, match=r"1 frames cannot be read.*frame 18"):
        one(holed, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.zarr"))
    assert one(holed, tmp_path / "out", skip_bad=True)["bad"] == 1
    assert [r.frame for r in caplog.records if r.message == "frame left blank"] == [18]  # type: ignore[attr-defined]
    run = Run(tmp_path / "out" / "stack.zarr")
    blank = int(Status.BLANK | Status.REJECTED)
    assert run.column("status")[18] == blank
    assert not (run.column("status")[[17, 19]] & blank).any()
    assert run.attrs["bad_frames"][0][0] == 18
    assert not run.frame(18).any()
    assert run.column("particles")[18] == -1
    assert check(run.path).problems == ()


def test_other_labels_are_added_to_a_run_and_the_old_ones_kept(live: Path, undisturbed: Path, tmp_path: Path) -> None:
    one(live, tmp_path)
    run = tmp_path / "cam.zarr"
    before = tree(run)
    classical = load(env={}, sets=["segment.model=classical", "store.fsync=false"])
    one(run, None, classical, labels="classical")
    after = tree(run)
    assert {k: v for k, v in after.items() if k in before and k != "labels/zarr.json"} == {
        k: v for k, v in before.items() if k != "labels/zarr.json"
    }
    group = zarr.open_group(run, mode="r")
    assert group["labels"].attrs["ome"]["labels"] == ["particles", "classical"]
    assert group["labels/classical"].attrs["emstream"]["models"][0]["name"] == "classical"
    assert group["labels/classical/0"].shape == (N, 160, 128)
    rows = pandas.read_parquet(run / "tables" / "classical" / "particles.parquet")
    assert (np.asarray(group["labels/classical/0"][3]) == rows[rows.frame == 3].label.max()).any()
    assert check(run).problems == ()
    (run / "labels" / "classical" / "0" / "c.1.0.0").unlink()
    assert [p.what for p in check(run).problems] == ["block 1: shard is missing"]
    assert one(run, None, classical, labels="classical")["mended"] == 1
    assert tree(run) == after
    with pytest.raises(BadSettings, match="already"):
        one(run, None, SETTINGS, labels="classical")
    with pytest.raises(BadSettings, match="particles"):
        one(run, None, classical, labels="particles")


def test_large_archives_stay_below_ten_thousand_tasks() -> None:
    def tasks(frames: int, workers: int) -> int:
        return sizes.WAVES * len(grouped(-(-frames // 64), workers))

    assert tasks(640, 2) == 40
    assert tasks(10_000_000, 1000) < 10_000
    assert tasks(10_000_000, 10) < 10_000


def test_a_task_takes_several_blocks_while_many_are_left_and_one_at_the_end() -> None:
    found = grouped(1000, 2)
    assert [k for group in found for k in group] == list(range(1000))
    assert len(found[0]) == sizes.TOGETHER
    assert [len(group) for group in found[-16:]] == [1] * 16
    assert len(found) < 1000 / 4
    assert {len(group) for group in grouped(1000, 200)} == {1}


def grouped(blocks: int, workers: int) -> list[list[int]]:
    from types import SimpleNamespace

    job: Any = SimpleNamespace(blocks=blocks)
    return sizes.Job.groups(job, list(range(blocks)), workers)


def test_blocks_of_small_frames_are_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "FRAMES", 64)
    monkeypatch.setattr(sizes, "LONGER", 4)
    tifffile.imwrite(tmp_path / "few.tif", np.zeros((2, 64, 64), np.uint8))
    few = look(tmp_path / "few.tif")
    asked = (64, "uint8", 256), (256, "uint8", 256), (256, "uint16", 256), (512, "uint8", 192), (4096, "uint16", 16)
    for size, dtype, frames in asked:
        assert sizes.frames_in_a_block(dataclasses.replace(few, shape=(size, size), dtype=dtype)) == frames


def test_a_file_without_scale_is_measured_in_px(movie: simulate.Movie, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "old.tif", movie.frames[:8])
    one(tmp_path / "old.tif", tmp_path / "out")
    assert "diameter_px" in Run(tmp_path / "out" / "old.zarr").table("particles")
