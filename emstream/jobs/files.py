"""A job's files between its tasks: arrays, what a block found by itself, and the record of one that is written."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emstream.align.block import Guess
from emstream.align.keyframe import Keyframe, load_keyframe
from emstream.jobs.job import Job
from emstream.store.chunks import crc32c, replace


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> int:
    """An npz that is the same for the same arrays; its crc32c."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = buffer.getvalue()
    replace(path, data)
    return crc32c(data)


def load_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """All arrays of a file of `save_arrays`; None when it is not there, or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (FileNotFoundError, ValueError, zipfile.BadZipFile, OSError, EOFError):
        return None


def pick_arrays(path: Path, prefix: str) -> dict[str, np.ndarray]:
    """Some arrays of a file, the others unread."""
    with np.load(path, allow_pickle=False) as stored:
        return {n.removeprefix(prefix): stored[n] for n in stored.files if n.startswith(prefix)}


def keyframe(job: Job, k: int, part: int, kind: str = "key", xp: Any = np) -> Keyframe:
    """kind : key, or wide = with the frames before the block that it was found with"""
    return load_keyframe(pick_arrays(job.file("alone", k, ".npz"), f"{kind}{part}."), xp)


def keyframes(job: Job, near: Sequence[tuple[int, int, np.ndarray]], xp: Any) -> Iterator[tuple[Keyframe, np.ndarray]]:
    """Keyframes of (block, part, offset), each read when it is its turn: together they are larger than a block."""
    for k, part, offset in near:
        yield keyframe(job, k, part, xp=xp), offset


def guess_of(job: Job, k: int) -> Guess:
    """Where the frames of block k lie by themselves."""
    return Guess.load(pick_arrays(job.file("alone", k, ".npz"), "guess."))


def record(job: Job, k: int) -> dict[str, Any] | None:
    """done/K.json."""
    try:
        found: dict[str, Any] = json.loads(job.file("done", k, ".json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found
