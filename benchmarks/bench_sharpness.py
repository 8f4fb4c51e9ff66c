"""Real frames: do shifts of pairs close over triplets, and is the mean of aligned frames sharper than that of unaligned ones?

python benchmarks/bench_sharpness.py FRAME… [--picture OUT.png] [--side PX]

FRAME…  consecutive frames of one series, in order; frames whose numbers do not follow one another begin a new series.
Closure: register(a, b) + register(b, c) - register(a, c), which is nought when all three shifts are right.
Detail: power that the mean of the even frames and the mean of the odd ones have in common (the real part of their cross
spectrum, so that noise does not count), in bands of the sampling rate. A pattern of the detector is common to frames
that were not moved, and is not once they are; where it is all there is, alignment lowers the number.
"""

from __future__ import annotations

import argparse
import re
from itertools import combinations, pairwise
from pathlib import Path

import cv2
import numpy as np

import emstream
from emstream import align


def series(paths: list[Path]) -> list[list[Path]]:
    """Runs of consecutive numbers."""
    out: list[list[Path]] = []
    last = None
    for path in sorted(paths, key=number):
        if last is None or number(path) != last + 1:
            out.append([])
        out[-1].append(path)
        last = number(path)
    return out


def number(path: Path) -> int:
    found = re.findall(r"\d+", path.stem)
    return int(found[-1]) if found else 0


def closure(frames: list[np.ndarray]) -> np.ndarray:
    """px (n, 2) of every triplet in order of time."""
    pair = {(i, j): emstream.register(frames[i], frames[j])[0] for i, j in combinations(range(len(frames)), 2)}
    return np.array([pair[a, b] + pair[b, c] - pair[a, c] for a, b, c in combinations(range(len(frames)), 3)])


def laid(frames: list[np.ndarray], shifts: np.ndarray, mode: align.Resample) -> tuple[np.ndarray, tuple[int, ...]]:
    """(t, y, x) float32 moved frames, and the part that all cover."""
    moved, rects = zip(
        *(align.move(f.astype(np.float32), (float(s[0]), float(s[1])), mode) for f, s in zip(frames, shifts))
    )
    r = np.array(rects)
    return np.stack(moved), (r[:, 0].max(), r[:, 1].min(), r[:, 2].max(), r[:, 3].min())


BANDS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 2)  # cycles per px


def detail(stack: np.ndarray, rect: tuple[int, ...]) -> list[float]:
    """Power that even and odd means have in common, relative to the squared mean, in each of BANDS."""
    y0, y1, x0, x1 = rect
    part = stack[:, y0:y1, x0:x1]
    even, odd = part[::2].mean(axis=0), part[1::2].mean(axis=0)
    window = np.outer(np.hanning(even.shape[0]), np.hanning(even.shape[1]))
    a, b = (np.fft.rfft2((m / m.mean() - 1) * window) for m in (even, odd))
    q = np.hypot(np.fft.fftfreq(even.shape[0])[:, None], np.fft.rfftfreq(even.shape[1])[None])
    common = (a * b.conj()).real / (window**2).sum() / window.size * 2
    return [float(common[(q > low) & (q <= high)].sum()) for low, high in pairwise(BANDS)]


def busiest(image: np.ndarray, side: int) -> tuple[int, int]:
    """Corner (y, x) of the square with the strongest edges."""
    dy, dx = np.gradient(cv2.GaussianBlur(image, (0, 0), 6))
    edges = cv2.boxFilter((dy**2 + dx**2).astype(np.float32), -1, (side, side), anchor=(0, 0))
    edges = edges[32 : -side - 32, 32 : -side - 32]
    y, x = np.unravel_index(int(edges.argmax()), edges.shape)
    return int(y) + 32, int(x) + 32


def picture(out: Path, stacks: dict[str, np.ndarray], side: int) -> None:
    """The same part of each mean side by side, one grey scale."""
    y, x = busiest(list(stacks.values())[-1].mean(axis=0), side)
    parts = [s.mean(axis=0)[y : y + side, x : x + side] for s in stacks.values()]
    low, high = np.percentile(parts[-1], (0.5, 99.5))
    panels = []
    for name, part in zip(stacks, parts):
        grey = np.clip((part - low) / (high - low) * 255, 0, 255).astype(np.uint8)
        head = np.full((24, grey.shape[1]), 255, np.uint8)
        cv2.putText(head, name, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 0, 1, cv2.LINE_AA)
        panels.append(np.vstack([head, grey]))
    cv2.imwrite(str(out), np.hstack(panels), [cv2.IMWRITE_PNG_COMPRESSION, 9])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", nargs="+", type=Path)
    parser.add_argument("--picture", type=Path, help="write the means of the longest series side by side")
    parser.add_argument("--side", type=int, default=320, help="px of the frame that the picture shows")
    args = parser.parse_args()
    bands = " | ".join(f"1/{1 / a:.0f}–1/{1 / b:.0f}" for a, b in pairwise(BANDS))
    print(f"| series | frames | drift, px | closure, px: median, largest | detail of the mean of | {bands} |")
    print("|---|---|---|---|---|---|---|---|---|")
    best: tuple[int, dict[str, np.ndarray]] = (0, {})
    for paths in series(args.frames):
        if len(paths) < 3:
            print(f"(left out: {paths[0].name}, fewer than three in a row)")
            continue
        frames = []
        for path in paths:
            image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            if image is None:
                raise SystemExit(f"{path}: not an image that can be read")
            frames.append(image if image.ndim == 2 else image.mean(axis=2))
        far = np.hypot(*closure(frames).T)
        causal, final, _ = align.solve_series(frames, lag=len(frames))
        nothing = np.zeros_like(causal)
        cases = {
            "unaligned": (nothing, "integer"),
            "whole px": (causal, "integer"),
            "final shifts, Fourier": (final, "fourier"),
        }
        stacks = {name: laid(frames, shifts, mode) for name, (shifts, mode) in cases.items()}  # type: ignore[arg-type]
        rects = np.array([rect for _, rect in stacks.values()])
        rect = (rects[:, 0].max(), rects[:, 1].min(), rects[:, 2].max(), rects[:, 3].min())
        label = f"{paths[0].stem}–{paths[-1].stem} | {len(frames)} | {causal[-1][0]:.2f}, {causal[-1][1]:.2f}"
        label += f" | {np.median(far):.3f}, {far.max():.3f}"
        first: list[float] = []
        for name, (stack, _) in stacks.items():
            power = detail(stack, rect)
            first = first or power
            cells = " | ".join(f"{p:.2e} ({p / f:.2f} ×)" for p, f in zip(power, first))
            print(f"| {label} | {name} | {cells} |", flush=True)
            label = " | | | "
        if len(frames) > best[0]:
            best = len(frames), {n: s for n, (s, _) in stacks.items() if n != "whole px"}
    if args.picture and best[0]:
        picture(args.picture, best[1], args.side)


if __name__ == "__main__":
    main()
