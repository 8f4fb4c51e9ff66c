"""The words the rooms speak: one frozen value for each arrow of the loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any  # a numpy or cupy array; the docstring says shape, dtype and unit
Rect: TypeAlias = tuple[int, int, int, int]  # y0, y1, x0, x1: half-open, pixels
PixelSize: TypeAlias = tuple[float, float]  # (y, x) nm per px


class Status(IntFlag):
    """Bits of `frames/status`; uint8."""

    ALIGNED = 1
    SEGMENTED = 2
    LATE = 4  # arrived after frames that come later in the movie; appended where it arrived
    REJECTED = 8  # the measured shift was not believed; the predicted one stands
    LOST_LOCK = 16  # a new anchor begins here: no link to what came before
    JUMP = 32  # the stage jumped between this frame and the one before
    BLANK = 64  # far off the running dose; not admitted to the reference
    SUSPECT = 128  # fixed pattern or several motions: the shift may follow the wrong thing


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a frame came from, so that it is never taken twice."""

    path: str  # relative to the watched folder, posix
    sub: int  # frame in the file, from 0
    size: int  # bytes, when the frame was read
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One camera frame, as the camera wrote it."""

    series: str  # the acquisition it belongs to: one series becomes one run
    origin: Origin
    pixels: Array  # (y, x), the camera's dtype, counts
    time_s: float  # absolute: seconds since 1970, from the file if it says so, else its mtime
    pixel_size_nm: PixelSize | None = None
    late: bool = False
    seen_at: float = 0.0  # time.monotonic() when the frame was found complete
    closed_at: float = 0.0  # wall clock at which the file got this frame (its mtime)
    meta: Mapping[str, Any] = field(default_factory=dict)  # camera, exposure …: what the file tells


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """A frame laid on its anchor."""

    frame: Frame
    pixels: Array  # (y, x), the camera's dtype, moved by the whole part of `shift`; 0 where nothing covers
    shift: tuple[float, float]  # (dy, dx) px, so that scipy.ndimage.shift(frame, shift) lies on the anchor
    confidence: float  # 0..1
    anchor: int  # which anchor: 0, then +1 each time lock was lost
    status: int  # Status bits
    valid: Rect  # the pixels of the canvas that this frame covers


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """An instance label image and who made it."""

    labels: Array  # (y, x) int32; 1…n, 0 = background
    model: str  # the model's name
    sha256: str  # of its weights; "" for a model without weights
    agreement: float = float("nan")  # 0..1, how far two ways of segmenting agree; NaN when not judged
    averaged: int = 1  # aligned frames that were looked at together: this one and those before it


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What one frame's particles are: columns of equal length n, and the frame's sums."""

    particles: Mapping[str, np.ndarray]  # label, track, y, x (px, aligned frame), area (px²), diameter (px), …
    count: int
    area_fraction: float  # of the covered area, 0..1
    events: tuple[Mapping[str, Any], ...] = ()
    kinetics: Mapping[str, Any] = field(default_factory=dict)  # `measure.ensemble` of the frame, px; {} before its turn
