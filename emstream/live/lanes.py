"""Opening runs: the lane of a frame's run, new or going on, and what a new run tells of itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emstream import __version__
from emstream.config import Settings
from emstream.errors import EmstreamError
from emstream.messages import Frame
from emstream.metrics import Metrics
from emstream.pipeline import Lane, Result, Sinks, Steps, StoreKeeper
from emstream.segment import Polarity, polarity_of
from emstream.store import Ledger, RunRow, RunWriter, WriteBehind
from emstream.view.latest import Latest

log = logging.getLogger("emstream.live")


class Lanes:
    """Opens them, all with one ledger and one write-behind queue.

    source, name : the watched folder; the name of new runs, None = that of the movie or folder
    show         : told of each frame that is safe, in the queue's thread
    recall_to    : who is given the curves of a run that goes on; None = nobody
    """

    def __init__(
        self,
        source: Path,
        name: str | None,
        settings: Settings,
        ledger: Ledger,
        behind: WriteBehind,
        sinks: Sinks,
        metrics: Metrics,
        device: str,
        show: Callable[[Result], None],
        recall_to: Latest | None,
    ) -> None:
        self._source, self._name, self._settings, self._out = source, name, settings, ledger.out
        self._ledger, self._behind, self._sinks = ledger, behind, sinks
        self._metrics, self._device, self._show, self._recall_to = metrics, device, show, recall_to
        self.opened: list[str] = []  # names of runs, in the order in which they were opened first

    def of_frame(self, frame: Frame, steps: Steps, lanes: Sequence[Lane]) -> Lane:
        """The lane of the run that the frame belongs to: a new one, one that goes on, or one of `lanes`, the open ones."""
        wanted = self._name or run_name(frame, self._source)
        told = (frame.pixels.shape, frame.pixels.dtype.newbyteorder("=").name, frame.pixel_size_nm, self._attrs(frame))
        row = self._behind.patiently(lambda: self._ledger.run_for(frame.series, wanted, *told))
        found = next((lane for lane in lanes if lane.keeper.name == row.name), None)
        return found or self._lane_of(row, steps, polarity_of(frame.meta))

    def of_run(self, row: RunRow, steps: Steps) -> Lane:
        """The lane of a run that an earlier life left."""
        return self._lane_of(row, steps, row.attrs.get("polarity", "auto"))

    def _lane_of(self, row: RunRow, steps: Steps, polarity: Polarity) -> Lane:
        def begin() -> RunWriter:
            writer = RunWriter(self._out, row, self._ledger, self._settings.store, timed=self._metrics.timed)
            if row.state in ("closed", "recovered"):
                writer.reopen()
            return writer

        writer = self._behind.patiently(begin)
        keeper = StoreKeeper(writer, self._behind, self._sinks, self._metrics, self._show, row.pixel_size_nm)
        if row.n and self._recall_to is not None:
            self._recall(row.name, self._recall_to)
        try:
            lane = Lane(row.series, keeper, steps, self._metrics, row.shape, np.dtype(row.dtype), polarity)
        except (OSError, EmstreamError):
            self._sinks.writers.remove(writer)
            raise
        if row.name not in self.opened:
            self.opened.append(row.name)
        log.info("run opened", extra={"run": row.name, "frames": row.n, "shape": row.shape, "dtype": row.dtype})
        return lane

    def is_of_source(self, row: RunRow) -> bool:
        """Whether a run is of the folder that is watched."""
        return bool(row.attrs.get("source") == self._source_of(row.series))

    def _source_of(self, series: str) -> str:
        return str(self._source.resolve() / series)

    def _recall(self, run: str, latest: Latest) -> None:
        """The curves of frames that are stored already, for a run that goes on."""
        from emstream.view.stored import Stored

        try:
            latest.recall(run, Stored(self._out, self._settings.view.history).recall(run))
        except (OSError, EmstreamError, KeyError) as error:
            log.warning("the curves begin anew", extra={"run": run, "reason": str(error)})

    def _attrs(self, frame: Frame) -> dict[str, Any]:
        """What a new run tells of itself."""
        return {
            "source": self._source_of(frame.series),
            "camera": frame.meta.get("camera"),
            "polarity": polarity_of(frame.meta),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(frame.time_s)),
            "software": {"emstream": __version__},
            "settings": self._settings.as_dict(),
            "device": self._device,
        }


def run_name(frame: Frame, source: Path) -> str:
    """The name of a new run: the movie's name without suffix, or that of the folder that its single frames lie in."""
    told = str(frame.meta.get("name", "")) or Path(frame.series).name or source.resolve().name
    return told.replace("/", "_").lstrip(".") or "run"
