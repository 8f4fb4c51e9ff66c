"""A whole source through the loop, from its first frame to its closed run: archives, benchmarks, the warm-up."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from emstream import arrays
from emstream.align import AlignOptions
from emstream.arrays import ComputeOptions
from emstream.measure import MeasureOptions
from emstream.messages import Frame, Origin
from emstream.metrics import Metrics
from emstream.pipeline.keep import Sinks, StoreKeeper
from emstream.pipeline.lane import Lane
from emstream.pipeline.loop import Loop
from emstream.pipeline.result import Result
from emstream.pipeline.steps import Steps
from emstream.segment import Segmenter, SegmentOptions
from emstream.segment import load as load_segmenter
from emstream.segment.fallback import OrCpu
from emstream.source import SourceOptions
from emstream.source.ahead import ReadAhead
from emstream.source.correct import load_correction
from emstream.store import Ledger, RunWriter, StoreOptions, WriteBehind, tables

SMALL = 256  # px a side of the frames that warm everything up


class Rooms(Protocol):
    """The settings that the loop needs, room by room."""

    @property
    def align(self) -> AlignOptions: ...
    @property
    def measure(self) -> MeasureOptions: ...
    @property
    def segment(self) -> SegmentOptions: ...
    @property
    def source(self) -> SourceOptions: ...
    @property
    def store(self) -> StoreOptions: ...
    @property
    def compute(self) -> ComputeOptions: ...


def make_steps(rooms: Rooms, segment: SegmentOptions | None = None) -> Steps:
    """What happens to each frame; `segment` instead of the rooms' own. raises : ModelBroken, BadSettings, SourceMissing (a reference file)"""
    device = arrays.pick_device(rooms.compute.device)
    segmenter: Segmenter | None = None
    chosen = segment or rooms.segment
    if chosen.enabled:
        segmenter = segmenter_of(chosen, device, arrays.network_threads(rooms.compute.threads))
    return Steps(
        align=rooms.align, measure=rooms.measure, segmenter=segmenter, device=device,
        correction=load_correction(rooms.source), keep_raw=rooms.store.keep_raw,
        average=chosen.average_frames, long_side_px=chosen.long_side_px,
    )  # fmt: skip


def segmenter_of(options: SegmentOptions, device: str, threads: int) -> Segmenter:
    """What the options name; on a GPU with the CPU behind it. raises : ModelBroken, BadSettings, MissingExtra"""
    made = load_segmenter(options, device, threads)
    return made if device == "cpu" else OrCpu(made, lambda: load_segmenter(options, "cpu", threads))


def through(
    frames: Iterator[Frame],
    out: Path,
    rooms: Rooms,
    steps: Steps,
    metrics: Metrics,
    *,
    name: str,
    attrs: Mapping[str, Any] | None = None,
    tell: Callable[[Result], None] = lambda result: None,
    store: StoreOptions | None = None,
) -> list[str]:
    """Every frame of a source into runs under `out`, which this process alone writes.

    name    : of the runs
    attrs   : what else the runs say of themselves
    store   : instead of the rooms' own
    returns : the runs' names
    raises  : StoreBusy, BadImage, and what reading raises
    """
    out.mkdir(parents=True, exist_ok=True)
    runs: list[str] = []
    store = store or rooms.store
    with Ledger(out, None, store.fsync) as ledger:
        sinks = Sinks()
        behind = WriteBehind(sinks, store.write_behind_mb << 20)

        def open_lane(frame: Frame) -> Lane:
            kind = frame.pixels.dtype.name
            row = ledger.run_for(frame.series, name, frame.pixels.shape, kind, frame.pixel_size_nm, dict(attrs or {}))
            writer = RunWriter(out, row, ledger, store, timed=metrics.timed)
            if row.state in ("closed", "recovered"):
                writer.reopen()
            runs.append(row.name)
            keeper = StoreKeeper(writer, behind, sinks, metrics, tell, row.pixel_size_nm)
            return Lane(frame.series, keeper, steps, metrics, row.shape, frame.pixels.dtype)

        Loop(ReadAhead(frames, rooms.source.read_ahead_mb << 20), open_lane, batch=rooms.compute.batch).run()
        behind.close()
    return runs


def warm_up(rooms: Rooms, steps: Steps, shape: tuple[int, int] = (1024, 1024)) -> None:
    """Three frames into a run that is thrown away: what is paid once is paid before the camera starts.

    Libraries that are loaded when they are first needed, plans of transforms, the network's first calls: together they
    held up the first frames of a session by a second and more. A start is waited for, too: the frames are small.

    shape : for which the network is made ready
    """
    if steps.segmenter is not None:
        tables.warm_up()
        steps.segmenter.warm_up(shape)
    y, x = np.mgrid[:SMALL, :SMALL] / SMALL
    scene = np.random.default_rng(0).poisson(100 - 40 * ((y - 0.5) ** 2 + (x - 0.5) ** 2 < 0.01)).astype(np.uint16)
    with tempfile.TemporaryDirectory(prefix="emstream-warm-") as folder:
        frames = (Frame("warm", Origin("", i, 0, 0, 0), np.roll(scene, i), float(i)) for i in range(3))
        loose = replace(rooms.store, fsync=False, low_water_mb=0)  # nobody misses it after a power cut
        through(frames, Path(folder), rooms, steps, Metrics(), name="warm", store=loose)
        if steps.segmenter is not None:
            from emstream.store import Run

            Run(Path(folder) / "warm.zarr").frame(0)  # as a branch that lags reads it
            steps.segmenter.reset()
