"""Where each frame of a run lies: the aligner's state as a lane drives it, the shifts that become final, a restart."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from emstream import align, arrays
from emstream.errors import BadImage
from emstream.messages import Aligned, Array, Frame, Status
from emstream.pipeline import steps as step
from emstream.pipeline.result import Keeper
from emstream.pipeline.steps import Steps

REPLAY = 200  # most stored frames that the aligner sees again after a restart without saved state


class Drift:
    """The drift of one run, frame by frame.

    shape, dtype : of its frames, (y, x) px
    follows      : whether they are aligned at all; else each lies where it is
    references   : dark, gain and defects, on the device
    state        : align's, None before the first frame; a value, so that it may be saved while frames come
    """

    def __init__(self, steps: Steps, shape: tuple[int, int], dtype: np.dtype) -> None:
        self._shape, self._dtype = shape, dtype
        self.references = steps.references(shape)
        self.follows = steps.aligns(shape)
        self.state: Any = None
        self._settling = align.Settling(steps.align.final_lag)
        self._finals: dict[int, tuple[float, float]] = {}  # became final with the newest frame
        self._before: tuple[float, float, float] | None = None  # time, dy, dx of the frame before

    def place(self, frame: Frame, slot: int, steps: Steps, exclude: Array | None) -> Aligned:
        """The next frame, moved onto its anchor.

        exclude : (y, x) bool, pixels of the newest frame before it not to be believed: they are particles
        raises  : RuntimeError, MemoryError when memory is full; nothing has changed then, and it may be tried again
        """
        before = self.state, self._settling, dict(self._finals)
        try:
            return self._placed(frame, slot, steps, exclude)
        except (RuntimeError, MemoryError):
            self.state, self._settling, self._finals = before
            raise

    def speed(self, aligned: Aligned) -> float:
        """Drift speed, px/s, from this frame and the one before."""
        now = (aligned.frame.time_s, *aligned.shift)
        before, self._before = self._before, now
        if before is None or now[0] <= before[0]:
            return math.nan
        return math.hypot(now[1] - before[1], now[2] - before[2]) / (now[0] - before[0])

    def take_finals(self) -> dict[int, tuple[float, float]]:
        """The shifts (dy, dx) px that became final since the last call, by slot."""
        finals, self._finals = self._finals, {}
        return finals

    def finish(self) -> None:
        """No frame follows: all shifts become final."""
        self._settling, done = align.finish(self._settling)
        self._finals |= {f.slot: f.shift for f in done}

    def onto_cpu(self, options: align.AlignOptions) -> None:
        """Everything that later frames need comes to the host."""
        if self.state is not None:
            grid = max(self.state.grid.shape)
            self.state = align.load(align.dump(self.state), replace(options, grid=grid))
        try:
            self.finish()
        except (RuntimeError, MemoryError) as problem:  # those shifts stay as they were measured
            if not arrays.out_of_memory(problem):
                raise
        self._settling = align.Settling(options.final_lag)
        self.references = {k: arrays.to_host(v) for k, v in self.references.items()}

    def resume(self, keeper: Keeper, followed: int, kept: int, steps: Steps) -> None:
        """Go on where the run ended.

        followed : frames that `state` has seen
        kept     : frames of the run; those that came after the state was saved are followed again
        """
        unknown = keeper.waiting(max(0, kept - REPLAY))
        if self.state is not None and unknown:
            self._settle_again(map(keeper.read, range(unknown[0], followed)), unknown[0], steps)
        for slot in range(max(followed, kept - REPLAY), kept):
            stored, lost = keeper.read(slot), self.state is None
            self._follow_again(slot, stored, steps)
            if lost and slot:
                self.state = align.placed(self.state, stored.shift, stored.anchor)
        self._finals = {slot: shift for slot, shift in self._finals.items() if slot in unknown}

    def _placed(self, frame: Frame, slot: int, steps: Steps, exclude: Array | None) -> Aligned:
        late = int(Status.LATE) if frame.late else 0
        pixels = arrays.to_device(frame.pixels, steps.device)
        if not self.follows:
            self._finals[slot] = (0.0, 0.0)
            return Aligned(frame, pixels, (0.0, 0.0), 1.0, 0, late, align.covered(self._shape, (0.0, 0.0)))
        try:
            self.state, e = align.follow(self._started(pixels, steps), pixels, exclude=exclude)
        except BadImage:  # nothing finite in it: it is kept where the one before lay
            _, *before = self._before or (0.0, 0.0, 0.0)
            shift = self._finals[slot] = (before[0], before[1])
            status = int(Status.BLANK | Status.REJECTED) | late
            return step.place(frame, pixels, shift, steps, confidence=0.0, anchor=0, status=status)
        self._settle(e, slot)
        shift = (float(e.shift[0]), float(e.shift[1]))
        return step.place(
            frame,
            pixels,
            shift,
            steps,
            confidence=float(e.confidence),
            anchor=int(e.anchor),
            status=int(e.status) | late,
        )

    def _started(self, pixels: Array, steps: Steps) -> Any:
        """The state; a new one before the first frame."""
        if self.state is not None:
            return self.state
        xp = arrays.array_namespace(pixels)
        return align.start(self._shape, self._dtype, steps.align, xp=xp, **self.references)

    def _settle(self, e: align.Estimate, slot: int) -> None:
        self._settling, done = align.settle(self._settling, self.state, e, slot)
        self._finals |= {f.slot: f.shift for f in done}

    def _settle_again(self, stored_frames: Iterable[Aligned], first: int, steps: Steps) -> None:
        """Let the frames wait for their final shift that waited when the state was saved. first : slot of the first"""
        rows: list[tuple[int, Array | None, tuple[float, float], bool]] = []
        for slot, stored in enumerate(stored_frames, first):
            if stored.anchor != self.state.anchor:  # what it was compared with is gone
                self._finals[slot] = stored.shift
                continue
            pixels = None if stored.status & Status.BLANK else _as_seen(stored, steps.device)
            rows.append((slot, pixels, stored.shift, not stored.status & (Status.REJECTED | Status.BLANK)))
        self._settling = align.resume(steps.align.final_lag, self.state, rows)

    def _follow_again(self, slot: int, stored: Aligned, steps: Steps) -> None:
        """Let the aligner see a stored frame again."""
        pixels = _as_seen(stored, steps.device)
        self.state, e = align.follow(self._started(pixels, steps), pixels)
        self._settle(e, slot)


def _as_seen(stored: Aligned, device: str) -> Array:
    """A stored frame as the camera saw it, as far as it was kept; the rest as bright as what was kept."""
    dy, dx = align.whole(stored.shift)
    y0, y1, x0, x1 = stored.valid
    inside = stored.pixels[y0:y1, x0:x1]
    raw, _ = align.move(stored.pixels, (float(-dy), float(-dx)), fill=float(inside.mean()) if inside.size else 0.0)
    return arrays.to_device(raw, device)
