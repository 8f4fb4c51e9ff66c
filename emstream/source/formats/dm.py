"""DigitalMicrograph's DM3 and DM4: the last image of the file, 2-D or a stack; whole when its tag tree is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emstream.errors import NotComplete, UnreadableFile
from emstream.messages import PixelSize
from emstream.source.formats.base import check_size
from emstream.source.formats.decode import one_channel
from emstream.source.formats.dm_tags import Tags, array_dtype, walk
from emstream.source.formats.files import ByteFile
from emstream.source.formats.protocol import SourceState, Verdict
from emstream.source.formats.single import FileSource
from emstream.source.formats.units import length_nm, pixel_size

# ImageData.DataType: numpy; 23 is RGBA, 3, 13, 27 and 28 are complex
DTYPES = {1: "i2", 2: "f4", 6: "u1", 7: "i4", 9: "i1", 10: "u2", 11: "u4", 12: "f8", 14: "u1", 39: "i8", 40: "u8"}
RGBA = 23
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
FILETIME_1970, FILETIME_PER_S = 11_644_473_600, 1e7  # DataBar's time counts 100 ns since 1601
TAIL = 8  # zero bytes that end every file


def recognise(head: bytes, path: Path) -> Verdict:
    """Version 3 or 4, big endian, then after the length a 0 or 1 that tells the byte order."""
    if len(head) < 16:
        known = head[:4] in (b"\0\0\0\3", b"\0\0\0\4") or (not any(head) and len(head) < 4)
        return Verdict.NOT_YET if known and path.suffix.lower() in (".dm3", ".dm4") else Verdict.NO
    flag = {b"\0\0\0\3": head[8:12], b"\0\0\0\4": head[12:16]}.get(head[:4])
    if flag in (b"\0\0\0\0", b"\0\0\0\1"):
        return Verdict.YES
    return Verdict.NOT_YET if path.suffix.lower() in (".dm3", ".dm4") and not any(head) else Verdict.NO


def last_image(tags: Tags, path: Path) -> str:
    """Path of the ImageList entry to read: the last with data (the first is a thumbnail). Raises UnreadableFile."""
    entries = [k.split(".")[1] for k in tags.blocks if k.startswith("ImageList.") and k.endswith(".ImageData.Data")]
    numbers = [int(e) for e in entries if e.isdecimal()]
    if not numbers:
        raise UnreadableFile(f"{path} holds no image")
    return f"ImageList.{max(numbers)}."


class DmSource(FileSource):
    """One DM3 or DM4 file."""

    def begin(self, file: ByteFile) -> None:
        """Walk all tags: DM says at its end what it holds, so nothing is known before it is whole."""
        tags = walk(file)
        self.format = f"dm{tags.version}"
        root = last_image(tags, self.path)
        values = tags.values
        depth = tags.counts.get(root + "ImageData.Dimensions", 0)
        dims = [values.get(f"{root}ImageData.Dimensions.{k}", 0) for k in range(min(depth, 8))]
        if len(dims) < 2 or any(type(n) is not int or n <= 0 for n in dims):
            raise UnreadableFile(f"{self.path} holds no image but data of {dims}", reason="unknown_format")
        kind = values.get(root + "ImageData.DataType")
        if kind != RGBA and kind not in DTYPES:
            raise UnreadableFile(
                f"{self.path} holds data of DM type {kind}", "complex data is not read", "unknown_format"
            )
        self._rgba = kind == RGBA
        stored = np.dtype("u1" if self._rgba else tags.order + DTYPES[kind])
        x, y, *rest = dims
        self._frame_bytes = y * x * stored.itemsize * (4 if self._rgba else 1)
        check_size(self.path, (y, x), self._frame_bytes, self.options)
        self._n = int(np.prod(rest, dtype=object)) if rest else 1
        block = tags.blocks[root + "ImageData.Data"]
        if block.kind not in array_kinds(stored, self._rgba) or block.nbytes < self._n * self._frame_bytes:
            raise UnreadableFile(f"{self.path} is damaged: its data is shorter than {dims} of {stored}")
        self._at, self._stored, self._end = block.at, stored, tags.end
        self._many = len(dims) > 2
        self._shape, self._dtype = (y, x), stored.newbyteorder("=")
        self._pixel_size, self._step_s = _calibration(tags, file, root, len(dims))
        self._meta = _meta(tags, file, root)

    def look(self, file: ByteFile, st: os.stat_result) -> SourceState:
        """All frames at once; the zeros that end the file prove that it was closed."""
        whole = st.st_size >= self._end + TAIL
        return SourceState(
            n_complete=self._n if whole else 0,
            n_covered=self._n,
            n_expected=self._n,
            closed=whole,
            many=self._many,
        )

    def fill(self, i: int, out: np.ndarray) -> None:
        """Frames lie one after the other."""
        if i >= self._n:
            raise NotComplete(f"frame {i} of {self.path} is not there")
        at = self._at + i * self._frame_bytes
        if self._rgba:
            colours = np.empty((*self.shape, 4), np.uint8)
            self.file.read_into(at, colours.data.cast("B"))
            out[...] = one_channel(colours, self.path)
            return
        self.file.read_into(at, out.data.cast("B"))
        if not self._stored.isnative:
            out.byteswap(inplace=True)

    def frame_time(self, i: int) -> float | None:
        """When the exposure was taken, by the microscope PC's clock."""
        t0 = self._meta.get("time_s")
        return None if t0 is None else t0 + i * (self._step_s or 0.0)

    def meta(self) -> Mapping[str, Any]:
        """Camera, exposure, voltage, magnification …"""
        return self._meta


