"""The simulated camera: what it writes reads back as it was, on time, in steps that leave a file half written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from contracts import Planted, check_reader, check_what_is_there

from emstream import simulate
from emstream.errors import BadSettings
from emstream.source.play import FORMATS, play, steps, write_truth

SIZED = {"tiff", "tiff-stack", "mrc", "dm4-tree"}  # formats that hold a pixel size


def recording(folder: Path, fmt: str) -> Path:
    """What to open to read all that was written into a folder."""
    return {"mrc": folder / "movie.mrc", "tiff-stack": folder / "movie.tif", "dm4-tree": folder / "movie"}.get(
        fmt, folder
    )


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_every_format_reads_back_equal(fmt: str, dtype: str, tmp_path: Path) -> None:
    movie = Planted(11, dtype=np.dtype(dtype))
    if fmt == "png" and movie.dtype.kind != "u":
        pytest.skip("PNG holds unsigned numbers only")
    assert list(play(movie, tmp_path / "m", fmt=fmt, pieces=3)) == list(range(11))  # type: ignore[arg-type]
    size = movie.pixel_size_nm if fmt in SIZED else None
    check_reader(recording(tmp_path / "m", fmt), movie.frames, pixel_size_nm=size)


@pytest.mark.parametrize("fmt", ["tiff-stack", "mrc"])
def test_a_movie_can_be_read_after_every_single_step(fmt: str, tmp_path: Path) -> None:
    movie = Planted(4)
    whole = 0
    for _, done in steps(movie, tmp_path, fmt=fmt, pieces=5):  # type: ignore[arg-type]
        whole += done
        path = recording(tmp_path, fmt)
        assert whole <= check_what_is_there(path, movie.frames) <= whole + 1
    assert whole == 4


@pytest.mark.parametrize(("fmt", "suffix"), [("tiff", "tif"), ("npy", "npy"), ("png", "png")])
def test_a_step_leaves_a_single_frame_half_written_and_the_last_one_makes_it_whole(
    fmt: str, suffix: str, tmp_path: Path
) -> None:
    movie = Planted(3)
    sizes: dict[int, list[int]] = {}
    for i, done in steps(movie, tmp_path, fmt=fmt, pieces=5):  # type: ignore[arg-type]
        path = tmp_path / f"movie_{i:06d}.{suffix}"
        sizes.setdefault(i, []).append(path.stat().st_size)
        assert check_what_is_there(path, movie.frames[i : i + 1]) == (sizes[i][-1] == sizes[i][-2] if done else 0) or (
            len(sizes[i]) == 5
        )
    assert all(len(s) == 6 and s[0] < s[1] < s[2] < s[3] < s[4] == s[5] for s in sizes.values())


def test_a_renamed_frame_never_shows_half_written(tmp_path: Path) -> None:
    movie = Planted(3)
    for i in play(movie, tmp_path, fmt="npy", pieces=4):  # type: ignore[arg-type]
        assert sorted(p.name for p in tmp_path.iterdir()) == [f"movie_{k:06d}.npy" for k in range(i + 1)]


def test_frames_keep_their_schedule_and_a_late_one_does_not_shift_the_next(tmp_path: Path) -> None:
    movie = Planted(6)
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    times = []
    for i in play(movie, tmp_path, fmt="npy", fps=10, clock=lambda: now[0], sleep=sleep):  # type: ignore[arg-type]
        times.append(round(now[0] - 100.0, 6))
        now[0] += 0.25 if i == 1 else 0.0  # the writer was slow once
    assert times == [0.0, 0.1, 0.35, 0.35, 0.4, 0.5]


def test_a_burst_comes_together_and_then_pauses(tmp_path: Path) -> None:
    now = [0.0]
    times = []
    camera = play(
        Planted(6),  # type: ignore[arg-type]
        tmp_path,
        fmt="npy",
        fps=10,
        burst=3,
        clock=lambda: now[0],
        sleep=lambda s: now.__setitem__(0, now[0] + s),
    )
    for _ in camera:
        times.append(round(now[0], 6))
    assert times == [0.0, 0.0, 0.0, 0.3, 0.3, 0.3]


def test_a_recording_can_go_on_where_another_stopped(tmp_path: Path) -> None:
    movie = Planted(9)
    assert list(play(movie, tmp_path, stop=4)) == [0, 1, 2, 3]  # type: ignore[arg-type]
    assert list(play(movie, tmp_path, start=4, stop=99)) == [4, 5, 6, 7, 8]  # type: ignore[arg-type]
    check_reader(tmp_path, movie.frames, pixel_size_nm=movie.pixel_size_nm)


def test_what_a_format_cannot_hold_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="tiff"):
        next(play(Planted(2), tmp_path / "m", fmt="avi"))  # type: ignore[arg-type]
    with pytest.raises(BadSettings, match="float64"):
        next(play(Planted(2, dtype=np.dtype("f8")), tmp_path / "m", fmt="mrc"))  # type: ignore[arg-type]
    assert not (tmp_path / "m").exists()


def test_the_truth_of_a_movie_is_kept_beside_it(tmp_path: Path) -> None:
    movie = simulate.movie(4, (64, 64), particles=3, diameter=(8, 14), seed=2)
    write_truth(movie, tmp_path / "truth.zarr")
    truth = zarr.open_group(tmp_path / "truth.zarr", mode="r")
    assert truth.attrs["frames"] == 4
    assert np.array_equal(truth["drift"][:], movie.drift)
    assert np.array_equal(truth["shift"][:], movie.shift)
    assert all(np.array_equal(truth["labels"][i], movie.labels(i)) for i in range(4))
    for name in movie.tracks.dtype.names:
        column = truth["tracks"][name][:]
        assert len(column) == len(movie.tracks)
        if movie.tracks[name].dtype.kind != "U":
            assert np.array_equal(column, movie.tracks[name])


def test_the_truth_replaces_an_older_truth_and_nothing_else(tmp_path: Path) -> None:
    movie = simulate.movie(2, (32, 32), particles=2, diameter=(6, 8), seed=1)
    write_truth(movie, tmp_path / "truth.zarr")
    write_truth(movie, tmp_path / "truth.zarr")
    zarr.open_group(tmp_path / "run.zarr", mode="w").create_array("0", data=np.ones(3))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("run.zarr", "notes", "file"):
        with pytest.raises(BadSettings, match=f"{name} is there, is no simulation's truth"):
            write_truth(movie, tmp_path / name)
    assert (tmp_path / "notes" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert zarr.open_group(tmp_path / "run.zarr")["0"][:].sum() == 3  # type: ignore[index]
