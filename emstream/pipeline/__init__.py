"""The loop that `live`, `reprocess` and `bench` share: frames → align → keep → segment → measure → latest result."""

from __future__ import annotations

from emstream.pipeline.keep import Sinks, StoreKeeper
from emstream.pipeline.lane import Lane
from emstream.pipeline.loop import Loop
from emstream.pipeline.result import Result
from emstream.pipeline.steps import Steps
from emstream.pipeline.whole import make_steps, through, warm_up

__all__ = ["Lane", "Loop", "Result", "Sinks", "Steps", "StoreKeeper", "make_steps", "through", "warm_up"]
