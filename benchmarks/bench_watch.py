"""From a file being whole to its frame being handed out: single frames at a steady rate, local disk, with and without hints.

Measured on two cores shared with other work (load 3), local ext4, 100 files/s of 256 x 256 uint16 for 10 s:

    with hints  p50 1.2 ms, p99 12.6 ms
    scan only   p50 130 ms, p99 249 ms
"""

from __future__ import annotations

import argparse
import io
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from emstream.source import SourceOptions
from emstream.source.watch import watch


class Nobody:
    """Knows nothing, keeps nothing."""

    def known_frames(self, path: str, size: int, mtime_ns: int, inode: int) -> int:
        return 0

    def asked_again(self) -> list[str]:
        return []

    def __getattr__(self, name: str) -> object:
        return lambda *a: None


def latencies(mode: str, rate: float, seconds: float) -> np.ndarray:
    """Seconds from the end of the write to the frame, one per file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ones((256, 256), np.uint16))  # a frame that ends in zeros might not be written yet
    n, written, got = int(rate * seconds), {}, {}
    stop, nobody = threading.Event(), Nobody()
    with tempfile.TemporaryDirectory() as folder:

        def camera() -> None:
            time.sleep(0.5)
            begin = time.monotonic()
            for i in range(n):
                time.sleep(max(0.0, begin + i / rate - time.monotonic()))
                name = f"f_{i:06d}.npy"
                (Path(folder) / name).write_bytes(buffer.getvalue())
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args()
    for mode in ("auto", "scan"):
        p50, p99 = 1e3 * np.percentile(latencies(mode, asked.rate, asked.seconds), (50, 99))
        print(f"{mode:5} {asked.rate:g} files/s: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
