"""Alignment against scikit-image and OpenCV on the same frames: error (2-D rms px, mean error removed) and speed.

python benchmarks/bench_align.py [--quick] [--seeds N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import scipy.ndimage
from skimage.registration import phase_cross_correlation

from emstream import align, simulate
from emstream.messages import Status

T = 64
SETTLED = 8  # frames before the error counts


def path(kind: str, seed: int) -> np.ndarray | None:
    """Trajectories that the simulator does not name: (T, 2) px."""
    r = np.random.default_rng((seed, 77))
    if kind == "vibration":
        return np.arange(T)[:, None] * 0.1 + 3 / np.sqrt(2) * r.standard_normal((T, 2))
    if kind == "steady":
        return np.arange(T)[:, None] * 1.6 * np.array([0.8, 0.6]) + 0.3 * r.standard_normal((T, 2))
    return None


ROWS: list[tuple[str, dict[str, Any], bool]] = [
    ("20 e/px", {"dose": 20.0}, False),
    ("4 e/px", {"dose": 4.0}, False),
    ("1 e/px", {"dose": 1.0}, False),
    ("0.5 e/px", {"dose": 0.5}, False),
    ("hot 1e-4 + pattern 3 %, 4 e/px", {"dose": 4.0, "hot": 1e-4, "gain_rms": 0.03}, False),
    ("flow 0.63 px/frame, 4 e/px, masks", {"dose": 4.0, "flow": (0.5, 0.38), "particles": 30}, True),
    ("flow 0.63 px/frame, 4 e/px, no masks", {"dose": 4.0, "flow": (0.5, 0.38), "particles": 30}, False),
    ("57 px jump, 4 e/px", {"dose": 4.0, "jump": (32, (45.6, -34.2))}, False),
    ("4 blank frames, 4 e/px", {"dose": 4.0, "blank": (15, 30, 31, 50)}, False),
    ("vibration 3 px rms, 4 e/px", {"dose": 4.0, "kind": "vibration"}, False),
    ("steady 1.6 px/frame, 4 e/px", {"dose": 4.0, "kind": "steady"}, False),
]


def follow(movie: simulate.Movie, frames: list[np.ndarray], masks: bool) -> tuple[np.ndarray, str]:
    """emstream's shifts (T, 2), and which frames it flagged."""
    state, shifts, flags = align.start(movie.shape, movie.dtype), [], []
    for i, frame in enumerate(frames):
        exclude = None
        if masks and i:
            exclude = align.move((movie.labels(i - 1) > 0).astype(np.uint8), shifts[-1])[0] > 0
        state, e = align.follow(state, frame, exclude=exclude)
        shifts.append(e.shift)
        flags += [f"{f.name} {i}" for f in (Status.JUMP, Status.BLANK, Status.LOST_LOCK) if e.status & f]
    return np.array(shifts), ", ".join(flags)


def running(measure: Callable[[np.ndarray, np.ndarray], np.ndarray], frames: list[np.ndarray]) -> np.ndarray:
    """A peer with the mean of the frames aligned so far as its reference: the strongest simple way to use it."""
    total, shifts = frames[0].astype(np.float64), [np.zeros(2)]
    for n, frame in enumerate(frames[1:], 1):
        shift = measure(total / n, frame.astype(np.float64))
        total = total + scipy.ndimage.shift(frame.astype(np.float64), shift, order=1, mode="nearest")
        shifts.append(shift)
    return np.array(shifts)


def skimage_cc(reference: np.ndarray, moving: np.ndarray) -> np.ndarray:
    a, b = reference - reference.mean(), moving - moving.mean()
    return np.asarray(phase_cross_correlation(a, b, upsample_factor=20, normalization=None)[0])


def opencv_phase(reference: np.ndarray, moving: np.ndarray) -> np.ndarray:
    window = cv2.createHanningWindow(reference.shape[::-1], cv2.CV_64F)
    (x, y), _ = cv2.phaseCorrelate(reference.copy(), moving.copy(), window)  # it may write into its arguments
    return np.array([-y, -x])


def error(shifts: np.ndarray, truth: np.ndarray) -> float:
    """2-D rms px after `SETTLED` frames, the mean error removed."""
    e = (shifts - truth)[SETTLED:]
    return float(np.sqrt(((e - e.mean(axis=0)) ** 2).sum(axis=1).mean()))


def accuracy(seeds: range, peers: bool) -> None:
    print(
        "| scene, 512², 64 frames | emstream | scikit-image, running mean | OpenCV, running mean | flagged (last seed) |"
    )
    print("|---|---|---|---|---|")
    for name, settings, masks in ROWS:
        found: list[list[float]] = [[], [], []]
        flags = ""
        for seed in seeds:
            options = dict(settings)
            kind = options.pop("kind", "")
            movie = simulate.movie(T, seed=seed, trajectory=path(kind, seed), **options)
            frames = list(movie)
            shifts, flags = follow(movie, frames, masks)
            found[0].append(error(shifts, movie.shift))
            if peers and seed == seeds[0]:
                found[1].append(error(running(skimage_cc, frames), movie.shift))
                found[2].append(error(running(opencv_phase, frames), movie.shift))
        cells = [f"{np.median(f):.3f}" if f else "" for f in found]
        print(f"| {name} | {' | '.join(cells)} | {flags} |", flush=True)


def speed() -> None:
    print("\n| frame, uint8 | estimate + move, frames/s |\n|---|---|")
    for n in (512, 1024, 2048, 4096):
        movie = simulate.movie(4, (n, n), dose=8.0, dtype="uint8", seed=5)
        frames, state, took = list(movie), align.start((n, n), np.uint8), []
        for i in range(60):
            begin = time.perf_counter()
            state, e = align.follow(state, frames[i % 4])
            align.move(frames[i % 4], e.shift)
            took.append(time.perf_counter() - begin)
        print(f"| {n}² | {40 / sum(took[20:]):.0f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds, no peers")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    accuracy(range(101, 101 + (2 if args.quick else args.seeds)), peers=not args.quick)
    speed()
