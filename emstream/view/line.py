"""A kymograph: the brightness along a line through the frames of a run, read from a coarse level, a bit at a time."""

from __future__ import annotations

import base64
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from emstream.errors import EmstreamError
from emstream.messages import Rect

TIMES = 256  # most frames in one picture
SAMPLES = 256  # most places along the line
WIDE = 3  # pixels across the line that are averaged
LINES = 8  # that are remembered
TURN_S = 0.4  # that one request may read for

Line = tuple[float, float, float, float]  # y0, x0, y1, x1 as shares 0..1 of the frame


class Kymograph:
    """Lines through one run. Safe to use from several threads; only one of them reads at a time.

    read  : frame → (its pixels of a coarse level, what the frame covers in px of the whole frame)
    shape : (y, x) px of the whole frame
    """

    def __init__(self, read: Callable[[int], tuple[np.ndarray, Rect]], shape: tuple[int, int]) -> None:
        self._read, self.shape = read, shape
        self._lock = threading.Lock()
        self._lines: OrderedDict[Line, dict[int, np.ndarray]] = OrderedDict()

    def picture(self, line: Line, frames: int, nm_per_px: float | None) -> dict[str, Any]:
        """What is known of a line through `frames` frames after reading for TURN_S: ask again until it is complete.

        returns : JSON: complete, frame […] (one for each column), w (columns), h (places along the line), length and its
                  unit, pixels: base64 of (h, w) uint8, 0 where nothing is known or covered, 1..255 from dark to bright
        """
        y, x = self.shape
        length = math.hypot((line[2] - line[0]) * y, (line[3] - line[1]) * x)
        n = max(2, min(SAMPLES, round(length)))
        wanted = chosen(frames)
        began = time.monotonic()
        with self._lock:
            known = self._lines.setdefault(line, {})
            self._lines.move_to_end(line)
            while len(self._lines) > LINES:
                self._lines.popitem(last=False)
            missing = [i for i in wanted if i not in known]
            for i in coarse_first(missing):
                try:
                    known[i] = along(*self._read(i), self.shape, line, n)
                except EmstreamError:  # damaged: a gap
                    known[i] = np.full(n, np.nan, np.float32)
                if time.monotonic() - began > TURN_S:
                    break
            blank = np.full(n, np.nan, np.float32)
            found = np.stack([known.get(i, blank) for i in wanted], axis=1) if wanted else np.empty((n, 0), np.float32)
            complete = all(i in known for i in wanted)
            for i in [i for i in known if i not in set(wanted)]:
                if len(known) > 4 * TIMES:
                    del known[i]
        return {
            "complete": complete, "frame": wanted, "w": len(wanted), "h": n,
            "length": length * (nm_per_px or 1.0), "unit": "nm" if nm_per_px else "px",
            "pixels": base64.b64encode(_grey(found).tobytes()).decode(),
        }  # fmt: skip


def chosen(frames: int) -> list[int]:
    """At most TIMES frames, evenly, on a grid that stays while a run grows; the newest is the last of them."""
    if not frames:
        return []
    every = 2 ** max(0, math.ceil(math.log2(frames / (TIMES - 1))))
    return sorted({*range(0, frames, every), frames - 1})


def coarse_first(frames: list[int]) -> list[int]:
    """In an order that covers the whole span early: every 32nd, every 16th …"""
    seen: dict[int, None] = {}
    for step in (32, 16, 8, 4, 2, 1):
        seen |= dict.fromkeys(frames[::step])
    return list(seen)


def along(pixels: np.ndarray, valid: Rect, full: tuple[int, int], line: Line, n: int) -> np.ndarray:
    """Brightness at n places along a line, (n,) float32, bilinear, a mean over WIDE px across; NaN outside `valid`.

    pixels : (y, x), any level · valid : y0, y1, x0, x1 px of the `full` (y, x) frame · line : shares of the frame
    """
    h, w = pixels.shape
    t = (np.arange(n, dtype=np.float32) + 0.5) / n
    y, x = line[0] + (line[2] - line[0]) * t, line[1] + (line[3] - line[1]) * t
    dy, dx = (line[2] - line[0]) * h, (line[3] - line[1]) * w
    across = np.arange(WIDE, dtype=np.float32)[:, None] - (WIDE - 1) / 2
    norm = max(math.hypot(dy, dx), 1e-9)
    my = (y * h - 0.5 + across * dx / norm).astype(np.float32)
    mx = (x * w - 0.5 - across * dy / norm).astype(np.float32)
    flat = pixels if pixels.dtype in (np.uint8, np.uint16, np.int16, np.float32) else pixels.astype(np.float32)
    if flat.dtype.byteorder == ">":
        flat = flat.astype(flat.dtype.newbyteorder("="))
    found = cv2.remap(flat, mx, my, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    inside = _inside(my, valid[:2], full[0] / h, full[0]) & _inside(mx, valid[2:], full[1] / w, full[1])
    count = inside.sum(axis=0)
    total = np.where(inside, found, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def _inside(at: np.ndarray, valid: tuple[int, int], px: float, full: int) -> np.ndarray:
    """Whether places are bright by covered pixels alone; the frame's own border is no limit.

    at : coordinates in a level whose pixels are `px` wide · valid : begin and end, px of the `full` frame
    """
    begin, end = (-math.inf if valid[0] <= 0 else valid[0]), (math.inf if valid[1] >= full else valid[1])
    inside: np.ndarray = (np.floor(at) * px >= begin) & ((np.ceil(at) + 1) * px <= end)
    return inside


def _grey(found: np.ndarray) -> np.ndarray:
    """uint8 of the same shape: 0 = NaN, the rest stretched from the 1st to the 99th percentile to 1..255."""
    good = np.isfinite(found)
    if not good.any():
        return np.zeros(found.shape, np.uint8)
    low, high = np.percentile(found[good], (1, 99))
    scaled = 1 + 254 * np.clip((found - low) / max(high - low, 1e-9), 0, 1)
    return np.where(good, np.nan_to_num(scaled).round(), 0).astype(np.uint8)
