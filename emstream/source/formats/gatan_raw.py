"""Gatan's Director-Raw: NAME.dm4 describes the frames, NAME.raw, .raw_1 … hold them; frames straddle the segments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emstream.errors import NotComplete, SourceMissing
from emstream.messages import PixelSize
from emstream.source import SourceOptions
from emstream.source.formats.dm import DmSource
from emstream.source.formats.files import ByteFile
from emstream.source.formats.protocol import FrameSource, SourceState
from emstream.source.formats.single import FileSource


def has_segments(path: Path) -> bool:
    """A .dm4 with a .raw of its own stem beside it is a director."""
    return path.suffix.lower() == ".dm4" and path.with_suffix(".raw").is_file()


def open_dm(path: Path, options: SourceOptions) -> FrameSource:
    """The reader of a DM file: a director with its segments, or the image that the file holds."""
    return GatanRawSource(path, options) if has_segments(path) else DmSource(path, options)


def open_raw(path: Path, options: SourceOptions) -> FrameSource:
    """The movie that a segment belongs to. Raises NotComplete while its director is not there."""
    director = path.parent / (path.name[: path.name.lower().rindex(".raw")] + ".dm4")
    try:
        return GatanRawSource(director, options)
    except SourceMissing as err:
        raise NotComplete(f"{director} is not there: it tells what {path.name} holds") from err


class GatanRawSource(FileSource):
    """The segments as one long file; frames are counted from their sizes, the director's count is of the end."""

    format = "gatan-raw"

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._segments: list[ByteFile] = []
        super().__init__(path, options)

    def begin(self, file: ByteFile) -> None:
        """The director gives shape, dtype and calibration."""
        self._director = director = DmSource(self.path, self.options)
        director.close()
        self._shape, self._dtype, self._stored = director.shape, director.dtype, director._stored
        self._frame_bytes = self._stored.itemsize * self._shape[0] * self._shape[1]
        for segment in self._segments:
            segment.close()
        self._segments = [ByteFile(self.path.with_suffix(".raw"))]
        self._n_complete = 0

    @property
    def pixel_size_nm(self) -> PixelSize | None:
        """The director's."""
        return self._director.pixel_size_nm

    def poll(self) -> SourceState:
        """The director's state, with the size and time of the segments."""
        state = super().poll()
        stats = [s.stat() for s in self._segments]
        return SourceState(
            n_complete=state.n_complete,
            n_covered=state.n_covered,
            n_expected=state.n_expected,
            closed=state.closed,
            many=True,
            epoch=state.epoch,
            size=sum(st.st_size for st in stats),
            mtime_ns=max([state.mtime_ns, *(st.st_mtime_ns for st in stats)]),
            inode=stats[0].st_ino if stats else state.inode,
            problem=state.problem,
        )

    def look(self, file: ByteFile, st: os.stat_result) -> SourceState:
        """Segment n counts once it is there; all before it are finished then."""
        self._find_segments()
        end = sum(s.size() for s in self._segments[:-1]) + self._segments[-1].written_end()
        covered = end // self._frame_bytes
        announced = self._director.meta().get("frames")
        whole = announced == covered and covered > 0
        begun = covered if whole or end > covered * self._frame_bytes else covered - 1
        for n in range(begun, max(self._n_complete, begun - 64), -1):
            if not self._ends_in_zeros(n):
                self._n_complete = n
                break
        expected = announced if announced and announced >= covered else None
        if expected is None and end > covered * self._frame_bytes:
            expected = covered + 1  # a part of it is there
        return SourceState(self._n_complete, covered, expected, whole and self._n_complete == covered, True)

    def _find_segments(self) -> None:
        while True:
            name = self.path.with_suffix(f".raw_{len(self._segments)}")
            try:
                self._segments.append(ByteFile(name))
            except SourceMissing:
                return

    def _ends_in_zeros(self, n: int) -> bool:
        size = min(4096, self._frame_bytes)
        tail = bytearray(size)
        self._read(n * self._frame_bytes - size, memoryview(tail))
        return not any(tail)

    def _read(self, at: int, out: memoryview) -> None:
        """Bytes of all segments laid end to end. Raises NotComplete."""
        done = 0
        for segment in list(self._segments):
            if done == len(out):
                return
            size = segment.size()
            if at < size:
                n = min(size - at, len(out) - done)
                segment.read_into(at, out[done : done + n])
                done, at = done + n, at + n
            at -= size
        if done < len(out):
            raise NotComplete(f"the segments of {self.path} end within a frame")

    def fill(self, i: int, out: np.ndarray) -> None:
        """Frame i may begin in one segment and end in another."""
        self._read(i * self._frame_bytes, out.data.cast("B"))
        if not self._stored.isnative:
            out.byteswap(inplace=True)

    def frame_time(self, i: int) -> float | None:
        """The director's time and rate, when it tells both."""
        meta = self._director.meta()
        t0, fps = meta.get("time_s"), meta.get("fps")
        return t0 + i / fps if t0 is not None and fps else None

    def meta(self) -> Mapping[str, Any]:
        """The director's."""
        return self._director.meta()

    def close(self) -> None:
        """Give all handles back."""
        super().close()
        for segment in self._segments:
            segment.close()
