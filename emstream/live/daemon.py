"""The daemon: settings → start → loop → shutdown."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2

from emstream import __version__, arrays
from emstream.config import Settings
from emstream.errors import SourceMissing
from emstream.live.lanes import Lanes
from emstream.live.report import Report
from emstream.live.told import Told
from emstream.messages import Frame
from emstream.metrics import Metrics
from emstream.pipeline import Lane, Loop, Sinks, warm_up
from emstream.pipeline.models import ModelsInUse
from emstream.pipeline.unfinished import unfinished
from emstream.source.ahead import ReadAhead
from emstream.source.watch import watch
from emstream.store import Ledger, RunRow, WriteBehind
from emstream.store.reboot import mend_runs
from emstream.view.alarms import Alarms
from emstream.view.latest import Latest
from emstream.view.webhook import Webhook

log = logging.getLogger("emstream.live")
STATUS_EVERY_S = 0.5
TURN_S = 0.00005  # for which a thread may keep the interpreter from another one; at Python's 5 ms the loop, which lets
# go of it in each of some hundred array calls a frame, waits longer for its turn than it works


class Daemon:
    """Everything that is open while frames come: ledger, queues, page. Use as a context; `loop` does the work."""

    def __init__(
        self, source: Path, out: Path, settings: Settings, *, until_idle: float | None = None, name: str | None = None
    ) -> None:
        if not source.is_dir():
            raise SourceMissing(f"the folder to watch, {source}, is not there", "check the path or the mount")
        self.source, self.out, self.settings, self.name = source, out, settings, name
        self.until_idle = until_idle
        self.metrics = Metrics()
        self.metrics.build(__version__)
        self.latest = Latest(settings.view.history)
        self.device = arrays.pick_device(settings.compute.device)
        self.report = Report(self.metrics)
        self.told = Told(out, self.device, self.metrics, self.latest, self.report)
        self.url = ""
        self._stop = threading.Event()
        self._open = ExitStack()
        self._begun = time.monotonic()
        self._status_at = 0.0
        self._loop: Loop | None = None

    # ---- life --------------------------------------------------------------------------------------------------

    def __enter__(self) -> Daemon:
        with ExitStack() as opening:
            self.out.mkdir(parents=True, exist_ok=True)
            self.ledger = opening.enter_context(Ledger(self.out, self.source, self.settings.store.fsync))
            self._recovered()
            self.report.ledger = self.ledger
            self.report.source = self.source
            self.models = self.told.models = self._take_models()
            self.steps = self.models.steps
            self.sinks = Sinks()
            self.metrics.store_up.set(1)
            self.behind = WriteBehind(self.sinks, self.settings.store.write_behind_mb << 20, tell=self._store_up)
            self.told.behind = self.behind
            opening.callback(self.behind.close, 30.0)
            self.models.start()
            opening.callback(self.models.stop)
            self.alarms = self.told.alarms = self._make_alarms(opening)
            if self.settings.view.http:
                opening.callback(self._serve().stop)
            self.lanes = Lanes(
                self.source, self.name, self.settings, self.ledger, self.behind, self.sinks, self.metrics, self.device,
                show=self.told.show, recall_to=self.latest if self.url else None,
            )  # fmt: skip
            self._open = opening.pop_all()
        log.info("watching", extra={"source": str(self.source), "out": str(self.out), "page": self.url or "not served"})
        return self

    def __exit__(self, *exc: object) -> None:
        self.told.status("stopped")
        self._open.close()

    def stop(self) -> None:
        """Finish what was seen, then leave; safe to call from a signal handler or another thread."""
        self._stop.set()

    def loop(self) -> None:
        """Until stopped or idle; every frame that was seen is then stored and segmented, every run closed."""
        options = self.settings.source
        ahead = ReadAhead(
            watch(self.source, options, self.ledger, self._stop, self.report),
            options.read_ahead_mb << 20,
            self._stop.set,
        )
        self.told.segments = self.steps.segmenter is not None
        loop = Loop(
            ahead,
            self._lane_of_frame,
            unfinished(self.ledger, self.told.segments, self._lane_of_run, self.lanes.is_of_source),
            batch=self.settings.compute.batch,
            until_idle=self.until_idle,
            close_after=self.settings.store.close_after_s,
            tick=self._tick,
            busy=lambda: self.report.settling > 0,
        )
        self.metrics.backlog.set(loop.backlog)
        self._loop = self.told.loop = loop
        arrays.keep_freed_memory()
        cv2.setNumThreads(1)  # its helpers spin for the cores that the network and the writer need
        turn = sys.getswitchinterval()
        sys.setswitchinterval(TURN_S)
        try:
            self._loop.run()
        finally:
            sys.setswitchinterval(turn)
            self._stop.set()
            ahead.stop()

    def summary(self) -> dict[str, Any]:
        """What came of it."""
        return {
            "runs": [str(self.out / f"{name}.zarr") for name in self.runs],
            "frames": self.committed,
            "segmented": self.segmented,
            "quarantined": self.report.count["quarantined"],
            "seconds": round(time.monotonic() - self._begun, 2),
        }

    @property
    def runs(self) -> list[str]:
        """Names of the runs that were opened in this life."""
        return self.lanes.opened

    @property
    def committed(self) -> int:
        """Frames that became safe in this life."""
        return self.told.committed

    @property
    def segmented(self) -> int:
        """Frames whose labels became safe in this life."""
        return self.told.segmented

    # ---- start -------------------------------------------------------------------------------------------------

    def _take_models(self) -> ModelsInUse:
        given = "segment.model" in self.settings.origins
        tell = self.latest.tell
        models = ModelsInUse(
            self.out, self.settings, given, self.metrics, lambda run, i, t, text: tell(run, i, t, "model", text)
        )
        warm_up(self.settings, models.steps)
        self.metrics.gpu_up.set(0 if self.device == "cpu" else 1)
        return models

    def _make_alarms(self, opening: ExitStack) -> Alarms:
        """Those of the settings and those that were set on the page, watched until the end."""
        view = self.settings.view
        hook = None
        if view.webhook:
            hook = Webhook(view.webhook)
            opening.callback(hook.stop)
        alarms = Alarms(
            view.alarms,
            self.out / ".emstream" / "alarms.json",
            daemon=self.latest.daemon,
            tell=self.metrics.alarm,
            **({"send": hook.send} if hook else {}),
        )
        opening.callback(alarms.stop)
        return alarms.start()

    def _recovered(self) -> None:
        """What an earlier life left behind."""
        found = self.ledger.recovery
        mended = mend_runs(self.ledger, self.settings.store)
        if found.redone or found.lost or mended:
            told = {"redone": found.redone, "lost": len(found.lost), "mended": ", ".join(mended) or "none"}
            log.info("an earlier life ended early: what was under way is read again", extra=told)
        for origin in found.lost:
            self.report.lost(origin.path)

    def _serve(self) -> Any:
        from emstream.view.server import start
        from emstream.view.stored import Stored

        stored = Stored(self.out)
        server = start(
            self.latest, self.settings.view, metrics=self.metrics, runs=stored.runs, ready=self._ready, shelf=stored,
            alarms=self.alarms, key=self.out / ".emstream" / "page.key",
        )  # fmt: skip
        given = bool(self.settings.view.token)  # a token that the user chose stays out of the log
        self.url = server.url.partition("?")[0] if given else server.url
        return server

    def _ready(self) -> tuple[bool, list[str]]:
        reasons = []
        if not self.source.is_dir():
            reasons.append(f"the watched folder {self.source} is gone")
        if self.behind.problem is not None:
            reasons.append(f"the store cannot be written: {self.behind.problem}")
        if self._loop is None:
            reasons.append("starting")
        return not reasons, reasons

    def _store_up(self, problem: OSError | None) -> None:
        """Writing pauses, or goes on; told at once, for the loop itself may have to wait."""
        self.metrics.store_up.set(0 if problem else 1)
        self.told.status("streaming")

    # ---- while it runs -----------------------------------------------------------------------------------------

    def _lane_of_frame(self, frame: Frame) -> Lane:
        return self.lanes.of_frame(frame, self.steps, self._loop.lanes if self._loop is not None else [])

    def _lane_of_run(self, row: RunRow) -> Lane:
        return self.lanes.of_run(row, self.steps)

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._status_at < STATUS_EVERY_S or self._loop is None:
            return
        self._status_at = now
        self.metrics.queue("read_ahead", self._loop.ahead.queued_bytes)
        self.metrics.queue("write_behind", self.behind.queued_bytes)
        self.metrics.pending("queued", self._loop.ahead.waiting)
        self.metrics.backlog.set(self._loop.backlog)
        if not self._loop.lanes:
            self.alarms.closed()
        self.metrics.store_free.set(shutil.disk_usage(self.out).free)
        if self.device != "cpu":
            self.metrics.gpu_memory(arrays.free_memory("used", self.device), arrays.free_memory("free", self.device))
        state = "draining" if self._stop.is_set() else "streaming" if self.told.fps(now) else "waiting"
        self.told.status(state)
