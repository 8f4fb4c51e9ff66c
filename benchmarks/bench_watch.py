"""Finding files: from a file being whole to its frame being handed out, at a steady rate; and bursts, in which none may be lost.

python benchmarks/bench_watch.py [--rate 100] [--seconds 10]      # with hints of the system, and scanning only
python benchmarks/bench_watch.py --burst 50000                    # flat, new folders, renamed in, moved in
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from emstream.source import SourceOptions
from emstream.source.watch import watch


class Nobody:
    """Knows nothing, keeps little."""

    def __init__(self) -> None:
        self.missed = 0

    def known_frames(self, path: str, size: int, mtime_ns: int, inode: int) -> int:
        return 0

    def asked_again(self) -> list[str]:
        return []

    def missed_hint(self, n: int) -> None:
        self.missed += n

    def __getattr__(self, name: str) -> object:
        return lambda *a: None


def npy(side: int, value: int = 1) -> bytes:
    """A frame that does not end in zeros, which might not be written yet."""
    buffer = io.BytesIO()
    np.save(buffer, np.full((side, side), value, np.uint16))
    return buffer.getvalue()


def latencies(mode: str, rate: float, seconds: float) -> np.ndarray:
    """Seconds from the end of the write to the frame, one per file."""
    whole = npy(256)
    n, written, got = int(rate * seconds), {}, {}
    stop, nobody = threading.Event(), Nobody()
    with tempfile.TemporaryDirectory() as folder:

        def camera() -> None:
            time.sleep(0.5)
            begin = time.monotonic()
            for i in range(n):
                time.sleep(max(0.0, begin + i / rate - time.monotonic()))
                name = f"f_{i:06d}.npy"
                (Path(folder) / name).write_bytes(whole)
                written[name] = time.monotonic()

        thread = threading.Thread(target=camera)
        thread.start()
        limit = time.monotonic() + 3 * seconds + 20
        for frame in watch(Path(folder), SourceOptions(watch=mode), nobody, stop, nobody):
            if frame is not None:
                got[frame.origin.path] = time.monotonic()
            if len(got) == n or time.monotonic() > limit:
                stop.set()
        thread.join()
    assert len(got) == n, f"{n - len(got)} frames were not handed out"
    return np.array([got[k] - written[k] for k in written])


def flat(root: Path, outside: Path, n: int) -> None:
    whole = npy(4)
    for i in range(n):
        (root / f"f_{i:06d}.npy").write_bytes(whole)


def nested(root: Path, outside: Path, n: int) -> None:
    whole = npy(4)
    for i in range(n):
        folder = root / f"day_{i // 1000:03d}" / f"part_{i // 10:06d}"
        if i % 10 == 0:
            folder.mkdir(parents=True)
        (folder / f"f_{i:06d}.npy").write_bytes(whole)


def renamed(root: Path, outside: Path, n: int) -> None:
    flat(outside, outside, n)
    for i in range(n):
        (outside / f"f_{i:06d}.npy").rename(root / f"f_{i:06d}.npy")


def moved(root: Path, outside: Path, n: int) -> None:
    nested(outside, outside, n)
    for folder in sorted(outside.iterdir()):
        folder.rename(root / folder.name)


TREES: dict[str, Callable[[Path, Path, int], None]] = {
    "one folder": flat,
    "ten files in each new folder": nested,
    "renamed in from outside": renamed,
    "full folders moved in": moved,
}


def burst(write: Callable[[Path, Path, int], None], n: int) -> tuple[int, int, int, float]:
    """Files lost, frames doubled, files that no hint named, seconds; the writer is a process that goes as fast as it can."""
    stop, nobody, got = threading.Event(), Nobody(), Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        root, outside = Path(place) / "camera", Path(place) / "outside"
        root.mkdir()
        outside.mkdir()
        writer = multiprocessing.get_context("fork").Process(target=write, args=(root, outside, n))
        began, newest = time.monotonic(), time.monotonic()
        for frame in watch(root, SourceOptions(), nobody, stop, nobody):
            if frame is not None:
                got[frame.origin.path] += 1
                newest = time.monotonic()
            elif writer.pid is None:
                writer.start()  # once the folder is watched
            quiet = 45.0 if len(got) < n else 5.0  # longer than the slow comparison of all files takes to come
            if not writer.is_alive() and writer.pid is not None and time.monotonic() - newest > quiet:
                stop.set()
        writer.join()
    return n - len(got), sum(got.values()) - len(got), nobody.missed, newest - began


def main() -> None:
    ask = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    ask.add_argument("--rate", type=float, default=100.0)
    ask.add_argument("--seconds", type=float, default=10.0)
    ask.add_argument("--burst", type=int, default=0, help="files of each burst")
    ask.add_argument("--trees", default="", help="of these alone: beginnings of their names, comma separated")
    asked = ask.parse_args()
    if asked.burst:
        print("| tree | files | lost | doubled | without a hint | seconds |\n|---|---|---|---|---|---|")
        for name in filter(lambda name: name.startswith(tuple(asked.trees.split(","))), TREES):
            write = TREES[name]
            lost, doubled, missed, seconds = burst(write, asked.burst)
            print(f"| {name} | {asked.burst} | {lost} | {doubled} | {missed} | {seconds:.0f} |", flush=True)
        return
    for mode in ("auto", "scan"):
        p50, p99 = 1e3 * np.percentile(latencies(mode, asked.rate, asked.seconds), (50, 99))
        print(f"{mode:5} {asked.rate:g} files/s: p50 {p50:.1f} ms, p99 {p99:.1f} ms")


if __name__ == "__main__":
    main()
