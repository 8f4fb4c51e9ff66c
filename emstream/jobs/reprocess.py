"""Archives become runs: each input is one dask task that goes through the same loop as `live`."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emstream import __version__, arrays
from emstream.config import Settings
from emstream.errors import BadSettings, SourceMissing
from emstream.jobs.cluster import client
from emstream.messages import Frame
from emstream.metrics import Metrics
from emstream.pipeline import Lane, Loop, Result, Sinks, Steps, StoreKeeper
from emstream.segment import load as load_segmenter
from emstream.source.ahead import ReadAhead
from emstream.source.archive import replay
from emstream.source.correct import load_correction
from emstream.store import Ledger, RunWriter, WriteBehind

log = logging.getLogger("emstream.jobs")


def reprocess(
    inputs: Sequence[Path],
    out: Path,
    settings: Settings,
    *,
    cluster: str = "local",
    align: str = "again",
    workers: int = 0,
) -> list[dict[str, Any]]:
    """A run under `out` for each input: a run, any OME-Zarr, a plain Zarr array, a camera file or folder.

    align   : again = estimate the drift anew; keep = the frames are aligned already and stay where they are
    returns : one row per input: {"input", "run", "frames", "segmented"}
    raises  : SourceMissing, BadSettings, JobFailed, StoreBusy
    """
    if align not in ("again", "keep"):
        raise BadSettings(f"--align {align!r}", "use again or keep")
    for path in inputs:
        if not path.exists():
            raise SourceMissing(f"nothing at {path}", "check the path")
    if align == "keep":
        settings = dataclasses.replace(settings, align=dataclasses.replace(settings.align, enabled=False))
    done = []
    with client(cluster, workers or 1) as c:
        for path in inputs:  # one after the other: an output folder has one ledger, and one who writes it
            task = c.submit(one, str(path.resolve()), str(out.resolve()), settings, pure=False, retries=0)
            done.append(task.result())
            log.info("reprocessed", extra=done[-1])
    return done


def one(path: str, out: str, settings: Settings) -> dict[str, Any]:
    """One input through the loop, in this process."""
    source, folder, metrics = Path(path), Path(out), Metrics()
    device = arrays.pick_device(settings.compute.device)
    segmenter = (
        load_segmenter(settings.segment, device, arrays.network_threads(settings.compute.threads))
        if settings.segment.enabled
        else None
    )
    steps = Steps(
        align=settings.align,
        measure=settings.measure,
        segmenter=segmenter,
        device=device,
        correction=load_correction(settings.source),
        keep_raw=settings.store.keep_raw,
    )
    count = {"frames": 0, "segmented": 0}
    runs: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)

    def tell(result: Result) -> None:
        count["segmented" if result.measured is not None else "frames"] += result.final

    with Ledger(folder, None, settings.store.fsync) as ledger:
        sinks = Sinks()
        behind = WriteBehind(sinks, settings.store.write_behind_mb << 20)

        def open_lane(frame: Frame) -> Lane:
            name = source.name.removesuffix(".zarr").partition(".")[0] or "run"
            attrs = {
                "source": path,
                "software": {"emstream": __version__},
                "settings": settings.as_dict(),
                "reprocessed": True,
            }
            dtype = frame.pixels.dtype.name
            row = ledger.run_for(frame.series, name, frame.pixels.shape, dtype, frame.pixel_size_nm, attrs)
            writer = RunWriter(folder, row, ledger, settings.store)
            if row.state in ("closed", "recovered"):
                writer.reopen()
            runs.append(row.name)
            keeper = StoreKeeper(writer, behind, sinks, metrics, tell, row.pixel_size_nm)
            return Lane(frame.series, keeper, steps, metrics, frame)

        ahead = ReadAhead(replay(source, moved=not settings.align.enabled), settings.source.read_ahead_mb << 20)
        Loop(ahead, open_lane, batch=settings.compute.batch).run()
        behind.close()
    return {"input": path, "run": ", ".join(f"{folder}/{name}.zarr" for name in runs), **count}
