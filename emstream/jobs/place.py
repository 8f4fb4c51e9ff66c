"""Where the blocks of a job lie among each other: one robust solution over the links of their keyframes; numbers only."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from emstream.align.block import Guess
from emstream.align.final import Link, agreed
from emstream.jobs.files import guess_of, save_arrays
from emstream.jobs.job import LAGS, Job
from emstream.store.chunks import replace

Pair: TypeAlias = tuple[int, int, int, int, tuple[float, float]]  # block a, part, block b, part, guess px
Measure: TypeAlias = Callable[[list[Pair]], list[dict[str, Any]]]


class Parts:
    """All parts of all blocks, in the order of time: each has one keyframe.

    told : of each block in order, as `find_alone` returned it
    """

    def __init__(self, told: Sequence[Mapping[str, Any]]) -> None:
        self.block = np.array([t["block"] for t in told for _ in t["parts"]], int)
        self.part = np.array([p for t in told for p in range(len(t["parts"]))], int)
        self.first = np.array([ends[0] for t in told for ends in t["parts"]], float).reshape(-1, 2)
        self.last = np.array([ends[1] for t in told for ends in t["parts"]], float).reshape(-1, 2)
        self._number = {(int(b), int(p)): i for i, (b, p) in enumerate(zip(self.block, self.part))}

    def __len__(self) -> int:
        return len(self.block)

    def pair(self, a: int, b: int, guess: np.ndarray) -> Pair:
        return (
            int(self.block[a]), int(self.part[a]), int(self.block[b]), int(self.part[b]),
            (float(guess[0]), float(guess[1])),
        )  # fmt: skip

    def link(self, found: Mapping[str, Any]) -> Link:
        a, b = self._number[tuple(found["a"])], self._number[tuple(found["b"])]
        return Link(a, b, np.array(found["shift"]), np.array(found["noise"]))


def place(job: Job, told: Sequence[Mapping[str, Any]], measure: Measure) -> None:
    """Link the blocks, solve, and leave placed/K.npz for each.

    measure : compares keyframes, on workers; what it was not asked in order it need not answer in order
    """
    parts = Parts(told)
    n = len(parts)
    guess = np.zeros((n, 2))  # where each lies on the one before: there is no jump between frames
    guess[1:] = parts.last[:-1] - parts.first[1:]
    near = [parts.link(f) for f in measure([parts.pair(k - 1, k, guess[k]) for k in range(1, n)])]
    for link in near:
        guess[link.b] = link.shift
    chain = np.cumsum(guess, axis=0)
    asked = [parts.pair(k - lag, k, chain[k] - chain[k - lag]) for k in range(n) for lag in LAGS if k >= lag]
    far = [parts.link(f) for f in measure(asked)]
    links = sorted([*near, *far], key=lambda link: (link.b, link.a))
    offset, group = agreed(links, n)
    anchors = _write(job, parts, offset, group)
    replace(job.placed, json.dumps({"anchors": anchors, "links": len(links)}).encode())


def _write(job: Job, parts: Parts, offset: np.ndarray, group: np.ndarray) -> list[dict[str, Any]]:
    """placed/K.npz of every block; where the anchors begin, and how they are linked."""
    reach = -(-job.settings.align.memory // job.frames)
    canvas = _Anchors(job)
    for k in range(job.blocks):
        low, high = np.searchsorted(parts.block, (k, k + 1))
        guess = guess_of(job, k)
        base, anchor = canvas.of(k, guess, offset[low:high], group[low:high])
        near, where = [], []
        a, b = np.searchsorted(parts.block, (k - reach, k + reach + 1))
        for m in range(low, high):
            for j in range(a, b):
                if j != m and group[j] == group[m]:
                    near.append((m - low, parts.block[j], parts.part[j]))
                    where.append(offset[j] - offset[m])
        arrays = {
            "near": np.array(near, np.int64).reshape(-1, 3), "offset": np.array(where, float).reshape(-1, 2),
            "before": _to(offset, group, low, low - 1), "after": _to(offset, group, high - 1, high),
            "base": base, "anchor": anchor,
        }  # fmt: skip
        save_arrays(job.file("placed", k, ".npz"), arrays)
    return canvas.begun


def _to(offset: np.ndarray, group: np.ndarray, mine: int, other: int) -> np.ndarray:
    """Where another part's canvas lies on this one's; NaN when nothing links them."""
    if not 0 <= other < len(offset) or group[mine] != group[other]:
        return np.full(2, np.nan)
    return np.asarray(offset[other] - offset[mine])


class _Anchors:
    """Which frame each frame is laid on, in the order of time: a new one where nothing links, or the sample has left."""

    def __init__(self, job: Job) -> None:
        self._shape, self._least = np.array(job.archive.shape, float), job.settings.align.least_cover
        self._group, self._anchor, self._base, self._at = -1, -1, np.zeros(2), job.frames
        self.begun: list[dict[str, Any]] = []

    def of(self, k: int, guess: Guess, offset: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2) px where each frame's anchor lies on the canvas of its part, and (n,) its number."""
        place = guess.place + offset[guess.part]
        base, anchor = np.empty_like(place), np.empty(len(place), np.int64)
        for i, at in enumerate(place):
            mine = int(group[guess.part[i]])
            cover = np.maximum(0, 1 - np.abs(at - self._base) / self._shape).prod()
            if mine != self._group or cover < self._least:
                link = (at - self._base).tolist() if mine == self._group else None
                self._group, self._anchor, self._base = mine, self._anchor + 1, at
                self.begun.append({"anchor": self._anchor, "frame": k * self._at + i, "link": link})
            base[i], anchor[i] = self._base, self._anchor
        return base - offset[guess.part], anchor
