"""NorPix StreamPix sequences (.seq), as Direct Electron cameras write them: counted by size, the header's count is stale."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from emstream.errors import NotComplete, UnreadableFile
from emstream.source.formats.files import ByteFile
from emstream.source.formats.protocol import Verdict
from emstream.source.formats.stride import Layout, StrideSource

MAGIC = b"\xed\xfe\0\0"
MONO = 100


def recognise(head: bytes, path: Path) -> Verdict:
    """0xFEED, little endian, and the name in UTF-16."""
    if len(head) < 4:
        return Verdict.NOT_YET if MAGIC.startswith(head) and path.suffix.lower() == ".seq" else Verdict.NO
    if head[:4] == MAGIC:
        return Verdict.YES
    return Verdict.NOT_YET if path.suffix.lower() == ".seq" and not any(head) else Verdict.NO


class SeqSource(StrideSource):
    """One sequence; each image is followed by its time stamp and padding up to `true image size`."""

    format = "seq"

    def parse(self, file: ByteFile) -> Layout:
        """The 1024-byte header; images begin at 8192 since version 5, at 1024 before."""
        head = file.read_at(0, 1024)
        if not any(head):
            raise NotComplete(f"{self.path} has no header yet")
        (version,) = struct.unpack_from("<I", head, 28)
        width, height, bits, _, nbytes, kind, allocated, _, stride = struct.unpack_from("<9I", head, 548)
        (fps,) = struct.unpack_from("<d", head, 584)
        (compression,) = struct.unpack_from("<I", head, 620)
        if compression:
            raise UnreadableFile(f"{self.path} is a compressed sequence", "record it raw", reason="unknown_format")
        if kind not in (0, MONO):
            raise UnreadableFile(f"{self.path} holds images of kind {kind}, not grey", reason="colour")
        if bits not in (8, 16, 32):
            raise UnreadableFile(f"{self.path} has a damaged header: {bits} bits a pixel")
        pixels = width * height * bits // 8
        if nbytes < pixels:
            raise UnreadableFile(f"{self.path} has a damaged header: {nbytes} bytes for {height} x {width} px")
        self._stamp_at = nbytes
        start = 8192 if version >= 5 else 1024
        meta = {"fps": fps} if 0 < fps < 1e6 else {}
        return Layout(
            shape=(height, width),
            dtype=np.dtype(f"<u{bits // 8}"),
            start=start,
            stride=stride,
            n_expected=allocated or None,
            many=True,
            meta=meta,
        )

    def frame_time(self, i: int) -> float | None:
        """The stamp behind the pixels: seconds, ms, µs. Raises NotComplete."""
        lay = self.layout
        if self._stamp_at + 8 > lay.stride:
            return None
        raw = self.file.read_at(lay.start + i * lay.stride + self._stamp_at, 8)
        seconds, ms, us = struct.unpack("<IHH", raw)
        return seconds + ms / 1e3 + us / 1e6 if seconds else None
