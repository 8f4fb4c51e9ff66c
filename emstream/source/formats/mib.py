"""Quantum Detectors' Merlin (.mib): an ASCII header before each frame, pixels big endian."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from emstream.errors import UnreadableFile
from emstream.source.formats.files import ByteFile
from emstream.source.formats.protocol import Verdict
from emstream.source.formats.stride import Layout, StrideSource

MAGIC = b"MQ1,"
DTYPES = {"U01": "u1", "U08": "u1", "U16": ">u2", "U32": ">u4", "U64": ">u8"}


def recognise(head: bytes, path: Path) -> Verdict:
    """`MQ1,`"""
    if len(head) < 4:
        return Verdict.NOT_YET if MAGIC.startswith(head) else Verdict.NO
    if head[:4] == MAGIC:
        return Verdict.YES
    return Verdict.NOT_YET if path.suffix.lower() == ".mib" and not any(head) else Verdict.NO


class MibSource(StrideSource):
    """One file of frames; each frame's header is looked at when it is read."""

    format = "mib"

    def parse(self, file: ByteFile) -> Layout:
        """Fields 2 to 6 of the first header: its own length, chips, width, height, kind."""
        fields = self._fields(file.read_at(0, 64))
        try:
            header, width, height, kind = int(fields[2]), int(fields[4]), int(fields[5]), fields[6]
        except (ValueError, IndexError) as err:
            raise UnreadableFile(f"{self.path} has a damaged Merlin header") from err
        if kind not in DTYPES:
            what = "raw counter" if kind == "R64" else kind
            raise UnreadableFile(f"{self.path} holds {what} data", "save U08, U16 or U32", reason="unknown_format")
        if not 64 <= header <= 1 << 16 or not 0 < width < 1 << 20 or not 0 < height < 1 << 20:
            raise UnreadableFile(f"{self.path} has a damaged Merlin header")
        dtype = np.dtype(DTYPES[kind])
        self._first = int(fields[1]) if fields[1].isdecimal() else 0
        expected = _frames_in_acquisition(self.path)
        shutter = self._number(self._fields(file.read_at(0, header)), 10)
        return Layout(
            shape=(height, width),
            dtype=dtype,
            start=0,
            stride=header + width * height * dtype.itemsize,
            skip=header,
            n_expected=expected,
            many=True,
            meta={"camera": "Merlin"} | ({"exposure_s": shutter} if shutter else {}),
        )

    @staticmethod
    def _fields(raw: bytes) -> list[str]:
        return raw.decode("latin-1").split(",")

    @staticmethod
    def _number(fields: list[str], k: int) -> float | None:
        try:
            return float(fields[k])
        except (ValueError, IndexError):
            return None

    def read_pixels(self, i: int, out: memoryview) -> None:
        """Raises UnreadableFile when no frame header stands where frame i should begin."""
        lay = self.layout
        super().read_pixels(i, out)
        if self.file.read_at(lay.start + i * lay.stride, 4) != MAGIC:
            raise UnreadableFile(f"frame {i} of {self.path} has no header")

    def frame_time(self, i: int) -> float | None:
        """The stamp in frame i's header: UTC when it is there, else the local clock. Raises NotComplete."""
        lay = self.layout
        fields = self._fields(self.file.read_at(lay.start + i * lay.stride, lay.skip))
        stamps = [f for f in fields if f.endswith("Z") and "T" in f] or fields[9:10]
        text = stamps[0].strip().removesuffix("Z").replace("T", " ") if stamps else ""
        try:
            when = datetime.fromisoformat(text[:26])
        except ValueError:
            return None
        return (when.replace(tzinfo=UTC) if stamps[0].endswith("Z") else when).timestamp()


def _frames_in_acquisition(path: Path) -> int | None:
    """From the .hdr text beside it."""
    try:
        with path.with_suffix(".hdr").open("rb") as f:
            lines = f.read(1 << 16).decode("latin-1").splitlines()
    except (OSError, ValueError):
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name.startswith("Frames in Acquisition") and value.strip().isdecimal():
            return int(value) or None
    return None
