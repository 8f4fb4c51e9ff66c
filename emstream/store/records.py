"""What a run is given to store: a frame with where it lay, and the labels of a frame that it has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emstream.messages import Aligned, Origin, Status


@dataclass(frozen=True, slots=True, eq=False)
class FrameRecord:
    """A frame as it is to be stored."""

    pixels: np.ndarray  # (y, x) moved, the run's dtype
    origin: Origin
    time_s: float
    shift: tuple[float, float]
    confidence: float = 1.0
    anchor: int = 0
    status: int = int(Status.ALIGNED)
    raw: np.ndarray | None = None  # (y, x) as the camera wrote it
    source_index: int = -1  # place in the acquisition's own order; -1: the slot
    source: np.ndarray | None = None  # (y, x) as the camera wrote it, for its checksum; None: `raw`, or `pixels`

    @classmethod
    def of(cls, aligned: Aligned, *, keep_raw: bool = False, source_index: int = -1) -> FrameRecord:
        """The record of an aligned frame whose pixels are on the host."""
        frame = aligned.frame
        return cls(
            aligned.pixels, frame.origin, frame.time_s, aligned.shift, aligned.confidence, aligned.anchor,
            aligned.status | (int(Status.LATE) if frame.late else 0), frame.pixels if keep_raw else None, source_index,
            frame.pixels,
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        """Memory that the record holds on to."""
        return self.pixels.nbytes + (0 if self.raw is None else self.raw.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class LabelRecord:
    """The labels of a stored frame."""

    slot: int
    labels: np.ndarray  # (y, x) integer; 1…n, 0 = background
    particles: int
    area_fraction: float
    model: str  # its key, see columns.model_key
    agreement: float = float("nan")  # 0..1
