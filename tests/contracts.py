"""What every reader must keep, checked on files whose truth is known; other packages' readers can be held to it too."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from emstream.errors import FrameOutOfRange, NotComplete, SourceMissing, UnreadableFile
from emstream.source import SourceOptions
from emstream.source.formats import FrameSource, open_movie, open_source


@dataclass(frozen=True)
class Planted:
    """A movie of noise that never ends in zeros; enough of simulate.Movie for the simulated camera."""

    n: int = 6
    shape: tuple[int, int] = (12, 20)
    dtype: np.dtype = field(default_factory=lambda: np.dtype("u2"))
    pixel_size_nm: tuple[float, float] | None = (0.25, 0.25)
    seed: int = 0
    fps: float = 4.0

    def __len__(self) -> int:
        return self.n

    @property
    def time_s(self) -> np.ndarray:
        return np.arange(self.n) / self.fps

    def frame(self, i: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, i))
        if self.dtype.kind == "f":
            return rng.uniform(1, 9, self.shape).astype(self.dtype)
        low = -40 if self.dtype.kind == "i" else 1
        pixels = rng.integers(low, 100, self.shape).astype(self.dtype)
        pixels.flat[-1] = 7
        return pixels

    @property
    def frames(self) -> np.ndarray:
        return np.stack([self.frame(i) for i in range(self.n)])


def check_reader(
    path: Path,
    truth: np.ndarray,
    *,
    pixel_size_nm: tuple[float, float] | None = None,
    name: str | None = None,
    rel: float = 1e-5,
) -> None:
    """len, shape, dtype, pixels, negative indices, FrameOutOfRange, pixel size and read_into of a whole file.

    truth : (t, y, x), native byte order
    name  : of the reader that is to know the file
    """
    with open_movie(path) as movie:
        n = len(truth)
        assert len(movie) == n
        assert movie.shape == truth.shape[1:]
        assert movie.dtype == truth.dtype
        assert movie.dtype.isnative
        if name is not None:
            assert movie.format == name
        for i in range(n):
            assert np.array_equal(movie[i], truth[i]), f"frame {i}"
        assert np.array_equal(movie[-1], truth[-1])
        assert np.array_equal(movie[-n], truth[0])
        for i in (n, -n - 1, 10**12):
            with pytest.raises(FrameOutOfRange):
                movie[i]
        assert np.array_equal(np.stack(list(movie)), truth)
        out = np.full(movie.shape, 3, movie.dtype)
        movie.read_into(n // 2, out)
        assert np.array_equal(out, truth[n // 2])
        for wrong in (np.empty((1, 1), movie.dtype), np.empty(movie.shape[::-1], movie.dtype).T):
            with pytest.raises(ValueError):
                movie.read_into(0, wrong)
        if pixel_size_nm is None:
            assert movie.pixel_size_nm is None
        else:
            assert movie.pixel_size_nm == pytest.approx(pixel_size_nm, rel=rel)
        assert movie.problem == ""
    with open_movie(path, pixel_size_nm=0.7) as movie:
        assert movie.pixel_size_nm == (0.7, 0.7)


def check_cut(data: bytes, path: Path, truth: np.ndarray, *, cuts: int = 40, name: str = "auto") -> None:
    """A file that ends anywhere: no frame is counted that is not whole, none is handed out with wrong pixels.

    data : the whole file; `path` is written with its beginnings
    """
    for end in sorted({round(k) for k in np.linspace(0, len(data), cuts)} | {len(data) - 1}):
        path.write_bytes(data[:end])
        check_what_is_there(path, truth, name=name)


def check_what_is_there(path: Path, truth: np.ndarray, *, name: str = "auto") -> int:
    """Every covered frame of a file that is not whole has the true pixels; the number of them."""
    try:
        source = open_source(path, SourceOptions(format=name))
    except (NotComplete, UnreadableFile):
        return 0
    try:
        state = source.poll()
        assert 0 <= state.n_complete <= state.n_covered <= len(truth)
        for i in range(state.n_covered):
            assert np.array_equal(source.read(i), truth[i]), f"frame {i} of {path.stat().st_size} bytes"
        with pytest.raises((NotComplete, FrameOutOfRange, UnreadableFile)):
            source.read(len(truth))
        return state.n_covered
    finally:
        source.close()


def check_growth(path: Path, write: Iterable[int], truth: np.ndarray, *, most_behind: int = 1) -> None:
    """One open source follows a file that grows: n never decreases, and is never more than what was written.

    write       : does one write, then yields how many frames are whole on disk
    most_behind : whole frames that may not be counted as covered yet
    """
    source: FrameSource | None = None
    complete = 0
    for whole in write:
        if source is None:
            try:
                source = open_source(path)
            except (NotComplete, SourceMissing):
                assert whole <= most_behind
                continue
        state = source.poll()
        assert state.epoch == 0
        assert complete <= state.n_complete <= state.n_covered <= whole + 1
        assert state.n_covered >= whole - most_behind
        for i in range(complete, state.n_complete):
            assert np.array_equal(source.read(i), truth[i])
        complete = state.n_complete
    assert source is not None
    assert source.poll().n_covered == len(truth)
    assert np.array_equal(source.read(len(truth) - 1), truth[-1])
    source.close()


def check_hostile(data: bytes, path: Path, flips: Iterable[tuple[int, bytes]]) -> None:
    """A file with some bytes changed: only our own errors escape, and nothing huge is allocated.

    flips : (position, the bytes to write there)
    """
    raw = bytearray(data)
    for at, value in flips:
        raw[at : at + len(value)] = value[: len(raw) - at]
    path.write_bytes(raw)
    limit = 1 << 22
    tracemalloc.start()
    try:
        open_and_read(path, limit)
        assert tracemalloc.get_traced_memory()[1] < 8 * limit
    finally:
        tracemalloc.stop()


def open_and_read(path: Path, limit: int) -> None:
    """Some frames of a file that may be damaged; only what a reader is not allowed to raise escapes."""
    try:
        source = open_source(path, SourceOptions(max_frame_bytes=limit))
    except (UnreadableFile, NotComplete, SourceMissing):
        return
    try:
        state = source.poll()
        height, width = source.shape
        assert height * width * source.dtype.itemsize <= limit
        source.meta()
        for i in {0, 1, state.n_covered - 1, state.n_covered}:
            try:
                assert source.read(i).shape == source.shape
                source.frame_time(i)
            except (UnreadableFile, NotComplete, FrameOutOfRange):
                continue
    finally:
        source.close()
