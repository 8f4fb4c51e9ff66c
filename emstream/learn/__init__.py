"""The training room: pictures go in, a model folder comes out. Offline; torch is imported when it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Progress = Callable[[Mapping[str, Any]], None]
Spread = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnOptions:
    """How a model is trained."""

    recipe: str = "student"  # student: no labels | supervised: labels | autoencoder: the historical one; or two, "a,b"
    epochs: int = 40  # of `steps_per_epoch` batches
    steps_per_epoch: int = 50
    minutes: float = 10.0  # stop after so long, and let the learning rate fall to zero by then; 0 = no limit
    batch: int = 8  # crops
    crop_px: int = 224  # a multiple of 32
    scale: tuple[float, float] = (0.4, 1.1)  # of the crops relative to their picture
    drawn: float = 0.5  # share of procedural frames in a batch
    simulated: float = 0.5  # share of those that come from the simulated microscope
    drawn_px: tuple[float, float] = (4.0, 80.0)  # diameters of procedural particles
    drawn_cover: float = 0.45  # largest share of a procedural frame that particles cover
    invert: float = 0.3  # share of crops with the contrast turned round
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    widths: tuple[int, ...] = (24, 48, 96, 128)
    validation: float = 0.15  # share of the pictures that are kept for validation, chosen by the hash of their name
    start_from: str = "default"  # model folder whose weights are the start; default = the shipped ones, none = fresh
    frames: int = 64  # of each run or movie, spread in time
    crops: int = 24  # of each frame
    neighbours: int = 8  # frames on either side that show a student's teacher what a frame shows; 0 = the frame itself
    drop: float = 0.25  # share of the frames that teacher and classical masks agree on worst: not learned
    rounds: int = 1  # a student teaches the next one
    seeds: int = 1  # candidates with different seeds, of which the best is kept
    bottleneck: bool = False  # an autoencoder with a pooled, sparse code and leaky units, not the historical one
    ranks: int = 1  # processes that train one candidate together, one on each worker; for several GPUs
    sizes: tuple[float, ...] = (1.0,)  # candidates with other widths; those other than 1 start with fresh weights
    seed: int = 0
    threads: int = 1

    @property
    def recipes(self) -> tuple[str, ...]:
        """Those whose candidates are trained side by side, of which the best is kept."""
        return tuple(r.strip() for r in self.recipe.split(","))


def train(
    options: LearnOptions,
    inputs: Sequence[Path | str],
    out: Path | str,
    *,
    labels: str = "none",
    progress: Progress | None = None,
    incumbent: str = "default",
    spread: Spread | None = None,
    spread_training: Spread | None = None,
) -> dict[str, Any]:
    """Train a model and write its folder: weights.safetensors, model.json, the curve, pictures of the best and the worst.

    inputs    : runs, movies, folders of pictures
    out       : folder of the model; it appears whole, at the end, and replaces nothing but a model. A training that was cut
                off goes on in OUT.part
    labels    : none; a folder of label pictures with the same names; a COCO file; a stack; the name of a run's labels
    progress  : called once an epoch with candidate, step, loss, seconds and, when there are new ones, validation numbers
    incumbent : the model that a student must beat: default, classical, or a model folder
    spread, spread_training : run a function on many arguments elsewhere, as dask tasks; in this process when None
    returns   : validation numbers, as in model.json
    raises    : BadSettings, SourceMissing, UnreadableFile, ModelBroken, JobFailed (refused by the gate)
    """
    from emstream.learn.prepare import here
    from emstream.learn.recipes import run

    return run(
        options, [Path(p) for p in inputs], Path(out), labels, progress, incumbent=incumbent, spread=spread or here,
        spread_training=spread_training,
    )  # fmt: skip
