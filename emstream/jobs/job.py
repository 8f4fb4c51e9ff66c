"""A job: one archive on its way to one run; how it is cut into blocks, and where its files lie meanwhile.

    OUT/.emstream/jobs/ID/
      job.json           what the job is; ID is made of it, so the same command finds its own work again
      lock               held by the process that leads the job
      alone/K.npz        block K by itself: where its frames lie, its keyframes
      placed/K.npz       where block K lies among the others, and on which anchor
      placed.json        all of them are there
      done/K.json .npz   block K is written: its shards and their checksums; its columns and particles
      linked/S.npz       stretch S of blocks: its tracks, what is remembered of them where it begins and ends
      named/S.npz        the numbers of its tracks in the run, what they had been through before it
      traced/S.npz       what all tracks do together, frame by frame
      run.zarr/          the run, moved to OUT/NAME.zarr when it is whole

Each file appears whole or not at all, and says itself whether it is sound; what is there is not done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emstream.config import Settings
from emstream.source.archive import Input
from emstream.store.layout import SHARD_INNER, Layout

FRAMES = 64  # in a block, where memory allows
BLOCK_BYTES = 512 << 20
SMALL_BYTES = 48 << 20  # frames that are smaller together are more to a block: what a task needs besides is fixed
LONGER = 8  # times, at most
MOST_TASKS = 9000  # of a whole job: more blocks than that go to a task by turns, one after the other
TOGETHER = 8  # blocks that a task takes while there are many left: a task costs the scheduler as much as any other
STRETCH = 128  # frames whose tracks are linked by one task, at least
MOST_STRETCHES = 1000
SHARES = 8  # tasks that each worker has left to take, at least, when another block is added to one
WAVES = 4  # passes over all blocks
LAGS = (2, 4, 8)  # keyframes that are linked, besides each with the one before it


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every task knows; small, and the same for all of them."""

    id: str
    archive: Input
    settings: Settings
    frames: int  # in a block
    out: str  # folder of the runs
    work: str  # this job's folder
    run: str  # where the run is written
    align: str  # again | keep
    labels: str  # "particles", or the name of further labels of the run `run`, which is then only added to

    @property
    def n(self) -> int:
        """Frames in all."""
        return self.archive.frames

    @property
    def blocks(self) -> int:
        return -(-self.n // self.frames)

    @property
    def estimated(self) -> bool:
        """Whether shifts are to be found."""
        from emstream.pipeline.steps import SMALLEST

        return self.align == "again" and self.settings.align.enabled and min(self.archive.shape) >= SMALLEST

    @property
    def layout(self) -> Layout:
        store = self.settings.store
        raw = store.keep_raw and self.labels == "particles"
        return Layout(self.archive.shape, self.archive.dtype, store.compressor, raw, self.frames)

    def span(self, k: int) -> tuple[int, int]:
        """First frame of block k, and the one after its last."""
        return k * self.frames, min(self.n, (k + 1) * self.frames)

    def lead(self, k: int) -> int:
        """Frames before block k that its first pass begins with: a short last block alone would show too little."""
        start, stop = self.span(k)
        return min(start, max(0, min(FRAMES, self.frames) - (stop - start)))

    def file(self, kind: str, k: int, suffix: str) -> Path:
        return Path(self.work) / kind / f"{k:08d}{suffix}"

    @property
    def stretches(self) -> list[range]:
        """The blocks of each stretch of the run whose tracks are linked by one task; from the archive alone."""
        size = max(-(-STRETCH // self.frames), -(-self.blocks // MOST_STRETCHES))
        return [range(k, min(k + size, self.blocks)) for k in range(0, self.blocks, size)]

    @property
    def tables(self) -> Path:
        """Where the tables of these labels lie."""
        tables = Path(self.run) / "tables"
        return tables if self.labels == "particles" else tables / self.labels

    @property
    def placed(self) -> Path:
        """There once all blocks are placed; holds the links between anchors."""
        return Path(self.work) / "placed.json"

    def groups(self, blocks: list[int], workers: int) -> list[list[int]]:
        """The blocks of each task; so many that all waves together stay below MOST_TASKS."""
        return shared(blocks, workers, -(-self.blocks * WAVES // MOST_TASKS))


def shared(items: Sequence[int], workers: int, least: int = 1) -> list[list[int]]:
    """What each task takes, one after the other: several at first, one at the end, where workers would wait for others.

    least : items of a task, but for the last
    """
    out, at = [], 0
    while at < len(items):
        size = max(least, min(TOGETHER, (len(items) - at) // (SHARES * workers)), 1)
        out.append(list(items[at : at + size]))
        at += size
    return out


def frame_bytes(archive: Input) -> int:
    """Of one frame's pixels."""
    return int(np.prod(archive.shape)) * np.dtype(archive.dtype).itemsize


def frames_in_a_block(archive: Input) -> int:
    """A multiple of SHARD_INNER that depends on the archive alone, not on the machine: results depend on it.

    About FRAMES, fewer when frames are large, more when they are small; whole chunks of an archive that has several frames
    in one.
    """
    frame = frame_bytes(archive)
    about = min(max(FRAMES, SMALL_BYTES // max(1, frame)), LONGER * FRAMES)
    most = max(SHARD_INNER, min(about, BLOCK_BYTES // max(1, frame)) // SHARD_INNER * SHARD_INNER)
    step = int(np.lcm(SHARD_INNER, max(1, archive.chunk)))
    if step <= most:
        return most // step * step
    return step if step * frame <= BLOCK_BYTES else most


def identity(archive: Input, settings: Settings, align: str, labels: str, model: str, version: str) -> dict[str, Any]:
    """What makes a job this one: the same input, settings, model and version give the same run."""
    return {
        "input": archive.where,
        "frames": archive.frames,
        "shape": list(archive.shape),
        "dtype": archive.dtype,
        "stamp": [archive.size, archive.mtime_ns],
        "pixel_size_nm": archive.pixel_size_nm,
        "align": align,
        "labels": labels,
        "model": model,
        "version": version,
        "block": frames_in_a_block(archive),
        "settings": lasting(settings),
    }


def lasting(settings: Settings) -> dict[str, Any]:
    """The settings that decide what a run becomes, by room; where and how fast it is made is not among them."""
    told = settings.as_dict()
    rooms = {room: told[room] for room in ("align", "measure", "segment", "source")}
    del rooms["source"]["cache"]
    return rooms | {"store": {name: told["store"][name] for name in ("compressor", "keep_raw")}}


def name_of(what: dict[str, Any]) -> str:
    """Sixteen letters for an identity."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]
