"""What one dask task does: blocks of an archive, one after the other; it reads what it needs and returns small numbers.

A block's files are written so that it does not matter who writes them, how often, or when he is killed.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emstream.align.block import Guess
from emstream.align.keyframe import Keyframe, link, load_keyframe
from emstream.align.stack import fine_grid
from emstream.arrays import keep_freed_memory, namespace_of
from emstream.errors import StoreDamaged
from emstream.jobs.cluster import on_worker
from emstream.jobs.job import Job
from emstream.messages import Frame, Status
from emstream.pipeline import make_steps
from emstream.pipeline.average import reach
from emstream.pipeline.blocks import Block, Done, Known, Surroundings, first_pass, rows_of, second_pass
from emstream.pipeline.steps import Steps
from emstream.source.archive import OpenInput, open_input
from emstream.store.chunks import Staged, crc32c, replace
from emstream.store.layout import LABELS
from emstream.store.pyramid import label_levels, levels
from emstream.store.shards import Shard, shard_path, summary, wrong

CONTEXT = 32  # frames on either side of a block that the path is laid through
_steps: dict[str, Steps] = {}  # of the last job: a worker loads a model once

COLUMNS = ("time_s", "shift", "confidence", "anchor", "status", "particles", "area_fraction", "agreement", "valid", "crc32c",
           "source_crc32c", "labels_crc32c")  # fmt: skip


def find_alone(job: Job, blocks: Sequence[int]) -> list[dict[str, Any]]:
    """First pass; each block leaves alone/K.npz. Returns what the leader needs to know of each."""
    return [_told_alone(job, k) or _alone(job, k) for k in blocks]


def link_blocks(job: Job, asked: Sequence[tuple[int, int, int, int, tuple[float, float]]]) -> list[dict[str, Any]]:
    """Keyframes compared: (block a, part, block b, part, guess px) each; what was not found is left out."""
    grid, found = None, []
    for a, p, b, q, guess in asked:
        first, second = _keyframe(job, a, p), _keyframe(job, b, q, "wide" if job.lead(b) else "key")
        if grid is None:
            grid = fine_grid(job.archive.shape, job.settings.align.grid, np)
        seen = link(first, second, np.array(guess), grid)
        if seen is not None:
            found.append({"a": (a, p), "b": (b, q), "shift": seen[0].tolist(), "noise": seen[1].tolist()})
    return found


def finish_blocks(job: Job, blocks: Sequence[int]) -> list[dict[str, Any]]:
    """Second pass; each block leaves its shards and done/K.json. What is written already is verified, not done again."""
    return [_told_done(job, k) or _done(job, k) for k in blocks]


def steps_of(job: Job) -> Steps:
    """The steps, made once in a process; one thread for the network, so that its sums do not depend on the machine."""
    if job.id not in _steps:
        cv2.setNumThreads(1)
        keep_freed_memory()  # dask lets go of it at once: the kernel then clears pages for half of the time
        _steps.clear()
        _steps[job.id] = make_steps(on_worker(job.settings))
    return _steps[job.id]


# ---- first pass --------------------------------------------------------------------------------------------------


def _alone(job: Job, k: int) -> dict[str, Any]:
    (start, stop), lead = job.span(k), job.lead(k)
    with open_input(job.archive) as source:
        block = _read(job, source, start - lead, stop)
    guess, keys, wide = first_pass(block, steps_of(job), lead)
    arrays = {f"guess.{name}": a for name, a in guess.dump().items()}
    for p, key in enumerate(keys):
        arrays |= {f"key{p}.{name}": a for name, a in key.dump().items()}
    for p, key in enumerate(wide if lead else []):
        arrays |= {f"wide{p}.{name}": a for name, a in key.dump().items()}
    told = _told(k, guess, len(keys), {i - lead: why for i, why in block.bad.items() if i >= lead})
    arrays["told"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
    _save(job.file("alone", k, ".npz"), arrays)
    return told


def _told(k: int, guess: Guess, parts: int, bad: Mapping[int, str]) -> dict[str, Any]:
    ends = []
    for p in range(parts):
        here = np.flatnonzero(guess.part == p)
        ends.append([guess.place[here[0]].tolist(), guess.place[here[-1]].tolist()])
    return {"block": k, "parts": ends, "bad": [[i, why] for i, why in sorted(bad.items())]}


def _told_alone(job: Job, k: int) -> dict[str, Any] | None:
    stored = load_arrays(job.file("alone", k, ".npz"))
    return None if stored is None else json.loads(stored["told"].tobytes())


def _keyframe(job: Job, k: int, part: int, kind: str = "key", xp: Any = np) -> Keyframe:
    """kind : key, or wide = with the frames before the block that it was found with"""
    return load_keyframe(_pick(job.file("alone", k, ".npz"), f"{kind}{part}."), xp)


def _keyframes(job: Job, near: Sequence[tuple[int, int, np.ndarray]], xp: Any) -> Iterator[tuple[Keyframe, np.ndarray]]:
    """Keyframes of (block, part, offset), each read when it is its turn: together they are larger than a block."""
    for k, part, offset in near:
        yield _keyframe(job, k, part, xp=xp), offset


def guess_of(job: Job, k: int) -> Guess:
    """Where the frames of block k lie by themselves."""
    return Guess.load(_pick(job.file("alone", k, ".npz"), "guess."))


# ---- second pass -------------------------------------------------------------------------------------------------


def _done(job: Job, k: int) -> dict[str, Any]:
    start, stop = job.span(k)
    steps = steps_of(job)
    with open_input(job.archive) as source:
        known: Surroundings | Known = _surroundings(job, k, steps) if job.estimated else _known(job, source, k, steps)
        block = _read(job, source, *job.span(k))
        if known.earlier is not None:
            block = dataclasses.replace(block, before=_read(job, source, start - len(known.earlier.shift), start))
    shards = _Shards(job)
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    particles: list[dict[str, np.ndarray]] = []
    models: list[dict[str, str]] = []
    for i, done in enumerate(second_pass(block, steps, known)):
        shards.add(done, block.pixels[i])
        for name, value in _row(done, block.pixels[i]).items():
            columns[name].append(value)
        if done.measured is not None and done.labelled is not None:
            frame = done.aligned.frame
            particles.append(rows_of(done.measured, start + i, frame.time_s, job.archive.pixel_size_nm))
            model = {"name": done.labelled.model, "sha256": done.labelled.sha256}
            models += [model] if model not in models else []
    lines = shards.write(k)
    rows = {name: np.array(values) for name, values in columns.items()}
    if particles:
        rows |= {f"particles.{name}": np.concatenate([p[name] for p in particles]) for name in particles[0]}
    sha = _save(job.file("done", k, ".npz"), rows)
    bad = [[start + i, why] for i, why in sorted(block.bad.items())]
    told = {"block": k, "frames": stop - start, "shards": lines, "rows": sha, "models": models, "bad": bad,
            "window": shards.window}  # fmt: skip
    path = job.file("done", k, ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, json.dumps(told).encode(), job.settings.store.fsync)
    return {"block": k, "frames": stop - start, "again": False, "segmented": sum(c >= 0 for c in columns["particles"])}


def _told_done(job: Job, k: int) -> dict[str, Any] | None:
    """The record of a block that is written, every file of it what it was; None otherwise."""
    told = record(job, k)
    if told is None:
        return None
    rows = job.file("done", k, ".npz")
    if not rows.is_file() or crc32c(rows.read_bytes()) != told["rows"]:
        return None
    if any(wrong(Path(job.run), line) for line in told["shards"]):
        return None
    stored = load_arrays(rows)
    if stored is None:
        return None
    segmented = int((stored["particles"] >= 0).sum())
    return {"block": k, "frames": told["frames"], "again": True, "segmented": segmented}


def record(job: Job, k: int) -> dict[str, Any] | None:
    """done/K.json."""
    try:
        found: dict[str, Any] = json.loads(job.file("done", k, ".json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found


class _Shards:
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


def _row(done: Done, raw: np.ndarray) -> dict[str, Any]:
    """One frame in the columns."""
    a, found = done.aligned, done.measured
    labels = None if done.labelled is None else np.ascontiguousarray(done.labelled.labels, np.uint32)
    return {
        "time_s": a.frame.time_s,
        "shift": a.shift,
        "confidence": np.float32(a.confidence),
        "anchor": a.anchor,
        "status": a.status,
        "particles": -1 if found is None else found.count,
        "area_fraction": np.float32(np.nan if found is None else found.area_fraction),
        "agreement": np.float32(np.nan if done.labelled is None else done.labelled.agreement),
        "valid": a.valid,
        "crc32c": crc32c(a.pixels),
        "source_crc32c": crc32c(raw),
        "labels_crc32c": -1 if labels is None else crc32c(labels),
    }


def _surroundings(job: Job, k: int, steps: Steps) -> Surroundings:
    """The neighbours of a block, from their files."""
    placed = load_arrays(job.file("placed", k, ".npz"))
    if placed is None:
        raise StoreDamaged(f"{job.file('placed', k, '.npz')} is not there or damaged", "run the same command again")
    xp = namespace_of(steps.device)
    guess = guess_of(job, k)
    near: list[list[tuple[int, int, np.ndarray]]] = [[] for _ in range(int(guess.part[-1]) + 1)]
    for (mine, block, part), offset in zip(placed["near"], placed["offset"]):
        near[int(mine)].append((int(block), int(part), offset))
    around = [_keyframes(job, of_part, xp) for of_part in near]
    before = after = earlier = None
    if np.isfinite(placed["before"]).all():
        other = guess_of(job, k - 1)
        before = other.cut(_of_part(other, -1)[-CONTEXT:], placed["before"]).rows()
        earlier = _earlier(job, k, other, placed, reach(steps.average))
    if np.isfinite(placed["after"]).all():
        other = guess_of(job, k + 1)
        after = other.cut(_of_part(other, 0)[:CONTEXT], placed["after"]).rows()
    return Surroundings(guess, around, before, after, placed["base"], placed["anchor"], earlier)


def _earlier(job: Job, k: int, other: Guess, placed: Mapping[str, np.ndarray], n: int) -> Known | None:
    """Where the n frames before block k lie, as block k - 1 (`other`) alone tells; None when there are none."""
    rows = _of_part(other, -1)
    rows = rows[max(0, len(rows) - n) :]
    theirs = load_arrays(job.file("placed", k - 1, ".npz"))
    if not len(rows) or theirs is None:
        return None
    told = other.cut(rows, placed["before"])
    return Known(told.place - placed["base"][0], np.ones(len(rows)), theirs["anchor"][rows], told.status, False)


def _of_part(guess: Guess, part: int) -> np.ndarray:
    return np.flatnonzero(guess.part == (guess.part[-1] if part < 0 else part))


def _known(job: Job, source: OpenInput, k: int, steps: Steps) -> Known:
    """Shifts as they were stored, when frames of a run are kept where they are; nought otherwise."""
    start, stop = job.span(k)
    first = max(0, start - reach(steps.average))
    earlier = _stored(source, first, start) if first < start else None
    return dataclasses.replace(_stored(source, start, stop), earlier=earlier)


def _stored(source: OpenInput, start: int, stop: int) -> Known:
    n = stop - start
    try:
        stored = {name: source.column(name)[start:stop] for name in ("shift", "confidence", "anchor", "status")}
    except KeyError:
        return Known(np.zeros((n, 2)), np.ones(n), np.zeros(n, int), np.zeros(n, int), False)
    status = stored["status"].astype(int) & ~int(Status.SEGMENTED)
    return Known(stored["shift"], stored["confidence"], stored["anchor"], status, True)


# ---- files -------------------------------------------------------------------------------------------------------


def _read(job: Job, source: OpenInput, start: int, stop: int) -> Block:
    """Frames start … stop - 1."""
    pixels, wrong_ones = source.read_good(start, stop)
    times = source.times(start, stop)
    frames = [
        Frame(job.archive.name, source.origin(i), pixels[i - start], float(times[i - start]), job.archive.pixel_size_nm)
        for i in range(start, stop)
    ]
    return Block(frames, pixels, source.shown(start, stop), {bad.frame - start: bad.why for bad in wrong_ones})


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> int:
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


save_arrays = _save


def load_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """All arrays of a file of `save_arrays`; None when it is not there, or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (FileNotFoundError, ValueError, zipfile.BadZipFile, OSError, EOFError):
        return None


def _pick(path: Path, prefix: str) -> dict[str, np.ndarray]:
    """Some arrays of a file, the others unread."""
    with np.load(path, allow_pickle=False) as stored:
        return {n.removeprefix(prefix): stored[n] for n in stored.files if n.startswith(prefix)}
