"""FEI/Thermo TIA .ser series: an offset table, then elements with their own calibration."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

from emstream.errors import FrameOutOfRange, NotComplete, UnreadableFile
from emstream.source.formats.base import check_size
from emstream.source.formats.files import ByteFile
from emstream.source.formats.protocol import SourceState, Verdict
from emstream.source.formats.single import FileSource
from emstream.source.formats.units import pixel_size

DTYPES = {1: "<u1", 2: "<u2", 3: "<u4", 4: "<i1", 5: "<i2", 6: "<i4", 7: "<f4", 8: "<f8"}
IMAGES = 0x4122
ELEMENT = 50  # bytes before an element's pixels


def recognise(head: bytes, path: Path) -> Verdict:
    """Byte order mark and series id."""
    if len(head) < 4:
        return Verdict.NOT_YET if path.suffix.lower() == ".ser" else Verdict.NO
    return Verdict.YES if head[:4] == b"\x49\x49\x97\x01" else Verdict.NO


class SerSource(FileSource):
    """One .ser file. Valid elements count, and of them those whose bytes are there."""

    format = "ser"

    def begin(self, file: ByteFile) -> None:
        head = file.read_at(0, 26)
        version, kind = struct.unpack_from("<HI", head, 4)
        total, valid = struct.unpack_from("<2I", head, 14)
        if kind != IMAGES:
            raise UnreadableFile(f"{self.path} is no series of images", reason="unknown_format")
        wide = version >= 0x220
        self._word, self._total = ("<Q" if wide else "<I"), total
        (self._table,) = struct.unpack_from(self._word, file.read_at(22, 8 if wide else 4))
        if valid == 0:
            raise NotComplete(f"{self.path} has no element yet")
        at = self._offset(file, 0)
        _, dx, _, _, dy, _, code, width, height = struct.unpack("<ddiddiHII", file.read_at(at, ELEMENT))
        if code not in DTYPES:
            raise UnreadableFile(
                f"{self.path} holds data of type {code}", "real grey values are read", "unknown_format"
            )
        self._stored = np.dtype(DTYPES[code])
        self._shape, self._dtype = (height, width), self._stored.newbyteorder("=")
        self._bytes = width * height * self._stored.itemsize
        check_size(self.path, self._shape, self._bytes, self.options)
        small = 0 < abs(dx) < 1e-3 and 0 < abs(dy) < 1e-3  # metres; reciprocal calibrations are far larger
        self._pixel_size = pixel_size(abs(dy) * 1e9, abs(dx) * 1e9) if small else None

    def _offset(self, file: ByteFile, i: int) -> int:
        size = struct.calcsize(self._word)
        return int(struct.unpack(self._word, file.read_at(self._table + i * size, size))[0])

    def look(self, file: ByteFile, st: os.stat_result) -> SourceState:
        (valid,) = struct.unpack("<I", file.read_at(18, 4))
        n = min(valid, self._total)
        while n and self._offset(file, n - 1) + ELEMENT + self._bytes > st.st_size:
            n -= 1
        return SourceState(n, n, self._total, closed=n == self._total, many=self._total > 1)

    def fill(self, i: int, out: np.ndarray) -> None:
        if i >= self._total:
            raise FrameOutOfRange(f"{self.path} has no frame {i}", f"it has {self._total}")
        at = self._offset(self.file, i)
        if struct.unpack("<HII", self.file.read_at(at + 40, 10))[1:] != self._shape[::-1]:
            raise UnreadableFile(f"frame {i} of {self.path} has another size than the first")
        self.file.read_into(at + ELEMENT, out.data.cast("B"))
