"""Runs that an earlier life left before their last frames had labels: found in the ledger, so that no new frame is waited for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from emstream.errors import EmstreamError
from emstream.pipeline.keep import newest_state
from emstream.pipeline.lane import Lane
from emstream.pipeline.loop import Unfinished
from emstream.store import Ledger, RunRow
from emstream.store.state import read_state

log = logging.getLogger("emstream.pipeline")


def unfinished(
    ledger: Ledger, labels: bool, open_lane: Callable[[RunRow], Lane], mine: Callable[[RunRow], bool]
) -> list[Unfinished]:
    """Every run that is to be taken up without a new frame, oldest first. The runs themselves are not looked at yet.

    labels    : whether labels are made; else runs are only closed
    open_lane : the lane of a run that exists
    mine      : whether a run is of the folder that is watched
    """
    rows = [row for row in ledger.unfinished(labels) if mine(row)]
    return [
        Unfinished(row.name, _behind(ledger, row) if labels else 0, partial(_take_up, ledger, row, open_lane))
        for row in rows
    ]


def _behind(ledger: Ledger, row: RunRow) -> int:
    """Frames after the last one whose labels a lane of the run will rely on."""
    saved = newest_state(partial(read_state, ledger, row.name), row.n)
    return row.n - (0 if saved is None else int(saved["linked"]))


def _take_up(ledger: Ledger, row: RunRow, open_lane: Callable[[RunRow], Lane]) -> Lane | None:
    path = ledger.out / f"{row.name}.zarr"
    try:
        if not path.is_dir():
            log.warning("a run that was not finished is gone", extra={"run": row.name, "was": str(path)})
            return None
        lane = open_lane(row)
    except (OSError, EmstreamError) as problem:
        log.error("a run stays unfinished", extra={"run": row.name, "because": str(problem)})
        return None
    log.info(
        "a run that was not finished goes on", extra={"run": row.name, "frames": row.n, "without_labels": lane.todo}
    )
    return lane
