"""TVIPS .tvips streams: a main header, then frames behind small headers; sets _000, _001 … are one movie."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import numpy as np

from emstream.errors import NotComplete, UnreadableFile
from emstream.source.formats.base import check_size
from emstream.source.formats.files import ByteFile
from emstream.source.formats.protocol import SourceState, Verdict
from emstream.source.formats.single import FileSource

MAIN = 256
NAME = re.compile(r"^(.*_)(\d+)(\.tvips)$", re.IGNORECASE)


def recognise(head: bytes, path: Path) -> Verdict:
    """No magic: the extension, the header's size and a version that is known."""
    if path.suffix.lower() != ".tvips":
        return Verdict.NO
    if len(head) < 20:
        return Verdict.NOT_YET
    size, version, *_, bits = struct.unpack_from("<5I", head)
    return Verdict.YES if size == MAIN and version in (1, 2) and bits in (8, 16) else Verdict.NO


class TvipsSource(FileSource):
    """A set of .tvips files, opened by its first."""

    format = "tvips"

    def begin(self, file: ByteFile) -> None:
        head = file.read_at(0, MAIN)
        version, width, height, bits = struct.unpack_from("<4I", head, 4)
        (frame_header,) = struct.unpack_from("<I", head, 48)
        if bits not in (8, 16):
            raise UnreadableFile(f"{self.path} has {bits} bits per pixel", "8 and 16 are read", "unknown_format")
        self._shape, self._dtype = (height, width), np.dtype("u1" if bits == 8 else "<u2").newbyteorder("=")
        self._skip = 12 if version == 1 else max(12, frame_header)
        self._bytes = height * width * self._dtype.itemsize
        self._stride = self._skip + self._bytes
        check_size(self.path, self._shape, self._bytes, self.options)
        self._rest: dict[int, ByteFile] = {}
        self._counts = [0]

    def look(self, file: ByteFile, st: os.stat_result) -> SourceState:
        sizes = [max(0, file.size() - MAIN)] + [p.stat().st_size for p in self._followers()]
        self._counts = [s // self._stride for s in sizes]
        covered = sum(self._counts)
        begun = covered if sizes[-1] % self._stride else max(0, covered - 1)
        return SourceState(begun, covered, many=True if covered > 1 else None)

    def _followers(self) -> list[Path]:
        found = NAME.match(self.path.name)
        if not found or int(found[2]):
            return []
        paths, k = [], 1
        while (p := self.path.with_name(f"{found[1]}{k:0{len(found[2])}d}{found[3]}")).exists():
            paths.append(p)
            k += 1
        return paths

    def _place(self, i: int) -> tuple[ByteFile, int]:
        """The file that holds frame i, and the byte of its header."""
        for k, n in enumerate(self._counts):
            if i < n:
                if k and k not in self._rest:
                    self._rest[k] = ByteFile(self._followers()[k - 1])
                return (self._rest[k] if k else self.file), (0 if k else MAIN) + i * self._stride
            i -= n
        raise NotComplete(f"{self.path} has no such frame yet")

    def fill(self, i: int, out: np.ndarray) -> None:
        file, at = self._place(i)
        file.read_into(at + self._skip, out.data.cast("B"))

    def frame_time(self, i: int) -> float | None:
        """Seconds and milliseconds of the frame's own header."""
        file, at = self._place(i)
        _, seconds, ms = struct.unpack("<3I", file.read_at(at, 12))
        return seconds + ms / 1e3 if seconds > 1e8 else None

    def close(self) -> None:
        for part in self._rest.values():
            part.close()
        super().close()
