"""One candidate: a recipe, a seed and a size, trained on a data set into a folder of its own; independent of all others."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from emstream import __version__
from emstream.arrays import pick_device
from emstream.learn import LearnOptions, Progress
from emstream.learn.crops import CropSet
from emstream.learn.data import Crops, within
from emstream.learn.evaluate import score
from emstream.learn.fit import Loss, fit
from emstream.learn.lessons import again
from emstream.learn.prepare import load
from emstream.learn.preview import write_previews
from emstream.learn.ranks import Ranks
from emstream.learn.supply import Frames, Mixed
from emstream.learn.synthetic import Look
from emstream.segment import SegmentOptions
from emstream.segment import load as load_model
from emstream.segment.autoencoder import Autoencoder
from emstream.segment.model import read_model, write_model
from emstream.segment.unet import UNet
from emstream.store import dataset

MOST = 24  # pictures that a validation looks at
CALIBRATED = 64  # crops
GENTLE = 0.5  # of the learning rate, for weights that were trained before
SEED_RATE = 5e-4  # the historical autoencoder's, constant, without decay
SMOOTH, SPARSE = 0.1, 0.01  # weights of total variation and of the code, beside the squared error
CURVE = "curve.jsonl"


@dataclass(frozen=True, slots=True)
class Candidate:
    """What tells one candidate from another."""

    recipe: str
    seed: int
    size: float = 1.0  # of the network's widths

    @property
    def name(self) -> str:
        return f"{self.recipe}-{self.seed}-{self.size:g}"


def train_candidate(
    candidate: Candidate, options: LearnOptions, crops: str, judged: Sequence[str], folder: str, start: str,
    progress: Progress | None = None, group: Ranks | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train, and leave a model in `folder`; goes on from the checkpoint there.

    crops    : the data set
    judged   : lessons that were set aside, as files
    start    : folder of the model whose weights are the start; "" = fresh ones
    returns  : folder, validation, provenance
    """
    options = replace(options, seed=candidate.seed)
    device = pick_device("auto") if group is not None else "cpu"
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    material = load(Path(crops))
    lessons = [again(p) for p in judged[:: max(1, len(judged) // MOST)][:MOST]]
    pictures = [within(x.valid, x.name, x.image, x.labels) for x in lessons]
    judged_by_labels = any(x.method != "none" for x in lessons)
    net, rate = starting(options, candidate, start)
    provenance = {
        "software": f"emstream {__version__}",
        "torch": torch.__version__,
        "recipe": candidate.recipe,
        "seed": candidate.seed,
        "options": asdict(options),
        "start": start,
        "data": {k: v for k, v in dataset.about(Path(crops)).items() if k != "settings"},
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }

    def validate(mean: UNet | Autoencoder) -> dict[str, Any]:
        write_model(out, mean, {"name": candidate.name, "provenance": provenance})
        found = score(segmenter(out, options), pictures) if judged_by_labels else {}
        write_model(out, mean, {"name": candidate.name, "validation": found, "provenance": provenance})
        return found

    def tell(news: Any) -> None:
        with (out / CURVE).open("a", encoding="utf8") as f:
            f.write(json.dumps({"candidate": candidate.name, **news}) + "\n")
        if progress is not None:
            progress({"candidate": candidate.name, **news})

    options = replace(options, learning_rate=rate)
    mean: UNet | Autoencoder
    if isinstance(net, Autoencoder):
        plain = replace(options, weight_decay=0.0)
        mean = fit(
            net, lambda step: Frames(material, options, step), plain, out, validate, tell,
            criterion=reproduce(net, options.bottleneck), schedule=lambda step, share: 1.0, group=group,
        )  # fmt: skip
    else:
        look = Look(diameter=options.drawn_px, coverage=(0.02, options.drawn_cover))
        replay = Crops([], replace(options, drawn=1.0), group.rank if group else 0, look)
        mean = fit(
            net.to(device), lambda step: Mixed(material, options, step, lambda: replay), options, out, validate, tell,
            group=group,
        )  # fmt: skip
    if group is not None and not group.first:
        return {"folder": folder, "validation": {}, "provenance": provenance}
    if isinstance(mean, UNet):
        provenance["threshold_before"] = calibrate(mean, material)
    numbers = validate(mean)
    if judged_by_labels:
        write_previews(out, segmenter(out, options), pictures, numbers)
    return {"folder": folder, "validation": numbers, "provenance": provenance}


@torch.inference_mode()
def calibrate(net: UNet, crops: CropSet) -> float:
    """Shift the foreground so that the daemon's threshold is where masks fit what was learned best; that level before.

    Of noisy frames a network is rarely sure: cut at .6 it loses what it sees at .3 (Dice .61 against .65 at 4 e/px). Levels
    are tried on crops that were learned from, as they are, without thinner dose, blur or inversion.
    """
    rows = crops.rows
    plain = np.flatnonzero((rows["dose"] == 1) & (rows["blur"] == 0) & ~rows["inverted"])
    plain = plain[:: max(1, len(plain) // CALIBRATED)][:CALIBRATED]
    device = next(net.parameters()).device
    p, truth, weight = [], [], []
    for k in plain:
        x = torch.from_numpy(crops.images[k].astype(np.float32)).to(device)[None, None]
        p.append(net(x)[0, 0].sigmoid().cpu().numpy())
        truth.append(crops.labels[k] > 0)
        weight.append(crops.weight[k] / 255)
    wanted = SegmentOptions().threshold
    if not p or not np.any(truth):
        return wanted
    seen, there, sure = np.stack(p), np.stack(truth), np.stack(weight)
    levels = np.linspace(0.15, 0.85, 29)
    dice = [2 * (sure * (seen > t) * there).sum() / (sure * ((seen > t) + there.astype(float))).sum() for t in levels]
    best = float(levels[int(np.argmax(dice))])
    shift = np.log(wanted / (1 - wanted)) - np.log(best / (1 - best))
    assert net.head.bias is not None
    net.head.bias[: net.stem**2] += float(shift)  # the head's first maps are the foreground's
    return best


def starting(options: LearnOptions, candidate: Candidate, start: str) -> tuple[UNet | Autoencoder, float]:
    """The network and its learning rate. A candidate of another size cannot start from weights. raises : ModelBroken"""
    torch.manual_seed(options.seed)
    if candidate.recipe == "autoencoder":
        net = Autoencoder(pools=2, leaky=0.1) if options.bottleneck else Autoencoder()
        return net, SEED_RATE
    if start and candidate.size == 1.0:
        return read_model(Path(start))[0], GENTLE * options.learning_rate
    return UNet(tuple(max(8, 8 * round(candidate.size * w / 8)) for w in options.widths)), options.learning_rate


def reproduce(net: Autoencoder, bottleneck: bool) -> Loss:
    """What an autoencoder is asked for: its input. With a bottleneck also few changes, and a code that is mostly nought."""

    def criterion(maps: Tensor, wanted: Tensor) -> Tensor:
        wrong = F.mse_loss(maps, wanted)
        if not bottleneck or net.code is None:
            return wrong
        steps = (maps[..., 1:, :] - maps[..., :-1, :]).abs().mean() + (maps[..., 1:] - maps[..., :-1]).abs().mean()
        return wrong + SMOOTH * steps + SPARSE * net.code.float().abs().mean()

    return criterion


def segmenter(folder: Path, options: LearnOptions) -> Any:
    """(y, x) float32 -> labels, by the model in `folder`, with the daemon's own defaults."""
    network = load_model(SegmentOptions(model=str(folder), judge_every=0), threads=options.threads)

    def segment(image: np.ndarray) -> np.ndarray:
        return np.asarray(network(image).labels)

    return segment
