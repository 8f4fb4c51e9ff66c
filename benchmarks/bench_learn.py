"""What training without labels reaches: python benchmarks/bench_learn.py emps|movies|few|autoencoder --work FOLDER [--data FOLDER]

`--data` holds emps_train/ and msa_em_sintering/. Everything that is trained lies under `--work`; what is there already is
not trained again. The table goes to standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from through import through

from emstream import simulate
from emstream.errors import JobFailed
from emstream.learn import LearnOptions
from emstream.learn.data import Crops, read_pictures, split
from emstream.learn.evaluate import overlap, score
from emstream.learn.fit import fit
from emstream.learn.recipes import run
from emstream.learn.synthetic import Look
from emstream.learn.teacher import lesson
from emstream.segment import SegmentOptions, load
from emstream.segment.autoencoder import Autoencoder, dead_channels, simplified
from emstream.segment.classical import above, otsu, polarity, stretched
from emstream.segment.instances import components
from emstream.segment.model import read_autoencoder, read_model, write_model
from emstream.segment.unet import UNet

WIDE = LearnOptions(
    recipe="student", widths=(24, 48, 96, 128, 160), crop_px=192, crops=10, drop=0.3, drawn=0.4, simulated=0.15, rounds=2,
    epochs=35, steps_per_epoch=100, minutes=0, validation=0.2, drawn_px=(5.0, 170.0), drawn_cover=0.85, invert=0.4,
)  # fmt: skip
LONG = 65  # epochs of the procedural network

SHORT = LearnOptions(frames=40, crops=20, crop_px=192)  # of the movies


def tell(news: Mapping[str, Any]) -> None:
    """One line of JSON on standard error."""
    sys.stderr.write(json.dumps(dict(news)) + "\n")
    sys.stderr.flush()


def procedural(out: Path, seed: int) -> None:
    """A network that has seen nothing but drawn frames: no image of anybody, no label."""
    options = replace(WIDE, drawn=1.0, crop_px=256, epochs=LONG, seed=seed)
    look = Look(
        diameter=options.drawn_px, coverage=(0.03, options.drawn_cover), dose=(4.0, 400.0), contrast=(0.15, 0.75),
        film=(0.0, 0.15),
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    mean = fit(UNet(options.widths), lambda s: Crops([], options, s, look), options, out, lambda net: {}, tell)
    write_model(out, mean, {"name": "procedural"})


def emps(data: Path, work: Path, seed: int) -> None:
    """EMPS without any label: procedural network -> candidate choice -> pseudo-labels -> student, twice."""
    learned, kept = split(read_pictures(data / "images", data / "segmaps"), 0.15)
    folder = work / "emps_images"  # of the training part alone, and without its labels
    folder.mkdir(parents=True, exist_ok=True)
    for p in learned:
        if not (folder / p.name).exists():
            (folder / p.name).symlink_to((data / "images" / p.name).resolve())
    if not (work / "procedural" / "model.json").exists():
        procedural(work / "procedural", seed)
    began = time.monotonic()
    options = replace(WIDE, start_from=str(work / "procedural"), seed=seed)
    student = work / "emps_student"
    if not student.exists():
        try:
            run(options, [folder], student, "none", tell, incumbent=options.start_from)
        except JobFailed as refused:
            print(f"gate: {refused}")
            student = student.with_name(student.name + ".refused")
    print(f"seed {seed}, student trained in {(time.monotonic() - began) / 60:.1f} min\n")
    print("| EMPS validation, no label used | IoU | median | Dice | IoU < .3 | AP50 |\n|---|---|---|---|---|---|")
    for name, model in (("classical", "classical"), ("procedural", options.start_from), ("student", str(student))):
        row(name, score(alone(model), kept))
        if name != "classical":
            net = read_model(Path(model))[0]
            row(
                f"{name}, 24 views and the mask chosen",
                score(lambda image, n=net: lesson("", image, image, n).labels, kept),
            )


def scenes() -> dict[str, simulate.Movie]:
    """Sixty frames of 512² each."""
    small: dict[str, Any] = {"t": 60, "shape": (512, 512)}
    return {
        "4 e/px": simulate.movie(**small, dose=4.0, seed=11),
        "20 e/px": simulate.movie(**small, dose=20.0, seed=12),
        "low contrast, 20 e/px": simulate.movie(**small, dose=20.0, contrast=(0.05, 0.12), diameter=(14, 40), seed=13),
        "touching, 10 e/px": simulate.movie(
            **small,
            dose=10.0,
            particles=230,
            diameter=(16, 34),
            contrast=(0.15, 0.35),
            coalesce=True,
            wander=0.3,
            seed=14,
        ),
    }


def movies(work: Path, only: str) -> None:
    """An unlabelled movie -> `train --labels none` -> the same movie."""
    print(
        "| movie | hand-tuned local threshold | classical | default | student | default, as the daemon shows it | student, "
        "as the daemon shows it | min | gate |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name, movie in scenes().items():
        if only and only != name:
            continue
        folder = work / name.replace(" ", "_").replace("/", "_").replace(",", "")
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "movie.npy", movie.frames)
        truth = {i: movie.labels(i) > 0 for i in range(0, len(movie), 3)}
        began, told = time.monotonic(), "promoted"
        student = folder / "student"
        try:
            run(SHORT, [folder / "movie.npy"], student, "none", tell)
        except JobFailed as refused:
            student, told = folder / "student.refused", str(refused.what)
        minutes = (time.monotonic() - began) / 60
        rivals = [dice_of(m, movie, truth) for m in ("classical", "default", str(student))]
        rivals += [dice_shown(m, movie, truth) for m in ("default", str(student))]
        numbers = " | ".join(f"{v:.4f}" for v in (by_hand(movie, truth), *rivals))
        print(f"| {name} | {numbers} | {minutes:.1f} | {told} |", flush=True)


def few(work: Path, only: str) -> None:
    """Five labelled frames and the unlabelled movie that they are of, against the five frames alone, and against all labels."""
    low: dict[str, Any] = {"contrast": (0.05, 0.12), "diameter": (14, 40)}
    wanted: dict[str, dict[str, Any]] = {
        "4 e/px": {"dose": 4.0, "seed": 21}, "low contrast, 20 e/px": {"dose": 20.0, "seed": 23, **low},
    }  # fmt: skip
    print("| movie | learned from | alone | as the daemon shows it |\n|---|---|---|---|")
    for scene, settings in wanted.items():
        if only not in scene:
            continue
        movie = simulate.movie(60, (512, 512), **settings)
        labelled = [6, 18, 30, 42, 54]
        truth = {i: movie.labels(i) > 0 for i in range(2, len(movie), 4)}
        others = [i for i in range(len(movie)) if i not in truth]
        where = work / scene.replace(" ", "_").replace("/", "_").replace(",", "")
        where.mkdir(parents=True, exist_ok=True)
        print(f"| {scene} | nothing: default | {dices('default', movie, truth)} |", flush=True)
        for name, known, frames, start in (
            ("the five frames, fresh weights", labelled, labelled, "none"),
            ("the five frames", labelled, labelled, "default"),
            ("the five frames and the movie", labelled, range(len(movie)), "default"),
            ("bound: the true labels of all frames but those judged", others, others, "default"),
        ):
            out = where / name.partition(":")[0].replace(" ", "_").replace(",", "")
            if not out.exists():
                labels = np.zeros((len(movie), *movie.shape), np.uint16)
                for i in known:
                    labels[i] = movie.labels(i)
                np.save(out.with_suffix(".npy"), np.stack([movie.frame(i) for i in frames]))
                np.save(where / f"{out.name}_labels.npy", labels[list(frames)])
                options = replace(SHORT, recipe="supervised", validation=0.0, start_from=start, minutes=0)
                run(options, [out.with_suffix(".npy")], out, str(where / f"{out.name}_labels.npy"), tell)
            print(f"| {scene} | {name} | {dices(str(out), movie, truth)} |", flush=True)


def dices(model: str, movie: simulate.Movie, truth: Mapping[int, np.ndarray]) -> str:
    """Dice of each frame alone, and as the daemon shows it."""
    return f"{dice_of(model, movie, truth):.4f} | {dice_shown(model, movie, truth):.4f}"


def autoencoders(data: Path, work: Path) -> None:
    """The historical autoencoder and its constrained variant on msa_em_sintering: learn on ten frames, judge on the others."""
    pictures = read_pictures(data / "images", data / "labels")
    folder = work / "msa_images"
    folder.mkdir(parents=True, exist_ok=True)
    for p in pictures[::2]:
        if not (folder / p.name).exists():
            (folder / p.name).symlink_to((data / "images" / p.name).resolve())
    print(
        "| msa, 10 frames not learned from | IoU | Dice | AP50 | dead channels | corr(in, out) |\n|---|---|---|---|---|---|"
    )
    for sigma in (0.0, 1.0, 3.0):
        s = score(lambda image, by=sigma: cut(image, by), pictures[1::2])
        print(f"| Otsu, Gaussian {sigma:g} | {s['iou']:.3f} | {s['dice']:.3f} | {s['ap50']:.3f} | | |", flush=True)
    for name, bottleneck in (("the historical one", False), ("pooled, sparse, leaky", True)):
        for seed in range(2):
            options = LearnOptions(
                recipe="autoencoder", bottleneck=bottleneck, seed=seed, validation=0.0, crop_px=128, crops=40, epochs=50,
                steps_per_epoch=40, invert=0.0, scale=(0.8, 1.2), minutes=0.0,
            )  # fmt: skip
            where = work / f"ae-{bottleneck}-{seed}"
            if not where.exists():
                run(options, [folder], where, "none")
            s, net = score(alone(str(where)), pictures[1::2]), read_autoencoder(where)[0]
            same = np.mean([like(net, p.image) for p in pictures[1::2]])
            print(
                f"| {name}, seed {seed} | {s['iou']:.3f} | {s['dice']:.3f} | {s['ap50']:.3f} | {dead_channels(net)} of 12 | {same:.3f} |",
                flush=True,
            )
    for model in ("classical", "default"):
        s = score(alone(model), pictures[1::2])
        print(f"| {model} | {s['iou']:.3f} | {s['dice']:.3f} | {s['ap50']:.3f} | | |", flush=True)


def cut(image: np.ndarray, sigma: float) -> np.ndarray:
    """Otsu's threshold on a blurred frame, labelled."""
    flat = stretched(image if sigma == 0 else cv2.GaussianBlur(image, (0, 0), sigma))
    level = otsu(flat)
    return components(above(flat, level, polarity(flat, level)))


