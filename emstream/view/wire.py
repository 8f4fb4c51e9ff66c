"""One frame as one binary message: a JSON header, the picture, the outlines."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from emstream.view.preview import Outlines, Window, outlines, preview
from emstream.view.shown import Shown

MAGIC = b"EMS1"


def pack(
    shown: Shown,
    labelled: Shown | None = None,
    *,
    size: int = 512,
    window: Window | None = None,
    over: np.ndarray | None = None,
    **more: Any,
) -> tuple[bytes, Window]:
    """The message that the page draws.

    MAGIC, length of the header (uint32, little endian), the header (JSON, padded with spaces so that the binary
    part begins at a multiple of 4), outlines (starts int32, particle int32, points uint16), the same of `over` when the
    header's `over` is not None, then the picture (uint8).

    labelled : the newest frame with labels, when `shown` has none yet: its outlines and sizes are sent, and
               `outlines_frame` says whose they are (positions are on the anchor, so they still fit)
    size     : px of the picture's longer side
    window   : the stretch of the frame before, as `preview` wants it
    over     : (y, x) labels of another version, laid over
    more     : goes into the header
    returns  : the message, and the window for the next frame
    """
    source = shown if shown.count is not None or labelled is None else labelled
    lines = None
    if source.label_image is not None and source.anchor == shown.anchor:
        lines = outlines(source.label_image)
    picture, factor, window = preview(shown.pixels, size, valid=shown.valid, window=window, full=shown.full)
    header = {**shown.numbers(), **more, "outlines_frame": source.frame if lines is not None else None}
    header["outlines_time_s"] = source.time_s if lines is not None else None
    if source is not shown:
        borrowed = source.numbers()
        header |= {k: borrowed[k] for k in ("particles", "area_fraction", "agreement", "model", "sizes")}
    h, w = picture.shape
    other = None if over is None else outlines(over)
    header |= {"w": w, "h": h, "factor": factor, **_counts(lines), "over": _counts(other) if other else None}
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    return b"".join(
        (MAGIC, struct.pack("<I", len(text)), text, *_arrays(lines), *_arrays(other), picture.tobytes())
    ), window


def unpack(message: bytes) -> tuple[dict[str, Any], np.ndarray, Outlines | None]:
    """Header, picture (h, w) uint8 and outlines of a message: for scripts that read `/ws`.

    raises : ValueError when the bytes are no message
    """
    if message[:4] != MAGIC:
        raise ValueError("not a message of emstream's /ws")
    (length,) = struct.unpack_from("<I", message, 4)
    header = json.loads(message[8 : 8 + length])
    at, n, m = 8 + length, header["polygons"], header["points"]
    lines = None
    if header["outlines_frame"] is not None:
        starts = np.frombuffer(message, "<i4", n + 1, at)
        particle = np.frombuffer(message, "<i4", n, at + 4 * (n + 1))
        points = np.frombuffer(message, "<u2", 2 * m, at + 4 * (2 * n + 1)).reshape(m, 2)
        lines = Outlines(points, starts, particle)
        at += 4 * (2 * n + 1) + 4 * m
    if header.get("over"):
        at += 4 * (2 * header["over"]["polygons"] + 1) + 4 * header["over"]["points"]
    h, w = header["h"], header["w"]
    return header, np.frombuffer(message, np.uint8, h * w, at).reshape(h, w), lines


def _counts(lines: Outlines | None) -> dict[str, int]:
    return {
        "polygons": 0 if lines is None else len(lines.particle),
        "points": 0 if lines is None else len(lines.points),
    }


def _arrays(lines: Outlines | None) -> tuple[bytes, ...]:
    if lines is None:
        return ()
    return (
        lines.starts.astype("<i4").tobytes(),
        lines.particle.astype("<i4").tobytes(),
        lines.points.astype("<u2").tobytes(),
    )
