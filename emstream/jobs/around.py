"""What a block of an archive needs of those around it, from their files; or the shifts that are stored already."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from emstream.align.block import Guess
from emstream.arrays import namespace_of
from emstream.errors import StoreDamaged
from emstream.jobs.files import guess_of, keyframes, load_arrays
from emstream.jobs.job import Job
from emstream.messages import Status
from emstream.pipeline.blocks import Known, Surroundings
from emstream.pipeline.steps import Steps
from emstream.segment.average import reach
from emstream.source.archive import OpenInput

CONTEXT = 32  # frames on either side of a block that the path is laid through


def surroundings(job: Job, k: int, steps: Steps) -> Surroundings:
    """The neighbours of a block, from their files."""
    placed = load_arrays(job.file("placed", k, ".npz"))
    if placed is None:
        raise StoreDamaged(f"{job.file('placed', k, '.npz')} is not there or damaged", "run the same command again")
    xp = namespace_of(steps.device)
    guess = guess_of(job, k)
    near: list[list[tuple[int, int, np.ndarray]]] = [[] for _ in range(int(guess.part[-1]) + 1)]
    for (mine, block, part), offset in zip(placed["near"], placed["offset"]):
        near[int(mine)].append((int(block), int(part), offset))
    around = [keyframes(job, of_part, xp) for of_part in near]
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


def stored_shifts(job: Job, source: OpenInput, k: int, steps: Steps) -> Known:
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
