"""A week at one frame a second, as fast as it goes, with everything that can happen to a daemon: nothing lost, nothing grows.

    python benchmarks/bench_soak.py --frames 604800 --seed 0        (mounting needs root; folders are renamed otherwise)

A camera writes movies that grow (MRC) and, between them, folders of single files; the daemon aligns, stores and segments
them into one run. Meanwhile it is killed and started again, the store's disk is filled to the last byte, the watched
folder is unmounted and mounted again, another model is activated. Its resident memory, open files, threads and the time
that `/metrics` takes are noted every second. At the end every frame must be in the run once, with the pixels that the
camera wrote. Prints the table of reliability.md; exit code 1 when a frame is lost, doubled or wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np

from emstream.store.chunks import decode
from emstream.store.layout import Layout, chunk_name

MOVIE, SINGLES = 8000, 1000  # frames of a movie, then of a folder of single files, when the run is long
AHEAD = 4000  # frames that the camera is ahead of the daemon
MODELS = ("classical", "default")
HEADER = 1024


class Scene:
    """The planted frames: (side, side) uint16, every one with its number in it."""

    def __init__(self, side: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:side, :side] / side
        disc = 300 * (np.hypot(y - 0.5, x - 0.45) < 0.16)
        self._few = rng.poisson(400 + disc, (64, side, side)).astype(np.uint16)

    def frame(self, i: int) -> np.ndarray:
        image = self._few[i % 64].copy()
        image[0, :2] = i >> 16, i & 0xFFFF
        return image

    def checksum(self, i: int) -> int:
        return int(google_crc32c.value(self.frame(i).tobytes()))


def place(i: int) -> tuple[str, int]:
    """The file of a planted frame, relative to the watched folder, and its index in it."""
    block, k = divmod(i, MOVIE + SINGLES)
    return (f"{block:04d}_movie.mrc", k) if k < MOVIE else (f"{block:04d}_single/f_{k - MOVIE:05d}.npy", 0)


def risen(values: list[float]) -> float:
    """How far a number's lowest value rose from the first fifth of a time to the last: a group under way holds files open."""
    fifth = max(1, len(values) // 5)
    return float(min(values[-fifth:]) - min(values[:fifth]))


class Camera(threading.Thread):
    """Writes the frames, never more than AHEAD before the daemon; movies grow, single files are renamed into place."""

    def __init__(self, scene: Scene, folder: Path, frames: int) -> None:
        super().__init__(daemon=True, name="camera")
        self.scene, self.folder, self.frames = scene, folder, frames
        self.written = self.stored = 0
        self.stop = threading.Event()

    def run(self) -> None:
        movie = None
        for i in range(self.frames):
            while i >= self.stored + AHEAD:
                if self.stop.wait(0.02):
                    return
            name, k = place(i)
            path = self.folder / name
            pixels = self.scene.frame(i)
            if name.endswith(".mrc"):
                if k == 0:
                    movie = path.open("wb")
                    movie.write(_mrc_header(pixels.shape))
                assert movie is not None
                movie.write(pixels.tobytes())
                if k % 50 == 49 or i == self.frames - 1 or k == MOVIE - 1:
                    movie.flush()
            else:
                path.parent.mkdir(exist_ok=True)
                np.save(path.with_name(f".{path.name}"), pixels)
                path.with_name(f".{path.name}").rename(path)
            self.written = i + 1
        if movie is not None:
            movie.close()


def _mrc_header(shape: tuple[int, ...]) -> bytes:
    """A header of a movie whose length its writer does not know yet."""
    head = np.zeros(HEADER // 4, "<i4")
    head[:4] = shape[1], shape[0], 0, 6
    head[7:10] = shape[1], shape[0], 1
    head[10:13] = np.array([5.0 * shape[1], 5.0 * shape[0], 5.0], "<f4").view("<i4")
    head[16:19] = 1, 2, 3
    head[52] = int.from_bytes(b"MAP ", "little")
    head[53] = 0x00004144
    return head.tobytes()


class Daemon:
    """`emstream live` as a process, and what the system and `/metrics` say of it."""

    def __init__(self, source: Path, out: Path, log: Path, options: list[str]) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "emstream",
            "live",
            source,
            out,
            "--http",
            f"127.0.0.1:{self.port}",
            "--name",
            "week",
        ]
        command += ["--set", "source.group=all", "--set", "view.token=secret", *options]
        self.began = time.monotonic()
        with log.open("ab") as err:
            self.process = subprocess.Popen([str(c) for c in command], stdout=err, stderr=err)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    def sample(self) -> dict[str, float] | None:
        """None while it does not answer."""
        began = time.perf_counter()
        code, text = self.get("/metrics")
        took = time.perf_counter() - began
        if code != 200:
            return None
        values = {"metrics_ms": 1e3 * took}
        for name in ("committed", "segmented"):
            found = re.search(rf'frames_total{{state="{name}"}} ([0-9.e+]+)', text)
            values[name] = float(found[1]) if found else 0.0
        for name in ("watch_up", "store_up"):
            found = re.search(rf"^emstream_{name} ([0-9.]+)", text, re.MULTILINE)
            values[name] = float(found[1]) if found else 1.0
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            values["rss"] = 1024.0 * int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]
            values["threads"] = float(re.search(r"Threads:\s+(\d+)", status)[1])  # type: ignore[index]
            values["files"] = float(len(os.listdir(f"/proc/{self.process.pid}/fd")))
        except (OSError, TypeError):
            return None
        return values


