"""Quantum Detectors Merlin .mib: each frame behind a text header of its own, pixels big-endian."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emstream.errors import NotComplete, UnreadableFile
from emstream.source.formats.files import ByteFile
from emstream.source.formats.protocol import Verdict
from emstream.source.formats.stride import Layout, StrideSource

DTYPES = {"U08": "u1", "U16": ">u2", "U32": ">u4", "U64": ">u8"}


def recognise(head: bytes, path: Path) -> Verdict:
    """`MQ1,` begins every frame."""
    if len(head) < 4:
        return Verdict.NOT_YET if path.suffix.lower() == ".mib" else Verdict.NO
    return Verdict.YES if head[:4] == b"MQ1," else Verdict.NO


class MibSource(StrideSource):
    """One .mib file."""

    format = "mib"

    def parse(self, file: ByteFile) -> Layout:
        fields = file.read_at(0, min(384, file.size())).decode("latin-1").split(",")
        if len(fields) < 8:
            raise NotComplete(f"{self.path} has no whole frame header yet")
        try:
            skip, width, height = int(fields[2]), int(fields[4]), int(fields[5])
        except ValueError:
            raise UnreadableFile(f"{self.path} has a damaged frame header") from None
        if fields[6] not in DTYPES:
            raise UnreadableFile(
                f"{self.path} holds pixels of type {fields[6]}", f"{', '.join(DTYPES)} are read", "unknown_format"
            )
        dtype = np.dtype(DTYPES[fields[6]])
        nbytes = width * height * dtype.itemsize
        return Layout((height, width), dtype, 0, skip + nbytes, skip, meta={"camera": "Merlin"})
