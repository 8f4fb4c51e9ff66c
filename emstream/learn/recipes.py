"""The recipes: inputs become a data set, candidates are trained on it, the best one must pass the gate to become a model.

Everything is written into OUT.part; OUT appears whole, at the end. A training that was cut off goes on in OUT.part.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emstream.errors import BadSettings, JobFailed
from emstream.learn import LearnOptions, Progress, Spread, gate, prepare
from emstream.learn.candidate import Candidate, segmenter, train_candidate
from emstream.learn.lessons import Record
from emstream.learn.place import SHEET, deliver, refused, workplace
from emstream.learn.prepare import Inputs, here
from emstream.learn.sheet import contact_sheet
from emstream.segment import SHIPPED

__all__ = ["run", "segmenter"]
log = logging.getLogger("emstream.learn")
RECIPES = ("student", "supervised", "autoencoder")
TRIALS = 10  # frames that the gate looks at


def run(
    options: LearnOptions,
    inputs: Sequence[Path],
    out: Path,
    labels: str,
    progress: Progress | None = None,
    *,
    incumbent: str = "default",
    spread: Spread = here,
    spread_training: Spread | None = None,
) -> dict[str, Any]:
    """See `emstream.learn.train`."""
    check(options, labels)
    work = workplace(out, options, inputs, labels)
    seen = prepare.look_over(inputs, labels, options, spread)
    teacher = "" if options.recipes == ("autoencoder",) else model_folder(options.start_from)
    start = "" if options.start_from == "none" else teacher
    wanted = candidates(options)
    found: list[dict[str, Any]] = []
    records: list[Record] = []
    for turn in range(options.rounds if "student" in options.recipes else 1):
        records = prepare.teach(seen, teacher, work / f"lessons-{turn}", options, spread)
        path, kept = prepare.cut(seen, records, work / f"crops-{turn}.zarr", options, spread)
        contact_sheet(path, work / SHEET)
        log.info("data set", extra={"round": turn + 1, "lessons": len(kept), "crops": len(kept) * options.crops})
        judged = [r.path for r in records if r.sealed]
        tasks = [
            (c, options, str(path), judged, str(work / f"candidate-{turn}-{c.name}"), start, progress) for c in wanted
        ]
        found = (spread_training or spread)(train_candidate, tasks)
        best = max(range(len(wanted)), key=lambda k: found[k]["validation"].get("iou", 0.0))
        teacher = start = str(work / f"candidate-{turn}-{wanted[best].name}")
    return publish(options, seen, records, work, out, labels, incumbent, wanted, found, spread)


def publish(
    options: LearnOptions, seen: Inputs, records: Sequence[Record], work: Path, out: Path, labels: str, incumbent: str,
    wanted: Sequence[Candidate], found: Sequence[Mapping[str, Any]], spread: Spread,
) -> dict[str, Any]:  # fmt: skip
    """The best candidate through the gate; OUT when it passes. raises : JobFailed (refused: it lies in OUT.refused)"""
    folders = [str(f["folder"]) for f in found]
    trials = spread(gate.trial, _trials(seen, model_folder(incumbent), options))
    marks = [gate.examine_model(f, trials, options.threads) for f in folders]
    k = max(range(len(folders)), key=lambda i: (marks[i].get("dice", 0.0), marks[i]["score"], _iou(found[i])))
    numbers = {**found[k]["validation"], "checks": marks[k]}
    allowed, why = True, "nothing to compare with"
    if "student" in options.recipes and trials:
        old = {m: gate.examine_model(m, trials, options.threads) for m in dict.fromkeys((incumbent, "classical"))}
        numbers["checks_of_others"] = old
        allowed, why = gate.promoted(marks[k], old[incumbent])
    numbers["gate"] = {"promoted": allowed, "why": why}
    tell = {
        "name": out.name,
        "validation": numbers,
        "candidates": [{"name": c.name, **f["validation"], "checks": m} for c, f, m in zip(wanted, found, marks)],
        "provenance": {**found[k]["provenance"], "labels": labels, "inputs": seen.about()},
    }
    goes = out if allowed else refused(out)
    deliver(Path(folders[k]), work, goes, tell)
    if not allowed:
        raise JobFailed(f"the student was refused: {why}", f"the old model stays; the student lies in {goes}")
    shutil.rmtree(work)
    return numbers


def _iou(found: Mapping[str, Any]) -> float:
    return float(found["validation"].get("iou", 0.0))


def _trials(seen: Inputs, incumbent: str, options: LearnOptions) -> list[tuple[Any, ...]]:
    """Arguments of `gate.trial` for frames that were set aside, evenly over the inputs."""
    pool = [(m, i) for m, shut in zip(seen.materials, seen.sealed, strict=True) for i in sorted(shut)]
    step = max(1, len(pool) // TRIALS)
    return [(m, i, seen.labels, incumbent, options.neighbours, options.seed) for m, i in pool[::step][:TRIALS]]


def candidates(options: LearnOptions) -> list[Candidate]:
    """Every recipe, seed and size; the historical autoencoder has one size."""
    return [
        Candidate(recipe, options.seed + s, float(size))
        for recipe in options.recipes
        for size in (options.sizes if recipe != "autoencoder" else (1.0,))
        for s in range(options.seeds)
    ]


def model_folder(model: str) -> str:
    """The folder of a network: of `default`, which also stands in for `classical`, or of a model by its path."""
    return str(SHIPPED / "default") if model in ("", "none", "default", "classical") else model


def check(options: LearnOptions, labels: str) -> None:
    """raises : BadSettings"""
    for recipe in options.recipes:
        if recipe not in RECIPES:
            raise BadSettings(f"--recipe {recipe!r} is not known", "use student, supervised, autoencoder, or two: a,b")
    if {"student", "supervised"} <= set(options.recipes):
        raise BadSettings(
            f"--recipe {options.recipe}: these two learn from different data sets",
            "supervised is a student by itself where labels are few",
        )
    if "supervised" in options.recipes and labels == "none":
        raise BadSettings("--recipe supervised needs --labels", "or use --recipe student, which needs none")
    if options.crop_px % 32 or options.crop_px < 64:
        raise BadSettings(f"learn.crop_px = {options.crop_px} is not a multiple of 32 from 64 on")
    for name in ("epochs", "steps_per_epoch", "batch", "threads", "frames", "crops", "rounds", "seeds", "ranks"):
        if getattr(options, name) < 1:
            raise BadSettings(f"learn.{name} = {getattr(options, name)} is below 1")
    for name in ("drawn", "invert", "validation", "drop"):
        if not 0 <= getattr(options, name) <= 1:
            raise BadSettings(f"learn.{name} = {getattr(options, name)} is not between 0 and 1")
