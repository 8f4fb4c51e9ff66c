"""On a machine with a GPU: is it right, and how fast: python benchmarks/gpu.py [--sides 512 1024 2048 4096]

Right: numpy and cupy align alike; CPU and GPU label alike; GPU memory was really used. Fast: milliseconds of each stage,
GPU beside CPU in the same run. Without a GPU it says so and leaves with exit code 0; when something is wrong, with 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from emstream import align, arrays, measure, simulate
from emstream.align import AlignOptions
from emstream.segment import SegmentOptions, load

FRAMES = 12
LIMIT_S = 6.0  # per stage, side and device


def movie(side: int, frames: int = FRAMES) -> simulate.Movie:
    """Particles of 16 to 40 px that drift, 20 e/px."""
    n = max(8, 40 * side**2 // 1024**2)
    return simulate.movie(
        frames, (side, side), particles=n, diameter=(16, 40), contrast=(0.3, 0.5), dose=20, jitter=0.3, seed=1
    )


def followed(frames: list[np.ndarray], device: str) -> np.ndarray:
    """(t, 2) px: the shifts that the aligner gives on a device."""
    options, xp = AlignOptions(grid=512), arrays.namespace_of(device)
    state = align.start(frames[0].shape, frames[0].dtype, options, xp=xp)
    shifts = []
    for frame in frames:
        state, estimate = align.follow(state, arrays.to_device(frame, device))
        shifts.append(estimate.shift)
    return np.array([[float(v) for v in s] for s in shifts])


def right(device: str, side: int) -> list[tuple[str, float, float, bool]]:
    """(what, value, limit, whether it holds)."""
    frames = [movie(side).frame(i) for i in range(FRAMES)]
    used = arrays.free_memory("used", device)
    apart = float(np.abs(followed(frames, "cpu") - followed(frames, device)).max())
    options = SegmentOptions(judge_every=0)
    on_cpu, on_gpu = load(options, "cpu"), load(options, device)
    overlap = 1.0
    for frame in frames[:4]:
        a = arrays.to_host(on_cpu(frame).labels) > 0
        b = arrays.to_host(on_gpu(arrays.to_device(frame, device)).labels) > 0
        overlap = min(overlap, float((a & b).sum() / max(1, (a | b).sum())))
    grown = (arrays.free_memory("used", device) - used) / 2**20
    moved, _ = align.move(arrays.to_device(frames[0], device), (3.0, -2.0))
    same = bool(np.array_equal(arrays.to_host(moved), align.move(frames[0], (3.0, -2.0))[0]))
    return [
        ("align: shifts of numpy and cupy, px apart", apart, 0.02, apart <= 0.02),
        ("move: pixels of numpy and cupy are equal", float(same), 1.0, same),
        ("segment: masks of CPU and GPU, least IoU", overlap, 0.98, overlap >= 0.98),
        ("GPU memory taken meanwhile, MiB", grown, 1.0, grown >= 1.0),
    ]


def median_ms(work: Callable[[], Any], device: str) -> float:
    """Median milliseconds, warmed up, the device waited for."""

    def once() -> float:
        began = time.perf_counter()
        work()
        if device != "cpu":
            arrays.namespace_of(device).cuda.Device().synchronize()
        return time.perf_counter() - began

    end = time.perf_counter() + LIMIT_S
    taken = [once() for _ in range(3)]
    while len(taken) < 23 and time.perf_counter() < end:
        taken.append(once())
    return 1e3 * float(np.median(taken[3:] or taken[-1:]))


def stages(side: int, device: str) -> dict[str, float]:
    """ms per frame of each stage on a device."""
    frame = movie(side, 2).frame(1)
    there = arrays.to_device(frame, device)
    state = align.start(frame.shape, frame.dtype, AlignOptions(), xp=arrays.namespace_of(device))
    state, _ = align.follow(state, there)
    segment = load(SegmentOptions(judge_every=0), device)
    segment.warm_up(frame.shape)
    labels = segment(there).labels
    return {
        "upload": median_ms(lambda: arrays.to_device(frame, device), device),
        "align": median_ms(lambda: align.follow(state, there), device),
        "move": median_ms(lambda: align.move(there, (1.4, -2.3)), device),
        "segment": median_ms(lambda: segment(there), device),
        "measure": median_ms(lambda: measure.particles(labels, there), device),
    }


def main() -> int:
    """Print both tables; 0 = right, or no GPU here."""
    ask = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    ask.add_argument("--sides", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    sides = ask.parse_args().sides
    if not arrays.cuda_devices():
        print('no GPU that cupy can use: nothing was measured (pip install "emstream[gpu]" on a machine with one)')
        return 0
    device = arrays.pick_device("auto")
    rows = right(device, min(sides))
    for what, value, limit, holds in rows:
        print(f"{'ok  ' if holds else 'WRONG'} {what}: {value:.4g} (limit {limit:g})", flush=True)
    print("\n| frame | stage | CPU ms | GPU ms | ratio |\n|---|---|---|---|---|")
    for side in sides:
        on_cpu, on_gpu = stages(side, "cpu"), stages(side, device)
        for name, ms in on_gpu.items():
            print(
                f"| {side}² | {name} | {on_cpu[name]:.2f} | {ms:.2f} | {on_cpu[name] / max(ms, 1e-6):.1f} |", flush=True
            )
    return 0 if all(row[3] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
