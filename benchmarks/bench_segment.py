"""How long a frame takes to its labels, and how good the labels are: python benchmarks/bench_segment.py [--data FOLDER]

FOLDER holds emps_train/ and msa_em_sintering/; without it only speed and simulated frames are measured.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from emstream import simulate
from emstream.learn.data import Picture, read_pictures, split
from emstream.learn.evaluate import score
from emstream.segment import Segmenter, SegmentOptions, load


def speed(model: str, side: int, threads: int, repeat: int = 12) -> float:
    """Median milliseconds from a uint16 frame to its labels, warmed up."""
    particles = 60 * (side // 512) ** 2
    frame = simulate.movie(1, (side, side), particles=particles, diameter=(12, 30), contrast=(0.3, 0.5), seed=1).frame(
        0
    )
    segment = load(SegmentOptions(model=model), threads=threads)
    segment.warm_up(frame.shape)
    for _ in range(9):  # until the classical method has settled
        segment(frame)
    taken = []
    for _ in range(repeat):
        began = time.perf_counter()
        segment(frame)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken)) * 1e3


def fresh(segment: Segmenter) -> Callable[[np.ndarray], np.ndarray]:
    """Each picture judged alone, without what the one before taught."""

    def one(image: np.ndarray) -> np.ndarray:
        segment.reset()
        return np.asarray(segment(image).labels)

    return one


def simulated(diameter: float, dose: float, n: int = 4) -> list[Picture]:
    """Frames of the simulated microscope, one size and one dose."""
    out = []
    for seed in range(n):
        movie = simulate.movie(
            1, (512, 512), dose=dose, particles=int(min(80, 0.08 * 512**2 / diameter**2)) + 1,
            diameter=(0.8 * diameter, 1.2 * diameter), contrast=(0.3, 0.5), polarity="dark", seed=100 + seed,
        )  # fmt: skip
        labels = np.unique(movie.labels(0), return_inverse=True)[1].reshape(512, 512).astype(np.int32)
        out.append(Picture(f"{seed}", movie.frame(0).astype(np.float32), labels))
    return out


def main() -> None:
    """Print the tables of segment.md."""
    ask = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    ask.add_argument("--data", type=Path)
    ask.add_argument("--models", nargs="+", default=["classical", "default"])
    given = ask.parse_args()
    print("| model | frame | threads | ms |\n|---|---|---|---|")
    for model in given.models:
        for side in (512, 1024, 2048):
            for threads in (1, 2):
                print(f"| {model} | {side}² | {threads} | {speed(model, side, threads):.0f} |")
    sets = {f"simulated {d} px, {e} e/px": simulated(d, e) for d in (5, 10, 20, 40, 60) for e in (4, 20)}
    if given.data:
        _, kept = split(read_pictures(given.data / "emps_train/images", given.data / "emps_train/segmaps"), 0.15)
        sets["EMPS validation"] = kept
        msa = given.data / "msa_em_sintering"
        sets["msa sintering"] = read_pictures(msa / "images", msa / "labels")
    print(
        "\n| set | model | IoU | Dice | AP50 | F1 | count error | diameter error |\n|---|---|---|---|---|---|---|---|"
    )
    for name, pictures in sets.items():
        for model in given.models:
            s = score(fresh(load(SegmentOptions(model=model, judge_every=0), threads=1)), pictures)
            numbers = " | ".join(f"{s[k]:.3f}" for k in ("iou", "dice", "ap50", "f1", "count_error", "diameter_error"))
            print(f"| {name} | {model} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
