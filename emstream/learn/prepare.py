"""From inputs to a data set: frames chosen, taught or labelled, cut into crops, kept as Zarr with their provenance.

Every step is a function of one frame, so `spread` may run them anywhere: in this process, or as tasks of a dask graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emstream import __version__
from emstream.errors import SourceMissing
from emstream.learn import LearnOptions, Spread, lessons
from emstream.learn.crops import ROW, CropSet, crops_of
from emstream.learn.labels import Labels
from emstream.learn.lessons import Record, again
from emstream.learn.material import Material, opened, sealed, spread_in_time, survey
from emstream.store import dataset

FEW = 20  # labelled frames of movies, from which they are enough on their own

COLUMNS = np.dtype(
    [("source", "i4"), ("frame", "i4"), ("learned", "u1"), ("by_hand", "u1"), ("agreement", "f4")]
    + [(n, "u1" if ROW[n].kind == "b" else "f4") for n in ROW.names or ()]
)


def here(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """One after the other, in this process."""
    return [function(*a) for a in arguments]


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What is trained on, looked over: which frames, which of them are kept for validation, which are labelled."""

    materials: list[Material]
    frames: list[tuple[int, ...]]
    sealed: list[set[int]]
    labels: Labels

    def about(self) -> list[dict[str, Any]]:
        """Of each input, for the provenance."""
        return [
            {
                "path": m.path, "kind": m.kind, "frames": len(f), "of": len(m.frames), "validation": len(s),
                "labelled": len(self.labels.frames(m)), "drift_known": m.at is not None,
            }
            for m, f, s in zip(self.materials, self.frames, self.sealed, strict=True)
        ]  # fmt: skip


def look_over(paths: Sequence[Path], labels: str, options: LearnOptions, spread: Spread) -> Inputs:
    """Open every input, choose its frames, set some aside for validation. raises : SourceMissing, UnreadableFile"""
    known = Labels.of(labels)
    materials = spread(survey, [(p, known.pictures) for p in paths])
    wanted = [known.frames(m) for m in materials]
    frames = [
        tuple(sorted({*more, *few}))
        for more, few in zip(spread(_choose, [(m, options.frames) for m in materials]), wanted, strict=True)
    ]
    labelled = sum(len(few) for few in wanted)
    if "supervised" in options.recipes and (known.pictures or labelled >= FEW):
        frames = [tuple(sorted(few)) for few in wanted]  # few labels are mixed with what a teacher says of other frames
    if not any(frames):
        raise SourceMissing(f"no frame to learn from in {', '.join(str(p) for p in paths)}", "check --labels")
    return Inputs(list(materials), frames, sealed(materials, frames, options.validation), known)


def _choose(material: Material, most: int) -> tuple[int, ...]:
    with opened(material) as read:
        return spread_in_time(material, read, len(material.frames) if material.kind == "pictures" else most)


def teach(inputs: Inputs, teacher: str, folder: Path, options: LearnOptions, spread: Spread) -> list[Record]:
    """A lesson of each chosen frame, as files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [
        (_taught, m, s, i, i in shut, inputs.labels, teacher, str(folder), options)
        for s, (m, frames, shut) in enumerate(zip(inputs.materials, inputs.frames, inputs.sealed, strict=True))
        for i in frames
    ]
    return list(spread(_call, tasks))


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _taught(
    material: Material, source: int, frame: int, shut: bool, labels: Labels, teacher: str, folder: str,
    options: LearnOptions,
) -> Record:  # fmt: skip
    return lessons.make(material, source, frame, shut, labels.read(material, frame), teacher, folder, options)


def cut(
    inputs: Inputs, records: Sequence[Record], path: Path, options: LearnOptions, spread: Spread
) -> tuple[Path, list[Record]]:
    """The data set of all lessons that are worth it and not set aside; `options.crops` crops of each frame.

    Balanced: inputs with fewer frames give as many crops as the others, hand-labelled frames as many as all taught ones.
    """
    kept = lessons.worth_learning([r for r in records if not r.sealed], options.drop)
    shares = _times(kept)
    jobs = [(r, k) for r, n in zip(kept, shares, strict=True) for k in range(n)]
    if dataset.whole(path):  # of a training that was cut off
        return path, kept
    about = {
        "software": f"emstream {__version__}",
        "settings": asdict(options),
        "sources": inputs.about(),
        "learned": lessons.told(kept),
        "left_out": sorted(r.name for r in records if not r.sealed and r not in kept)[:200],
        "kept_for_validation": sorted(r.name for r in records if r.sealed),
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    dataset.create(path, len(jobs) * options.crops, options.crops, options.crop_px, COLUMNS, about)
    spread(_cut_one, [(r, str(path), i * options.crops, k, options) for i, (r, k) in enumerate(jobs)])
    dataset.finish(path, {"crops": len(jobs) * options.crops})
    return path, kept


def _times(kept: Sequence[Record]) -> list[int]:
    """How often each frame's crops are drawn."""
    per_source = np.bincount([r.source for r in kept]) if kept else np.zeros(1)
    most = per_source.max(initial=1)
    hand = sum(r.by_hand for r in kept)
    by_hand = (len(kept) - hand) / hand if 0 < hand < len(kept) else 1.0
    return [int(np.clip(round(max(most / per_source[r.source], by_hand if r.by_hand else 1.0)), 1, 32)) for r in kept]


def _cut_one(record: Record, path: str, at: int, again_: int, options: LearnOptions) -> None:
    made = crops_of(again(record.path), options.crops, options, (options.seed, record.source, record.frame, again_))
    rows = np.zeros(options.crops, COLUMNS)
    for name in ROW.names or ():
        rows[name] = made.rows[name]
    rows["source"], rows["frame"], rows["learned"] = record.source, record.frame, 1
    rows["by_hand"], rows["agreement"] = record.by_hand, record.agreement
    dataset.put(Path(path), at, {"images": made.images, "labels": made.labels, "weight": made.weight}, rows)


def load(path: Path) -> CropSet:
    """The data set's crops, in memory."""
    pixels, rows = dataset.read(path)
    made = np.zeros(len(pixels["images"]), ROW)
    for name in set(ROW.names or ()) & set(rows):  # one that an older version began has fewer columns
        made[name] = rows[name]
    return CropSet(pixels["images"], pixels["labels"], pixels["weight"], made)
