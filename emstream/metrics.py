"""Every metric of emstream, declared once; only `pipeline` and `live` observe them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

Bytes: TypeAlias = bytes  # `Metrics.bytes` hides the builtin inside the class
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

FRAME_STATES = ("seen", "committed", "segmented", "quarantined", "lost", "skipped")
PENDING_STATES = ("incomplete", "reserved", "queued")
STAGES = ("read", "align", "write", "fsync", "ledger", "segment", "measure", "publish")
MILESTONES = ("seen", "committed", "segmented")
DIRECTIONS = ("read", "written")
QUEUES = ("read_ahead", "write_behind")
AXES = ("y", "x")
REJECTIONS = ("speed", "confidence", "jump", "blank", "fixed_pattern", "lost_lock")
QUANTILES = ("0.1", "0.5", "0.9")
MEMORY_KINDS = ("used", "free")
FALLBACKS = ("oom", "sticky", "absent")
SWAPS = ("taken", "refused")

STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300)


class Metrics:
    """All metrics on a registry of their own, every label value present from the start.

    Lengths in nm are NaN while the pixel size is unknown. Label values outside the closed sets of this file are
    refused with ValueError, so that a typing error cannot grow a new series.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        PlatformCollector(registry=r)

        self._frames = Counter("emstream_frames", "Frames that reached a state", ["state"], registry=r)
        self._pending = Gauge("emstream_frames_pending", "Frames on their way to the store", ["state"], registry=r)
        self.oldest_pending_seconds = Gauge("emstream_oldest_pending_seconds", "Age of the oldest of them", registry=r)
        self._stage = Histogram(
            "emstream_stage_seconds", "Time one frame takes in a stage", ["stage"], buckets=STAGE_BUCKETS, registry=r
        )
        self._latency = Histogram(
            "emstream_frame_latency_seconds",
            "From the camera's write to a milestone",
            ["to"],
            buckets=LATENCY_BUCKETS,
            registry=r,
        )
        self._bytes = Counter("emstream_bytes", "Bytes of frames read and written", ["direction"], registry=r)
        self._queue = Gauge("emstream_queue_bytes", "Bytes that wait in a bounded queue", ["queue"], registry=r)
        self._drift = Gauge("emstream_drift_pixels", "Newest shift onto the anchor frame", ["axis"], registry=r)
        self.drift_speed = Gauge("emstream_drift_speed_nm_per_second", "Speed of the drift now", registry=r)
        self.confidence = Gauge("emstream_alignment_confidence", "Confidence 0..1 of the newest shift", registry=r)
        self._rejected = Counter("emstream_alignment_rejected", "Shifts not believed", ["reason"], registry=r)
        self.particles = Gauge("emstream_particles", "Particles in the newest segmented frame", registry=r)
        self._diameter = Gauge(
            "emstream_particle_diameter_nm", "Equivalent diameter, newest segmented frame", ["quantile"], registry=r
        )
        self.area_fraction = Gauge("emstream_area_fraction", "Covered part 0..1, newest segmented frame", registry=r)
        self.last_commit = Gauge(
            "emstream_last_commit_timestamp_seconds", "When a frame was last committed", registry=r
        )
        self.watch_up = Gauge("emstream_watch_up", "1 while file system hints arrive", registry=r)
        self._missed_hints = Counter("emstream_watch_missed_hints", "Files that only the scan found", registry=r)
        self.store_up = Gauge("emstream_store_up", "1 unless writing pauses: disk full or away", registry=r)
        self.store_free = Gauge("emstream_store_free_bytes", "Free space where the runs are", registry=r)
        self.gpu_up = Gauge("emstream_gpu_up", "1 while a GPU does the work", registry=r)
        self._gpu_memory = Gauge("emstream_gpu_memory_bytes", "GPU memory", ["kind"], registry=r)
        self._gpu_fallback = Counter("emstream_gpu_fallback", "Times the CPU took over", ["reason"], registry=r)
        self._alarm = Gauge("emstream_alarm_active", "1 while an alarm's condition holds", ["name"], registry=r)
        self._alarm_fired = Counter("emstream_alarm_fired", "Times an alarm began", ["name"], registry=r)
        self.backlog = Gauge("emstream_segmentation_backlog_frames", "Frames kept but not yet segmented", registry=r)
        self._model = Info("emstream_model", "The segmentation model", registry=r)
        self.agreement = Gauge("emstream_model_agreement", "Model and classical method, 0..1, lately", registry=r)
        self.model_fits = Gauge("emstream_model_fits", "0 when the model does not seem to fit the frames", registry=r)
        self._swaps = Counter("emstream_model_swaps", "Activated models, taken up or refused", ["result"], registry=r)
        self._build = Info("emstream_build", "This program", registry=r)
        self._children: dict[str, dict[str, Any]] = {
            "frames": {s: self._frames.labels(s) for s in FRAME_STATES},
            "pending": {s: self._pending.labels(s) for s in PENDING_STATES},
            "stage": {s: self._stage.labels(s) for s in STAGES},
            "latency": {s: self._latency.labels(s) for s in MILESTONES},
            "bytes": {s: self._bytes.labels(s) for s in DIRECTIONS},
            "queue": {s: self._queue.labels(s) for s in QUEUES},
            "drift": {s: self._drift.labels(s) for s in AXES},
            "rejected": {s: self._rejected.labels(s) for s in REJECTIONS},
            "diameter": {s: self._diameter.labels(s) for s in QUANTILES},
            "gpu_memory": {s: self._gpu_memory.labels(s) for s in MEMORY_KINDS},
            "gpu_fallback": {s: self._gpu_fallback.labels(s) for s in FALLBACKS},
            "swaps": {s: self._swaps.labels(s) for s in SWAPS},
        }
        self._nothing_measured_yet()

    def _nothing_measured_yet(self) -> None:
        for gauge in (
            self.drift_speed, self.confidence, self.particles, self.area_fraction, self.store_free, self.agreement,
        ):  # fmt: skip
            gauge.set(math.nan)
        self.model_fits.set(1)
        for quantile in QUANTILES:
            self._child("diameter", quantile).set(math.nan)

    def _child(self, family: str, value: str) -> Any:
        try:
            return self._children[family][value]
        except KeyError:
            known = ", ".join(self._children[family])
            raise ValueError(f"metric {family} has no label value {value!r}; known: {known}") from None

    def frames(self, state: str, n: int = 1) -> None:
        """`n` more frames reached `state` (FRAME_STATES)."""
        self._child("frames", state).inc(n)

    def pending(self, state: str, n: int) -> None:
        """`n` frames are in `state` (PENDING_STATES) now."""
        self._child("pending", state).set(n)

    def took(self, stage: str, seconds: float) -> None:
        """One frame took `seconds` in `stage` (STAGES)."""
        self._child("stage", stage).observe(seconds)

    @contextmanager
    def timed(self, stage: str, frames: int = 1) -> Iterator[None]:
        """Time the block as `stage`, shared evenly by `frames` frames."""
        begin = time.perf_counter()
        yield
        each = (time.perf_counter() - begin) / max(1, frames)
        for _ in range(frames):
            self.took(stage, each)

    def latency(self, to: str, seconds: float) -> None:
        """A frame reached milestone `to` (MILESTONES) `seconds` after the camera wrote it; never below 0."""
        self._child("latency", to).observe(max(0.0, seconds))

    def bytes(self, direction: str, n: int) -> None:
        """`n` more bytes were read or written (DIRECTIONS)."""
        self._child("bytes", direction).inc(n)

    def queue(self, name: str, n: int) -> None:
        """`n` bytes wait in queue `name` (QUEUES)."""
        self._child("queue", name).set(n)

    def drift(self, shift: tuple[float, float], confidence: float, nm_per_s: float = math.nan) -> None:
        """The newest shift (dy, dx) px, its confidence 0..1 and the drift speed, NaN when uncalibrated."""
        for axis, value in zip(AXES, shift, strict=True):
            self._child("drift", axis).set(value)
        self.confidence.set(confidence)
        self.drift_speed.set(nm_per_s)

    def rejected(self, reason: str) -> None:
        """One more shift was not believed, for `reason` (REJECTIONS)."""
        self._child("rejected", reason).inc()

    def sizes(self, count: int, area_fraction: float, diameters_nm: Mapping[str, float]) -> None:
        """The newest particles: how many, covered part 0..1, diameters (nm) by quantile (QUANTILES)."""
        self.particles.set(count)
        self.area_fraction.set(area_fraction)
        for quantile in QUANTILES:
            self._child("diameter", quantile).set(diameters_nm.get(quantile, math.nan))

    def missed_hints(self, n: int = 1) -> None:
        """`n` more files were found by the scan although no hint came."""
        self._missed_hints.inc(n)

    def gpu_memory(self, used: int, free: int) -> None:
        """Bytes of GPU memory."""
        self._child("gpu_memory", "used").set(used)
        self._child("gpu_memory", "free").set(free)

    def gpu_fallback(self, reason: str) -> None:
        """The CPU took over, for `reason` (FALLBACKS)."""
        self._child("gpu_fallback", reason).inc()

    def alarm(self, name: str, active: bool | None, fired: bool = False) -> None:
        """Whether the alarm `name` is active (None: there is no such alarm any more), and whether it just began.

        The names are the user's; the page allows few of them.
        """
        if active is None:
            for family in (self._alarm, self._alarm_fired):
                with suppress(KeyError):
                    family.remove(name)
            return
        self._alarm.labels(name).set(int(active))
        self._alarm_fired.labels(name).inc(int(fired))

    def model(self, name: str, sha: str) -> None:
        """Which segmentation model is at work."""
        self._model.info({"name": name, "sha": sha})

    def swapped(self, result: str) -> None:
        """An activated model was taken up or refused (SWAPS)."""
        self._child("swaps", result).inc()

    def build(self, version: str) -> None:
        """Which emstream this is."""
        self._build.info({"version": version})

    def exposition(self) -> Bytes:
        """All metrics in the text format of Prometheus, UTF-8; serve it as CONTENT_TYPE."""
        return generate_latest(self.registry)
