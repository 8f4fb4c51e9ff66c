"""The shards that a block of an archive becomes: frames, levels, labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from emstream.jobs.job import Job
from emstream.pipeline.blocks import Done
from emstream.store.chunks import Staged
from emstream.store.layout import LABELS
from emstream.store.pyramid import label_levels, levels
from emstream.store.shards import Shard, shard_path, summary


class Shards:
    """The shards of one block, all arrays: frames, levels, labels."""

    def __init__(self, job: Job) -> None:
        self._job, layout = job, job.layout
        name = f"labels/{job.labels}"
        images = {path.replace(LABELS, name, 1): kind for path, kind in layout.images().items()}
        if job.labels != "particles":
            images = {path: kind for path, kind in images.items() if path.startswith(name)}
        self._levels, self._labels = len(layout.levels), name
        self._shards = {
            path: Shard(size, dtype, "zstd" if path.startswith("labels/") else layout.compressor, layout.shard)
            for path, (size, dtype) in images.items()
        }
        self.window: list[float] | None = None  # grey levels of the first frame: black, white

    def add(self, done: Done, raw: np.ndarray) -> None:
        """The next frame."""
        if "0" in self._shards:
            for level, image in enumerate(levels(done.aligned.pixels, self._levels)):
                self._shards[str(level)].add(image)
            if self.window is None:
                low, high = np.percentile(image, (0.2, 99.8))
                self.window = [float(low), float(max(high, low + 1))]
        if "raw/0" in self._shards:
            self._shards["raw/0"].add(raw)
        found = np.zeros(done.aligned.pixels.shape, np.uint32) if done.labelled is None else done.labelled.labels
        for level, image in enumerate(label_levels(found.astype(np.uint32, copy=False), self._levels)):
            self._shards[f"{self._labels}/{level}"].add(image)

    def write(self, k: int) -> list[dict[str, Any]]:
        """All files of block k; the lines of their journal."""
        staged, lines = Staged(self._job.settings.store.fsync), []
        try:
            for path in list(self._shards):
                parts = self._shards.pop(path).finish()
                lines.append(summary(path, k, parts))
                file = shard_path(Path(self._job.run), lines[-1])
                file.parent.mkdir(parents=True, exist_ok=True)
                staged.write(file, parts)
            staged.commit()
        except OSError:
            staged.discard()
            raise
        return lines
