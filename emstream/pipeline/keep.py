"""Where a lane's results go: the store, through the write-behind queue; told to the page once they are safe."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from emstream import align, arrays, measure
from emstream.errors import StoreDamaged
from emstream.messages import Aligned, Frame, Labelled, Origin, PixelSize
from emstream.metrics import Metrics
from emstream.pipeline.result import Result
from emstream.pipeline.steps import Tables
from emstream.store.behind import WriteBehind
from emstream.store.columns import model_key
from emstream.store.layout import chunk_name
from emstream.store.records import FrameRecord, LabelRecord
from emstream.store.run import Run
from emstream.store.writer import RunWriter

T = TypeVar("T")
ROWS_EVERY_S = 2.0  # how often readers of a live run's tables see new rows
STATES = 2  # generations of saved state: the newest may be of frames that a kill took back


class Sinks:
    """All open runs behind one write-behind queue; what is to be told is told after the flush that made it safe."""

    def __init__(self) -> None:
        self.writers: list[RunWriter] = []
        self._after: list[Callable[[], None]] = []
        self._rows_at = 0.0

    def after_flush(self, tell: Callable[[], None]) -> None:
        """Called by work in the queue: what happens once the group is committed."""
        self._after.append(tell)

    def flush(self) -> None:
        for writer in list(self.writers):
            writer.flush()
        told, self._after = self._after, []
        for tell in told:
            tell()

    def discard(self) -> None:
        for writer in list(self.writers):
            writer.discard()
        self._after.clear()

    def idle(self) -> None:
        """Nothing waits: let readers see everything, the tables' newest rows every now and then."""
        rows = time.monotonic() - self._rows_at > ROWS_EVERY_S
        for writer in list(self.writers):
            writer.idle()
            if rows:
                writer.flush_tables()
        if rows:
            self._rows_at = time.monotonic()


