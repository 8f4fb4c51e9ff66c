"""An archive replayed: stored runs and camera files come as frames, as if they came live."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from contracts import Planted

from emstream import align
from emstream.errors import SourceMissing
from emstream.messages import Origin
from emstream.source.archive import replay
from emstream.source.play import play
from emstream.store import FrameRecord, Ledger, RunWriter, StoreOptions

SHIFTS = np.array([[0.0, 0.0], [1.4, -2.6], [-3.5, 4.2], [0.4, 0.4], [2.0, -1.0]])


def stored(folder: Path, frames: np.ndarray, keep_raw: bool) -> Path:
    """A run whose frames were moved by the whole part of SHIFTS."""
    options = StoreOptions(fsync=False, low_water_mb=0, keep_raw=keep_raw)
    with Ledger(folder, fsync=False) as ledger:
        row = ledger.run_for("s", "cam", frames.shape[1:], frames.dtype.name, (0.25, 0.25))
        writer = RunWriter(folder, row, ledger, options)
        records = [
            FrameRecord(
                pixels=align.move(frame, tuple(SHIFTS[i]))[0],
                origin=Origin(f"f_{i}.tif", 0, 1, 1, i + 1),
                time_s=1e9 + i / 4,
                shift=tuple(SHIFTS[i]),
                raw=frame if keep_raw else None,
            )
            for i, frame in enumerate(frames)
        ]
        writer.write_frames(records)
        writer.flush()
        writer.publish()
        return Path(writer.path)


@pytest.fixture(scope="module", params=[False, True], ids=["aligned", "raw"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, bool]:
    frames = Planted(5, (24, 32)).frames
    return stored(tmp_path_factory.mktemp("out"), frames, request.param), frames, request.param


def test_a_run_gives_its_frames_as_the_camera_wrote_them(run: tuple[Path, np.ndarray, bool]) -> None:
    """From raw/ all of them; from the aligned ones all that stayed in the frame, and 0 where it had left."""
    path, frames, raw = run
    got = list(replay(path))
    assert len(got) == 5
    for i, frame in enumerate(got):
        dy, dx = align.whole(tuple(SHIFTS[i]))
        stayed = np.zeros(frame.pixels.shape, bool)
        stayed[max(0, -dy) : 24 - max(0, dy), max(0, -dx) : 32 - max(0, dx)] = True
        if raw:
            stayed[:] = True
        assert np.array_equal(frame.pixels[stayed], frames[i][stayed])
        assert not frame.pixels[~stayed].any()
        assert frame.pixels.dtype == frames.dtype
        assert frame.time_s == 1e9 + i / 4
        assert frame.pixel_size_nm == (0.25, 0.25)
        assert frame.series == path.name
        assert frame.origin.sub == i


def test_a_run_gives_its_frames_as_they_were_stored(run: tuple[Path, np.ndarray, bool]) -> None:
    path, frames, _ = run
    for i, frame in enumerate(replay(path, moved=True)):
        assert np.array_equal(frame.pixels, align.move(frames[i], tuple(SHIFTS[i]))[0])


def test_a_part_of_a_run(run: tuple[Path, np.ndarray, bool]) -> None:
    assert [f.origin.sub for f in replay(run[0], start=1, stop=3)] == [1, 2]
    assert [f.origin.sub for f in replay(run[0], start=3, stop=99)] == [3, 4]


@pytest.mark.parametrize(("fmt", "name"), [("mrc", "movie.mrc"), ("tiff-stack", "movie.tif"), ("tiff", "")])
def test_a_camera_file_or_folder_is_replayed(fmt: str, name: str, tmp_path: Path) -> None:
    movie = Planted(6)
    folder = tmp_path / "session"
    for _ in play(movie, folder, fmt=fmt):  # type: ignore[arg-type]
        pass
    got = list(replay(folder / name, start=1, stop=5))
    assert [f.origin.sub for f in got] == [1, 2, 3, 4]
    assert np.array_equal(np.stack([f.pixels for f in got]), movie.frames[1:5])
    assert all(f.pixel_size_nm == pytest.approx(movie.pixel_size_nm) for f in got)
    times = [f.time_s for f in got]
    assert times == sorted(times)
    assert len({(f.origin.path, f.origin.sub) for f in got}) == 4


def test_a_path_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        next(replay(tmp_path / "nowhere.mrc"))
