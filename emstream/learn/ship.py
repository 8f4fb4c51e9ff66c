"""Make the weights that emstream ships.

    python -m emstream.learn.ship --emps EMPS --out first --minutes 48
    python -m emstream.learn.ship --emps EMPS --msa MSA --start-from first --out second --minutes 24 \\
        --learning-rate 1e-3 --drawn .65 --simulated .75
    python -m emstream.learn.ship --emps EMPS --msa MSA --start-from second --out default --minutes 95 \\
        --learning-rate 1.5e-3 --drawn .65 --simulated .75

Crops are procedural frames, or cut from pictures: the EMPS training split (Yildirim & Cole 2021,
doi 10.1021/acs.jcim.0c01455; images/ and segmaps/), and every second frame of msa-em/microscopy-seg-track (images/ and
labels/; CC-BY-4.0). 15 % of the EMPS pictures, by the hash of their name, are kept for validation, another 10 % to choose
settings on: neither is trained on. Run again in the same folder, it goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from emstream import __version__
from emstream.learn import LearnOptions
from emstream.learn.data import Crops, Picture, read_pictures, split
from emstream.learn.evaluate import score
from emstream.learn.fit import fit
from emstream.learn.recipes import segmenter
from emstream.segment.model import read_model, write_model
from emstream.segment.unet import UNet

KEPT, TUNED = 0.15, 0.10  # shares of the EMPS pictures to validate on, and to choose settings on
MSA = 6  # how often an msa frame is drawn for each time that an EMPS picture is
LICENCE = (
    "MIT, as emstream. Trained on procedural frames; on the EMPS training split (Yildirim & Cole 2021, "
    "doi 10.1021/acs.jcim.0c01455, data set MIT); where `pictures.msa` names frames, on these of "
    "msa-em/microscopy-seg-track (Duan et al. 2024, Elemental Microscopy EM000004, CC-BY-4.0)."
)


def main() -> None:
    """Train and tell how it goes, one JSON line each time there is news."""
    ask = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    ask.add_argument("--emps", type=Path, required=True, help="folder with images/ and segmaps/")
    ask.add_argument("--msa", type=Path, help="folder with images/ and labels/; every second frame is trained on")
    ask.add_argument("--out", type=Path, required=True, help="folder of the model")
    ask.add_argument("--minutes", type=float, default=45.0)
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--start-from", type=Path, help="folder of a model whose weights are the start")
    ask.add_argument("--drawn", type=float, default=0.45, help="share of procedural frames")
    ask.add_argument("--simulated", type=float, default=0.6, help="share of those from the simulated microscope")
    ask.add_argument("--learning-rate", type=float, default=2e-3)
    given = ask.parse_args()
    options = LearnOptions(
        minutes=given.minutes, threads=given.threads, seed=given.seed, epochs=1000, steps_per_epoch=100, crop_px=256,
        scale=(0.4, 1.25), drawn=given.drawn, simulated=given.simulated, learning_rate=given.learning_rate,
        validation=KEPT, start_from=str(given.start_from or ""),
    )  # fmt: skip
    learn, tune, judge = parts(read_pictures(given.emps / "images", given.emps / "segmaps"))
    msa = every_second(read_pictures(given.msa / "images", given.msa / "labels")) if given.msa else []
    tell({"done": True, "validation": ship(options, learn, tune, judge, msa, given.out)})


def ship(
    options: LearnOptions,
    learn: Sequence[Picture],
    tune: Sequence[Picture],
    judge: Sequence[Picture],
    msa: Sequence[Picture],
    out: Path,
) -> dict[str, Any]:
    """Train on `learn` and `msa`, write the model, return how well it does on `judge`; `tune` is only named."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    net = read_model(Path(options.start_from))[0] if options.start_from else UNet()
    about: dict[str, Any] = {
        "name": out.name,
        "licence": LICENCE,
        "provenance": {
            "software": f"emstream {__version__}",
            "torch": torch.__version__,
            "recipe": options.recipe,
            "options": asdict(options),
            "pictures": {
                "learned": len(learn),
                "msa": sorted(p.name for p in msa),
                "settings": sorted(p.name for p in tune),
                "validation": sorted(p.name for p in judge),
            },
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    }

    def validate(mean: UNet) -> dict[str, Any]:
        write_model(out, mean, about)
        about["validation"] = score(segmenter(out, options), judge)
        write_model(out, mean, about)
        return dict(about["validation"])

    pictures = [*learn, *(MSA * list(msa))]
    return validate(fit(net, lambda stream: Crops(pictures, options, stream), options, out, validate, tell))


def parts(pictures: Sequence[Picture]) -> tuple[list[Picture], list[Picture], list[Picture]]:
    """Pictures to learn from, to choose settings on, and to validate on; by the hash of the name."""
    judge = split(pictures, KEPT)[1]
    learn, rest = split(pictures, KEPT + TUNED)
    names = {p.name for p in judge}
    return learn, [p for p in rest if p.name not in names], judge


def every_second(pictures: Sequence[Picture]) -> list[Picture]:
    """The msa frames that are trained on; the others are there to judge."""
    return list(pictures[::2])


def tell(news: Mapping[str, Any]) -> None:
    """One line of JSON on standard output."""
    sys.stdout.write(json.dumps(news) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
