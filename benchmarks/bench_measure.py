"""Measuring and linking one frame, against scikit-image and scipy on the same labels; CPU time of one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree
from skimage.measure import regionprops_table

from emstream.measure import dump, link, particles, start_tracks
from emstream.simulate import movie

SIZES = ((512, 800, (5.0, 9.0)), (1024, 800, (8.0, 30.0)), (2048, 1600, (12.0, 60.0)))
PROPERTIES = ("label", "area", "centroid", "axis_major_length", "axis_minor_length", "orientation", "mean_intensity")


def timed(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return (time.thread_time() - start) * 1e3


def main(frames: int = 20) -> None:
    print("| frame | particles | measure ms | link ms | together ms | regionprops_table ms | centroids + cKDTree ms |")
    print("|---|---|---|---|---|---|---|")
    for size, count, diameter in SIZES:
        scene = movie(
            frames + 2, (size, size), particles=count, diameter=diameter, wander=0.3, jitter=0.0, drift_per_frame=(0, 0)
        )
        state, measure, linking, peer, peer_link = start_tracks(), [], [], [], []
        before = np.zeros((1, 2))
        for i in range(len(scene)):
            labels, pixels = scene.labels(i), scene.frame(i)
            columns = particles(labels, pixels)
            measure.append(timed(lambda labels=labels, pixels=pixels: particles(labels, pixels)))
            start = time.thread_time()
            state, ids, _ = link(state, labels, columns, i, i * 0.1)
            linking.append((time.thread_time() - start) * 1e3)
            if i % 5 == 0:
                peer.append(
                    timed(lambda labels=labels, pixels=pixels: regionprops_table(labels, pixels, properties=PROPERTIES))
                )
            now = np.column_stack((columns["y"], columns["x"]))
            peer_link.append(timed(lambda now=now, before=before: cKDTree(before).query(now)))
            before = now
        m, k, p, q = (statistics.median(v[1:]) for v in (measure, linking, peer, peer_link))
        print(f"| {size}² | {len(ids)} | {m:.1f} | {k:.1f} | {m + k:.1f} | {p:.0f} | {q:.1f} |")


def long(frames: int = 10_000, window: int = 1000) -> None:
    """Whether a frame late in a run costs more than one early in it: 800 particles come and go for 10,000 frames."""
    scene = movie(
        20, (512, 512), particles=800, diameter=(5.0, 9.0), wander=0.3, jitter=0.0, drift_per_frame=(0, 0)
    )  # fmt: skip
    images = [scene.labels(i) for i in range(len(scene))]
    order = [*range(20), *range(18, 0, -1)]  # there and back, for ever
    rng, state, hidden = np.random.default_rng(0), start_tracks(), np.zeros(801, bool)
    spent, size = np.zeros(frames), np.zeros(frames)
    for i in range(frames):
        if i % 8 == 0:  # longer than the memory: tracks end, and others begin
            hidden[:] = rng.random(len(hidden)) < 0.05
        labels = np.where(hidden[images[order[i % len(order)]]], 0, images[order[i % len(order)]])
        start = time.thread_time()
        state, _, _ = link(state, labels, particles(labels), i, i * 0.1)
        spent[i] = (time.thread_time() - start) * 1e3
        size[i] = sum(a.nbytes for a in dump(state).values())
    print(f"\n{frames} frames, {state.next_track} tracks: measure + link, ms a frame, and the linker's memory, MB")
    print("| frames | median ms | memory MB |")
    print("|---|---|---|")
    for first in (0, frames // 2, frames - window):
        part = slice(first, first + window)
        print(f"| {first} to {first + window} | {np.median(spent[part]):.2f} | {size[part].max() / 1e6:.2f} |")


if __name__ == "__main__":
    main()
    long()
