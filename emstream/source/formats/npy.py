"""NumPy .npy arrays, (y, x) or (t, y, x), C order."""

from __future__ import annotations

import ast
import struct
from pathlib import Path
from typing import Any

import numpy as np

from emstream.errors import UnreadableFile
from emstream.source.formats.files import ByteFile
from emstream.source.formats.protocol import Verdict
from emstream.source.formats.stride import Layout, StrideSource

MAGIC = b"\x93NUMPY"


def recognise(head: bytes, path: Path) -> Verdict:
    """The first six bytes."""
    if len(head) < len(MAGIC):
        return Verdict.NOT_YET if MAGIC.startswith(head) else Verdict.NO
    if head.startswith(MAGIC):
        return Verdict.YES
    return Verdict.NOT_YET if path.suffix.lower() == ".npy" and not any(head) else Verdict.NO


class NpySource(StrideSource):
    """One array; its header is final, so the frames that it announces are all there will be."""

    format = "npy"

    def parse(self, file: ByteFile) -> Layout:
        """Version 1 to 3 of numpy's header; no pickles."""
        major = file.read_at(6, 1)[0]
        if major not in (1, 2, 3):
            raise UnreadableFile(f"{self.path} is .npy version {major}", reason="unknown_format")
        wide = major > 1
        (n,) = struct.unpack("<I" if wide else "<H", file.read_at(8, 4 if wide else 2))
        start = (12 if wide else 10) + n
        if n > 1 << 20:
            raise UnreadableFile(f"{self.path} has a header of {n} bytes")
        shape, dtype = self._header(file.read_at(start - n, n))
        y, x = shape[-2:]
        frames = shape[0] if len(shape) == 3 else 1
        stride = y * x * dtype.itemsize
        return Layout((y, x), dtype, start, stride, n_limit=frames, many=len(shape) == 3 and frames != 1)

    def _header(self, raw: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
        try:
            head = ast.literal_eval(raw.decode("latin-1").strip())
            shape, descr, fortran = head["shape"], head["descr"], head["fortran_order"]
            dtype = np.dtype(descr) if isinstance(descr, str) else None
        except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as err:
            raise UnreadableFile(f"{self.path} has a damaged .npy header: {err}") from err
        if dtype is None or dtype.kind not in "uif" or dtype.itemsize > 8:
            raise UnreadableFile(f"{self.path} holds {descr!r}, no numbers", reason="unknown_format")
        if fortran or not isinstance(shape, tuple) or len(shape) not in (2, 3):
            raise UnreadableFile(
                f"{self.path} is an array of {shape}{' in Fortran order' if fortran else ''}",
                "save (y, x) or (t, y, x) in C order",
                reason="unknown_format",
            )
        if not all(type(n) is int and 0 < n < 1 << 40 for n in shape):
            raise UnreadableFile(f"{self.path} has a damaged .npy header: shape {shape}")
        return shape, dtype