def like(net: Autoencoder, image: np.ndarray) -> float:
    """Correlation of an autoencoder's output with its input."""
    return abs(float(np.corrcoef(simplified(net, image).ravel(), stretched(image).ravel())[0, 1]))


def dice_of(model: str, movie: simulate.Movie, truth: Mapping[int, np.ndarray]) -> float:
    """Mean Dice over frames of a movie that a model sees from its first frame on."""
    segmenter = load(SegmentOptions(model=model, judge_every=0), threads=1)
    found = [(i, np.asarray(segmenter(movie.frame(i)).labels)) for i in range(len(movie))]
    return float(np.mean([overlap(labels, truth[i])[1] for i, labels in found if i in truth]))


def dice_shown(model: str, movie: simulate.Movie, truth: Mapping[int, np.ndarray]) -> float:
    """The same with the labels that a daemon stores: frames of few electrons are looked at together."""
    shown = enumerate(through(movie, SegmentOptions(model=model, judge_every=0), threads=1))
    return float(np.mean([overlap(np.asarray(s.labelled.labels), s.truth > 0)[1] for i, s in shown if i in truth]))


def by_hand(movie: simulate.Movie, truth: Mapping[int, np.ndarray]) -> float:
    """The best local threshold there is for dark particles: sigma, block and offset tried with the truth at hand."""
    best = 0.0
    some = list(truth)[::6]
    frames = {i: movie.frame(i).astype(np.float32) for i in some}
    for sigma in (0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0):
        smooth = {i: cv2.GaussianBlur(f, (0, 0), sigma) for i, f in frames.items()}
        for block in (31, 61, 121, 241, 511):
            local = {i: cv2.blur(f, (block, block), borderType=cv2.BORDER_REFLECT) - f for i, f in smooth.items()}
            for offset in np.linspace(0, 0.3, 61) * movie.dose:
                best = max(best, float(np.mean([overlap(local[i] > offset, truth[i])[1] for i in some])))
    return best


