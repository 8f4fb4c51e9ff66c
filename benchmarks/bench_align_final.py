"""Final shifts beside the causal ones on the same frames, with the truth of the simulator; what they cost.

python benchmarks/bench_align_final.py [--seeds N]

Error: 2-D rms px, the mean error of frames 8 … removed; of the first 8 frames, of the rest, of blank frames alone, and
of the 8 frames after a jump. Several seeds are pooled (root of the mean square).
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from emstream import align, simulate

T, FIRST = 64, 8


def path(kind: str, seed: int) -> np.ndarray | None:
    """Trajectories that the simulator does not name: (T, 2) px."""
    r = np.random.default_rng((seed, 77))
    if kind == "vibration":
        return np.arange(T)[:, None] * 0.1 + 3 / np.sqrt(2) * r.standard_normal((T, 2))
    if kind == "steady":
        return np.arange(T)[:, None] * 1.6 * np.array([0.8, 0.6]) + 0.3 * r.standard_normal((T, 2))
    return None


JUMP, BLANK = 32, (15, 30, 31, 50)
ROWS: list[tuple[str, dict[str, Any], list[int]]] = [
    ("20 e/px", {"dose": 20.0}, []),
    ("4 e/px", {"dose": 4.0}, []),
    ("1 e/px", {"dose": 1.0}, []),
    ("0.5 e/px", {"dose": 0.5}, []),
    ("57 px jump, 4 e/px", {"dose": 4.0, "jump": (JUMP, (45.6, -34.2))}, list(range(JUMP, JUMP + 8))),
    ("57 px jump, 1 e/px", {"dose": 1.0, "jump": (JUMP, (45.6, -34.2))}, list(range(JUMP, JUMP + 8))),
    ("4 blank frames, 4 e/px", {"dose": 4.0, "blank": BLANK}, list(BLANK)),
    ("4 blank frames, 1 e/px", {"dose": 1.0, "blank": BLANK}, list(BLANK)),
    ("vibration 3 px rms, 4 e/px", {"dose": 4.0, "kind": "vibration"}, []),
    ("steady 1.6 px/frame, 4 e/px", {"dose": 4.0, "kind": "steady"}, []),
]


def live(movie: simulate.Movie, frames: list[np.ndarray]) -> np.ndarray:
    """Final shifts (T, 2) as a live run gets them."""
    options = align.AlignOptions()
    state, settling = align.start(movie.shape, movie.dtype, options), align.Settling(options.final_lag)
    found: dict[int, tuple[float, float]] = {}
    for i, frame in enumerate(frames):
        state, e = align.follow(state, frame)
        settling, done = align.settle(settling, state, e, i)
        found |= {f.slot: f.shift for f in done}
    found |= {f.slot: f.shift for f in align.finish(settling)[1]}
    return np.array([found[i] for i in range(len(frames))])


def squares(shifts: np.ndarray, truth: np.ndarray, special: list[int]) -> list[float]:
    """Mean square error px² of the first frames, the others, the special ones."""
    error = shifts - truth
    error = error - error[FIRST:].mean(axis=0)
    square = (error**2).sum(axis=1)
    return [square[:FIRST].mean(), square[FIRST:].mean(), square[special].mean() if special else np.nan]


def accuracy(seeds: range) -> None:
    print(f"{len(seeds)} seeds, 512², {T} frames; causal → final, live (lag 16) → final, whole series\n")
    print(
        "| scene | first 8 frames | the others | the blank frames, or the 8 after the jump | seeds in which final is worse: live, whole |"
    )
    print("|---|---|---|---|---|")
    for name, settings, special in ROWS:
        sums, worse = np.zeros((3, 3)), np.zeros(3, int)
        for seed in seeds:
            options = dict(settings)
            kind = options.pop("kind", "")
            movie = simulate.movie(T, seed=seed, trajectory=path(kind, seed), **options)
            frames = list(movie)
            causal, whole, _ = align.solve_series(frames)
            found = np.array([squares(s, movie.shift, special) for s in (causal, live(movie, frames), whole)])
            sums += found / len(seeds)
            worse += (found[:, :2] * (FIRST, T - FIRST)).sum(axis=1) > (found[0, :2] * (FIRST, T - FIRST)).sum()
        cells = [
            " → ".join(f"{v:.3f}" for v in np.sqrt(column)) if np.isfinite(column).all() else "" for column in sums.T
        ]
        print(f"| {name} | {' | '.join(cells)} | {worse[1]}, {worse[2]} |", flush=True)


def cost() -> None:
    print("\n| frame, uint8 | follow, ms | settle, first 64 frames, ms | settle, later, ms |\n|---|---|---|---|")
    for n in (512, 1024, 2048):
        movie = simulate.movie(4, (n, n), dose=8.0, dtype="uint8", seed=5)
        frames, state, settling = list(movie), align.start((n, n), np.uint8), align.Settling(16)
        took = np.zeros((160, 2))
        for i in range(len(took)):
            begin = time.thread_time()
            state, e = align.follow(state, frames[i % 4])
            middle = time.thread_time()
            settling, _ = align.settle(settling, state, e, i)
            took[i] = middle - begin, time.thread_time() - middle
        took *= 1e3
        print(
            f"| {n}² | {took[16:, 0].mean():.1f} | {took[24:64, 1].mean():.2f} | {took[96:, 1].mean():.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    accuracy(range(101, 101 + args.seeds))
    cost()
