"""The loop that `live`, `reprocess` and `bench` share: frames → align → keep → segment → measure → latest result."""

from __future__ import annotations

from emstream.pipeline.keep import Sinks, StoreKeeper
from emstream.pipeline.lane import Lane, Result, Steps
from emstream.pipeline.loop import Loop

__all__ = ["Lane", "Loop", "Result", "Sinks", "Steps", "StoreKeeper"]
