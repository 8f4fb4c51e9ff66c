"""Frames that lie at fixed distances in a file: MRC, SEQ, MIB, TVIPS, NPY; counted from the file's size."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emstream.errors import FrameOutOfRange, NotComplete, UnreadableFile
from emstream.messages import PixelSize
from emstream.source.formats.base import check_size
from emstream.source.formats.files import ByteFile
from emstream.source.formats.protocol import SourceState
from emstream.source.formats.single import FileSource

SEARCH = 256  # blank frames in a row that one poll looks past


@dataclass(frozen=True, slots=True)
class Layout:
    """Where frames lie, from a header. Frame i: `stride` bytes at `start` + i * stride, pixels at + `skip`."""

    shape: tuple[int, int]  # (y, x) px of the frame that is handed out
    dtype: np.dtype[Any]  # as stored, with its byte order
    start: int  # byte of frame 0
    stride: int  # bytes from one frame to the next
    skip: int = 0  # bytes of a frame header before the pixels
    nbytes: int = 0  # bytes of pixels on disk; 0 = shape x dtype (less for packed pixels)
    n_expected: int | None = None  # announced; a hint
    n_limit: int | None = None  # announced, and final: there are never more
    many: bool | None = None  # known from the header alone
    pixel_size_nm: PixelSize | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of pixels of one frame on disk."""
        return self.nbytes or self.shape[0] * self.shape[1] * self.dtype.itemsize


class StrideSource(FileSource):
    """One file of frames at fixed distances. Subclasses give `format` and `parse`; some unpack their pixels."""

    layout: Layout

    def parse(self, file: ByteFile) -> Layout:
        """The layout that the header tells. Raises NotComplete while the header is not whole, UnreadableFile."""
        raise NotImplementedError

    def begin(self, file: ByteFile) -> None:
        """See FileSource."""
        lay = self.parse(file)
        check_size(
            self.path, lay.shape, max(lay.shape[0] * lay.shape[1] * lay.dtype.itemsize, lay.stride), self.options
        )
        if lay.start < 0 or lay.stride < lay.skip + lay.pixel_bytes:
            raise UnreadableFile(f"{self.path} has a damaged header: frames lie {lay.stride} bytes apart")
        self.layout, self._shape, self._dtype = lay, lay.shape, lay.dtype.newbyteorder("=")
        self._n_complete = 0

    @property
    def pixel_size_nm(self) -> PixelSize | None:
        """(y, x) nm per px."""
        return self.layout.pixel_size_nm

    def look(self, file: ByteFile, st: os.stat_result) -> SourceState:
        """O(new frames): the size, the holes, and up to 4 KiB of each frame that is new."""
        lay = self.layout
        end = file.written_end()
        covered = max(0, end - lay.start) // lay.stride
        if lay.n_limit is not None:
            covered = min(covered, lay.n_limit)
        announced = lay.n_limit if lay.n_limit is not None else lay.n_expected
        whole = announced == covered and covered > 0 and not self._ends_in_zeros(file, covered)
        self._advance(file, covered, end, whole)
        return SourceState(
            n_complete=self._n_complete,
            n_covered=covered,
            n_expected=announced if announced is not None and announced >= covered else None,
            closed=whole,
            many=True if covered > 1 else lay.many,
        )

    def _ends_in_zeros(self, file: ByteFile, n: int) -> bool:
        """The last of n frames ends in zeros: a preallocated file looks so before it is written."""
        at = self.layout.start + (n - 1) * self.layout.stride + self.layout.skip
        return file.is_zero(at, at + self.layout.pixel_bytes)

    def _advance(self, file: ByteFile, covered: int, end: int, whole: bool) -> None:
        """Frame i is whole when the next one began and i does not end in zeros, or a later frame is whole."""
        begun = covered if whole or end > self.layout.start + covered * self.layout.stride else covered - 1
        if begun > self._n_complete and not self._ends_in_zeros(file, begun):
            self._n_complete = begun
            return
        zeros = 0  # from the last whole frame upwards, until it looks as if nothing was written any more
        for n in range(self._n_complete + 1, begun):
            if not self._ends_in_zeros(file, n):
                self._n_complete, zeros = n, 0
            elif (zeros := zeros + 1) > SEARCH:
                return

    def fill(self, i: int, out: np.ndarray) -> None:
        """Pixels of frame i; overridden where they are packed."""
        self.read_pixels(i, out.data.cast("B"))
        if not self.layout.dtype.isnative:
            out.byteswap(inplace=True)

    def read_pixels(self, i: int, out: memoryview) -> None:
        """The bytes of frame i's pixels as they are stored."""
        lay = self.layout
        if lay.n_limit is not None and i >= lay.n_limit:
            raise FrameOutOfRange(f"{self.path} has no frame {i}, only {lay.n_limit}")
        at = lay.start + i * lay.stride
        if at + lay.stride > self.file.size():
            raise NotComplete(f"frame {i} of {self.path} is not wholly there yet")
        self.file.read_into(at + lay.skip, out)

    def meta(self) -> Mapping[str, Any]:
        """What the header tells."""
        return self.layout.meta