class Disk:
    """The store's file system, small and in memory where it can be mounted; `fill` takes what is free."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        folder.mkdir()
        self.mounted = _mount("-t", "tmpfs", "-o", f"size={megabytes}m,nr_inodes=0", "none", str(folder))

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.folder / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))

    def empty(self) -> None:
        (self.folder / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=False)


class Mount:
    """The watched folder, which can go away and come back: a bind mount, or a folder that is renamed."""

    def __init__(self, real: Path, seen: Path) -> None:
        self.real, self.seen = real, seen
        real.mkdir()
        seen.mkdir()
        self.bound = _mount("--bind", str(real), str(seen))
        if not self.bound:
            seen.rmdir()
            seen.symlink_to(real)

    def away(self) -> None:
        if self.bound:
            subprocess.run(["umount", "-l", str(self.seen)], check=True)
        else:
            self.seen.unlink()

    def back(self) -> None:
        if self.bound:
            _mount("--bind", str(self.real), str(self.seen))
        else:
            self.seen.symlink_to(self.real)


def _mount(*args: str) -> bool:
    try:
        return subprocess.run(["mount", *args], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


class Soak:
    """The daemon's lives, what happens to them, and the samples."""

    def __init__(self, folder: Path, given: argparse.Namespace) -> None:
        self.given, self.rng = given, random.Random(given.seed)
        self.folder, self.scene = folder, Scene(given.side, given.seed)
        self.disk = Disk(folder / "disk", given.disk_mb)
        self.mount = Mount(folder / "real", folder / "camera")
        self.out, self.log = self.disk.folder / "runs", folder / "log"
        self.camera = Camera(self.scene, folder / "real", given.frames)
        self.samples: list[dict[str, float]] = []
        self.life, self.before, self.model = 0, 0, 0
        self.restarts: list[float] = []
        self.done = {"kill": 0, "full disk": 0, "unmount": 0, "model": 0}
        self.daemon: Daemon | None = None
        self.segmented = not any(s.replace(" ", "") == "segment.enabled=false" for s in given.set)

    def events(self) -> list[tuple[int, str]]:
        """(frames stored, what happens then): kills in the first part, so that a long life follows; the rest anywhere."""
        n, given = self.given.frames, self.given
        found = [(self.rng.uniform(0.01, given.kills_until), "kill") for _ in range(given.kills)]
        for count, what in ((given.full, "full disk"), (given.unmounts, "unmount"), (given.swaps, "model")):
            found += [(self.rng.uniform(0.05, 0.95), what) for _ in range(count)]
        return sorted((int(n * at), what) for at, what in found)

    def begin(self) -> None:
        options = [f"--set={o}" for o in ("store.low_water_mb=0", "log.level=warning", *self.given.set)]
        if self.given.model:
            options += ["--model", self.given.model]
        self.before = self.stored()
        self.daemon = Daemon(self.folder / "camera", self.out, self.log, options)
        self.life += 1

    def stored(self) -> int:
        """Frames that the ledger counts as stored."""
        rows = self.out / ".emstream" / "ledger.sqlite"
        if not rows.is_file():
            return 0
        db = sqlite3.connect(f"file:{rows}?mode=ro", uri=True, timeout=30)
        try:
            found = db.execute(
                "SELECT coalesce(max(slot) + 1, 0) FROM frames WHERE state IN ('COMMITTED', 'SEGMENTED')"
            ).fetchone()
            return int(found[0])
        except sqlite3.OperationalError:
            return 0
        finally:
            db.close()

    def look(self) -> dict[str, float] | None:
        """One sample."""
        assert self.daemon is not None
        code = self.daemon.process.poll()
        assert code is None, f"the daemon ended by itself with {code}: see {self.log}"
        sample = self.daemon.sample()
        if sample is None:
            return None
        if sample["committed"] and not any(s["life"] == self.life for s in self.samples[-1:]):
            self.restarts.append(time.monotonic() - self.daemon.began)
        sample |= {"life": self.life, "stored": self.before + sample["committed"], "at": time.monotonic()}
        self.camera.stored = int(sample["stored"])
        if sample["committed"]:
            self.samples.append(sample)
        return sample

    def until(self, reached: str, value: float, patience_s: float = 120.0) -> None:
        end = time.monotonic() + patience_s
        while ((sample := self.look()) is None or sample[reached] != value) and time.monotonic() < end:
            time.sleep(0.1)
        assert sample is not None, "the daemon does not answer"
        assert sample[reached] == value, f"{reached} did not become {value}"

    def happen(self, what: str) -> None:
        assert self.daemon is not None
        if what == "model" and not self.segmented:
            return
        while what != "kill" and ((sample := self.look()) is None or not sample["committed"]):
            time.sleep(0.1)  # it has only just been started
        if what == "kill":
            self.daemon.process.kill()
            self.daemon.process.wait()
            self.begin()
        elif what == "full disk":
            self.disk.fill()
            self.until("store_up", 0.0)
            self.disk.empty()
            self.until("store_up", 1.0)
        elif what == "unmount":
            self.mount.away()
            self.until("watch_up", 0.0)
            self.mount.back()
            self.until("watch_up", 1.0)
        elif what == "model":
            self.model += 1
            name = MODELS[self.model % len(MODELS)]
            command = [sys.executable, "-m", "emstream", "models", "activate", name, str(self.out)]
            subprocess.run(command, check=True, capture_output=True)
            end = time.monotonic() + 120
            while f'emstream_model_info{{name="{name}"' not in self.daemon.get("/metrics")[1]:
                assert time.monotonic() < end, f"{name} was not taken up"
                self.look()
                time.sleep(0.2)
        self.done[what] = self.done.get(what, 0) + 1
        print(f"{what}: {self.camera.stored} frames", file=sys.stderr, flush=True)

    def run(self) -> None:
        self.begin()
        self.camera.start()
        waiting = [(at, what) for at, what in self.events() if what != "full disk" or self.disk.mounted]
        told = time.monotonic()
        while True:
            sample = self.look()
            if sample is not None:
                while waiting and sample["stored"] >= waiting[0][0]:
                    self.happen(waiting.pop(0)[1])
                    sample = self.look() or sample
                if sample["stored"] >= self.given.frames and self.all_segmented():
                    break
                if time.monotonic() - told > 30:
                    told = time.monotonic()
                    print(json.dumps({k: round(v, 2) for k, v in sample.items()}), file=sys.stderr, flush=True)
            if self.given.minutes and time.monotonic() - self.started > 60 * self.given.minutes:
                self.given.frames = self.camera.frames = self.camera.written  # what there is, is finished
                self.camera.stop.set()
                self.given.minutes = 0
            time.sleep(self.given.every)
        assert self.daemon is not None
        self.daemon.process.send_signal(signal.SIGTERM)
        assert self.daemon.process.wait(600) == 0

    started = time.monotonic()

    def all_segmented(self) -> bool:
        code, text = self.daemon.get("/metrics")  # type: ignore[union-attr]
        found = re.search(r"segmentation_backlog_frames ([0-9.e+]+)", text)
        return code == 200 and found is not None and float(found[1]) == 0

    def verify(self) -> dict[str, int]:
        """Every planted frame against the ledger and the chunks."""
        n, side = self.given.frames, self.given.side
        planted = {place(i): i for i in range(n)}
        layout = Layout((side, side), "uint16")
        compressor = layout.compressor_of("0")
        found: Counter[tuple[str, int]] = Counter()
        wrong, unsegmented, models = 0, 0, set[str]()
        with contextlib.closing(sqlite3.connect(self.out / ".emstream" / "ledger.sqlite")) as db:
            rows = db.execute(
                "SELECT path, sub, slot, source_crc32c, dy, dx, state, model FROM frames WHERE state IN ('COMMITTED', 'SEGMENTED')"
            )
            for path, sub, slot, checksum, *shift, state, model in rows:
                found[path, sub] += 1
                unsegmented += state != "SEGMENTED"
                models |= {model} if model else set()
                i = planted.get((path, sub))
                if i is None or checksum != self.scene.checksum(i):
                    wrong += 1
                    continue
                data = (self.out / "week.zarr" / "0" / chunk_name(slot)).read_bytes()
                stored = decode(data, layout.images()["0"], compressor)
                dy, dx = (int(np.floor(s + 0.5)) for s in shift)
                inside = (slice(max(0, dy), side + min(0, dy)), slice(max(0, dx), side + min(0, dx)))
                wrong += not np.array_equal(np.roll(self.scene.frame(i), (dy, dx), (0, 1))[inside], stored[inside])
        return {
            "frames": sum(found.values()),
            "lost": len(planted.keys() - found.keys()),
            "doubled": sum(found.values()) - len(found),
            "wrong": wrong,
            "unsegmented": unsegmented if self.segmented else 0,
            "models": len(models),
        }

    def growth(self) -> dict[str, float]:
        """Bytes of resident memory a frame in the longest life, after its first fifth, by least squares; and the rest."""
        lives = {s["life"] for s in self.samples}
        longest = max(lives, key=lambda k: sum(s["life"] == k for s in self.samples))
        rows = [s for s in self.samples if s["life"] == longest]
        first, last = rows[0]["stored"], rows[-1]["stored"]
        late = [s for s in rows if s["stored"] >= first + (last - first) / 5]
        x, y = (np.array([s[k] for s in late]) for k in ("stored", "rss"))
        ms = np.array([s["metrics_ms"] for s in self.samples])
        return {
            "frames of the longest life": last - first,
            "rss first MB": y[0] / 1e6,
            "rss last MB": y[-1] / 1e6,
            "bytes a frame": float(np.polyfit(x, y, 1)[0]) if len(x) > 2 else float("nan"),
            "files": float(np.median([s["files"] for s in late])),
            "files more": risen([s["files"] for s in late]),
            "threads": float(np.median([s["threads"] for s in late])),
            "threads more": risen([s["threads"] for s in late]),
            "/metrics p50 ms": float(np.percentile(ms, 50)),
            "/metrics p99 ms": float(np.percentile(ms, 99)),
            "restart to first frame, most s": max(self.restarts),
        }

    def close(self) -> None:
        if self.daemon is not None and self.daemon.process.poll() is None:
            self.daemon.process.kill()
            self.daemon.process.wait()
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            self.mount.away()
        self.disk.close()


