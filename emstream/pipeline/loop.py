"""One `for` loop: every frame is aligned and kept; the branch segments the newest first and catches up when it can."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from emstream.messages import Frame
from emstream.pipeline.lane import Lane
from emstream.source.ahead import ReadAhead

IN_ORDER = 4  # with at most this many frames waiting for the branch, the newest is not worth showing first
LATE = 0.8  # s; nor while none has waited so long: what is taken out of turn makes all others wait
FIRST_S = 1.0  # after the start; the first new frames of a life are not to wait for what is behind


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run that an earlier life left before its last frames had labels, or before it was closed.

    todo : frames that wait for the branch
    open : its lane; None when it cannot go on
    """

    run: str
    todo: int
    open: Callable[[], Lane | None]


@dataclass(eq=False)
class Loop:
    """Takes frames, gives each to the lane of its run.

    open_lane   : a frame that belongs to no lane of `current` → the lane of its run: created, resumed, or one of `lanes`
    unfinished  : runs that need no new frame to go on; opened one by one when there is nothing else to do
    batch       : most frames taken at once
    until_idle  : seconds without a new frame after which the loop ends by itself; None = only when the source ends
    close_after : seconds without a new frame after which a run is closed
    most_open   : runs kept open at once; the one that waited longest for a frame is closed first
    busy        : whether the source knows of files that are not complete yet
    """

    ahead: ReadAhead
    open_lane: Callable[[Frame], Lane]
    unfinished: list[Unfinished] = field(default_factory=list)
    batch: int = 16
    until_idle: float | None = None
    close_after: float = 600.0
    most_open: int = 8
    tick: Callable[[], None] = lambda: None
    busy: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    lanes: list[Lane] = field(default_factory=list)  # every open run
    current: dict[str, Lane] = field(default_factory=dict)  # series → the run that its next frame joins
    looking: Lane | None = None  # whose frames the segmenter knows

    def run(self) -> None:
        """Until the source ends or nothing new came for `until_idle` seconds; what was seen is then finished.

        What is unfinished is finished before the loop is idle; when the source ends, the next life takes it up.
        """
        began = self.clock()
        for frames in self._batches():
            self._keep(frames)
            if not frames and self.clock() - began >= FIRST_S and not any(lane.todo for lane in self.lanes):
                self._take_up()
            self._branch()
            self._close_what_rests()
            self.tick()
        self._finish()

    @property
    def backlog(self) -> int:
        """Frames that are kept and not segmented yet."""
        return sum(lane.todo for lane in self.lanes) + sum(run.todo for run in self.unfinished)

    def _batches(self) -> Iterator[list[Frame]]:
        """Whatever is ready, up to `batch`; [] as a chance to catch up or rest."""
        newest = self.clock()
        while True:
            frames = self.ahead.take(self.batch, 0.0 if any(lane.todo for lane in self.lanes) else 0.05)
            if frames:
                newest = self.clock()
            elif self.ahead.ended or (self._idle_since(newest) and not self.unfinished):
                return
            yield frames

    def _idle_since(self, newest: float) -> bool:
        return self.until_idle is not None and self.clock() - newest >= self.until_idle and not self.busy()

    def _keep(self, frames: list[Frame]) -> None:
        """The trunk: each frame to its run, those of one run together."""
        for lane, group in itertools.groupby(frames, self._lane):
            lane.keep(list(group))
            if lane.short_of_memory:  # of a GPU: fewer frames at once
                lane.short_of_memory, self.batch = False, max(1, self.batch // 2)

    def _lane(self, frame: Frame) -> Lane:
        """The run that the frame belongs to; another shape or dtype begins a new one."""
        lane = self.current.get(frame.series)
        if lane is None or not lane.fits(frame):
            lane = self.current[frame.series] = self.open_lane(frame)
            if lane not in self.lanes:
                self.lanes.append(lane)
            self.unfinished = [run for run in self.unfinished if run.run != lane.keeper.name]
        return lane

    def _take_up(self) -> None:
        """Open the next run that is unfinished; the branch then catches up as after any restart."""
        if self.unfinished and (lane := self.unfinished.pop(0).open()) is not None:
            self.lanes.append(lane)

    def _branch(self) -> None:
        """The newest frame at once when many wait; then the oldest, one by one, until new frames arrive.

        A run that got a frame lately comes before one that rests.
        """
        for lane in self.lanes:
            if lane.todo > IN_ORDER and lane.lag_s > LATE:
                self._look(lane)
                lane.peek()
        for lane in sorted(self.lanes, key=lambda lane: -lane.last_frame_at):
            while lane.todo:
                self._look(lane)
                lane.advance()
                self.tick()  # a long backlog is told of while it lasts
                if self.ahead.waiting:
                    return

    def _look(self, lane: Lane) -> None:
        """The segmenter turns to a run: what it learned from another one is not true of this one."""
        if self.looking is not lane:
            if self.looking is not None:
                self.looking.look_away()
            self.looking = lane
            lane.look_here()

    def _close_what_rests(self) -> None:
        now = self.clock()
        resting = sorted((lane for lane in self.lanes if not lane.todo), key=lambda lane: lane.last_frame_at)
        surplus = len(self.lanes) - self.most_open
        for i, lane in enumerate(resting):
            replaced = self.current.get(lane.series, lane) is not lane
            if replaced or i < surplus or now - lane.last_frame_at > self.close_after:
                self._close(lane)

    def _close(self, lane: Lane) -> None:
        self.lanes.remove(lane)
        self.looking = None if self.looking is lane else self.looking
        if self.current.get(lane.series) is lane:
            del self.current[lane.series]
        lane.close()

    def _finish(self) -> None:
        """Stop the source, keep what was read, segment what waits, close every run."""
        self.ahead.stop()
        while not self.ahead.ended:
            self._keep(self.ahead.take(self.batch, 1.0))
        while self.lanes:
            while self.lanes[0].todo:
                self._look(self.lanes[0])
                self.lanes[0].advance()
                self.tick()
            self._close(self.lanes[0])
        self.tick()
