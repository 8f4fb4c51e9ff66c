"""The daemon: settings → start → loop → shutdown. The first signal asks it to finish, the second ends it at once."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np

from emstream import __version__, arrays
from emstream.config import SECRETS, Settings
from emstream.errors import EmstreamError, SourceMissing
from emstream.messages import Frame
from emstream.metrics import Metrics
from emstream.pipeline import Lane, Loop, Result, Sinks, StoreKeeper, warm_up
from emstream.pipeline.models import ModelsInUse
from emstream.pipeline.unfinished import unfinished
from emstream.segment import Polarity, polarity_of
from emstream.source.ahead import ReadAhead
from emstream.source.watch import watch
from emstream.store import Ledger, RunRow, RunWriter, WriteBehind
from emstream.store.reboot import mend_runs
from emstream.view.alarms import Alarms
from emstream.view.latest import Latest
from emstream.view.shown import DaemonStatus, Shown, finite
from emstream.view.webhook import Webhook

log = logging.getLogger("emstream.live")
STATUS_EVERY_S = 0.5
TURN_S = 0.00005  # for which a thread may keep the interpreter from another one; at Python's 5 ms the loop, which lets
# go of it in each of some hundred array calls a frame, waits longer for its turn than it works


def run(
    source: Path, out: Path, settings: Settings, *, until_idle: float | None = None, name: str | None = None
) -> dict[str, Any]:
    """Watch `source` and write runs under `out` until a signal, or until nothing new came for `until_idle` seconds.

    returns : {"runs", "frames", "segmented", "quarantined", "seconds"}
    raises  : SourceMissing, StoreBusy, AddressRefused, ModelBroken, BadSettings; all before the first frame
    """
    daemon = Daemon(source, out, settings, until_idle=until_idle, name=name)
    with daemon, signals(daemon.stop):
        daemon.loop()
    return daemon.summary()


def check(source: Path, out: Path, settings: Settings) -> list[dict[str, Any]]:
    """Open everything that `run` opens, close it again; every setting, its value and where it came from."""
    with Daemon(source, out, settings):
        pass
    return [{"setting": n, "value": "…" if n in SECRETS and v else v, "from": o} for n, v, o in settings.rows()]


def view(path: Path, settings: Settings) -> None:
    """The page on stored runs, until a signal."""
    from emstream.view import stored

    stop = threading.Event()
    with stored.serve(path, settings.view) as server, signals(stop.set):
        print(server.url, flush=True)  # noqa: T201
        stop.wait()


@contextmanager
def signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call `stop`; a second one leaves at once with exit code 1. Old handlers come back after."""

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            os._exit(1)  # what is committed is safe, the rest is read again at the next start
        asked.set()
        log.info(
            "signal: finishing what was seen; a second one ends at once", extra={"signal": signal.Signals(number).name}
        )
        stop()

    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        self.url = ""
        self._stop = threading.Event()
        self._open = ExitStack()
        self._begun, self._begun_wall = time.monotonic(), time.time()
        self._status_at = 0.0
        self._commits: deque[float] = deque(maxlen=256)
        self._lag = 0.0
        self._loop: Loop | None = None
        self.runs: list[str] = []
        self._fed: set[str] = set()  # runs that got a frame in this life
        self.committed = self.segmented = 0

    # ---- life --------------------------------------------------------------------------------------------------

    def __enter__(self) -> Daemon:
        with ExitStack() as opening:
            self.out.mkdir(parents=True, exist_ok=True)
            self.ledger = opening.enter_context(Ledger(self.out, self.source, self.settings.store.fsync))
            self._recovered()
            self.report.ledger = self.ledger
            self.report.source = self.source
            self.models = self._take_models()
            self.steps = self.models.steps
            self.sinks = Sinks()
            self.metrics.store_up.set(1)
            self.behind = WriteBehind(self.sinks, self.settings.store.write_behind_mb << 20, tell=self._store_up)
            opening.callback(self.behind.close, 30.0)
            self.models.start()
            opening.callback(self.models.stop)
            self.alarms = self._make_alarms(opening)
            if self.settings.view.http:
                opening.callback(self._serve().stop)
            self._open = opening.pop_all()
        log.info("watching", extra={"source": str(self.source), "out": str(self.out), "page": self.url or "not served"})
        return self

    def __exit__(self, *exc: object) -> None:
        self._set_status("stopped")
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
        loop = Loop(
            ahead,
            self._open_lane,
            unfinished(self.ledger, self.steps.segmenter is not None, self._take_up, self._is_of_source),
            batch=self.settings.compute.batch,
            until_idle=self.until_idle,
            close_after=self.settings.store.close_after_s,
            tick=self._tick,
            busy=lambda: self.report.settling > 0,
        )
        self.metrics.backlog.set(loop.backlog)
        self._loop = loop
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

    def _open_lane(self, frame: Frame) -> Lane:
        """The lane of the run that the frame belongs to: a new one, one that goes on, or one that is open already."""
        wanted = self.name or run_name(frame, self.source)
        told = (frame.pixels.shape, frame.pixels.dtype.newbyteorder("=").name, frame.pixel_size_nm, self._attrs(frame))
        row = self.behind.patiently(lambda: self.ledger.run_for(frame.series, wanted, *told))
        lanes = self._loop.lanes if self._loop is not None else []
        found = next((lane for lane in lanes if lane.keeper.name == row.name), None)
        return found or self._lane_of(row, polarity_of(frame.meta))

    def _take_up(self, row: RunRow) -> Lane:
        return self._lane_of(row, row.attrs.get("polarity", "auto"))

    def _lane_of(self, row: RunRow, polarity: Polarity) -> Lane:
        def begin() -> RunWriter:
            writer = RunWriter(self.out, row, self.ledger, self.settings.store, timed=self.metrics.timed)
            if row.state in ("closed", "recovered"):
                writer.reopen()
            return writer

        writer = self.behind.patiently(begin)
        keeper = StoreKeeper(writer, self.behind, self.sinks, self.metrics, self._show, row.pixel_size_nm)
        if row.n and self.url:
            self._recall(row.name)
        try:
            lane = Lane(row.series, keeper, self.steps, self.metrics, row.shape, np.dtype(row.dtype), polarity)
        except (OSError, EmstreamError):
            self.sinks.writers.remove(writer)
            raise
        if row.name not in self.runs:
            self.runs.append(row.name)
        log.info("run opened", extra={"run": row.name, "frames": row.n, "shape": row.shape, "dtype": row.dtype})
        return lane

    def _is_of_source(self, row: RunRow) -> bool:
        return bool(row.attrs.get("source") == self._source_of(row.series))

    def _source_of(self, series: str) -> str:
        return str(self.source.resolve() / series)

    def _recall(self, run: str) -> None:
        """The curves of frames that are stored already, for a run that goes on."""
        from emstream.view.stored import Stored

        try:
            self.latest.recall(run, Stored(self.out, self.settings.view.history).recall(run))
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
            "settings": self.settings.as_dict(),
            "device": self.device,
        }

    def _store_up(self, problem: OSError | None) -> None:
        """Writing pauses, or goes on; told at once, for the loop itself may have to wait."""
        self.metrics.store_up.set(0 if problem else 1)
        self._set_status("streaming")

    # ---- while it runs -----------------------------------------------------------------------------------------

    def _show(self, result: Result) -> None:
        """A frame is safe in the store (write-behind's thread): tell the page and the numbers."""
        aligned, measured = result.aligned, result.measured
        shown = Shown.of(result.run, result.frame, aligned, result.labelled, measured, drift_speed=result.drift_speed)
        if measured is None:
            self.committed += 1
            self._fed.add(result.run)
            self._commits.append(time.monotonic())
            self._lag = max(0.0, time.time() - max(aligned.frame.closed_at, self._begun_wall))
            self.alarms.committed(shown)
            if self.steps.segmenter is not None:
                return  # its picture follows with its particles, unless the branch is behind: then the newest one's
        elif result.final:
            self.segmented += 1
        of_now = (
            not self._fed or result.run in self._fed
        )  # else of an earlier life: alarms and gauges tell what happens
        if measured is not None:
            self.models.note(result)
        shown = self.latest.show(shown, front=of_now)
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
        self.metrics.sizes(measured.count, measured.area_fraction, nm)

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
        state = "draining" if self._stop.is_set() else "streaming" if self._fps(now) else "waiting"
        self._set_status(state)

    def _fps(self, now: float) -> float:
        recent = [t for t in list(self._commits) if now - t < 3.0]
        return len(recent) / 3.0

    def _set_status(self, state: str) -> None:
        loop, now = self._loop, time.monotonic()
        free = shutil.disk_usage(self.out).free if self.out.exists() else 0
        models = self.models if hasattr(self, "models") else None
        self.latest.status(
            DaemonStatus(
                state="paused"
                if self.behind.problem is not None
                else "catching up"
                if state == "waiting" and loop is not None and loop.backlog
                else state,
                seen=self.report.count["seen"],
                committed=self.committed,
                segmented=self.segmented,
                quarantined=self.report.count["quarantined"],
                lost=self.report.count["lost"],
                pending=(loop.ahead.waiting if loop else 0) + self.report.pending_files,
                backlog=loop.backlog if loop else 0,
                fps=self._fps(now),
                lag_s=self._lag,
                queue_bytes={"read_ahead": loop.ahead.queued_bytes, "write_behind": self.behind.queued_bytes}
                if loop
                else {},
                free_bytes=free,
                watch_up=self.report.up,
                device=self.device,
                model=models.name if models else "off",
                model_sha256=models.sha256 if models else "",
                model_fits=models.fits if models else True,
                agreement=finite(models.agreement) if models else None,
                warnings=tuple(self._warnings()),
            )
        )

    def _warnings(self) -> Iterator[str]:
        if not self.report.up:
            yield "the watched folder gives no hints; it is swept"
        if self.behind.problem is not None:
            yield f"nothing can be written: {self.behind.problem.strerror}"
        if self.report.count["quarantined"]:
            n = self.report.count["quarantined"]
            yield f"{n} files could not be read, the last one: {self.report.last_quarantined}"
        if hasattr(self, "models"):
            yield from self.models.warnings()


