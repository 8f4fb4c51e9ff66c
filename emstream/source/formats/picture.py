"""PNG and JPEG: one frame a file, whole when its end marker is there."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

from emstream.errors import NotComplete, UnreadableFile
from emstream.source.formats.base import check_size
from emstream.source.formats.decode import decoding, one_channel
from emstream.source.formats.files import ByteFile
from emstream.source.formats.protocol import SourceState, Verdict
from emstream.source.formats.single import FileSource

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
JPEG_SUFFIXES = (".jpg", ".jpeg")
MAX_CHUNKS = 100_000


def _recognise(head: bytes, magic: bytes, named: bool) -> Verdict:
    if len(head) < len(magic):
        return Verdict.NOT_YET if magic.startswith(head) else Verdict.NO
    if head.startswith(magic):
        return Verdict.YES
    return Verdict.NOT_YET if named and not any(head) else Verdict.NO


def recognise_png(head: bytes, path: Path) -> Verdict:
    """The first eight bytes."""
    return _recognise(head, PNG, path.suffix.lower() == ".png")


def recognise_jpeg(head: bytes, path: Path) -> Verdict:
    """The first three bytes."""
    return _recognise(head, JPEG, path.suffix.lower() in JPEG_SUFFIXES)


class PictureSource(FileSource):
    """One picture. Subclasses find its end and decode it."""

    def whole(self, file: ByteFile) -> bool:
        """The end marker is there."""
        raise NotImplementedError

    def decode(self, data: bytes) -> np.ndarray:
        """(y, x) or (y, x, channels)."""
        raise NotImplementedError

    def look(self, file: ByteFile, st: os.stat_result) -> SourceState:
        """All or nothing."""
        n = int(self.whole(file))
        return SourceState(n, n, n_expected=1, closed=bool(n), many=False)

    def fill(self, i: int, out: np.ndarray) -> None:
        """Decode the picture."""
        size = self.file.size()
        if i > 0 or not self.whole(self.file):
            raise NotComplete(f"frame {i} of {self.path} is not there yet")
        if size > self.options.max_frame_bytes:
            raise UnreadableFile(f"{self.path} has {size} bytes", "raise source.max_frame_bytes", reason="oversize")
        data = bytearray(size)
        self.file.read_into(0, memoryview(data))
        with decoding(self.path, "the picture"):
            pixels = one_channel(self.decode(bytes(data)), self.path)
            if pixels.shape != self.shape or pixels.dtype != self.dtype:
                raise UnreadableFile(f"{self.path} decodes to {pixels.shape} {pixels.dtype}, its header says otherwise")
        out[...] = pixels


class PngSource(PictureSource):
    """8 or 16 bits a pixel; fewer become 8."""

    format = "png"

    def begin(self, file: ByteFile) -> None:
        """The IHDR chunk."""
        head = file.read_at(0, 33)
        width, height, depth, colour = struct.unpack_from(">IIBB", head, 16)
        if head[12:16] != b"IHDR":
            raise UnreadableFile(f"{self.path} has a damaged PNG header")
        channels = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(colour, 4)
        self._shape, self._dtype = (height, width), np.dtype("u2" if depth == 16 else "u1")
        check_size(self.path, self._shape, height * width * channels * self._dtype.itemsize, self.options)

    def whole(self, file: ByteFile) -> bool:
        """Walk the chunks to IEND."""
        at, size = 8, file.written_end()
        for _ in range(MAX_CHUNKS):
            if at + 12 > size:
                return False
            n, name = struct.unpack(">I4s", file.read_at(at, 8))
            at += 12 + n
            if name == b"IEND":
                return bool(at <= size)
        return False

    def decode(self, data: bytes) -> np.ndarray:
        """By imagecodecs (libpng)."""
        import imagecodecs

        return np.asarray(imagecodecs.png_decode(data))


class JpegSource(PictureSource):
    """8 bits a pixel."""

    format = "jpeg"

    def begin(self, file: ByteFile) -> None:
        """The first start-of-frame segment gives the size."""
        at = 2
        for _ in range(MAX_CHUNKS):
            marker, code, n = struct.unpack(">BBH", file.read_at(at, 4))
            if marker != 0xFF:
                raise UnreadableFile(f"{self.path} has a damaged JPEG header at byte {at}")
            if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
                bits, height, width, channels = struct.unpack(">BHHB", file.read_at(at + 4, 6))
                break
            at += 1 if code == 0xFF else 2 + max(n, 2)
        else:
            raise UnreadableFile(f"{self.path} has a damaged JPEG header")
        self._shape, self._dtype = (height, width), np.dtype("u1" if bits <= 8 else "u2")
        check_size(self.path, self._shape, height * width * max(channels, 1) * self._dtype.itemsize, self.options)

    def whole(self, file: ByteFile) -> bool:
        """The end marker FF D9, perhaps followed by a few bytes of padding."""
        size = file.size()
        tail = file.read_at(max(0, size - 4096), min(size, 4096))
        return b"\xff\xd9" in tail and tail.rstrip(b"\0\r\n").endswith(b"\xff\xd9")

    def decode(self, data: bytes) -> np.ndarray:
        """By imagecodecs (libjpeg-turbo)."""
        import imagecodecs

        return np.asarray(imagecodecs.jpeg_decode(data))
