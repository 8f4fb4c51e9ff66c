"""One run on its way through the loop: the trunk (align, keep) and the branch (segment, measure) of its frames."""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from emstream import align, arrays, measure
from emstream.errors import StoreDamaged
from emstream.messages import Aligned, Frame, Labelled, Measured
from emstream.metrics import Metrics
from emstream.pipeline import steps as step
from emstream.pipeline.drift import Drift
from emstream.pipeline.once import Once, on_host
from emstream.pipeline.result import Keeper, Result
from emstream.pipeline.steps import Steps, Tables
from emstream.segment import Polarity
from emstream.segment.average import Seen, reach

log = logging.getLogger("emstream.pipeline")

MEMORY = 256 << 20  # bytes of aligned frames kept for a branch that lags a little; older ones come from the store
REMEMBERED = 512  # and no more frames than these: of tiny ones, what Python keeps beside the pixels is most of it
SAVE_EVERY_S = 5.0  # how often the drift and track state is written, so that a restart goes on where it was
SAVE_EVERY = 100  # or after so many frames, when they come fast
SAVE_LEAST_S = 1.0
PEEKED = 256  # frames whose particles are kept in memory until it is their turn


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
        self._drift = Drift(steps, self.shape, self.dtype)
        self.kept = keeper.stored  # frames aligned and handed to the store
        self.linked = keeper.stored  # frames whose particles are measured and tracked, in order
        self.last_frame_at = time.monotonic()
        self._tracks: Any = measure.start_tracks(steps.measure)
        self._memory: OrderedDict[int, Aligned] = OrderedDict()
        self._peeked: dict[int, Once | None] = {}  # looked at before their turn; None = only the store has the labels
        self._measured: dict[int, Measured] = {}  # before their turn; the queue's thread alone touches it
        self._waiting: dict[int, tuple[float, float]] = {}  # for the branch: drift speed, px/s; when the file was whole
        self._seen: OrderedDict[int, Seen] = OrderedDict()  # frames that the next one may be looked at together with
        self._known: Any = None  # what the segmenter learned of this run while another has its turn
        self._particles: Once | None = None  # of the newest frame that was looked at, for the aligner
        self.short_of_memory = False  # the GPU's was full: the loop takes fewer frames at once
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
            speed = self._drift.speed(aligned)
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
        """Where it lies; when the GPU's memory is full again with what nobody uses freed, then on the CPU from here on."""
        for again in (True, False):
            try:
                return self._place(frame, slot)
            except (RuntimeError, MemoryError) as problem:
                if self.steps.device == "cpu" or not arrays.out_of_memory(problem):
                    raise
                self.short_of_memory = True
                arrays.free_unused()
                if not again:
                    log.warning("GPU out of memory: frames are aligned on the CPU", extra={"error": str(problem)})
        self._onto_cpu()
        return self._place(frame, slot)

    def _place(self, frame: Frame, slot: int) -> Aligned:
        exclude = self._particles().labels > 0 if self._particles and self._drift.follows else None
        return self._drift.place(frame, slot, self.steps, exclude)

    def _onto_cpu(self) -> None:
        """Everything that later frames need comes to the host."""
        self._drift.onto_cpu(self.steps.align)
        self._memory = OrderedDict((k, replace(a, pixels=arrays.to_host(a.pixels))) for k, a in self._memory.items())
        self._seen.clear()
        if self._particles is not None:
            made = self._particles
            self._particles = Once(lambda: on_host(made()))
        self.steps = replace(self.steps, device="cpu")
        self.metrics.gpu_fallback("oom")
        self.metrics.gpu_up.set(0)

    def _tell_finals(self) -> None:
        """Hand over the shifts that became final, all of frames that the keeper has."""
        if finals := self._drift.take_finals():
            self.keeper.finals(finals)

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

    def look_here(self) -> None:
        """It is this run's turn: the segmenter goes on with what it knew of it, or begins anew."""
        if self.steps.segmenter is None:
            return
        if self._known is None:
            self.steps.segmenter.reset(self._polarity)
        else:
            self.steps.segmenter.memory = self._known

    def look_away(self) -> None:
        """It is another run's turn."""
        self._known = None if self.steps.segmenter is None else self.steps.segmenter.memory

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
            self._seen[slot] = step.seen(replace(aligned, pixels=pixels), self._drift.references)
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
        kept, drift = self.kept, self._drift.state

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
        self._drift.finish()
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
                self._drift.state = align.load(part["drift."], self.steps.align, arrays.namespace_of(self.steps.device))
        if self._drift.follows:
            self._drift.resume(self.keeper, followed, self.kept, self.steps)
            self._tell_finals()
        if self.steps.segmenter is None:
            self.linked = self.kept
        living = self._tracks.tracks["track"]
        self.keeper.drop_rows_from(self.linked, living, self._tracks.next_track)
