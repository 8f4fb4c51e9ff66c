"""MRC and MRCS movies, also while they grow: frames are counted from the file's size, never from nz (MRC2014, IMOD)."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from emstream.errors import NotComplete, UnreadableFile
from emstream.messages import PixelSize
from emstream.source.formats.files import ByteFile
from emstream.source.formats.protocol import Verdict
from emstream.source.formats.sidecar import de_info
from emstream.source.formats.stride import Layout, StrideSource
from emstream.source.formats.units import pixel_size

SUFFIXES = (".mrc", ".mrcs", ".st", ".map", ".rec", ".ali")
DTYPES = {0: "u1", 1: "i2", 2: "f4", 6: "u2", 12: "f2", 101: "u1"}
IMOD_STAMP = 1146047817
IMOD_SIGNED_BYTES, IMOD_4BIT = 1, 16


def recognise(head: bytes, path: Path) -> Verdict:
    """`MAP ` at byte 208, or the extension and a header that makes sense (old files lack the stamp)."""
    named = path.suffix.lower() in SUFFIXES
    if len(head) < 212:
        return Verdict.NOT_YET if named else Verdict.NO
    if head[208:212] in (b"MAP ", b"MAP\0"):
        return Verdict.YES
    if not named:
        return Verdict.NO
    if not any(head):
        return Verdict.NOT_YET
    return Verdict.YES if any(_sane(head, order) for order in "<>") else Verdict.NO


def _sane(head: bytes, order: str) -> bool:
    nx, ny, _, mode = struct.unpack_from(order + "4i", head)
    return bool(0 < nx < 1 << 20 and 0 < ny < 1 << 20 and 0 <= mode <= 101)


class MrcSource(StrideSource):
    """One MRC file."""

    format = "mrc"

    def parse(self, file: ByteFile) -> Layout:
        """The 1024-byte header; `nsymbt` bytes of extended header come before frame 0."""
        head = file.read_at(0, 1024)
        if not any(head):
            raise NotComplete(f"{self.path} has no header yet")
        order = next((o for o in self._orders(head) if _sane(head, o)), None)
        if order is None:
            raise UnreadableFile(f"{self.path} has a damaged MRC header", "open it with another program to see")
        nx, ny, nz, mode = struct.unpack_from(order + "4i", head)
        stamp, flags = struct.unpack_from(order + "2i", head, 152)
        flags = flags if stamp == IMOD_STAMP else 0
        (nsymbt,) = struct.unpack_from(order + "i", head, 92)
        if mode not in DTYPES:
            what = "colour" if mode == 16 else "unknown_format"
            raise UnreadableFile(f"{self.path} is MRC mode {mode}", "modes 0, 1, 2, 6, 12 and 101 are read", what)
        if nsymbt < 0:
            raise UnreadableFile(f"{self.path} announces an extended header of {nsymbt} bytes")
        name = "i1" if mode == 0 and flags & IMOD_SIGNED_BYTES else DTYPES[mode]
        self.packed = mode == 101 or (mode == 0 and bool(flags & IMOD_4BIT))
        row = (nx + 1) // 2 if mode == 101 else nx  # bytes of a packed row; IMOD's mode 0 halves nx itself
        width = nx if mode == 101 or not self.packed else 2 * nx
        dtype = np.dtype(order + name)
        nbytes = ny * row if self.packed else ny * nx * dtype.itemsize
        start = 1024 + nsymbt
        extended = file.read_at(1024, min(nsymbt, 1024)) if file.size() >= start else b""
        pixels = _cell_size(head, order, nx, width) or _fei_size(extended, head[104:108])
        info = de_info(self.path)
        return Layout(
            shape=(ny, width),
            dtype=dtype,
            start=start,
            stride=nbytes,
            nbytes=nbytes,
            n_expected=info.pop("frames", None) or (nz if nz > 0 else None),
            many=True if nz > 1 else None,
            pixel_size_nm=info.pop("pixel_size_nm", None) or pixels,
            meta=info | _labels(head),
        )

    @staticmethod
    def _orders(head: bytes) -> str:
        return "><" if head[212:214] == b"\x11\x11" else "<>"

    def fill(self, i: int, out: np.ndarray) -> None:
        if not self.packed:
            super().fill(i, out)
            return
        height, width = out.shape
        raw = np.empty((height, self.layout.pixel_bytes // height), np.uint8)
        self.read_pixels(i, raw.data.cast("B"))
        np.bitwise_and(raw, 15, out=out[:, 0::2])  # the left pixel is the low nibble
        np.right_shift(raw[:, : width // 2], 4, out=out[:, 1::2])

    def frame_time(self, i: int) -> float | None:
        """From the sidecar: start + i / fps; None without one."""
        t0, fps = self.layout.meta.get("time_s"), self.layout.meta.get("fps")
        return t0 + i / fps if t0 is not None and fps else None


def _cell_size(head: bytes, order: str, nx: int, width: int) -> PixelSize | None:
    """Cell lengths (Å) over the grid. As in mrcfile, x is the columns' and y the rows' whatever mapc and mapr say."""
    columns, rows, _ = struct.unpack_from(order + "3i", head, 28)
    x, y, _ = struct.unpack_from(order + "3f", head, 40)
    if min(columns, rows) <= 0 or not math.isfinite(x + y):
        return None
    if columns == nx < width:  # IMOD's 4-bit files count bytes
        columns = width
    return pixel_size(y / rows / 10, x / columns / 10)


def _fei_size(extended: bytes, kind: bytes) -> PixelSize | None:
    """Thermo Fisher's extended header: pixel size in metres at byte 156 of the first frame's block."""
    if kind not in (b"FEI1", b"FEI2") or len(extended) < 172:
        return None
    x, y = struct.unpack_from("<2d", extended, 156)
    return pixel_size(y * 1e9, x * 1e9) if 0 < x < 1e-3 and 0 < y < 1e-3 else None


def _labels(head: bytes) -> dict[str, Any]:
    """The text labels of the header, joined."""
    text = head[224:1024].decode("latin-1").replace("\0", " ")
    lines = [text[k : k + 80].strip() for k in range(0, 800, 80)]
    title = "; ".join(line for line in lines if line and line.isprintable())
    return {"title": title} if title else {}
