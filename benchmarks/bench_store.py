"""What storing a frame costs: the whole protocol against zarr's own append and a bare file, in one run.

    python benchmarks/bench_store.py [--sizes 512,1024,2048] [--frames 48] [--where FOLDER] [--json]
    python benchmarks/bench_store.py --sizes 1024 --cost 100        # what reserving, syncing and committing cost at a rate

Each row is the best of three rounds, the writers taking turns so that a busy machine hits all alike. `cpu` is process
time of all threads, `wall` is from the first frame to the last byte accounted for (written, and synced where it says so).
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import zarr

from emstream.messages import Origin
from emstream.store import FrameRecord, LabelRecord, Ledger, RunWriter, StoreOptions, WriteBehind

ROUNDS = 3
GROUP = 8  # frames committed together, as when the writer is behind


def frames_like_a_camera(count: int, size: int) -> np.ndarray:
    """(count, size, size) uint16 Poisson frames, mean 400 counts; a handful of different ones, repeated."""
    rng = np.random.default_rng(0)
    few = rng.poisson(400, (min(count, 8), size, size)).astype(np.uint16)
    return few[np.arange(count) % len(few)]


def emstream_run(folder: Path, frames: np.ndarray, *, fsync: bool, group: int, labels: bool = False) -> None:
    """The whole protocol: reserve, levels, chunks, checksums, ledger, columns, publish."""
    shape = (frames.shape[1], frames.shape[2])
    options = StoreOptions(fsync=fsync, low_water_mb=0)
    with Ledger(folder, fsync=fsync) as ledger:
        writer = RunWriter(folder, ledger.run_for("s", "bench", shape, str(frames.dtype), None), ledger, options)
        discs = np.zeros(shape, np.int32)
        discs[:: shape[0] // 8, :: shape[1] // 8] = 1
        discs = np.cumsum(np.cumsum(discs, 0), 1).astype(np.int32) % 50
        for start in range(0, len(frames), group):
            block = range(start, min(start + group, len(frames)))
            records = [
                FrameRecord(frames[i], Origin("m.mrc", i, (i + 1) * 1000, i, 1), float(i), (0.0, 0.0)) for i in block
            ]
            writer.write_frames(records)
            if labels:
                writer.write_labels([LabelRecord(i, discs, 49, 0.5, "m@0") for i in block])
            writer.flush()
        writer.publish()


def cost(size: int, fps: float, seconds: float, where: Path | None) -> dict[str, float]:
    """What safety costs while frames come at a steady rate, ms a frame: reserving, syncing and committing; wall and cpu."""
    frames, spent = frames_like_a_camera(64, size), dict.fromkeys(("reserve", "fsync", "ledger", "publish"), (0.0, 0.0))
    count = int(fps * seconds)

    @contextmanager
    def timed(stage: str, frames: int) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.thread_time()
        yield
        before = spent[stage]
        spent[stage] = before[0] + time.perf_counter() - wall, before[1] + time.thread_time() - cpu

    folder = Path(tempfile.mkdtemp(dir=where))
    try:
        with Ledger(folder) as ledger:
            row = ledger.run_for("s", "bench", (size, size), "uint16", None)
            writer = RunWriter(folder, row, ledger, StoreOptions(low_water_mb=0), timed=timed)
            behind = WriteBehind(writer, 256 << 20)
            began = time.monotonic()
            for i in range(count):
                time.sleep(max(0.0, began + i / fps - time.monotonic()))
                pixels = frames[i % 64]
                record = FrameRecord(pixels, Origin("m.mrc", i, (i + 1) * 1000, i, 1), float(i), (0.0, 0.0))
                with timed("reserve", 1):
                    slots = writer.reserve([record.origin])
                behind.put(lambda r=record, s=slots: writer.write_frames([r], s), pixels.nbytes)
            behind.close()
            took = time.monotonic() - began
            writer.close()
    finally:
        shutil.rmtree(folder)
    told = {
        f"{stage} {kind}": 1e3 * value[k] / count
        for stage, value in spent.items()
        for k, kind in enumerate(("wall", "cpu"))
    }
    return {"frames/s kept": count / took, **told}


def zarr_append(folder: Path, frames: np.ndarray) -> None:
    """zarr-python's own way: one array, the same codecs, append frame by frame; no levels, ledger or fsync."""
    array = _array(folder, frames)
    for frame in frames:
        array.append(frame[None])


