"""One run on its way through the loop: the trunk (align, keep) and the branch (segment, measure) of its frames."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from emstream import align, arrays, measure
from emstream.errors import BadImage, StoreDamaged
from emstream.messages import Aligned, Array, Frame, Labelled, Measured, PixelSize, Status
from emstream.metrics import Metrics
from emstream.pipeline import steps as step
from emstream.pipeline.average import Seen, reach
from emstream.pipeline.steps import Steps, Tables
from emstream.segment import Polarity

log = logging.getLogger("emstream.pipeline")

MEMORY = 256 << 20  # bytes of aligned frames kept for a branch that lags a little; older ones come from the store
REMEMBERED = 512  # and no more frames than these: of tiny ones, what Python keeps beside the pixels is most of it
SAVE_EVERY_S = 5.0  # how often the drift and track state is written, so that a restart goes on where it was
SAVE_EVERY = 100  # or after so many frames, when they come fast
SAVE_LEAST_S = 1.0
PEEKED = 256  # frames whose particles are kept in memory until it is their turn
REPLAY = 200  # most stored frames that the aligner sees again after a restart without saved state


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Result:
    """What the loop tells of one frame, after the store has it; `labelled` and `measured` follow later or never."""

    run: str
    frame: int  # in the run, from 0
    aligned: Aligned
    drift_speed: float  # px/s
    labelled: Labelled | None = None
    measured: Measured | None = None
    final: bool = True  # false for the newest frame that is shown before its tracks are known


class Keeper(Protocol):
    """Where a lane's results go: the store's write-behind queue, or memory. Calls keep their order.

    What `labels`, `state` and `close` are given is called once, in that order, behind the loop: the network's maps are
    taken apart there, particles are measured and tracked, while the loop aligns the next frames and looks at them.
    """

    name: str
    stored: int  # frames that the run had when it was opened
    pixel_size_nm: PixelSize | None  # of the run; single frames may not know it

    def reserve(self, frames: Sequence[Frame]) -> list[int | None]: ...
    def frame(self, slot: int, aligned: Aligned, keep_raw: bool, drift_speed: float) -> None: ...
    def finals(self, shifts: Mapping[int, tuple[float, float]]) -> None: ...
    def labels(self, measure: Callable[[], tuple[Result, Tables | None]], nbytes: int) -> None: ...
    def state(self, make: Callable[[], Mapping[str, np.ndarray]]) -> None: ...
    def saved_state(self) -> Mapping[str, np.ndarray] | None: ...
    def waiting(self, first: int) -> list[int]: ...
    def read(self, slot: int) -> Aligned: ...
    def read_labels(self, slot: int) -> Labelled: ...
    def drop_rows_from(self, frame: int, living: np.ndarray, next_track: int) -> None: ...
    def close(self, last: Callable[[], Tables]) -> None: ...


class Once:
    """Labels that are made once, by whoever needs them first: the queue's thread, or the aligner for the next frame."""

    def __init__(self, make: Callable[[], Labelled]) -> None:
        self._make: Callable[[], Labelled] | None = make
        self._made: Labelled | None = None
        self._lock = threading.Lock()

    def __call__(self) -> Labelled:
        with self._lock:
            if self._made is None:
                assert self._make is not None
                self._made, self._make = self._make(), None
            return self._made


def on_host(labelled: Labelled) -> Labelled:
    """The same with labels in main memory."""
    return replace(labelled, labels=arrays.to_host(labelled.labels))


