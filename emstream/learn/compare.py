"""Several models side by side on labelled data that none of them may have learned from: the table of `models evaluate`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from emstream import align
from emstream.errors import BadSettings, SourceMissing
from emstream.learn.data import Picture, read_pictures, split, within
from emstream.learn.evaluate import score
from emstream.messages import Rect
from emstream.segment import Segmenter, SegmentOptions, load
from emstream.segment.registry import Model, Registry
from emstream.source.formats import open_movie
from emstream.store.layout import LABELS
from emstream.store.run import Run

log = logging.getLogger("emstream.learn")
PLACES = ("labels", "segmaps", "masks", "annotations")  # beside images/
NUMBERS = ("iou", "dice", "ap50", "f1", "count_error", "diameter_error", "bad")


def evaluate(
    models: Sequence[str],
    data: Sequence[Path],
    options: SegmentOptions,
    *,
    out: Path | None = None,
    labels: str = "",
    held_out: float = 0.0,
    most: int = 200,
    threads: int = 0,
) -> list[dict[str, Any]]:
    """One row for each model and data set; pictures are judged alone, frames of a run in their order.

    models   : names, or model folders; `out` is a folder of runs whose models can be named
    data     : folders of pictures (or their parent with images/ beside labels/, segmaps/ or masks/), or runs
    labels   : the folder of label pictures; of a run the name of a label image, or the Zarr group of a simulation's truth
    held_out : of pictures only this share, which `train` keeps for validation; 0 = all
    most     : pictures or frames, evenly spread
    returns  : model, data, pictures, iou, dice, ap50 = TP / (TP + FP + FN) at IoU > .5, f1, count_error and
               diameter_error (means of absolute relative errors), bad (share with an IoU below .3), seen: how many of the
               pictures the model says that it learned from ("?" when it does not say)
    raises   : SourceMissing, BadSettings, ModelBroken
    """
    if not 0 <= held_out <= 1:
        raise BadSettings(f"--held-out {held_out} is not between 0 and 1")
    known = Registry(out)
    asked = [known.find(m) for m in models]
    for model in asked:
        model.check()
    rows = []
    for path in data:
        if not path.exists():
            raise SourceMissing(f"nothing at {path}", "check the path")
        series = path.suffix == ".zarr" or (path / "zarr.json").is_file()
        if series:
            pictures = list(from_run(path, labels, most))
        else:
            pictures = from_folder(path, labels)
            if held_out:
                pictures = split(pictures, held_out)[1]
            pictures = [pictures[i] for i in spread(len(pictures), most)]
        if not pictures:
            raise SourceMissing(f"nothing with labels in {path}", "labelled pictures, or a run with labels")
        for model in asked:
            log.info("judging", extra={"model": model.name, "data": path.name, "pictures": len(pictures)})
            segmenter = load(replace(options, model=model.setting, judge_every=0), threads=threads)
            numbers = score(alone(segmenter, series), pictures)
            row = {"model": model.name, "sha256": model.sha256[:8], "data": path.name, "pictures": len(pictures)}
            rows.append(row | {k: numbers[k] for k in NUMBERS} | {"seen": seen(model, pictures, series)})
    return rows


def from_folder(path: Path, labels: str = "") -> list[Picture]:
    """Labelled pictures of a folder. raises : SourceMissing, UnreadableFile"""
    images = path / "images" if (path / "images").is_dir() else path
    if labels:
        return read_pictures(images, Path(labels))
    beside = [path / name for name in PLACES if (path / name).is_dir()]
    if not beside:
        names = ", ".join(f"{name}/" for name in PLACES)
        raise SourceMissing(f"no labels beside {images}", f"--labels FOLDER, or one of {names} in {path}")
    return read_pictures(images, beside[0])


def from_run(path: Path, labels: str, most: int) -> Iterator[Picture]:
    """Frames of a run with a label image of the same run, or with a simulation's truth laid on them.

    raises : NotARun, SourceMissing
    """
    run = Run(path)
    wanted = spread(run.n, most)
    if labels and Path(labels).is_dir():
        truth, shifts = open_movie(Path(labels) / "labels"), run.column("shift")
        for i in wanted:
            if i < len(truth):
                moved, valid = align.move(np.asarray(truth[i]), align.whole((shifts[i, 0], shifts[i, 1])))
                yield _frame(run, i, moved, valid)
        return
    made = run.column("status") & 2 > 0 if labels in ("", "particles") else np.ones(run.n, bool)
    if not (path / Path(LABELS).parent / (labels or "particles") / "0" / "zarr.json").is_file():
        raise SourceMissing(
            f"the run {run.name} has no labels {labels!r}", "--labels NAME, or the truth of a simulation"
        )
    shifts = run.column("shift")
    for i in wanted:
        if made[i]:
            found = np.asarray(run.labels_of(labels or "particles")[i])
            valid = align.covered(run.shape, (float(shifts[i, 0]), float(shifts[i, 1])))
            yield _frame(run, i, found, valid)


def _frame(run: Run, i: int, labels: np.ndarray, valid: Rect) -> Picture:
    seen = within(valid, f"{run.path.name} {i}", run.frame(i).astype(np.float32), labels)
    return replace(seen, labels=numbered(seen.labels))


def numbered(labels: np.ndarray) -> np.ndarray:
    """(y, x) int32, the same particles as 1…n."""
    values, found = np.unique(labels, return_inverse=True)
    return (found + (values[0] != 0)).reshape(labels.shape).astype(np.int32)


def spread(n: int, most: int) -> list[int]:
    """At most `most` of 0…n-1, evenly."""
    return [int(i) for i in np.unique(np.linspace(0, n - 1, min(n, most)).round())] if n else []


def alone(segmenter: Segmenter, series: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Labels of an image; what the one before taught is forgotten unless they are a series."""

    def one(image: np.ndarray) -> np.ndarray:
        if not series:
            segmenter.reset()
        return np.asarray(segmenter(image).labels)

    return one


def seen(model: Model, pictures: Sequence[Picture], series: bool) -> int | str:
    """How many of the pictures the model learned from, by its own account; "?" when it tells nothing of it."""
    if model.path is None:
        return 0
    told: Mapping[str, Any] = model.about.get("provenance", {})
    kept = told.get("pictures", {}).get("validation")
    if series or not isinstance(kept, list):
        return "?"
    known = [p for p in pictures if p.name in kept]
    share = told.get("options", {}).get("validation", 0.0)
    if not known:
        return 0
    return len(pictures) - len(split(pictures, share)[1])
