"""The ledger's words: what it keeps of a run, of a frame, of a frame's labels, and of a shift that became final."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emstream.messages import PixelSize


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as the ledger knows it."""

    id: int
    name: str
    series: str
    shape: tuple[int, int]
    dtype: str
    pixel_size_nm: PixelSize | None
    state: str  # new | live | closed | recovered
    attrs: Mapping[str, Any]
    n: int  # frames committed
    checkpoint: int  # frames below this are known to be on the disk in every array
    settled: int  # the columns' files say what the ledger says of frames below this, unless the machine went down


@dataclass(frozen=True, slots=True)
class FrameRow:
    """What the ledger keeps of a frame."""

    slot: int
    crc32c: int  # of the stored pixels' memory
    source_crc32c: int  # of the pixels as the camera wrote them
    time_s: float
    shift: tuple[float, float]
    confidence: float
    anchor: int
    status: int
    source_index: int


@dataclass(frozen=True, slots=True)
class LabelRow:
    """What the ledger keeps of a frame's labels."""

    slot: int
    crc32c: int
    particles: int
    area_fraction: float
    model: str
    agreement: float = float("nan")


@dataclass(frozen=True, slots=True)
class FinalRow:
    """What the ledger keeps of a shift that became final."""

    slot: int
    shift: tuple[float, float]
