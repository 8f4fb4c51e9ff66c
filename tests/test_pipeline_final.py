"""Final shifts in a run: beside the shifts that the pixels were moved with, for every frame, also after a kill."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import tifffile
from test_pipeline import Rig, frames_of

from emstream import align, simulate
from emstream.errors import BadSettings, EmstreamError
from emstream.export import export
from emstream.messages import Origin
from emstream.store import FrameRecord, Ledger, Run, RunWriter, StoreOptions
from emstream.store.check import check
from emstream.store.ledger import read_frames

T, SIDE = 60, 160


@pytest.fixture(scope="module")
def movie() -> simulate.Movie:
    return simulate.movie(T, (SIDE, SIDE), particles=8, diameter=(14, 28), contrast=(0.3, 0.4), dose=20, seed=4)


def rms(error: np.ndarray) -> float:
    error = error - error[8:].mean(axis=0)
    return float(np.sqrt((error**2).sum(axis=1).mean()))


def test_every_frame_has_a_final_shift_and_the_pixels_keep_the_one_they_were_moved_with(
    movie: simulate.Movie, tmp_path: Path
) -> None:
    Rig(tmp_path, segment=False).process(frames_of(movie))
    run = Run(tmp_path / "cam.zarr")
    final, shift = run.column("final_shift"), run.column("shift")
    assert final.shape == (T, 2)
    assert np.isfinite(final).all()
    assert rms(final - movie.shift) < rms(shift - movie.shift)
    for i in (0, 7, 59):
        moved, _ = align.move(movie.frame(i), tuple(shift[i]))
        np.testing.assert_array_equal(moved, run.frame(i))
    table = run.table("frames")
    np.testing.assert_array_equal(table[["final_shift_y_px", "final_shift_x_px"]], final)
    assert check(run.path).problems == ()


@pytest.mark.parametrize("save", [True, False])
def test_killed_and_started_again_every_frame_has_the_final_shift_it_would_have_had(
    movie: simulate.Movie, tmp_path: Path, save: bool
) -> None:
    Rig(tmp_path / "whole", segment=False).process(frames_of(movie))
    rig = Rig(tmp_path / "cut", segment=False)
    rig.process(frames_of(movie, 0, 37), die=True, save=save)
    rows = read_frames(tmp_path / "cut", "cam")
    assert rows is not None
    left = np.array([(row["final_dy"], row["final_dx"]) for row in rows], np.float64)
    known = np.isfinite(left[:, 0])
    assert known[:16].all()
    assert not known.all()  # some waited
    Rig(tmp_path / "cut", segment=False).process(frames_of(movie))
    final = Run(tmp_path / "cut" / "cam.zarr").column("final_shift")
    assert final.shape == (T, 2)
    assert np.isfinite(final).all()
    np.testing.assert_array_equal(final[:37][known], left[known])  # once final, always final
    assert rms(final - Run(tmp_path / "whole" / "cam.zarr").column("final_shift")) < 0.1


def test_a_closed_run_that_goes_on_keeps_its_final_shifts(movie: simulate.Movie, tmp_path: Path) -> None:
    Rig(tmp_path, segment=False).process(frames_of(movie, 0, 30))
    run = Run(tmp_path / "cam.zarr")
    before = run.column("final_shift").copy()
    assert np.isfinite(before).all()
    Rig(tmp_path, segment=False).process(frames_of(movie))
    assert np.isfinite(run.column("final_shift")).all()
    np.testing.assert_array_equal(run.column("final_shift")[:30], before)
    assert rms(run.column("final_shift") - movie.shift) < 0.2


def test_without_alignment_the_final_shift_is_nought(movie: simulate.Movie, tmp_path: Path) -> None:
    Rig(tmp_path, segment=False, align=False).process(frames_of(movie, 0, 5))
    assert not Run(tmp_path / "cam.zarr").column("final_shift").any()


def store(out: Path, ledger: Ledger, n: int) -> RunWriter:
    row = ledger.run_for("cam", "cam", (16, 16), "uint16", None)
    writer = RunWriter(out, row, ledger, StoreOptions(low_water_mb=0, publish_every_s=0, fsync=False))
    for i in range(writer.n, n):
        pixels = np.full((16, 16), 1 + i, np.uint16)
        writer.write_frames([FrameRecord(pixels, Origin(f"{i}.tif", 0, 1, i, i), float(i), (0.25, -i))])
        writer.flush()
    return writer


def test_a_reader_of_a_growing_run_sees_as_many_final_shifts_as_frames(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        writer = store(tmp_path, ledger, 3)
        run = Run(writer.path)
        assert np.isnan(run.column("final_shift")).all()
        writer.write_finals({0: (0.5, 0.5)})
        assert np.isnan(run.column("final_shift")).all()  # not before it is committed
        writer.discard()
        writer.write_finals({0: (0.75, -0.5), 1: (1.0, 2.0)})
        writer.flush()
        for n in (3, 4):
            found = run.column("final_shift")
            assert found.shape == (n, 2) == run.column("shift").shape
            np.testing.assert_array_equal(found[:2], [(0.75, -0.5), (1.0, 2.0)])
            assert np.isnan(found[2:]).all()
            store_more = FrameRecord(np.ones((16, 16), np.uint16), Origin("3.tif", 0, 1, 3, 3), 3.0, (0, 0))
            writer.write_frames([store_more])
            writer.flush()


def test_a_lost_ledger_is_made_anew_with_the_final_shifts(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        writer = store(tmp_path, ledger, 3)
        writer.write_finals({0: (0.75, -0.5), 2: (1.0, 2.0)})
        writer.flush()
        writer.close()
    shutil.rmtree(tmp_path / ".emstream")
    with Ledger(tmp_path) as ledger:
        store(tmp_path, ledger, 3).close()
    found = Run(tmp_path / "cam.zarr").column("final_shift")
    np.testing.assert_array_equal(found, [(0.75, -0.5), (np.nan, np.nan), (1.0, 2.0)])


def test_a_run_of_an_older_version_is_sound_and_goes_on(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        store(tmp_path, ledger, 3).close()
    shutil.rmtree(tmp_path / "cam.zarr" / "frames" / "final_shift")
    db = sqlite3.connect(tmp_path / ".emstream" / "ledger.sqlite")
    db.executescript("ALTER TABLE frames DROP COLUMN final_dy; ALTER TABLE frames DROP COLUMN final_dx;")
    db.close()
    assert check(tmp_path / "cam.zarr").problems == ()
    with Ledger(tmp_path) as ledger:
        writer = store(tmp_path, ledger, 5)
        writer.write_finals({4: (1.0, 1.0)})
        writer.close()
    found = Run(tmp_path / "cam.zarr").column("final_shift")
    assert np.isnan(found[:4]).all()
    np.testing.assert_array_equal(found[4], (1.0, 1.0))
    assert check(tmp_path / "cam.zarr").problems == ()


def test_an_expanded_stack_shows_every_pixel_of_every_frame_in_its_place(tmp_path: Path) -> None:
    far = simulate.movie(24, (SIDE, SIDE), dose=40, drift_per_frame=(1.5, -2.0), jitter=0.2, seed=6)
    with Ledger(tmp_path) as ledger:
        row = ledger.run_for("cam", "cam", far.shape, "uint16", None)
        writer = RunWriter(tmp_path, row, ledger, StoreOptions(low_water_mb=0, keep_raw=True))
        for i, (frame, shift) in enumerate(zip(far, far.shift)):
            moved, _ = align.move(frame, tuple(shift))
            writer.write_frames([FrameRecord(moved, Origin(f"{i}.tif", 0, 1, i, i), float(i), tuple(shift), raw=frame)])
        writer.close()
    path = tmp_path / "cam.zarr"
    export(path, tmp_path / "all.tif", canvas="expand")
    stack = tifffile.imread(tmp_path / "all.tif")
    shifts = np.floor(Run(path).column("shift") + 0.5).astype(int)
    assert stack.shape == (24, *(SIDE + np.ptp(shifts, axis=0)))
    assert stack.shape[1] > SIDE + 25
    covered = np.loadtxt(tmp_path / "all.covered.csv", delimiter=",", skiprows=1, dtype=int)
    for i, y0, y1, x0, x1 in covered.tolist():
        np.testing.assert_array_equal(stack[i, y0:y1, x0:x1], far.frame(i))
        assert (y0, x0) == tuple(shifts[i] - shifts.min(axis=0))
        assert np.count_nonzero(stack[i]) == np.count_nonzero(far.frame(i))
    assert len(covered) == 24


def test_an_expanded_stack_of_a_run_without_raw_frames_says_what_is_missing(
    movie: simulate.Movie, tmp_path: Path
) -> None:
    Rig(tmp_path, segment=False).process(frames_of(movie, 0, 4))
    with pytest.raises(EmstreamError, match="keep_raw"):
        export(tmp_path / "cam.zarr", tmp_path / "all.tif", canvas="expand")
    with pytest.raises(BadSettings, match="canvas"):
        export(tmp_path / "cam.zarr", tmp_path / "all.tif", canvas="huge")
