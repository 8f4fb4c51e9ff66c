"""Archives become runs: each input is one dask task that goes through the same loop as `live`."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emstream import __version__
from emstream.config import Settings
from emstream.errors import BadSettings, SourceMissing
from emstream.jobs.cluster import client
from emstream.metrics import Metrics
from emstream.pipeline import Result, make_steps, through
from emstream.source.archive import replay

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
    with client(cluster, workers or 1, settings) as c:
        for path in inputs:  # one after the other: an output folder has one ledger, and one who writes it
            task = c.submit(one, str(path.resolve()), str(out.resolve()), settings, pure=False, retries=0)
            done.append(task.result())
            log.info("reprocessed", extra=done[-1])
    return done


def one(path: str, out: str, settings: Settings) -> dict[str, Any]:
    """One input through the loop, in this process."""
    source, count = Path(path), {"frames": 0, "segmented": 0}

    def tell(result: Result) -> None:
        count["segmented" if result.measured is not None else "frames"] += result.final

    runs = through(
        replay(source, moved=not settings.align.enabled), Path(out), settings, make_steps(settings), Metrics(),
        name=source.name.removesuffix(".zarr").partition(".")[0] or "run",
        attrs={
            "source": path, "software": {"emstream": __version__}, "settings": settings.as_dict(), "reprocessed": True,
        },
        tell=tell,
    )  # fmt: skip
    return {"input": path, "run": ", ".join(f"{out}/{name}.zarr" for name in runs), **count}
