"""Gatan DM3 and DM4: one frame or a stack, and GMS' director with its .raw segments (Director-Raw)."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emstream.errors import FrameOutOfRange, NotComplete, UnreadableFile
from emstream.messages import PixelSize
from emstream.source.formats.dm_tags import Block, Tags, walk
from emstream.source.formats.files import ByteFile
from emstream.source.formats.protocol import SourceState, Verdict
from emstream.source.formats.series import natural_key
from emstream.source.formats.single import FileSource, check_size
from emstream.source.formats.units import length_nm, pixel_size

DTYPES = {1: "i2", 2: "f4", 6: "u1", 7: "i4", 9: "i1", 10: "u2", 11: "u4", 12: "f8", 14: "u1"}
COLOUR = (8, 23)
IMAGE = re.compile(r"ImageList\.(\d+)\.ImageData\.Data$")


def recognise(head: bytes, path: Path) -> Verdict:
    """Big-endian version 3 or 4, then the length of the tree, then the byte order flag."""
    if len(head) < 16:
        return Verdict.NOT_YET if path.suffix.lower() in (".dm3", ".dm4") else Verdict.NO
    version, *_ = struct.unpack_from(">I", head)
    flag = struct.unpack_from(">I", head, 12 if version == 4 else 8)[0]
    if version in (3, 4) and flag in (0, 1):
        return Verdict.YES
    return Verdict.NOT_YET if path.suffix.lower() in (".dm3", ".dm4") and not any(head) else Verdict.NO


class DmSource(FileSource):
    """A .dm3 or .dm4 file; the last image of its list (the first is the thumbnail)."""

    format = "dm4"

    def begin(self, file: ByteFile) -> None:
        tags = walk(file)
        self.format = f"dm{tags.version}"
        images = sorted(int(m[1]) for k in tags.blocks if (m := IMAGE.match(k)))
        if not images:
            raise UnreadableFile(f"{self.path} holds no image", reason="unknown_format")
        self._tags, root = tags, f"ImageList.{images[-1]}"
        kind = tags.values.get(f"{root}.ImageData.DataType")
        if kind in COLOUR:
            raise UnreadableFile(f"{self.path} is a colour image", "export its grey values", reason="colour")
        if kind not in DTYPES:
            raise UnreadableFile(f"{self.path} holds data of DigitalMicrograph's type {kind}", reason="unknown_format")
        dims = [tags.values.get(f"{root}.ImageData.Dimensions.{k}", 1) for k in range(4)]
        self._shape = (int(dims[1]), int(dims[0]))
        self._stored = np.dtype(tags.order + DTYPES[kind])
        self._dtype = self._stored.newbyteorder("=")
        self._n = int(dims[2]) * int(dims[3])
        self._block: Block = tags.blocks[f"{root}.ImageData.Data"]
        nbytes = self._shape[0] * self._shape[1] * self._stored.itemsize
        check_size(self.path, self._shape, nbytes, self.options)
        if self._n * nbytes > self._block.nbytes:
            raise UnreadableFile(
                f"{self.path}: {self._n} frames of {nbytes} bytes in {self._block.nbytes} bytes of data"
            )
        self._bytes = nbytes
        scales = [self._scale(file, f"{root}.ImageData.Calibrations.Dimension.{k}") for k in (1, 0)]
        self._pixel_size = pixel_size(*scales)
        self._meta = _meta(tags, file, root)

    def _scale(self, file: ByteFile, path: str) -> float | None:
        return length_nm(self._tags.values.get(f"{path}.Scale"), self._tags.text(file, f"{path}.Units"))

    def look(self, file: ByteFile, st: os.stat_result) -> SourceState:
        return SourceState(self._n, self._n, self._n, closed=True, many=self._n > 1)

    def fill(self, i: int, out: np.ndarray) -> None:
        if i >= self._n:
            raise FrameOutOfRange(f"{self.path} has no frame {i}", f"it has {self._n}")
        self.file.read_into(self._block.at + i * self._bytes, out.data.cast("B"))
        if not self._stored.isnative:
            out.byteswap(inplace=True)

    @property
    def pixel_size_nm(self) -> PixelSize | None:
        return self._pixel_size

    def meta(self) -> Mapping[str, Any]:
        return self._meta


class DirectorSource(DmSource):
    """A director .dm4 gives shape, dtype and calibration; the pixels lie in .raw, .raw_1 …, frames across their borders."""

    format = "director-raw"

    def begin(self, file: ByteFile) -> None:
        super().begin(file)
        self.format = "director-raw"
        self._segments: dict[Path, ByteFile] = {}

    def look(self, file: ByteFile, st: os.stat_result) -> SourceState:
        total, newest = self._sizes()
        covered = sum(total) // self._bytes
        begun = covered if sum(total) > covered * self._bytes else max(0, covered - 1)
        expected = self._tags.values.get("In-situ.Recorded.# Frames")
        return SourceState(begun, covered, int(expected) if expected else None, many=True, mtime_ns=newest)

    def _stamp(self, state: SourceState, st: os.stat_result) -> SourceState:
        total, newest = self._sizes()
        plain = super()._stamp(state, st)
        return SourceState(
            plain.n_complete, plain.n_covered, plain.n_expected, plain.closed, True, plain.epoch,
            st.st_size + sum(total), max(newest, st.st_mtime_ns), st.st_ino, plain.problem,
        )  # fmt: skip

    def fill(self, i: int, out: np.ndarray) -> None:
        raw, at, done = out.data.cast("B"), i * self._bytes, 0
        for path, size in zip(self._parts(), self._sizes()[0]):
            if at < size:
                n = min(size - at, self._bytes - done)
                self._segment(path).read_into(at, raw[done : done + n])
                done, at = done + n, 0
                if done == self._bytes:
                    break
            else:
                at -= size
        if done < self._bytes:
            raise NotComplete(f"frame {i} of {self.path} is not wholly there yet")
        if not self._stored.isnative:
            out.byteswap(inplace=True)

    def _parts(self) -> list[Path]:
        stem = self.path.with_suffix(".raw")
        found = [
            p for p in stem.parent.glob(f"{stem.name}*") if re.fullmatch(re.escape(stem.name) + r"(_\d+)?", p.name)
        ]
        return sorted(found, key=lambda p: (p.name != stem.name, natural_key(p.name)))

    def _sizes(self) -> tuple[list[int], int]:
        stats = [p.stat() for p in self._parts()]
        return [s.st_size for s in stats], max((s.st_mtime_ns for s in stats), default=0)

    def _segment(self, path: Path) -> ByteFile:
        if path not in self._segments:
            self._segments[path] = ByteFile(path)
        return self._segments[path]

    def close(self) -> None:
        for segment in self._segments.values():
            segment.close()
        super().close()


def open_dm(path: Path, options: Any) -> DmSource:
    """A director when segments lie beside it, a plain DM file otherwise."""
    if path.with_suffix(".raw").exists():
        return DirectorSource(path, options)
    return DmSource(path, options)


def _meta(tags: Tags, file: ByteFile, root: str) -> dict[str, Any]:
    """What a microscopist wants to know, where the file tells."""
    wanted = {
        "exposure_s": ("DataBar.Exposure Time (s)", "Acquisition.Parameters.High Level.Exposure (s)"),
        "magnification": ("Microscope Info.Actual Magnification", "Microscope Info.Indicated Magnification"),
        "voltage_kv": ("Microscope Info.Voltage",),
        "frame_time_s": ("In-situ.Recorded.Frame Time",),
    }
    out: dict[str, Any] = {}
    for name, paths in wanted.items():
        for path in paths:
            value = tags.values.get(f"{root}.ImageTags.{path}")
            if isinstance(value, (int, float)) and value > 0:
                out[name] = value / 1000 if name == "voltage_kv" else value
                break
    camera = tags.text(file, f"{root}.ImageTags.Acquisition.Device.Name") or tags.text(
        file, f"{root}.ImageTags.DataBar.Device Name"
    )
    return out | ({"camera": camera} if camera else {})
