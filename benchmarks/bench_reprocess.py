"""Archives in blocks: how well they are aligned, how they scale, what they need, and what kills do to them.

python benchmarks/bench_reprocess.py drift [--seeds N]     errors (of one --scene) beside the causal ones and a pairwise banded solver
python benchmarks/bench_reprocess.py scale                 two workers beside one
python benchmarks/bench_reprocess.py tasks                 what the scheduler costs a block: all tasks of a job, empty
python benchmarks/bench_reprocess.py memory [--bits 8]     the most that a worker held, short and long
python benchmarks/bench_reprocess.py kills [--kills N]     workers and the scheduler killed at random; same bytes?
python benchmarks/bench_reprocess.py paper                 costs of a block, and what they mean for 10 million frames

Error: 2-D rms px from frame 8 on, the mean error removed; truth from the simulator. Seeds are pooled.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from align_scenes import Scene, shifted_in_fourier, simulated
from pairwise import solve as pairwise

from emstream import align
from emstream.config import Settings, load
from emstream.jobs import block as tasks
from emstream.jobs import job as sizes
from emstream.jobs import reprocess as jobs
from emstream.jobs.cluster import client
from emstream.jobs.reprocess import reprocess
from emstream.jobs.waves import Here, Workers
from emstream.source.archive import look
from emstream.store import Run, tables

SETTINGS = load(env={})
FIRST = 8


# ---- drift -------------------------------------------------------------------------------------------------------


def error(shifts: np.ndarray, truth: np.ndarray) -> float:
    off = shifts - truth
    off = off - off[FIRST:].mean(axis=0)
    return float((off[FIRST:] ** 2).sum(axis=1).mean())


def archive_of(frames: list[np.ndarray], path: Path, pixel_size_nm: float | None = None) -> Path:
    array = zarr.create_array(
        path, shape=(len(frames), *frames[0].shape), chunks=(1, *frames[0].shape), dtype=frames[0].dtype
    )
    for i, frame in enumerate(frames):
        array[i] = frame
    return path


def in_blocks(frames: list[np.ndarray], settings: Settings) -> np.ndarray:
    """Shifts as a reprocessed run has them."""
    with tempfile.TemporaryDirectory(prefix="emstream-bench-") as folder:
        path = archive_of(frames, Path(folder) / "movie.zarr")
        reprocess([path], Path(folder) / "out", settings, cluster="here")
        return Run(Path(folder) / "out" / "movie.zarr").column("shift")


def causal(scene: Scene, frames: list[np.ndarray], labelled: bool) -> np.ndarray:
    state, found = align.start(frames[0].shape, frames[0].dtype), []
    for i, frame in enumerate(frames):
        mask = None
        if labelled and scene.labels is not None and i:
            mask = align.move(scene.labels(i - 1), found[-1])[0] > 0
        state, e = align.follow(state, frame, exclude=mask)
        found.append((float(e.shift[0]), float(e.shift[1])))
    return np.array(found)


def drift(seeds: range, frames: int, only: str = "") -> None:
    plain = load(env={}, sets=["segment.enabled=false", "store.fsync=false"])
    rows: list[tuple[str, Callable[[int], Scene], bool]] = [
        (f"{dose:g} e/px", lambda s, d=dose: simulated(frames, s, dose=d), False) for dose in (4.0, 20.0, 1.0)
    ]
    rows += [
        (f"{d:g} e/px, second family", lambda s, d=d: shifted_in_fourier(frames, s, dose=d), False) for d in (4.0,)
    ]
    rows += [
        ("57 px jump, 4 e/px", lambda s: simulated(frames, s, "jump", dose=4.0), False),
        (
            "hot pixels 1e-4, pattern 3 %, 4 e/px",
            lambda s: simulated(frames, s, dose=4.0, hot=1e-4, gain_rms=0.03),
            False,
        ),
    ]
    print(f"{len(seeds)} seeds, 512², {frames} frames, blocks of {sizes.FRAMES}; 2-D rms px\n")
    print("| scene | causal | in blocks | ratio | pairwise, banded | to it |\n|---|---|---|---|---|---|")
    for name, make, labelled in rows:
        if only not in name:
            continue
        sums = np.zeros(3)
        for seed in seeds:
            scene = make(seed)
            shown = list(scene.frames())
            found = causal(scene, shown, labelled), in_blocks(shown, plain), pairwise(shown)
            sums += [error(f, scene.shift) for f in found]
        c, b, p = np.sqrt(sums / len(seeds))
        print(f"| {name} | {c:.3f} | {b:.3f} | {b / c:.2f} | {p:.3f} | {p / b:.1f} × |", flush=True)


# ---- scale, memory -----------------------------------------------------------------------------------------------


def movie(n: int, size: int, path: Path, dose: float = 8.0, dtype: str = "uint16") -> Path:
    """An archive of n frames that take little to make: eight that come again, moved."""
    few = [
        f.clip(0, np.iinfo(dtype).max).astype(dtype) for f in simulated(8, 3, shape=(size, size), dose=dose).frames()
    ]
    return archive_of([np.roll(few[i % 8], (i // 8, -(i // 8)), (0, 1)) for i in range(n)], path)


def nothing(job: Any, items: list[Any]) -> list[dict[str, int]]:
    return [{"block": k} for k in range(len(items))]


def empty_tasks(counts: list[int]) -> None:
    """All tasks of jobs of so many blocks, with what they are told and nothing to do."""
    print("| blocks | tasks | ms a task | ms a block |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="emstream-bench-") as folder:
        path = movie(8, 64, Path(folder) / "movie.zarr")
        with Workers(lambda: client("local", 2, SETTINGS)) as hands:
            small = jobs._run_job(look(path), Path(folder) / "out", SETTINGS, "again", "bench")
            hands.run(nothing, [(small, [k]) for k in range(200)])
            for blocks in counts:
                archive = dataclasses.replace(small.archive, frames=blocks * sizes.FRAMES)
                job = dataclasses.replace(small, archive=archive, frames=sizes.FRAMES)
                pairs = [(k, 0, k + 1, 0, (0.0, 0.0)) for k in range(4 * blocks)]
                size = max(1, min(jobs.PAIRS, -(-len(pairs) // (4 * hands.count()))), -(-len(pairs) // 2000))
                stretches, some = list(range(len(job.stretches))), max(1, -(-len(job.stretches) // hands.count()))
                waves: list[list[list[Any]]] = [
                    job.groups(list(range(blocks)), hands.count()),
                    [pairs[i : i + size] for i in range(0, len(pairs), size)],
                    job.groups(list(range(blocks)), hands.count()),
                    sizes.shared(stretches, hands.count()),
                    [stretches[i : i + some] for i in range(0, len(stretches), some)],
                    [[0]],
                    [[0]],
                ]
                begin = time.perf_counter()
                for wave in waves:
                    hands.run(nothing, [(job, items) for items in wave])
                took, tasks = (time.perf_counter() - begin) * 1e3, sum(map(len, waves))
                print(f"| {blocks} | {tasks} | {took / tasks:.2f} | {took / blocks:.2f} |", flush=True)


def scale(n: int) -> None:
    with tempfile.TemporaryDirectory(prefix="emstream-bench-") as folder:
        path = movie(n, 512, Path(folder) / "movie.zarr")
        took = {}
        for workers in (1, 2):
            with Workers(lambda w=workers: client("local", w, SETTINGS)) as hands:
                job = jobs._run_job(look(path), Path(folder) / f"out{workers}", SETTINGS, "again", "bench")
                hands.run(loaded, [(job, i) for i in range(4 * workers)])
                begin = time.perf_counter()
                jobs._led(job, hands, False)
                took[workers] = time.perf_counter() - begin
                print(f"{workers} worker(s): {took[workers]:.1f} s, {n / took[workers]:.1f} frames/s", flush=True)
        print(f"two workers: {took[1] / took[2]:.2f} × one")


def loaded(job: Any, i: int) -> int:
    """A worker warmed up."""
    steps = tasks.steps_of(job)
    if steps.segmenter is not None:
        steps.segmenter.warm_up(job.archive.shape)
        steps.segmenter.reset()
    time.sleep(0.5)
    return os.getpid()


def peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    return 0


def now(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory(size: int, bits: int, lengths: list[int], settings: Settings) -> None:
    """Before: a worker that has done a job of eight frames of 64², and the network at this size once. So what libraries
    load late is not counted, and what this size needs is."""
    print("| frames | block, MB | before, MB | most, MB | most - before, in blocks |\n|---|---|---|---|---|")
    for n in lengths:
        with tempfile.TemporaryDirectory(prefix="emstream-bench-") as folder:
            path = movie(n, size, Path(folder) / "movie.zarr", dtype=f"uint{bits}")
            with Workers(lambda: client("local", 1, settings)) as hands:
                small = movie(8, 64, Path(folder) / "small.zarr", dtype=f"uint{bits}")
                jobs._led(jobs._run_job(look(small), Path(folder) / "warm", settings, "again", "bench"), hands, False)
                job = jobs._run_job(look(path), Path(folder) / "out", settings, "again", "bench")
                (pid,) = hands.run(loaded, [(job, 0)])
                before = now(pid)
                Path(f"/proc/{pid}/clear_refs").write_text("5")  # the most is counted from here
                jobs._led(job, hands, False)
                most, block = peak(pid), job.frames * size * size * bits // 8
            print(
                f"| {n} | {block / 2**20:.0f} | {before / 2**20:.0f} | {most / 2**20:.0f} | {(most - before) / block:.2f} |",
                flush=True,
            )


# ---- kills -------------------------------------------------------------------------------------------------------


class Cluster:
    """A scheduler and two workers as processes of their own, started again when they are killed, as a supervisor does."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.kills: list[str] = []
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def __enter__(self) -> Cluster:
        self._keeper.start()
        for _ in range(600):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.1)
        raise SystemExit("the scheduler did not start")

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._keeper.join()
        for process in self.running.values():
            process.kill()
            process.wait()

    def plan(self, n: int) -> list[str]:
        """Who is killed, in which order: the scheduler once in five times, one of the workers otherwise."""
        names = ["scheduler"] * -(-n // 5) + [
            self.random.choice(["worker-0", "worker-1"]) for _ in range(n - -(-n // 5))
        ]
        self.random.shuffle(names)
        return names

    def kill(self, name: str, done: threading.Event) -> None:
        """SIGKILL, once that process runs."""
        while not done.is_set():
            process = self.running.get(name)
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
                self.kills.append(name.partition("-")[0])
                return
            done.wait(0.05)

    def _keep(self) -> None:
        while not self._stop.wait(0.2):
            for name in ("scheduler", "worker-0", "worker-1"):
                old = self.running.get(name)
                if old is None or old.poll() is not None:
                    self.running[name] = self._start(name)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        if name == "scheduler":
            command = ["scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]
        else:
            command = [
                "worker",
                self.address,
                "--nthreads",
                "1",
                "--no-nanny",
                "--no-dashboard",
                "--death-timeout",
                "30",
            ]
            command += ["--local-directory", str(self.folder)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]], **quiet)  # type: ignore[call-overload]


def tree(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


def kills(n: int, frames: int, seed: int, size: int = 128, block: int = 16) -> None:
    """`n` kills in one run of `frames` frames; the result beside that of an undisturbed one."""
    sizes.FRAMES, sizes.LONGER = block, 1
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="emstream-kills-") as name:
        folder = Path(name)
        path = movie(frames, size, folder / "movie.zarr")
        begin = time.monotonic()
        reprocess([path], folder / "calm", load(env={}, sets=["cluster.timeout_s=60"]), cluster="here")
        calm = time.monotonic() - begin
        with Cluster(folder, seed) as cluster:
            done = threading.Event()

            def strike() -> None:
                for name in cluster.plan(n):
                    if done.wait(rng.uniform(3.0, 9.0)):
                        return
                    cluster.kill(name, done)

            striker = threading.Thread(target=strike, daemon=True)
            begin = time.monotonic()
            striker.start()
            patient = load(env={}, sets=["cluster.timeout_s=60"])
            reprocess([path], folder / "killed", patient, cluster=cluster.address)
            took = time.monotonic() - begin
            done.set()
            striker.join()
            told = ", ".join(f"{cluster.kills.count(k)} × {k}" for k in ("worker", "scheduler"))
        same = tree(folder / "calm" / "movie.zarr") == tree(folder / "killed" / "movie.zarr")
        print(f"{frames} frames in {-(-frames // block)} blocks: {len(cluster.kills)} kills ({told}), {took:.0f} s "
              f"beside {calm:.0f} s undisturbed in one process; all files equal: {same}")  # fmt: skip
        if not same:
            raise SystemExit(1)
        if len(cluster.kills) < n:
            raise SystemExit("the job ended before all kills: take more --frames")


# ---- on paper ----------------------------------------------------------------------------------------------------


class Timed(Here):
    """Tasks in this process, their thread time and the size of what they return."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}
        self.sent: dict[str, int] = {}

    def run(self, task: Any, calls: Any, told: Any = lambda result: None) -> list[Any]:
        results = []
        for call in calls:
            begin = time.thread_time()
            results.append(task(*call))
            self.spent.setdefault(task.__name__, []).append(time.thread_time() - begin)
            size = len(pickle.dumps(results[-1])) + len(pickle.dumps(call[1:]))
            self.sent[task.__name__] = self.sent.get(task.__name__, 0) + size
            told(results[-1])
        return results


def paper(size: int, workers: int, total: int) -> None:
    with tempfile.TemporaryDirectory(prefix="emstream-bench-") as name:
        path = movie(4 * sizes.FRAMES, size, Path(name) / "movie.zarr")
        job = jobs._run_job(look(path), Path(name) / "out", SETTINGS, "again", "bench")
        tasks.steps_of(job).segmenter.warm_up(job.archive.shape)  # type: ignore[union-attr]
        tables.warm_up()
        hands = Timed()
        begin = time.thread_time()
        jobs._led(job, hands, False)
        whole = time.thread_time() - begin
        rows = len(Run(Path(name) / "out" / "movie.zarr").table("particles"))
        many = dataclasses.replace(job, archive=dataclasses.replace(job.archive, frames=total))
        blocks, more, spent = job.blocks, many.blocks, {k: sum(v) for k, v in hands.spent.items()}
        groups = len(many.groups(list(range(more)), workers))
        links = -(-more * (1 + len(sizes.LAGS)) // max(jobs.PAIRS, -(-more * (1 + len(sizes.LAGS)) // 2000)))
        print(f"{size}² uint16, blocks of {job.frames} frames, {rows / job.n:.0f} particles a frame\n")
        print(f"| | a block | {total:,} frames: tasks | on {workers:,} workers, h |\n|---|---|---|---|")
        stretches, all_tasks = len(many.stretches), 0
        for k, label, count, hands_there in (
            ("find_alone", "alone", groups, workers),
            ("link_blocks", "links", links, workers),
            ("finish_blocks", "finish", groups, workers),
            ("link_stretches", "tracks, in stretches", len(sizes.shared(range(stretches), workers)), workers),
            ("name_particles", "particle tables", min(stretches, workers), workers),
            ("stitch", "tracks, joined", 1, 1),
            ("finish", "columns and metadata", 1, 1),
        ):
            cost = spent[k] / blocks
            all_tasks += count
            sent = f", {hands.sent[k] / blocks:.0f} B" if hands_there > 1 else ""
            hours = cost * more / min(count, hands_there) / 3600
            print(f"| {label} | {cost * 1e3:.1f} ms{sent} | {count} | {hours:.2f} |")
        lead = (whole - sum(spent.values())) / blocks
        print(f"| place and look at the seams, in the leader | {lead * 1e3:.1f} ms | – | {lead * more / 3600:.2f} |")
        print(f"\n{all_tasks} tasks")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["drift", "scale", "tasks", "memory", "kills", "paper"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=0)
    parser.add_argument("--scene", default="", help="of drift: only scenes with this in their name")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--bits", type=int, default=16)
    parser.add_argument("--lengths", default="128,512")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    args = parser.parse_args()
    if args.what == "drift":
        drift(range(101, 101 + args.seeds), args.frames or 128, args.scene)
    elif args.what == "scale":
        scale(args.frames or 512)
    elif args.what == "memory":
        memory(args.size or 1024, args.bits, [int(n) for n in args.lengths.split(",")], load(env={}, sets=args.sets))
    elif args.what == "tasks":
        empty_tasks([16, 200, 2000])
    elif args.what == "kills":
        kills(args.kills, args.frames or 512, seed=1)
    else:
        paper(args.size or 512, 1000, 10_000_000)
