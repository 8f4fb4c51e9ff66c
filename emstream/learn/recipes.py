"""The recipes: what is trained on what. All of them end in the same loop, the same judgement, the same model folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emstream import __version__
from emstream.errors import BadSettings
from emstream.learn import LearnOptions, Progress
from emstream.learn.data import Crops, Picture, read_pictures, split
from emstream.learn.evaluate import score
from emstream.learn.fit import fit
from emstream.learn.preview import write_previews
from emstream.segment import SegmentOptions
from emstream.segment.model import read_model, write_model
from emstream.segment.predict import Network
from emstream.segment.unet import UNet


def run(
    options: LearnOptions, inputs: Sequence[Path], out: Path, labels: str, progress: Progress | None = None
) -> dict[str, Any]:
    """See `emstream.learn.train`."""
    check(options)
    if labels == "none":
        raise BadSettings("training needs labels", "a folder of label pictures with the same names")
    out.mkdir(parents=True, exist_ok=True)
    pictures = gather(inputs, labels)
    learn, judge = split(pictures, options.validation)
    return supervised(options, learn, judge, out, progress)


def supervised(
    options: LearnOptions, learn: list[Picture], judge: list[Picture], out: Path, progress: Progress | None
) -> dict[str, Any]:
    """Labelled pictures and procedural frames -> the U-Net."""
    net = starting_net(options)
    provenance = {
        "software": f"emstream {__version__}",
        "torch": torch.__version__,
        "recipe": options.recipe,
        "options": asdict(options),
        "pictures": {"learned": len(learn), "validation": sorted(p.name for p in judge)},
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }

    def validate(mean: UNet) -> dict[str, Any]:
        write_model(out, mean, {"name": out.name, "provenance": provenance})
        found = score(segmenter(out, options), judge) if judge else {}
        write_model(out, mean, {"name": out.name, "validation": found, "provenance": provenance})
        return found

    mean = fit(net, lambda stream: Crops(learn, options, stream), options, out, validate, progress)
    numbers = validate(mean)
    if judge:
        write_previews(out, segmenter(out, options), judge, numbers)
    return numbers


def segmenter(folder: Path, options: LearnOptions) -> Any:
    """(y, x) float32 -> labels, by the model in `folder`, with the daemon's own defaults."""
    network = Network(folder, SegmentOptions(model=str(folder), judge_every=0), threads=options.threads)

    def segment(image: np.ndarray) -> np.ndarray:
        return np.asarray(network(image).labels)

    return segment


def gather(inputs: Sequence[Path], labels: str) -> list[Picture]:
    """Every picture of every input, with its labels."""
    folder = None if labels == "none" else Path(labels)
    return [p for source in inputs for p in read_pictures(source, folder)]


def starting_net(options: LearnOptions) -> UNet:
    """A fresh network, or the weights of `start_from`. raises : ModelBroken"""
    if options.start_from:
        from emstream.segment import SHIPPED

        folder = SHIPPED / "default" if options.start_from == "default" else Path(options.start_from)
        return read_model(folder)[0]
    torch.manual_seed(options.seed)
    return UNet(options.widths)


def check(options: LearnOptions) -> None:
    """raises : BadSettings"""
    if options.crop_px % 32 or options.crop_px < 64:
        raise BadSettings(f"learn.crop_px = {options.crop_px} is not a multiple of 32 from 64 on")
    for name in ("epochs", "steps_per_epoch", "batch", "threads"):
        if getattr(options, name) < 1:
            raise BadSettings(f"learn.{name} = {getattr(options, name)} is below 1")
    for name in ("drawn", "invert", "validation"):
        if not 0 <= getattr(options, name) <= 1:
            raise BadSettings(f"learn.{name} = {getattr(options, name)} is not between 0 and 1")