@contextlib.contextmanager
def scratch(where: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="emstream-soak-", dir=where))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    ask = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    ask.add_argument("--frames", type=int, default=604_800)
    ask.add_argument("--side", type=int, default=32)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--kills", type=int, default=40)
    ask.add_argument("--kills-until", type=float, default=0.35, help="the part of the frames in which kills come")
    ask.add_argument("--full", type=int, default=6, help="times that the disk is filled")
    ask.add_argument("--unmounts", type=int, default=6)
    ask.add_argument("--swaps", type=int, default=6, help="times that another model is activated")
    ask.add_argument("--model", default="")
    ask.add_argument("--set", action="append", default=[], help="a setting of the daemon")
    ask.add_argument("--disk-mb", type=int, default=8192)
    ask.add_argument("--every", type=float, default=1.0, help="seconds between two samples")
    ask.add_argument("--minutes", type=float, default=0.0, help="stop after so long, with the frames that there are")
    ask.add_argument("--where", type=Path, default=None)
    ask.add_argument("--samples", type=Path, default=None, help="a CSV of all samples")
    ask.add_argument("--movie", type=int, default=MOVIE, help="frames of a movie")
    ask.add_argument("--singles", type=int, default=SINGLES, help="single files after each movie")
    given = ask.parse_args()
    globals().update(MOVIE=given.movie, SINGLES=given.singles)
    with scratch(given.where) as folder:
        soak = Soak(folder, given)
        began = time.monotonic()
        try:
            soak.run()
            seconds = time.monotonic() - began
            found = soak.verify()
        except BaseException:
            print(soak.log.read_text()[-4000:] if soak.log.exists() else "", file=sys.stderr)
            raise
        finally:
            if given.samples is not None and soak.samples:
                names = list(soak.samples[0])
                lines = [",".join(names), *(",".join(f"{s[k]:.3f}" for k in names) for s in soak.samples)]
                given.samples.write_text("\n".join(lines) + "\n")
            soak.close()
        grown = soak.growth()
        for table in ({"seconds": seconds, **soak.done}, found, grown):
            print("| " + " | ".join(table) + " |\n" + "|---" * len(table) + "|")
            print("| " + " | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in table.values()) + " |\n")
    wrong = any(found[k] for k in ("lost", "doubled", "wrong", "unsegmented")) or found["frames"] != given.frames
    return int(wrong or grown["files more"] > 8 or grown["threads more"] > 2)


if __name__ == "__main__":
    sys.exit(main())
