"""Loaded by worker processes as they start: Ctrl-C in a terminal reaches all of its processes, and is meant for the leader.

It decides what becomes of the workers: a training first leaves a checkpoint, a block in work is let go.
"""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Called by dask in the main thread of a new worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
