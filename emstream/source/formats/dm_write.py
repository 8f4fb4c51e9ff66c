"""A DM4 file of one frame, for the simulated camera and for tests: the few tags that a reader needs, and no more."""

from __future__ import annotations

import struct

import numpy as np

from emstream.messages import PixelSize

DATA_TYPES = {"int16": 1, "float32": 2, "uint8": 6, "int32": 7, "int8": 9, "uint16": 10, "uint32": 11, "float64": 12}
ENCODED = {"int16": 2, "int32": 3, "uint16": 4, "uint32": 5, "float32": 6, "float64": 7, "uint8": 10, "int8": 9}


def dm4(pixels: np.ndarray, pixel_size_nm: PixelSize | None = None, exposure_s: float | None = None) -> bytes:
    """The bytes of a DM4 file, little-endian.

    pixels : (y, x), or (t, y, x) for a stack; any dtype of DATA_TYPES
    """
    size = [str(s) for s in pixels.shape[::-1]]
    py, px = pixel_size_nm or (1.0, 1.0)
    unit = "nm" if pixel_size_nm else ""
    scales = [(px, unit), (py, unit), (1.0, "")][: pixels.ndim]
    calibrations = _group([("", _group([("Scale", _float(s)), ("Units", _text(u))])) for s, u in scales])
    data = _group(
        [
            ("Calibrations", _group([("Dimension", calibrations)])),
            ("Data", _array(pixels)),
            ("DataType", _uint(DATA_TYPES[pixels.dtype.name])),
            ("Dimensions", _group([("", _uint(int(s))) for s in size])),
            ("PixelDepth", _uint(pixels.dtype.itemsize)),
        ]
    )
    tags = [("DataBar", _group([("Exposure Time (s)", _float(exposure_s))]))] if exposure_s is not None else []
    image = _group([("ImageData", data), ("ImageTags", _group(tags))])
    root = _group([("ImageList", _group([("", image)]))])[1:]  # the root has no tag header of its own
    body = root[0] if isinstance(root[0], bytes) else b""
    return struct.pack(">IQI", 4, len(body), 1) + body + bytes(8)


Tag = tuple[int, bytes]  # kind (20 group, 21 data) and its bytes


def _group(children: list[tuple[str, Tag]]) -> Tag:
    body = struct.pack(">BBQ", 1, 0, len(children))
    for name, (kind, data) in children:
        raw = name.encode("latin-1")
        body += struct.pack(">BH", kind, len(raw)) + raw + struct.pack(">Q", len(data)) + data
    return 20, body


def _data(info: list[int], raw: bytes) -> Tag:
    return 21, b"%%%%" + struct.pack(f">{len(info) + 1}Q", len(info), *info) + raw


def _uint(value: int) -> Tag:
    return _data([5], struct.pack("<I", value))


def _float(value: float) -> Tag:
    return _data([6], struct.pack("<f", value))


def _text(value: str) -> Tag:
    return _data([20, 4, len(value)], value.encode("utf-16-le"))


def _array(pixels: np.ndarray) -> Tag:
    kind = ENCODED[pixels.dtype.name]
    return _data([20, kind, pixels.size], np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder("<")).tobytes())
