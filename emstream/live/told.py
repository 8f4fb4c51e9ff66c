"""What the daemon tells while it runs: frames to the page and the alarms, its own state to the page, sizes to the metrics."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from emstream.live.report import Report
from emstream.metrics import Metrics
from emstream.pipeline import Loop, Result
from emstream.pipeline.models import ModelsInUse
from emstream.store import WriteBehind
from emstream.view.alarms import Alarms
from emstream.view.latest import Latest
from emstream.view.shown import DaemonStatus, Shown, finite


class Told:
    """Counts what is safe and tells of it. What the daemon opens is set here as it is opened."""

    def __init__(self, out: Path, device: str, metrics: Metrics, latest: Latest, report: Report) -> None:
        self._out, self._device, self._metrics, self._latest, self._report = out, device, metrics, latest, report
        self._begun_wall = time.time()
        self._commits: deque[float] = deque(maxlen=256)
        self._lag = 0.0
        self._fed: set[str] = set()  # runs that got a frame in this life
        self.committed = self.segmented = 0
        self.segments = False  # whether labels are made
        self.models: ModelsInUse | None = None
        self.behind: WriteBehind | None = None
        self.alarms: Alarms | None = None
        self.loop: Loop | None = None

    def show(self, result: Result) -> None:
        """A frame is safe in the store (write-behind's thread): tell the page and the numbers."""
        aligned, measured = result.aligned, result.measured
        assert self.models is not None
        assert self.alarms is not None
        shown = Shown.of(result.run, result.frame, aligned, result.labelled, measured, drift_speed=result.drift_speed)
        if measured is None:
            self.committed += 1
            self._fed.add(result.run)
            self._commits.append(time.monotonic())
            self._lag = max(0.0, time.time() - max(aligned.frame.closed_at, self._begun_wall))
            self.alarms.committed(shown)
            if self.segments:
                return  # its picture follows with its particles, unless the branch is behind: then the newest one's
        elif result.final:
            self.segmented += 1
        # what is not of now is of an earlier life: alarms and gauges tell what happens
        of_now = not self._fed or result.run in self._fed
        if measured is not None:
            self.models.note(result)
        shown = self._latest.show(shown, front=of_now)
        if measured is not None and of_now:
            self._note_sizes(result)
            self.alarms.measured(shown)

    def _note_sizes(self, result: Result) -> None:
        measured = result.measured
        assert measured is not None
        size = result.aligned.frame.pixel_size_nm
        diameters = measured.particles["diameter"]
        nm: dict[str, float] = {}
        if size is not None and len(diameters):
            values = np.quantile(diameters, (0.1, 0.5, 0.9)) * (size[0] * size[1]) ** 0.5
            nm = dict(zip(("0.1", "0.5", "0.9"), values.tolist()))
        self._metrics.sizes(measured.count, measured.area_fraction, nm)

    def fps(self, now: float) -> float:
        """Frames/s that became safe in the last three seconds before `now`, monotonic."""
        recent = [t for t in list(self._commits) if now - t < 3.0]
        return len(recent) / 3.0

    def status(self, state: str) -> None:
        """Tell the page how the daemon is; any thread. What is open says whether it is paused or catches up."""
        loop, now = self.loop, time.monotonic()
        free = shutil.disk_usage(self._out).free if self._out.exists() else 0
        models, behind = self.models, self.behind
        self._latest.status(
            DaemonStatus(
                state="paused"
                if behind is not None and behind.problem is not None
                else "catching up"
                if state == "waiting" and loop is not None and loop.backlog
                else state,
                seen=self._report.count["seen"],
                committed=self.committed,
                segmented=self.segmented,
                quarantined=self._report.count["quarantined"],
                lost=self._report.count["lost"],
                pending=(loop.ahead.waiting if loop else 0) + self._report.pending_files,
                backlog=loop.backlog if loop else 0,
                fps=self.fps(now),
                lag_s=self._lag,
                queue_bytes={"read_ahead": loop.ahead.queued_bytes, "write_behind": behind.queued_bytes}
                if loop and behind
                else {},
                free_bytes=free,
                watch_up=self._report.up,
                device=self._device,
                model=models.name if models else "off",
                model_sha256=models.sha256 if models else "",
                model_fits=models.fits if models else True,
                agreement=finite(models.agreement) if models else None,
                warnings=tuple(self._warnings()),
            )
        )

    def _warnings(self) -> Iterator[str]:
        if not self._report.up:
            yield "the watched folder gives no hints; it is swept"
        if self.behind is not None and self.behind.problem is not None:
            yield f"nothing can be written: {self.behind.problem.strerror}"
        if self._report.count["quarantined"]:
            n = self._report.count["quarantined"]
            yield f"{n} files could not be read, the last one: {self._report.last_quarantined}"
        if self.models is not None:
            yield from self.models.warnings()
