"""A whole daemon in a process of its own, killed once every frame is stored and few have labels; forked, as writer_process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from crash.writer_process import serve
from test_pipeline import Threshold

from emstream.align import AlignOptions
from emstream.config import Settings
from emstream.live import Daemon
from emstream.messages import Labelled
from emstream.segment import SegmentOptions
from emstream.source import SourceOptions
from emstream.store import StoreOptions
from emstream.store.failpoints import arm

LABELLED = 3  # frames that have labels before the kill may come


class Deadly(Threshold):
    """Arms the failpoints when every frame is stored and the fourth is looked at."""

    def __init__(self, daemon: Daemon, frames: int, failpoints: str) -> None:
        self.daemon, self.frames, self.failpoints, self.looks = daemon, frames, failpoints, 0

    def look(self, pixels: np.ndarray, **told: Any) -> Callable[[], Labelled]:
        self.looks += 1
        if self.failpoints and self.looks > LABELLED:
            assert self.daemon.behind.drain(60)
            if self.daemon.committed == self.frames:
                arm(self.failpoints)
        return super().look(pixels, **told)


def daemon(out: Path, protocol: str, failpoints: str) -> None:
    """Live on OUT's neighbour `camera`, until nothing new comes."""
    camera = out.parent / "camera"
    settings = Settings(
        store=StoreOptions(low_water_mb=0),
        align=AlignOptions(enabled=False),  # where a frame lies depends on which particles were known when it came
        segment=SegmentOptions(enabled=False),
        source=SourceOptions(settle_s=0.1),
    )
    with Daemon(camera, out, settings, until_idle=0.3) as life:
        segmenter = Deadly(life, len(list(camera.iterdir())), failpoints)
        life.steps = replace(life.steps, segmenter=segmenter)
        life.loop()


if __name__ == "__main__":
    serve(daemon)