class StoreKeeper:
    """One run of the store, as its lane sees it. All writing happens in the queue's thread, in order."""

    def __init__(
        self,
        writer: RunWriter,
        behind: WriteBehind,
        sinks: Sinks,
        metrics: Metrics,
        show: Callable[[Result], None],
        pixel_size_nm: PixelSize | None,
    ) -> None:
        self._writer, self._behind, self._sinks, self._metrics, self._show = writer, behind, sinks, metrics, show
        self.pixel_size_nm = pixel_size_nm
        self._tabled: dict[str, int] = {}  # the last frame whose rows a table has: a group may be written twice
        self._generation = 0
        self._run: Run | None = None
        self._looked_at: set[int] = set()  # frames whose labels were stored before their turn
        self._rows: tuple[int, dict[str, np.ndarray]] = (0, {"shift": np.empty(0)})  # columns from a frame on
        self.name = writer.name
        self.stored = writer.n
        sinks.writers.append(writer)

    # ---- called by the lane ------------------------------------------------------------------------------------

    def reserve(self, frames: Sequence[Frame]) -> list[int | None]:
        """Slots for the next frames; None for one that the run has already."""
        origins = [f.origin for f in frames]
        return self._behind.patiently(lambda: self._writer.reserve(origins, lambda i: frames[i].pixels))

    def frame(self, slot: int, aligned: Aligned, keep_raw: bool, drift_speed: float) -> None:
        """Store one aligned frame; blocks while the queue is full."""
        host = _on_host(aligned)
        record = FrameRecord.of(host, keep_raw=keep_raw)

        def work() -> None:
            with self._metrics.timed("write"):
                self._writer.write_frames([record], [slot])
            self._sinks.after_flush(lambda: self._committed(slot, host, drift_speed))

        self._behind.put(work, record.nbytes)

    def finals(self, shifts: Mapping[int, tuple[float, float]]) -> None:
        """Store the final shifts (dy, dx) px of frames that were stored before, by slot."""
        self._behind.put(lambda: self._writer.write_finals(shifts), 64 * len(shifts))

    def labels(self, measure: Callable[[], tuple[Result, Tables | None]], nbytes: int) -> None:
        """Measure, and store the labels of a frame that was stored before with its rows of the tables."""
        made: list[tuple[Result, Tables | None]] = []  # measured once, also when the group must be written again

        def work() -> None:
            if not made:
                made.append(measure())
            result, tables = made[0]
            labelled, measured = result.labelled, result.measured
            assert labelled is not None
            assert measured is not None
            host = replace(labelled, labels=arrays.to_host(labelled.labels))
            if result.frame not in self._looked_at:
                self._writer.add_model(labelled.model, labelled.sha256, result.frame)
                key = model_key(labelled.model, labelled.sha256)
                record = LabelRecord(
                    result.frame, host.labels, measured.count, measured.area_fraction, key, labelled.agreement
                )
                self._writer.write_labels([record])
            if tables is not None:
                self._write_rows(result.frame, tables)
            told = replace(result, aligned=_on_host(result.aligned), labelled=host)
            self._sinks.after_flush(lambda: self._segmented(told))

        self._behind.put(work, nbytes)

    def state(self, make: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Save what a restart needs, behind the frames that it belongs to."""
        self._generation = (self._generation + 1) % STATES
        name = f"state{self._generation}"

        def work() -> None:
            self._writer.flush_tables()  # rows of frames before the saved state are not written anew
            self._writer.write_state(name, make())

        self._behind.put(work, 1 << 20)

    def saved_state(self) -> dict[str, np.ndarray] | None:
        """The newest saved state whose frames the run still has."""
        return newest_state(self._writer.read_state, self.stored)

    def waiting(self, first: int) -> list[int]:
        """The frames from `first` on that the run had when it was opened and whose final shift is not known."""
        shifts = self._in_the_queue(lambda: self._writer.columns.column("final_shift", self.stored, first))
        return [int(slot) + first for slot in np.flatnonzero(np.isnan(shifts[:, 0]))]

    def read(self, slot: int) -> Aligned:
        """A stored frame as the aligner gave it."""
        run = self._readable(slot)
        if not (run.path / "0" / chunk_name(slot)).is_file():  # it would read as zeros
            raise StoreDamaged(f"frame {slot} of {run.path} is gone", "emstream check --repair reads it again")
        first, rows = self._rows
        if not first <= slot < first + len(rows["shift"]):  # a branch that lags asks for one frame after the other
            first = slot
            rows = {k: run.column(k)[slot : slot + 256] for k in ("shift", "time_s", "confidence", "anchor", "status")}
            self._rows = first, rows
        row = {k: column[slot - first] for k, column in rows.items()}
        pixels = run.frame(slot)
        shift = (float(row["shift"][0]), float(row["shift"][1]))
        frame = Frame(self.name, Origin("", slot, 0, 0, 0), pixels, float(row["time_s"]), self.pixel_size_nm)
        valid = align.covered(pixels.shape, shift)
        return Aligned(frame, pixels, shift, float(row["confidence"]), int(row["anchor"]), int(row["status"]), valid)

    def read_labels(self, slot: int) -> Labelled:
        """The stored labels of a frame."""
        return Labelled(np.asarray(self._readable(slot).label(slot), np.int32), "", "")

    def drop_rows_from(self, frame: int, living: np.ndarray, next_track: int) -> None:
        """Take out of the tables what the frames from `frame` on had written before a restart; they write it anew.

        raises : StoreDamaged
        """

        def work() -> ValueError | None:
            try:
                drop()
            except ValueError as problem:  # what arrow says of a file that is none of its own
                return problem
            return None

        def drop() -> None:
            for name in ("particles", "events", "kinetics", "tracks"):
                kind: Any = name
                table = self._writer.table(name, measure.schema(kind, self.pixel_size_nm is not None))
                if name == "tracks":
                    table.drop("track", from_value=next_track, values=living)
                else:
                    table.drop("frame", from_value=frame)

        if (problem := self._in_the_queue(work)) is not None:
            raise StoreDamaged(f"a table of {self._writer.path}: {problem}", "emstream check tells which") from problem

    def close(self, last: Callable[[], Tables]) -> None:
        """Everything down, the tables whole, the run `closed`."""

        def work() -> None:
            self._write_rows(1 << 62, last())
            self._writer.close()
            if self._writer in self._sinks.writers:  # not so when the group is written a second time
                self._sinks.writers.remove(self._writer)

        self._in_the_queue(work)

    def _in_the_queue(self, act: Callable[[], T]) -> T:
        """Done behind everything that is queued, by the only thread that may touch the writer; waits for it."""
        done: list[T] = []
        self._behind.put(lambda: done.append(act()), 0)
        self._behind.drain()
        return done[-1]

    # ---- in the queue's thread -----------------------------------------------------------------------------------

    def _write_rows(self, frame: int, tables: Tables) -> None:
        for name in ("particles", "tracks", "events", "kinetics"):
            kind: Any = name
            table = self._writer.table(name, measure.schema(kind, self.pixel_size_nm is not None))
            if name in tables and frame > self._tabled.get(name, -1):
                table.append(tables[name])
                self._tabled[name] = frame

    def _committed(self, slot: int, aligned: Aligned, drift_speed: float) -> None:
        frame, now = aligned.frame, time.time()
        self._metrics.frames("committed")
        self._metrics.bytes("written", frame.pixels.nbytes)
        self._metrics.last_commit.set(now)
        if frame.closed_at:
            seen = now - (time.monotonic() - frame.seen_at)
            self._metrics.latency("seen", seen - frame.closed_at)
            self._metrics.latency("committed", now - frame.closed_at)
        size = self.pixel_size_nm
        speed = drift_speed * math.sqrt(size[0] * size[1]) if size else math.nan
        self._metrics.drift(aligned.shift, aligned.confidence, speed)
        self._show(Result(run=self.name, frame=slot, aligned=aligned, drift_speed=drift_speed))

    def _segmented(self, result: Result) -> None:
        measured, frame = result.measured, result.aligned.frame
        assert measured is not None
        if frame.closed_at and result.frame not in self._looked_at:
            self._metrics.latency("segmented", time.time() - frame.closed_at)
        if result.final:
            self._metrics.frames("segmented")
            self._looked_at.discard(result.frame)
        else:
            self._looked_at.add(result.frame)
        self._show(result)

    def _readable(self, slot: int) -> Run:
        if self._run is None or slot >= self._run.n:
            self._behind.put(lambda: self._sinks.after_flush(self._writer.publish), 0)
            self._behind.drain()
            self._run = Run(self._writer.path)
        return self._run


def newest_state(read: Callable[[str], dict[str, np.ndarray] | None], stored: int) -> dict[str, np.ndarray] | None:
    """The newest saved state of a run that has `stored` frames. read : a name → the state, None when there is none"""
    found = [s for i in range(STATES) if (s := read(f"state{i}")) is not None]
    usable = [s for s in found if int(s["kept"]) <= stored]
    return max(usable, key=lambda s: int(s["kept"])) if usable else None


def _on_host(aligned: Aligned) -> Aligned:
    """The same with pixels in main memory."""
    if isinstance(aligned.pixels, np.ndarray):
        return aligned
    return replace(aligned, pixels=arrays.to_host(aligned.pixels))