def row(name: str, s: Mapping[str, Any]) -> None:
    """One line of the table."""
    print(
        f"| {name} | {s['iou']:.3f} | {s['iou_median']:.3f} | {s['dice']:.3f} | {s['bad']:.2f} | {s['ap50']:.3f} |",
        flush=True,
    )


def alone(model: str) -> Any:
    """Each picture judged without what the one before taught."""
    segmenter = load(SegmentOptions(model=model, judge_every=0), threads=1)

    def one(image: np.ndarray) -> np.ndarray:
        segmenter.reset()
        return np.asarray(segmenter(image).labels)

    return one


def main() -> None:
    """Run what was asked for."""
    ask = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    ask.add_argument("what", choices=["emps", "movies", "few", "autoencoder"])
    ask.add_argument("--only", default="", help="part of a movie's name")
    ask.add_argument("--work", type=Path, required=True)
    ask.add_argument("--data", type=Path)
    ask.add_argument("--seed", type=int, default=1, help="of emps")
    given = ask.parse_args()
    if given.what == "emps":
        emps(given.data / "emps_train", given.work, given.seed)
    elif given.what == "movies":
        movies(given.work, given.only)
    elif given.what == "few":
        few(given.work / "few", given.only)
    else:
        autoencoders(given.data / "msa_em_sintering", given.work)


if __name__ == "__main__":
    main()
