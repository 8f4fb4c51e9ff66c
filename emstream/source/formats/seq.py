"""NorPix StreamPix .seq, as Direct Electron and others write it: frames at fixed distances, a time stamp after each."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from emstream.errors import NotComplete, UnreadableFile
from emstream.source.formats.files import ByteFile
from emstream.source.formats.protocol import Verdict
from emstream.source.formats.stride import Layout, StrideSource

MAGIC = b"\xed\xfe\x00\x00"
HEADER = 592


def recognise(head: bytes, path: Path) -> Verdict:
    """The magic word 0xFEED."""
    if len(head) < 4:
        return Verdict.NOT_YET if path.suffix.lower() == ".seq" else Verdict.NO
    return Verdict.YES if head[:4] == MAGIC else Verdict.NO


class SeqSource(StrideSource):
    """One .seq file. The header's number of frames is stale while it records: the size counts."""

    format = "seq"

    def parse(self, file: ByteFile) -> Layout:
        head = file.read_at(0, HEADER)
        version, start = struct.unpack_from("<2i", head, 28)
        width, height, bits, _, nbytes, _, frames, _, stride = struct.unpack_from("<9I", head, 548)
        (fps,) = struct.unpack_from("<d", head, 584)
        if bits not in (8, 16, 32):
            raise UnreadableFile(f"{self.path} has {bits} bits per pixel", "8, 16 and 32 are read", "unknown_format")
        dtype = np.dtype({8: "u1", 16: "<u2", 32: "<u4"}[bits])
        if nbytes != width * height * dtype.itemsize:
            raise UnreadableFile(
                f"{self.path}: frames of {width} x {height} px and {nbytes} bytes", "only plain grey frames are read",
                "unknown_format",
            )  # fmt: skip
        return Layout(
            shape=(height, width),
            dtype=dtype,
            start=8192 if version >= 5 else max(1024, start),
            stride=stride,
            nbytes=nbytes,
            n_expected=frames or None,
            many=True,
            meta={"fps": fps} if 0 < fps < 1e6 else {},
        )

    def frame_time(self, i: int) -> float | None:
        """The stamp behind the pixels: seconds, milliseconds, microseconds; the recorder's local clock taken as UTC."""
        at = self.layout.start + i * self.layout.stride + self.layout.pixel_bytes
        try:
            seconds, ms, us = struct.unpack("<I2H", self.file.read_at(at, 8))
        except NotComplete:
            return None
        return seconds + ms / 1e3 + us / 1e6 if seconds else None