def raw_files(folder: Path, frames: np.ndarray) -> None:
    """One uncompressed file a frame: the least that can be done."""
    for i, frame in enumerate(frames):
        frame.tofile(folder / f"{i}.raw")


def _array(folder: Path, frames: np.ndarray) -> zarr.Array:
    blosc = zarr.codecs.BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle", typesize=frames.dtype.itemsize)
    return zarr.create_array(
        folder / "a.zarr",
        shape=(0, *frames.shape[1:]),
        chunks=(1, *frames.shape[1:]),
        dtype=frames.dtype,
        compressors=[blosc, zarr.codecs.Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": "."},
    )


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "raw files": raw_files,
    "zarr append": zarr_append,
    "emstream, no fsync": lambda folder, frames: emstream_run(folder, frames, fsync=False, group=GROUP),
    f"emstream, groups of {GROUP}": lambda folder, frames: emstream_run(folder, frames, fsync=True, group=GROUP),
    "emstream, frame by frame": lambda folder, frames: emstream_run(folder, frames, fsync=True, group=1),
    f"emstream + labels, groups of {GROUP}": lambda folder, frames: emstream_run(
        folder, frames, fsync=True, group=GROUP, labels=True
    ),
}


def measure(size: int, count: int, where: Path | None) -> list[dict[str, object]]:
    """One row for each writer at one frame size."""
    frames = frames_like_a_camera(count, size)
    best: dict[str, tuple[float, float]] = {}
    for _ in range(ROUNDS):
        for name, write in WRITERS.items():
            folder = Path(tempfile.mkdtemp(dir=where))
            try:
                wall, cpu = time.perf_counter(), time.process_time()
                write(folder, frames)
                spent = (time.perf_counter() - wall, time.process_time() - cpu)
            finally:
                shutil.rmtree(folder)
            best[name] = tuple(min(a, b) for a, b in zip(spent, best.get(name, spent)))  # type: ignore[assignment]
    reference = best["zarr append"][0]
    return [
        {
            "size": size,
            "writer": name,
            "wall_ms": round(1e3 * wall / count, 2),
            "cpu_ms": round(1e3 * cpu / count, 2),
            "MB_per_s": round(frames.nbytes / 1e6 / wall),
            "times_zarr_append": round(reference / wall, 2),
        }
        for name, (wall, cpu) in best.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="512,1024,2048")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--where", type=Path, default=None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cost", type=float, default=0.0, metavar="FPS", help="what safety costs at this rate instead")
    args = parser.parse_args()
    if args.cost:
        for size in map(int, args.sizes.split(",")):
            found = cost(size, args.cost, 15.0, args.where)
            share = (
                sum(v for k, v in found.items() if k in ("reserve cpu", "fsync cpu", "ledger cpu")) * args.cost / 1e3
            )
            print(f"{size}² at {args.cost:g} frames/s: " + ", ".join(f"{k} {v:.2f}" for k, v in found.items()))
            print(f"processor time of reserving, syncing and committing: {share:.1%} of the frame's time on one core")
        return
    rows = [row for size in args.sizes.split(",") for row in measure(int(size), args.frames, args.where)]
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'size':>5} {'writer':34} {'wall ms':>8} {'cpu ms':>7} {'MB/s':>6} {'x append':>8}")
    for row in rows:
        print("{size:>5} {writer:34} {wall_ms:8.2f} {cpu_ms:7.2f} {MB_per_s:6d} {times_zarr_append:8.2f}".format(**row))


if __name__ == "__main__":
    main()