class Lane:
    """The frames of one run: `keep` each one as it comes, `advance` the branch when there is time.

    shape, dtype : of its frames, (y, x) px
    polarity     : of its particles, where that is known
    """

    def __init__(
        self,
        series: str,
        keeper: Keeper,
        steps: Steps,
        metrics: Metrics,
        shape: tuple[int, int],
        dtype: np.dtype,
        polarity: Polarity = "auto",
    ) -> None:
        self.series, self.keeper, self.steps, self.metrics = series, keeper, steps, metrics
        self.shape, self.dtype, self._polarity = shape, dtype.newbyteorder("="), polarity
        self._pixel_size_nm = keeper.pixel_size_nm
        self._references = steps.references(self.shape)
        self._aligned = steps.aligns(self.shape)
        self.kept = keeper.stored  # frames aligned and handed to the store
        self.linked = keeper.stored  # frames whose particles are measured and tracked, in order
        self.last_frame_at = time.monotonic()
        self._drift: Any = None
        self._settling = align.Settling(steps.align.final_lag)
        self._finals: dict[int, tuple[float, float]] = {}  # became final with the newest frame
        self._tracks: Any = measure.start_tracks(steps.measure)
        self._memory: OrderedDict[int, Aligned] = OrderedDict()
        self._peeked: dict[int, Once | None] = {}  # looked at before their turn; None = only the store has the labels
        self._measured: dict[int, Measured] = {}  # before their turn; the queue's thread alone touches it
        self._waiting: dict[int, tuple[float, float]] = {}  # for the branch: drift speed, px/s; when the file was whole
        self._seen: OrderedDict[int, Seen] = OrderedDict()  # frames that the next one may be looked at together with
        self._particles: Once | None = None  # of the newest frame that was looked at, for the aligner
        self.short_of_memory = False  # the GPU's was full: the loop takes fewer frames at once
        self._before: tuple[float, float, float] | None = None  # time, dy, dx of the frame before
        self._saved_at, self._saved = time.monotonic(), self.kept
        if self.kept:
            self._resume()

    # ---- trunk -------------------------------------------------------------------------------------------------

    def fits(self, frame: Frame) -> bool:
        """Whether the frame can be part of this run."""
        return frame.pixels.shape == self.shape and frame.pixels.dtype.newbyteorder("=") == self.dtype

    def keep(self, frames: Sequence[Frame]) -> None:
        """Align frames and hand them to the store; blocks while storage is slow."""
        self.last_frame_at = time.monotonic()
        for slot, frame in zip(self.keeper.reserve(frames), frames):
            if slot is None:  # the run has it: a file that was only touched or copied over itself
                continue
            with self.metrics.timed("align"):
                aligned = self._placed(frame, slot)
            self.kept = slot + 1
            speed = self._speed(aligned)
            self.keeper.frame(slot, aligned, self.steps.keep_raw, speed)
            self._tell_finals()
            if self.steps.segmenter is None:
                self.linked = self.kept
            else:
                self._remember(slot, aligned)
                self._waiting[slot] = speed, frame.closed_at
        waited = time.monotonic() - self._saved_at
        if waited > SAVE_EVERY_S or (waited > SAVE_LEAST_S and self.kept - self._saved >= SAVE_EVERY):
            self.save()

    def _placed(self, frame: Frame, slot: int) -> Aligned:
        """`_align`; when the GPU's memory is full again with what nobody uses freed, then on the CPU from here on."""
        before = self._drift, self._settling, dict(self._finals)
        for again in (True, False):
            try:
                return self._align(frame, slot)
            except (RuntimeError, MemoryError) as problem:
                if self.steps.device == "cpu" or not arrays.out_of_memory(problem):
                    raise
                self.short_of_memory = True
                self._drift, self._settling, self._finals = before
                arrays.free_unused()
                if not again:
                    log.warning("GPU out of memory: frames are aligned on the CPU", extra={"error": str(problem)})
        self._onto_cpu()
        return self._align(frame, slot)

    def _onto_cpu(self) -> None:
        """Everything that later frames need comes to the host."""
        if self._drift is not None:
            grid = max(self._drift.grid.shape)
            self._drift = align.load(align.dump(self._drift), replace(self.steps.align, grid=grid))
        try:
            self._settling, done = align.finish(self._settling)
            self._finals |= {f.slot: f.shift for f in done}
        except (RuntimeError, MemoryError) as problem:  # those shifts stay as they were measured
            if not arrays.out_of_memory(problem):
                raise
        self._settling = align.Settling(self.steps.align.final_lag)
        self._references = {k: arrays.to_host(v) for k, v in self._references.items()}
        self._memory = OrderedDict((k, replace(a, pixels=arrays.to_host(a.pixels))) for k, a in self._memory.items())
        self._seen.clear()
        if self._particles is not None:
            made = self._particles
            self._particles = Once(lambda: on_host(made()))
        self.steps = replace(self.steps, device="cpu")
        self.metrics.gpu_fallback("oom")
        self.metrics.gpu_up.set(0)

    def _align(self, frame: Frame, slot: int) -> Aligned:
        pixels = arrays.to_device(frame.pixels, self.steps.device)
        if not self._aligned:
            self._finals[slot] = (0.0, 0.0)
            return Aligned(frame, pixels, (0.0, 0.0), 1.0, 0, self._late(frame), align.covered(self.shape, (0.0, 0.0)))
        try:
            self._drift, e = align.follow(
                self._started(pixels), pixels, exclude=self._particles().labels > 0 if self._particles else None
            )
        except BadImage:  # nothing finite in it: it is kept where the one before lay
            _, *before = self._before or (0.0, 0.0, 0.0)
            shift = self._finals[slot] = (before[0], before[1])
            status = int(Status.BLANK | Status.REJECTED) | self._late(frame)
            return step.place(frame, pixels, shift, self.steps, confidence=0.0, anchor=0, status=status)
        self._settling, done = align.settle(self._settling, self._drift, e, slot)
        self._finals |= {f.slot: f.shift for f in done}
        shift = (float(e.shift[0]), float(e.shift[1]))
        status = int(e.status) | self._late(frame)
        return step.place(
            frame, pixels, shift, self.steps, confidence=float(e.confidence), anchor=int(e.anchor), status=status
        )

    def _tell_finals(self) -> None:
        """Hand over the shifts that became final, all of frames that the keeper has."""
        if self._finals:
            self.keeper.finals(self._finals)
            self._finals = {}

    def _started(self, pixels: Array) -> Any:
        """The drift's state; a new one before the first frame."""
        if self._drift is not None:
            return self._drift
        xp = arrays.array_namespace(pixels)
        return align.start(self.shape, self.dtype, self.steps.align, xp=xp, **self._references)

    @staticmethod
    def _late(frame: Frame) -> int:
        return int(Status.LATE) if frame.late else 0

    def _speed(self, aligned: Aligned) -> float:
        """Drift speed, px/s, from this frame and the one before."""
        now = (aligned.frame.time_s, *aligned.shift)
        before, self._before = self._before, now
        if before is None or now[0] <= before[0]:
            return math.nan
        return math.hypot(now[1] - before[1], now[2] - before[2]) / (now[0] - before[0])

    def _remember(self, slot: int, aligned: Aligned) -> None:
        self._memory[slot] = aligned
        most = min(REMEMBERED, max(1, MEMORY // max(1, int(aligned.pixels.nbytes))))  # all are of one size
        while len(self._memory) > most:
            self._memory.popitem(last=False)

    # ---- branch ------------------------------------------------------------------------------------------------

    @property
    def todo(self) -> int:
        """Frames that wait for the branch."""
        return self.kept - self.linked

    @property
    def lag_s(self) -> float:
        """How long ago the oldest frame that waits for the branch was whole, s."""
        _, closed_at = self._waiting.get(self.linked, (math.nan, 0.0))
        return time.time() - closed_at

    def look_anew(self) -> None:
        """The segmenter saw another run, or none: let it begin anew with this one."""
        if self.steps.segmenter is not None:
            self.steps.segmenter.reset(self._polarity)

    def peek(self) -> None:
        """Segment the newest frame before its turn, so that people see what is, not what was."""
        slot = self.kept - 1
        if slot in self._peeked or slot not in self._memory:
            return
        aligned = self._memory[slot]
        labelled = self._segment(slot, aligned)
        room = min(PEEKED, max(2, MEMORY // 4 // (4 * aligned.pixels.size)))
        for old in [s for s, kept in self._peeked.items() if kept is not None][:-room]:
            self._peeked[old] = None
        self._peeked[slot] = self._particles = labelled
        speed, _ = self._waiting.get(slot, (math.nan, 0.0))
        self.keeper.labels(lambda: (self._first_look(slot, aligned, labelled(), speed), None), 4 * aligned.pixels.size)

    def advance(self) -> None:
        """Segment, measure and track the oldest frame that waits."""
        slot = self.linked
        speed, closed_at = self._waiting.pop(slot, (math.nan, 0.0))
        aligned = self._memory.pop(slot, None)
        if aligned is None:  # the branch lags: the store has the pixels, but not since when
            try:
                aligned = self.keeper.read(slot)
            except StoreDamaged as problem:
                log.error("a frame stays without labels", extra={"frame": slot, "because": str(problem)})
                self.linked = slot + 1
                return
            pixels = arrays.to_device(aligned.pixels, self.steps.device)
            aligned = replace(aligned, frame=replace(aligned.frame, closed_at=closed_at), pixels=pixels)
        ahead_of_turn = slot in self._peeked
        labelled = self._peeked.pop(slot, None)
        if labelled is None and ahead_of_turn:
            stored = self.keeper.read_labels(slot)
            labelled = Once(lambda: stored)
        elif labelled is None:
            labelled = self._segment(slot, aligned)
        made = labelled
        self.linked = slot + 1
        if not self._peeked:
            self._particles = made
        self.keeper.labels(lambda: self._follow(slot, aligned, made(), speed), 4 * aligned.pixels.size)

    def _segment(self, slot: int, aligned: Aligned) -> Once:
        """Let the network look at a frame, and at those before it; its particles are made of that later."""
        before = range(max(0, slot - reach(self.steps.average)), slot)
        began = time.perf_counter()
        frames = [*(s for s in map(self._looked_at_before, before) if s), self._as_looked_at(slot, aligned)]
        particles = step.look(self.steps, step.looked_at(self.steps, frames))
        looked = time.perf_counter() - began

        def finish() -> Labelled:
            again = time.perf_counter()
            labelled = particles()
            self.metrics.took("segment", looked + time.perf_counter() - again)
            return labelled

        return Once(finish)

    def _looked_at_before(self, slot: int) -> Seen | None:
        """None when it is damaged."""
        try:
            return self._as_looked_at(slot)
        except StoreDamaged:
            return None

    def _as_looked_at(self, slot: int, aligned: Aligned | None = None) -> Seen:
        """A frame that is, or was, the segmenter's; the store has those that are forgotten."""
        if slot not in self._seen:
            aligned = aligned or self._memory.get(slot) or self.keeper.read(slot)
            pixels = arrays.to_device(aligned.pixels, self.steps.device)
            self._seen[slot] = step.seen(replace(aligned, pixels=pixels), self._references)
        self._seen.move_to_end(slot)
        least = reach(self.steps.average) + 1  # twice: around the newest frame, and around the oldest that waits
        most = min(2 * least, max(least, MEMORY // max(1, int(self._seen[slot].pixels.nbytes))))
        while len(self._seen) > most:
            self._seen.popitem(last=False)
        return self._seen[slot]

    # ---- behind the loop, in the queue's thread ----------------------------------------------------------------

    def _measure(self, labelled: Labelled, aligned: Aligned) -> Measured:
        with self.metrics.timed("measure"):
            return step.measured(labelled, aligned)

    def _first_look(self, slot: int, aligned: Aligned, labelled: Labelled, speed: float) -> Result:
        """The newest frame, measured before its turn to be tracked."""
        measured = self._measured[slot] = self._measure(labelled, aligned)
        if len(self._measured) > PEEKED:
            del self._measured[min(self._measured)]
        return Result(
            run=self.keeper.name, frame=slot, aligned=aligned, drift_speed=speed, labelled=labelled, measured=measured,
            final=False,
        )  # fmt: skip

    def _follow(self, slot: int, aligned: Aligned, labelled: Labelled, speed: float) -> tuple[Result, Tables]:
        """Particles and tracks of one frame, and the rows that it adds to the tables."""
        found = self._measured.pop(slot, None) or self._measure(labelled, aligned)
        if isinstance(labelled.labels, np.ndarray) and not isinstance(self._tracks.labels, np.ndarray | None):
            self._tracks = measure.load(measure.dump(self._tracks), self.steps.measure)  # the GPU was given up
        self._tracks, measured, tables = step.linked(self._tracks, slot, aligned, labelled, found, self._pixel_size_nm)
        result = Result(
            run=self.keeper.name, frame=slot, aligned=aligned, drift_speed=speed, labelled=labelled, measured=measured
        )
        return result, tables

    # ---- state -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the state of drift and tracks behind the frames that it belongs to."""
        self._saved_at, self._saved = time.monotonic(), self.kept
        kept, drift = self.kept, self._drift

        def make() -> dict[str, np.ndarray]:
            values: dict[str, Any] = {"kept": np.int64(kept), "linked": np.int64(min(kept, self._tracks.frame + 1))}
            if drift is not None:
                values |= {f"drift.{k}": v for k, v in align.dump(drift).items()}
            values |= {f"tracks.{k}": v for k, v in measure.dump(self._tracks).items()}
            return {k: np.asarray(v) for k, v in values.items()}

        self.keeper.state(make)

    def close(self) -> None:
        """Save, write the tracks that are still alive, and close the run. Nothing may wait for the branch."""
        self.save()
        self._settling, done = align.finish(self._settling)
        self._finals |= {f.slot: f.shift for f in done}
        self._tell_finals()

        self.keeper.close(lambda: step.alive(self._tracks, self._pixel_size_nm))

    def _resume(self) -> None:
        """Go on where the run ended: load the state, follow again what came after it was saved."""
        saved = self.keeper.saved_state()
        if saved is None:
            followed, self.linked = 0, 0
        else:
            followed, self.linked = int(saved["kept"]), int(saved["linked"])
            part = {
                name: {k.partition(".")[2]: v for k, v in saved.items() if k.startswith(name)}
                for name in ("drift.", "tracks.")
            }
            self._tracks = measure.load(part["tracks."], self.steps.measure)
            if self._tracks.labels is not None:
                labels = Labelled(arrays.to_device(self._tracks.labels, self.steps.device), "", "")
                self._particles = Once(lambda: labels)
            if part["drift."]:
                self._drift = align.load(part["drift."], self.steps.align, arrays.namespace_of(self.steps.device))
        if self._aligned:
            unknown = self.keeper.waiting(max(0, self.kept - REPLAY))
            if self._drift is not None and unknown:
                self._settle_again(range(unknown[0], followed))
            for slot in range(max(followed, self.kept - REPLAY), self.kept):
                stored, lost = self.keeper.read(slot), self._drift is None
                self._follow_again(slot, stored)
                if lost and slot:
                    self._drift = align.placed(self._drift, stored.shift, stored.anchor)
            self._finals = {slot: shift for slot, shift in self._finals.items() if slot in unknown}
            self._tell_finals()
        if self.steps.segmenter is None:
            self.linked = self.kept
        living = self._tracks.tracks["track"]
        self.keeper.drop_rows_from(self.linked, living, self._tracks.next_track)

    def _settle_again(self, slots: range) -> None:
        """Let the frames wait for their final shift that waited when the state was saved."""
        rows: list[tuple[int, Array | None, tuple[float, float], bool]] = []
        for slot in slots:
            stored = self.keeper.read(slot)
            if stored.anchor != self._drift.anchor:  # what it was compared with is gone
                self._finals[slot] = stored.shift
                continue
            pixels = None if stored.status & Status.BLANK else self._as_seen(stored)
            rows.append((slot, pixels, stored.shift, not stored.status & (Status.REJECTED | Status.BLANK)))
        self._settling = align.resume(self.steps.align.final_lag, self._drift, rows)

    def _follow_again(self, slot: int, stored: Aligned) -> None:
        """Let the aligner see a stored frame again."""
        pixels = self._as_seen(stored)
        self._drift, e = align.follow(self._started(pixels), pixels)
        self._settling, done = align.settle(self._settling, self._drift, e, slot)
        self._finals |= {f.slot: f.shift for f in done}

    def _as_seen(self, stored: Aligned) -> Array:
        """A stored frame as the camera saw it, as far as it was kept; the rest as bright as what was kept."""
        dy, dx = align.whole(stored.shift)
        y0, y1, x0, x1 = stored.valid
        inside = stored.pixels[y0:y1, x0:x1]
        raw, _ = align.move(stored.pixels, (float(-dy), float(-dx)), fill=float(inside.mean()) if inside.size else 0.0)
        return arrays.to_device(raw, self.steps.device)
