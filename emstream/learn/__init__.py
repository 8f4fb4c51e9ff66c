"""The training room: pictures go in, a model folder comes out. Offline; torch is imported when it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Progress = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnOptions:
    """How a model is trained."""

    recipe: Literal["supervised"] = "supervised"  # labelled pictures and procedural frames
    epochs: int = 40  # of `steps_per_epoch` batches
    steps_per_epoch: int = 50
    minutes: float = 0.0  # stop after so long, and let the learning rate fall to zero by then; 0 = no limit
    batch: int = 8  # crops
    crop_px: int = 224  # a multiple of 32
    scale: tuple[float, float] = (0.4, 1.1)  # of the crops relative to their picture
    drawn: float = 0.5  # share of procedural frames in a batch
    simulated: float = 0.5  # share of those that come from the simulated microscope
    invert: float = 0.3  # share of crops with the contrast turned round
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    widths: tuple[int, ...] = (24, 48, 96, 128)
    validation: float = 0.15  # share of the pictures that are kept for validation, chosen by the hash of their name
    start_from: str = ""  # model folder whose weights are the start; "default" = the shipped ones
    seed: int = 0
    threads: int = 1


def train(
    options: LearnOptions,
    inputs: Sequence[Path | str],
    out: Path | str,
    *,
    labels: str = "none",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a model and write its folder: weights.safetensors, model.json, previews of the best and the worst.

    inputs   : folders of pictures
    out      : folder of the model; a training that was cut off there goes on
    labels   : a folder of label pictures with the same names
    progress : called now and then with step, loss, seconds and, when there are new ones, validation numbers
    returns  : validation numbers, as in model.json
    raises   : BadSettings, SourceMissing, ModelBroken
    """
    from emstream.learn.recipes import run

    return run(options, [Path(p) for p in inputs], Path(out), labels, progress)