class Report:
    """What the source tells while it watches, counted and logged."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.ledger: Ledger | None = None
        self.source = Path()
        self.count = {"seen": 0, "quarantined": 0, "lost": 0}
        self.pending_files = self.settling = 0
        self.last_quarantined = ""
        self.up = True

    def seen(self, n: int = 1) -> None:
        """`n` more complete frames were found."""
        self.count["seen"] += n
        self._metrics.frames("seen", n)

    def read(self, seconds: float, nbytes: int) -> None:
        """A frame was read and decoded."""
        self._metrics.took("read", seconds)
        self._metrics.bytes("read", nbytes)

    def quarantined(self, path: str, reason: str, what: str, frame: int = -1) -> None:
        """A file cannot become frames; the stream goes on."""
        self.count["quarantined"] += 1
        self.last_quarantined = f"{path}: {what}"
        self._metrics.frames("quarantined")
        log.warning("file quarantined", extra={"path": path, "reason": reason, "what": what})
        if self.ledger is not None:
            try:
                stat = (self.source / path).lstat()
                self.ledger.quarantine(path, reason, what, stat.st_size, stat.st_mtime_ns, frame)
            except OSError as err:
                log.warning("quarantine not recorded", extra={"path": path, "error": str(err)})

    def retried(self, path: str) -> None:
        """A quarantined file is looked at again; it is counted anew when it still cannot be read."""
        self.count["quarantined"] = max(0, self.count["quarantined"] - 1)
        log.info("file looked at again", extra={"path": path})

    def pending(self, count: int, oldest_s: float, settling: int) -> None:
        """Files that are there and not complete yet; `settling` of them may be so within a moment."""
        self.pending_files, self.settling = count, settling
        self._metrics.pending("incomplete", count)
        self._metrics.oldest_pending_seconds.set(oldest_s)

    def watch_up(self, up: bool) -> None:
        """Whether hints of changes arrive."""
        if up != self.up:
            log.log(
                logging.INFO if up else logging.WARNING, "watch is up" if up else "watch is down, the folder is swept"
            )
        self.up = up
        self._metrics.watch_up.set(1 if up else 0)

    def missed_hint(self, n: int = 1) -> None:
        """Files that only the scan found."""
        self._metrics.missed_hints(n)

    def lost(self, path: str) -> None:
        """A frame was seen and can no longer be had."""
        self.count["lost"] += 1
        self._metrics.frames("lost")
        log.error("frame lost: its file is gone", extra={"path": path})


def run_name(frame: Frame, source: Path) -> str:
    """The name of a new run: the movie's name without suffix, or that of the folder that its single frames lie in."""
    told = str(frame.meta.get("name", "")) or Path(frame.series).name or source.resolve().name
    return told.replace("/", "_").lstrip(".") or "run"


__all__ = ["Daemon", "EmstreamError", "check", "run", "run_name", "view"]
