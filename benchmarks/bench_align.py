"""Alignment measured: error (2-D rms px, mean error removed, after frame 8) beside what is asked, the bound, and peers.

python benchmarks/bench_align.py [--seeds N] [--first SEED] [--frames T] [--rows WORD …] [--no-peers] [--no-speed]
Peers: scikit-image, OpenCV and, where it is installed, pystackreg (TurboReg, Thévenaz et al. 1998,
doi:10.1109/83.650848), each with the mean of the frames that it aligned so far as its reference.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as `emstream` itself does

import cv2
import numpy as np
import scipy.ndimage
from align_scenes import Scene, bound, lattice, shifted_in_fourier, simulated
from skimage.registration import phase_cross_correlation

from emstream import align, register, segment, simulate
from emstream.messages import Status

try:
    from pystackreg import StackReg
except ImportError:
    StackReg = None

SETTLED = 8  # frames before the error counts
FLAGS = (Status.JUMP, Status.BLANK, Status.LOST_LOCK, Status.SUSPECT)
FLOW: dict[str, Any] = {"flow": (0.5, 0.38), "particles": 30}
SIM, FOURIER = simulated, shifted_in_fourier

# name, maker, its settings, asked error px, particles left out, whether peers run on it
Row = tuple[str, Callable[..., Scene], dict[str, Any], float | None, bool, bool]
ROWS: list[Row] = [
    ("20 e/px", SIM, {"dose": 20.0}, 0.075, False, True),
    ("4 e/px", SIM, {"dose": 4.0}, 0.20, False, True),
    ("1 e/px", SIM, {"dose": 1.0}, 0.42, False, True),
    ("0.5 e/px", SIM, {"dose": 0.5}, 0.70, False, False),
    ("20 e/px, second family", FOURIER, {"dose": 20.0}, 0.075, False, False),
    ("4 e/px, second family", FOURIER, {"dose": 4.0}, 0.20, False, False),
    ("1 e/px, second family", FOURIER, {"dose": 1.0}, 0.42, False, False),
    ("0.5 e/px, second family", FOURIER, {"dose": 0.5}, 0.70, False, False),
    ("hot 1e-4 + pattern 3 %, 4 e/px", SIM, {"dose": 4.0, "hot": 1e-4, "gain_rms": 0.03}, 0.20, False, True),
    ("the same, second family", FOURIER, {"dose": 4.0, "hot": 1e-4, "gain_rms": 0.03}, 0.20, False, False),
    ("pattern 10 %, 4 e/px", SIM, {"dose": 4.0, "gain_rms": 0.1}, None, False, False),
    ("flow 0.63 px/frame, 4 e/px, segmented", SIM, {"dose": 4.0, **FLOW}, 0.35, True, False),
    ("flow 0.63 px/frame, 20 e/px, segmented", SIM, {"dose": 20.0, **FLOW}, 0.12, True, False),
    ("flow 0.63 px/frame, 4 e/px, no labels", SIM, {"dose": 4.0, **FLOW}, None, False, True),
    ("flow 0.63 px/frame, 20 e/px, no labels", SIM, {"dose": 20.0, **FLOW}, None, False, False),
    ("57 px jump, 4 e/px", SIM, {"dose": 4.0, "kind": "jump"}, 0.20, False, True),
    ("4 blank frames, 4 e/px", SIM, {"dose": 4.0, "blank": (15, 30, 31, 50)}, 0.23, False, False),
    ("vibration 3 px rms, 4 e/px", SIM, {"dose": 4.0, "kind": "vibration"}, 0.25, False, True),
    ("vibration 3 px rms, second family", FOURIER, {"dose": 4.0, "kind": "vibration"}, 0.25, False, False),
    ("steady 1.6 px/frame, 4 e/px", SIM, {"dose": 4.0, "kind": "steady"}, 0.21, False, False),
    ("1.5 frame widths and back, 4 e/px", SIM, {"dose": 4.0, "kind": "tour"}, 0.21, False, False),
    ("lattice 11.3 px, 4 e/px", lattice, {"dose": 4.0}, 0.06, False, True),
    ("lattice 11.3 px, 1 e/px", lattice, {"dose": 1.0}, 0.12, False, False),
    ("half the particles fade, 4 e/px", SIM, {"dose": 4.0, "fade": True}, None, False, False),
    ("the same without fading", SIM, {"dose": 4.0}, None, False, False),
]
LENGTH = {"1.5 frame": 160, "half the": 200, "the same without": 200, "steady": 76, "4 blank": 80}


def follow(scene: Scene, particles_left_out: bool) -> tuple[np.ndarray, list[align.Estimate]]:
    """emstream's shifts (t, 2) on the first frame's anchor, and its estimates."""
    found: list[align.Estimate] = []
    shifts, base, exclude, state = [], np.zeros(2), None, None
    for frame in scene.frames():
        state = align.start(frame.shape, frame.dtype) if state is None else state
        state, e = align.follow(state, frame, exclude=exclude)
        base = base + (e.link or (0.0, 0.0))
        shifts.append(base + e.shift)
        found.append(e)
        if particles_left_out:
            exclude = segment(align.move(frame, e.shift)[0]) > 0
    return np.array(shifts), found


def error(shifts: np.ndarray, truth: np.ndarray) -> float:
    """2-D rms px after `SETTLED` frames, the mean error removed."""
    e = (shifts - truth)[SETTLED:]
    return float(np.sqrt(((e - e.mean(axis=0)) ** 2).sum(axis=1).mean()))


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


def turboreg(reference: np.ndarray, moving: np.ndarray) -> np.ndarray:
    matrix = StackReg(StackReg.TRANSLATION).register(reference, moving)
    return -np.array([matrix[1, 2], matrix[0, 2]])


PEERS: list[Callable[[np.ndarray, np.ndarray], np.ndarray]] = [skimage_cc, opencv_phase]
if StackReg is not None:
    PEERS.append(turboreg)


def flags(found: list[align.Estimate]) -> str:
    """Which frames carry which flag, in short: JUMP 32, SUSPECT 8…63."""
    out = []
    for flag in FLAGS:
        at = [i for i, e in enumerate(found) if e.status & flag]
        if at:
            out.append(f"{flag.name} {at[0]}…{at[-1]}" if len(at) > 4 else f"{flag.name} {', '.join(map(str, at))}")
    return "; ".join(out)


def accuracy(seeds: range, frames: int, rows: list[Row], peers: bool) -> None:
    names = [p.__name__ for p in PEERS]
    print("| scene, 512² | asked | emstream | worst seed | to the bound |", " | ".join(names), "| flagged, each seed |")
    print("|---" * (6 + len(names)) + "|")
    sure = wrong = 0
    for name, make, settings, asked, leave_out, compared in rows:
        t = next((n for word, n in LENGTH.items() if name.startswith(word)), frames)
        errors, ratios, told, other = [], [], [], [[] for _ in PEERS]
        for seed in seeds:
            scene = make(t, seed, **settings)
            shifts, found = follow(scene, leave_out)
            errors.append(error(shifts, scene.shift))
            limits = [bound(scene.clean, scene.dose, k) ** 2 for k in range(SETTLED, t, max(1, t // 8))]
            ratios.append(errors[-1] / np.sqrt(np.mean(limits)))
            told.append(flags(found) or "–")
            trusted = np.array([e.confidence >= 0.9 for e in found])
            off = np.hypot(*(shifts - scene.shift).T) > 1
            sure, wrong = sure + int(trusted.sum()), wrong + int((off & trusted).sum())
            if compared and peers and seed == seeds[0]:
                stack = list(scene.frames())
                for k, measure in enumerate(PEERS):
                    other[k].append(error(running(measure, stack), scene.shift))
            if settings.get("hot"):
                strong = int((scene.hot > scene.dose).sum())
                told[-1] += f" (defects at frame 16: {found[16].defects} of {strong})"
            if settings.get("kind") == "tour":
                ends = (shifts - scene.shift)[-8:].mean(axis=0) - (shifts - scene.shift)[SETTLED : 2 * SETTLED].mean(0)
                told[-1] += f" (closure {np.hypot(*ends):.2f} px)"
        told = told[:1] if len(set(told)) == 1 else told
        cells = [f"{asked}" if asked else "", f"{np.median(errors):.3f}", f"{max(errors):.3f}"]
        cells += [f"{np.median(ratios):.2f}" if make is not lattice else ""]
        cells += [f"{o[0]:.3f}" if o else "" for o in other]
        print(f"| {name} | {' | '.join(cells)} | {' / '.join(told)} |", flush=True)
    print(
        f"\nConfidence 0.9 and more: {sure} frames, {wrong} of them off by more than 1 px ({wrong / max(sure, 1):.2%})."
    )


def pairs(seeds: range) -> None:
    """`emstream.register` on two images without noise, 12.6 px apart."""
    errors = []
    for seed in seeds:
        angle = np.random.default_rng(seed).uniform(0, 2 * np.pi)
        way = 12.6 * np.array([(0.0, 0.0), (np.sin(angle), np.cos(angle))])
        movie = simulate.movie(2, dose=1.0, trajectory=way, seed=seed)
        errors.append(np.hypot(*(register(movie.clean(0), movie.clean(1))[0] - movie.shift[1])))
    print(
        f"\n`register`, no noise, 12.6 px: median {np.median(errors):.4f} px, worst {max(errors):.4f} px (asked 0.003)."
    )


def speed() -> None:
    print("\n| frame, uint8 | estimate + move, frames/s |\n|---|---|")
    for n in (512, 1024, 2048, 4096):
        scene = simulated(4, 5, shape=(n, n), dose=8.0, dtype="uint8")
        frames, state, took = list(scene.frames()), align.start((n, n), np.uint8), []
        for i in range(140):
            begin = time.perf_counter()
            state, e = align.follow(state, frames[i % 4])
            align.move(frames[i % 4], e.shift)
            took.append(time.perf_counter() - begin)
        print(f"| {n}² | {120 / sum(took[20:]):.0f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=101)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--rows", nargs="*", default=[], help="only rows whose name holds one of these")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--no-speed", action="store_true")
    args = parser.parse_args()
    chosen = [r for r in ROWS if not args.rows or any(word in r[0] for word in args.rows)]
    seeds = range(args.first, args.first + args.seeds)
    accuracy(seeds, args.frames, chosen, peers=not args.no_peers)
    pairs(seeds)
    if not args.no_speed:
        speed()
