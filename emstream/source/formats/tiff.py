"""TIFF and BigTIFF stacks, also while they grow: a page counts when its directory and all its strips are there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emstream.errors import NotComplete, UnreadableFile
from emstream.messages import PixelSize
from emstream.source.formats import ifd
from emstream.source.formats.base import check_size
from emstream.source.formats.decode import decoding, one_channel
from emstream.source.formats.files import ByteFile
from emstream.source.formats.protocol import SourceState, Verdict
from emstream.source.formats.sidecar import mdoc
from emstream.source.formats.single import FileSource
from emstream.source.formats.tiff_meta import TiffMeta, read_meta

SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".eer", ".ecc", ".gain")
MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
KINDS = {1: "u", 2: "i", 3: "f"}
EER = (65000, 65001, 65002)
SIGNATURE = (256, 257, 258, 259, 262, 266, 277, 278, 284, 317, 322, 323, 339)  # tags that say how pixels are stored


def recognise(head: bytes, path: Path) -> Verdict:
    """The first four bytes."""
    if len(head) < 4:
        return Verdict.NOT_YET if any(m.startswith(head) for m in MAGICS) else Verdict.NO
    if head[:4] in MAGICS:
        return Verdict.YES
    return Verdict.NOT_YET if path.suffix.lower() in SUFFIXES and not any(head) else Verdict.NO


@dataclass(frozen=True, slots=True)
class Pixels:
    """How a page stores its pixels."""

    shape: tuple[int, int]
    bits: int
    samples: int
    kind: str  # u, i or f
    compression: int
    planar: int
    block: tuple[int, int]  # rows, columns of a strip or tile
    tiled: bool
    reduced: bool  # a thumbnail
    signature: tuple[Any, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """As handed out, native."""
        width = next((w for w in (8, 16, 32, 64) if self.bits <= w), 64)
        return np.dtype(f"{self.kind}{width // 8}")

    @property
    def nbytes(self) -> int:
        """Of one frame, decoded, all samples."""
        return self.shape[0] * self.shape[1] * self.samples * self.dtype.itemsize

    @property
    def plain(self) -> bool:
        """Stored as it is handed out, byte order apart."""
        whole = self.bits in (8, 16, 32, 64) and not (self.kind == "f" and self.bits == 8)
        straight = not self.tiled and self.signature[SIGNATURE.index(266)] in (None, 1)
        return self.compression == 1 and self.samples == 1 and whole and straight

    @property
    def n_blocks(self) -> int:
        """Strips or tiles of one page."""
        grid = -(-self.shape[0] // self.block[0]) * -(-self.shape[1] // self.block[1])
        return grid * (self.samples if self.planar == 2 else 1)


class TiffSource(FileSource):
    """One TIFF file: a page is a frame; thumbnails and what is not like the first page are left out."""

    format = "tiff"

    def begin(self, file: ByteFile) -> None:
        """The header and the first page's directory."""
        head = file.read_at(0, 16) if file.size() >= 16 else file.read_at(0, 8) + bytes(8)
        if not any(head):
            raise NotComplete(f"{self.path} has no header yet")
        self.flavour = ifd.flavour(head, self.path)
        at = ifd.read_pointer(file, self.flavour, ifd.first_pointer(self.flavour))
        if at == 0:
            raise NotComplete(f"{self.path} has no page yet")
        page = ifd.read_page(file, self.flavour, at)
        self.pixels = self._pixels(file, page)
        check_size(self.path, self.pixels.shape, self.pixels.nbytes, self.options)
        self._shape, self._dtype = self.pixels.shape, self.pixels.dtype
        self.info: TiffMeta = read_meta(file, self.flavour, page)
        planar = self.pixels.planar == 2 and self.pixels.samples > 1
        # tifffile takes a stack of three or four frames for planes of colour, but tells its true shape
        self._planes = self.pixels.samples if planar and self.info.stacked == self.pixels.samples else 0
        self._mdoc = mdoc(self.path)
        self._frames: list[tuple[int, int]] = []  # (directory, byte of the pixels or -1 when in pieces)
        self._seen: set[int] = set()
        self._next_at = ifd.first_pointer(self.flavour)
        self._n_complete = 0
        self._stack = 0  # frames that lie one after the other behind a single directory
        self._decoders: dict[tuple[Any, ...], Callable[..., Any]] = {}

    @property
    def pixel_size_nm(self) -> PixelSize | None:
        """From DigitalMicrograph's, ImageJ's, OME's, FEI's or the plain resolution tags, or SerialEM's .mdoc."""
        return self.info.pixel_size_nm or self._mdoc.get("pixel_size_nm")

    def _pixels(self, file: ByteFile, page: ifd.Page) -> Pixels:
        kind = self.flavour
        values = {code: ifd.number(file, kind, page, code) for code in SIGNATURE}
        width, height = values[256], values[257]
        if not isinstance(width, int) or not isinstance(height, int):
            raise UnreadableFile(f"{self.path} has a page without a size")
        samples, bits = values[277] or 1, values[258] or 1
        form, compression = values[339] or 1, values[259] or 1
        if compression in EER:
            bits, form = 8, 1
        if form == 4:
            form = 1
        if form not in KINDS or not 1 <= bits <= 64 or (form == 3 and bits not in (16, 24, 32, 64)):
            raise UnreadableFile(f"{self.path} has {bits}-bit samples of kind {form}", reason="unknown_format")
        if values[262] == 3:
            raise UnreadableFile(f"{self.path} is a picture with a colour map", "save it as grey", reason="colour")
        tiled = 322 in page.tags
        block = (values[323] or 0, values[322] or 0) if tiled else (min(values[278] or height, height), width)
        if min(block) <= 0 or not 1 <= samples <= 64:
            raise UnreadableFile(f"{self.path} has a damaged page directory")
        reduced = bool((ifd.number(file, kind, page, 254) or 0) & 1)
        signature = tuple(values.values())
        planar = values[284] or 1
        return Pixels(
            (height, width), bits, samples, KINDS[form], compression, planar, block, tiled, reduced, signature
        )

    def look(self, file: ByteFile, st: os.stat_result) -> SourceState:
        """Follow the chain of directories from where it ended last time."""
        end, problem, ended = file.written_end(), "", False
        while True:
            try:
                at = ifd.read_pointer(file, self.flavour, self._next_at)
                if at == 0 or at in self._seen:
                    problem = "" if at == 0 else "its page directories run in a circle"
                    ended = True
                    break
                page = ifd.read_page(file, self.flavour, at)
                pixels = self._pixels(file, page)
                if self._belongs(pixels):
                    self._frames.append((at, self._where(file, page, pixels, end)))
            except NotComplete:
                break
            except UnreadableFile as err:
                problem = str(err)
                break
            self._seen.add(at)
            self._next_at = page.next_at
        self._stack = self._one_directory(end) if ended and len(self._frames) == 1 else 0
        n = max(self._stack, len(self._frames))
        if self._planes and n == 1:
            n = self._n_complete = self._planes
        else:
            self._advance(file, n)
        expected = self._mdoc.get("frames") or self.info.frames
        return SourceState(
            n_complete=self._n_complete,
            n_covered=n,
            n_expected=expected if expected and expected >= n else None,
            closed=bool(expected and ended and self._n_complete == expected),
            many=True if n > 1 or (expected or 0) > 1 else None,
            problem=problem,
        )

    def _belongs(self, pixels: Pixels) -> bool:
        """Not a thumbnail, and not EER's summed picture at the end."""
        first = self.pixels
        if pixels.reduced and not first.reduced:
            return False
        return (pixels.compression in EER) == (first.compression in EER)

    def _where(self, file: ByteFile, page: ifd.Page, pixels: Pixels, end: int) -> int:
        """Byte of a page's pixels, -1 when they are packed or in pieces. Raises NotComplete, UnreadableFile."""
        offsets, counts = self._table(file, page, pixels)
        if min(counts) <= 0 or min(offsets) <= 0 or max(o + c for o, c in zip(offsets, counts)) > end:
            raise NotComplete(f"{self.path} ends within a page")
        if not pixels.plain:
            return -1
        if sum(counts) < pixels.nbytes:
            raise UnreadableFile(f"{self.path} has a page whose strips are too short")
        joined = all(a + c == b for a, c, b in zip(offsets, counts, offsets[1:]))
        return offsets[0] if joined else -1

    def _table(self, file: ByteFile, page: ifd.Page, pixels: Pixels) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Offsets and byte counts of the strips or tiles."""
        codes = (324, 325) if pixels.tiled else (273, 279)
        n = pixels.n_blocks
        offsets, counts = (ifd.numbers(file, self.flavour, page, code, limit=max(n, 1) + 1) for code in codes)
        if len(offsets) < n or len(counts) < n:
            raise UnreadableFile(f"{self.path} has a page with {len(offsets)} of {n} strips")
        return offsets[:n], counts[:n]

    def _one_directory(self, end: int) -> int:
        """ImageJ and others write one directory and all the frames behind it; how many are there."""
        announced, at = self.info.stacked, self._frames[0][1]
        return min(announced, max(0, end - at) // self.pixels.nbytes) if at > 0 and announced > 1 else 0

    def _advance(self, file: ByteFile, n: int) -> None:
        """Pages in a chain are whole unless they end in zeros and nothing after them is written."""
        if self._stack and self._stack < self.info.stacked:
            n = 1  # until all are there it might be the first page of a chain
        for k in range(n, self._n_complete, -1):
            if not self._ends_in_zeros(file, k - 1):
                self._n_complete = k
                return

    def _ends_in_zeros(self, file: ByteFile, i: int) -> bool:
        at, where = self._frames[min(i, len(self._frames) - 1)]
        if where >= 0:
            start = where + i * self.pixels.nbytes if self._stack else where
            return file.is_zero(start, start + self.pixels.nbytes)
        page = ifd.read_page(file, self.flavour, at)
        offsets, counts = self._table(file, page, self._pixels(file, page))
        return file.is_zero(offsets[-1], offsets[-1] + counts[-1])

    def fill(self, i: int, out: np.ndarray) -> None:
        """Pixels of page i."""
        if i < self._planes and self._frames:
            page = ifd.read_page(self.file, self.flavour, self._frames[0][0])
            out[...] = self._decode(page, self.pixels, 0)[..., i]
            return
        if i >= max(self._stack, len(self._frames)):
            raise NotComplete(f"frame {i} of {self.path} is not there yet")
        at, where = self._frames[min(i, len(self._frames) - 1)]
        if self._stack:
            where += i * self.pixels.nbytes
        page = ifd.read_page(self.file, self.flavour, at)
        pixels = self._pixels(self.file, page)
        if pixels.shape != self.shape or pixels.dtype != self.dtype:
            raise UnreadableFile(f"page {i} of {self.path} is {pixels.shape} {pixels.dtype}, not {self.shape}")
        if where >= 0 and pixels.plain:
            self.file.read_into(where, out.data.cast("B"))
            if self.flavour.order == ">":
                out.byteswap(inplace=True)
            return
        out[...] = one_channel(self._decode(page, pixels, i), self.path)

    def _decode(self, page: ifd.Page, pixels: Pixels, i: int) -> np.ndarray:
        """(y, x) or (y, x, samples) of a page that is compressed, packed or in pieces."""
        offsets, counts = self._table(self.file, page, pixels)
        if max(counts) > self.options.max_frame_bytes:
            raise UnreadableFile(f"page {i} of {self.path} has a strip of {max(counts)} bytes", reason="oversize")
        height, width = pixels.shape
        planes, inner = (pixels.samples, 1) if pixels.planar == 2 else (1, pixels.samples)
        whole = np.zeros((planes, height, width, inner), pixels.dtype)
        with decoding(self.path, f"frame {i}"):
            decode = self._decoder(page, pixels)
            for k, (offset, count) in enumerate(zip(offsets, counts)):
                data = bytearray(count)
                self.file.read_into(offset, memoryview(data))
                piece, (plane, _, row, column, _), _ = decode(bytes(data), k)
                if piece is None:
                    raise UnreadableFile(f"frame {i} of {self.path} has an empty strip")
                part = piece[0, : height - row, : width - column]
                whole[plane, row : row + part.shape[0], column : column + part.shape[1]] = part
        return whole[0] if pixels.planar != 2 else np.moveaxis(whole[..., 0], 0, -1)

    def _decoder(self, page: ifd.Page, pixels: Pixels) -> Callable[..., Any]:
        """tifffile's decoder of pages that are stored like this one; made once."""
        tables = page.tags.get(347)
        key = (*pixels.signature, tables.at if tables else 0)
        if key not in self._decoders:
            import tifffile

            with tifffile.TiffFile(self.path) as tif:
                tif.filehandle.seek(page.at)
                template = tifffile.TiffPage(tif, index=0)
                decode, jpeg = template.decode, template.jpegtables
            self._decoders[key] = lambda data, k: decode(data, k, jpegtables=jpeg)
        return self._decoders[key]

    def frame_time(self, i: int) -> float | None:
        """None: TIFF dates are of whole seconds, in an unknown zone."""
        return None

    def meta(self) -> Mapping[str, Any]:
        """What tags and sidecar tell."""
        known = {k: v for k, v in self._mdoc.items() if k not in ("frames", "pixel_size_nm")}
        return {**self.info.meta, **known}
