"""Movie: the frames of any camera file, folder or run, as a sequence of (y, x) arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import numpy as np

from emstream.errors import FrameOutOfRange
from emstream.messages import PixelSize
from emstream.source.formats.protocol import FrameSource, SourceState


class Movie:
    """len(movie), movie.shape (y, x), .dtype, .pixel_size_nm, movie[i] -> (y, x) array in file order.

    The number of frames is that of the moment of opening; `refresh` looks again at a file that grows.
    """

    def __init__(self, source: FrameSource, pixel_size_nm: PixelSize | None = None) -> None:
        self._source = source
        self._given = pixel_size_nm
        self._state: SourceState = source.poll()

    def refresh(self) -> int:
        """Look at the file again; the number of frames now."""
        self._state = self._source.poll()
        return len(self)

    def __len__(self) -> int:
        return self._state.n_covered

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) px of a frame."""
        return self._source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The camera's, native byte order."""
        return self._source.dtype

    @property
    def pixel_size_nm(self) -> PixelSize | None:
        """(y, x) nm per px; None when the file does not tell."""
        return self._given or self._source.pixel_size_nm

    @property
    def format(self) -> str:
        """Short name of the reader."""
        return self._source.format

    @property
    def complete(self) -> bool:
        """False when more frames are announced than are there, or part of one is."""
        state = self._state
        return not state.problem and (state.closed or state.n_expected is None or state.n_covered >= state.n_expected)

    @property
    def problem(self) -> str:
        """Why the rest cannot be read, "" when all is well."""
        return self._state.problem

    @property
    def meta(self) -> Mapping[str, Any]:
        """What the file tells: camera, exposure_s, fps …"""
        return self._source.meta()

    def __getitem__(self, i: int) -> np.ndarray:
        """Frame i, (y, x); negative counts from the end. Raises FrameOutOfRange, UnreadableFile."""
        return self._source.read(self._index(i))

    def read_into(self, i: int, out: np.ndarray) -> None:
        """Frame i into `out`: C-contiguous, exactly `shape` and `dtype`."""
        self._source.read_into(self._index(i), out)

    def _index(self, i: int) -> int:
        k, n = int(i), len(self)
        if not -n <= k < n:
            raise FrameOutOfRange(f"{self._source.path} has no frame {k}", f"it has {n}")
        return k % n

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def frame_time(self, i: int) -> float | None:
        """Seconds since 1970 that the file gives for frame i; None when it gives none."""
        return self._source.frame_time(self._index(i))

    def close(self) -> None:
        """Give the file handles back."""
        self._source.close()

    def __enter__(self) -> Movie:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        y, x = self.shape
        return f"<Movie {self._source.path.name}: {len(self)} frames of {y} x {x} {self.dtype}, {self.format}>"