def array_kinds(stored: np.dtype[Any], rgba: bool) -> set[int]:
    """Encoded element types that may hold such pixels: those of the same width."""
    width = 4 if rgba else stored.itemsize
    return {k for k in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12) if array_dtype("<", k).itemsize == width}


def _calibration(tags: Tags, file: ByteFile, root: str, depth: int) -> tuple[PixelSize | None, float | None]:
    """(y, x) nm per px, and seconds per frame of a stack."""
    axes = []
    for k in range(min(depth, 3)):
        base = f"{root}ImageData.Calibrations.Dimension.{k}."
        axes.append((tags.values.get(base + "Scale"), tags.text(file, base + "Units")))
    if len(axes) < 2:
        return None, None
    step = None
    if len(axes) == 3 and axes[2][1].strip() in SECONDS and isinstance(axes[2][0], float):
        step = axes[2][0] * SECONDS[axes[2][1].strip()]
    return pixel_size(length_nm(*axes[1]), length_nm(*axes[0])), step


def _meta(tags: Tags, file: ByteFile, root: str) -> dict[str, Any]:
    """What ImageTags say; only what is there."""
    at = root + "ImageTags."
    meta: dict[str, Any] = {}
    numbers = (
        ("exposure_s", "DataBar.Exposure Time (s)", 1.0),
        ("exposure_s", "Acquisition.Parameters.High Level.Exposure (s)", 1.0),
        ("fps", "In-situ.Recorded.Frames Per Second", 1.0),
        ("magnification", "Microscope Info.Indicated Magnification", 1.0),
        ("voltage_kv", "Microscope Info.Voltage", 1e-3),
    )
    for name, tag, factor in numbers:
        value = tags.values.get(at + tag)
        if isinstance(value, (int, float)) and value > 0 and name not in meta:
            meta[name] = value * factor
    texts = (
        ("camera", "Acquisition.Device.Name"),
        ("camera", "DataBar.Device Name"),
        ("signal", "DataBar.Signal Name"),  # HAADF, BF …
        ("signal", "Microscope Info.Signal Name"),
    )
    for name, tag in texts:
        if name not in meta and (words := tags.text(file, at + tag)):
            meta[name] = words
    stamp = tags.values.get(at + "DataBar.Acquisition Time (OS)")
    if isinstance(stamp, (int, float)) and FILETIME_1970 * FILETIME_PER_S < stamp < 4 * FILETIME_1970 * FILETIME_PER_S:
        meta["time_s"] = stamp / FILETIME_PER_S - FILETIME_1970
    announced = tags.values.get(at + "In-situ.Recorded.# Frames")
    if isinstance(announced, (int, float)) and 0 < announced < 1 << 40:
        meta["frames"] = int(announced)
    return meta
