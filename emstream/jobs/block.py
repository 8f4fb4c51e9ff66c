"""What one dask task does: blocks of an archive, one after the other; it reads what it needs and returns small numbers.

A block's files are written so that it does not matter who writes them, how often, or when he is killed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emstream.align.block import Guess
from emstream.align.keyframe import link
from emstream.align.stack import fine_grid
from emstream.arrays import keep_freed_memory
from emstream.jobs.around import stored_shifts, surroundings
from emstream.jobs.cluster import on_worker
from emstream.jobs.files import keyframe, load_arrays, record, save_arrays
from emstream.jobs.job import Job
from emstream.jobs.written import Shards
from emstream.messages import Frame
from emstream.pipeline import make_steps
from emstream.pipeline.blocks import Block, Done, Known, Surroundings, first_pass, rows_of, second_pass
from emstream.pipeline.steps import Steps
from emstream.source.archive import OpenInput, open_input
from emstream.store.chunks import crc32c, replace
from emstream.store.shards import wrong

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
        first, second = keyframe(job, a, p), keyframe(job, b, q, "wide" if job.lead(b) else "key")
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
    save_arrays(job.file("alone", k, ".npz"), arrays)
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


# ---- second pass -------------------------------------------------------------------------------------------------


def _done(job: Job, k: int) -> dict[str, Any]:
    start, stop = job.span(k)
    steps = steps_of(job)
    with open_input(job.archive) as source:
        known: Surroundings | Known = (
            surroundings(job, k, steps) if job.estimated else stored_shifts(job, source, k, steps)
        )
        block = _read(job, source, *job.span(k))
        if known.earlier is not None:
            block = dataclasses.replace(block, before=_read(job, source, start - len(known.earlier.shift), start))
    shards = Shards(job)
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
    sha = save_arrays(job.file("done", k, ".npz"), rows)
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


def _read(job: Job, source: OpenInput, start: int, stop: int) -> Block:
    """Frames start … stop - 1."""
    pixels, wrong_ones = source.read_good(start, stop)
    times = source.times(start, stop)
    frames = [
        Frame(job.archive.name, source.origin(i), pixels[i - start], float(times[i - start]), job.archive.pixel_size_nm)
        for i in range(start, stop)
    ]
    return Block(frames, pixels, source.shown(start, stop), {bad.frame - start: bad.why for bad in wrong_ones})
