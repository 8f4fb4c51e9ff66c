"""Runs on disk: growing OME-Zarr that is valid at every instant, the ledger beside them, and the write-behind queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from emstream.store.behind import WriteBehind
    from emstream.store.check import Report
    from emstream.store.layout import Layout
    from emstream.store.ledger import Ledger
    from emstream.store.records import FrameRecord, LabelRecord
    from emstream.store.recover import Recovery
    from emstream.store.rows import FrameRow, RunRow
    from emstream.store.run import Run
    from emstream.store.tables import TableWriter
    from emstream.store.writer import RunWriter

__all__ = [
    "FrameRecord",
    "FrameRow",
    "LabelRecord",
    "Layout",
    "Ledger",
    "Recovery",
    "Report",
    "Run",
    "RunRow",
    "RunWriter",
    "StoreOptions",
    "TableWriter",
    "WriteBehind",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """How runs are written."""

    keep_raw: bool = False  # also store the frames as the camera wrote them, under raw/0
    compressor: Literal["blosc-lz4", "zstd", "none"] = "blosc-lz4"
    close_after_s: float = 600.0  # a run with nothing new for this long is closed; it opens again when more comes
    fsync: bool = True  # frames survive a power cut the moment they count as committed
    write_behind_mb: int = 256  # most that waits for the disk; beyond it the camera's own files are the queue
    low_water_mb: int = 2048  # writing pauses when less than this is free, and goes on when there is more
    publish_every_s: float = 0.25  # how often readers see a longer run


_DOORS = {
    "FrameRecord": "records",
    "FrameRow": "rows",
    "LabelRecord": "records",
    "Layout": "layout",
    "Ledger": "ledger",
    "Recovery": "recover",
    "Report": "check",
    "Run": "run",
    "RunRow": "rows",
    "RunWriter": "writer",
    "TableWriter": "tables",
    "WriteBehind": "behind",
}


def __getattr__(name: str) -> Any:
    """Open a file of this room when it is first asked for: `emstream.store` itself imports no zarr."""
    if name not in _DOORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_DOORS[name]}"), name)
