"""A week at one frame a second, as fast as it goes, with everything that can happen to a daemon: nothing lost, nothing grows.

    python benchmarks/bench_soak.py --frames 604800 --seed 0 [--folder KEEP]   (mounting needs root; folders are renamed otherwise)

A camera writes movies that grow (MRC) and, between them, folders of single files; the daemon stores them, one run for each
part of the week: on one of its days everything is done to a frame, on one it is aligned and stored, on five only stored,
so that a life of many frames is seen. In each part the daemon is killed and started again, the store's disk is filled to
the last byte, the watched folder is unmounted and mounted again; where labels are made, another model is activated, too.
Its resident memory, open files, threads and the time that `/metrics` takes are noted all the while. At the end of a part
every frame must be in the run once, with the pixels that the camera wrote. With --folder the parts that are done are
remembered there: the same command goes on where it was interrupted, with the part that was under way from its beginning.
Prints the tables of reliability.md; exit code 1 when a frame is lost, doubled or wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import theilslopes
from soak_daemon import Daemon
from soak_world import Camera, Disk, Mount, Places, Scene

from emstream.store.chunks import decode
from emstream.store.layout import Layout, chunk_name

PAUSE_S, PATIENCE = 0.1, 3000  # between two looks at what is waited for, and how many of them
LONG = 2000  # frames of a life that must be flat in files and threads; a shorter one is still starting some
NETWORK = 1500  # frames that the network segments before the classical method is activated again


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the week."""

    days: int
    options: tuple[str, ...]
    segmented: bool = False


PARTS = {
    "everything": Part(1, (), True),
    "aligned": Part(1, ("--set=segment.enabled=false",)),
    "stored": Part(5, ("--set=segment.enabled=false", "--set=align.enabled=false")),
}


class Soak:
    """One part: the daemon's lives, what happens to them, and the samples."""

    def __init__(self, folder: Path, name: str, frames: int, seed: int, given: argparse.Namespace) -> None:
        self.name, self.part, self.frames, self.given = name, PARTS[name], frames, given
        self.rng = random.Random(seed)
        self.scene, self.places = Scene(given.side, seed), Places(given.movie, given.singles)
        megabytes = given.disk_mb or 64 + frames * (14 if self.part.segmented else 8) // 1024
        self.disk = Disk(folder / "disk", megabytes)
        self.mount = Mount(folder / "real", folder / "camera")
        self.out, self.log = self.disk.folder / "runs", folder / "log"
        self.camera = Camera(self.scene, self.places, folder / "real", frames)
        self.samples: list[dict[str, float]] = []
        self.life, self.before = 0, 0
        self.restarts: list[float] = []
        self.done = {"kill": 0, "full disk": 0, "unmount": 0, "model": 0}
        self.daemon: Daemon | None = None
        self.out.mkdir()
        if self.part.segmented:
            self.activate("classical")

    def events(self) -> list[tuple[int, str]]:
        """(frames stored, what happens then): kills in the first part, so that a long life follows; the rest anywhere."""
        n, given = self.frames, self.given
        found = [(min(1.0, self.rng.uniform(0.01, given.kills_until)), "kill") for _ in range(given.kills)]
        for count, what in ((given.full, "full disk"), (given.unmounts, "unmount")):
            found += [
                (self.rng.uniform(0.05, 0.95), what)
                for _ in range(count if what != "full disk" or self.disk.mounted else 0)
            ]
        for at in (self.rng.uniform(0.05, 0.9) for _ in range(given.swaps if self.part.segmented else 0)):
            found += [(at, "default"), (min(0.97, at + NETWORK / n), "classical")]
        return sorted((int(n * at), what) for at, what in found)

    def activate(self, model: str) -> None:
        command = [sys.executable, "-m", "emstream", "models", "activate", model, str(self.out)]
        subprocess.run(command, check=True, capture_output=True)

    def begin(self) -> None:
        self.before = self.stored()
        options = ["--set=store.low_water_mb=0", *self.part.options, *(f"--set={o}" for o in self.given.set)]
        self.daemon = Daemon(self.mount.seen, self.out, self.log, options)
        self.life += 1

    def stored(self) -> int:
        """Frames that the ledger counts as stored."""
        rows = self.out / ".emstream" / "ledger.sqlite"
        if not rows.is_file():
            return 0
        with contextlib.closing(sqlite3.connect(f"file:{rows}?mode=ro", uri=True, timeout=30)) as db:
            try:
                asked = "SELECT coalesce(max(slot) + 1, 0) FROM frames WHERE state IN ('COMMITTED', 'SEGMENTED')"
                return int(db.execute(asked).fetchone()[0])
            except sqlite3.OperationalError:
                return 0

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
        self.camera.stored(int(sample["stored"]))
        if sample["committed"]:
            self.samples.append(sample)
        return sample

    def until(self, reached: str, value: float) -> None:
        """Looks are counted, not seconds: the whole may be stopped for a while."""
        for _ in range(PATIENCE):
            if (sample := self.look()) is not None and sample[reached] == value:
                return
            time.sleep(PAUSE_S)
        raise AssertionError(f"{reached} did not become {value}")

    def happen(self, what: str) -> None:
        assert self.daemon is not None
        if what != "kill":  # it may have only just been started
            while (sample := self.look()) is None or not (sample["committed"] or sample["stored"] >= self.frames):
                time.sleep(PAUSE_S)
            if what == "full disk" and sample["stored"] >= self.frames:
                return  # nothing is written any more
        if what == "kill":
            self.daemon.kill()
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
        else:
            self.activate(what)
            for _ in range(PATIENCE):
                if f'emstream_model_info{{name="{what}"' in self.daemon.get("/metrics")[1]:
                    break
                self.look()
                time.sleep(PAUSE_S)
            else:
                raise AssertionError(f"{what} was not taken up")
        self.done[what if what in self.done else "model"] += 1
        print(f"{self.name}: {what}", file=sys.stderr, flush=True)

    def run(self) -> None:
        """Until every frame is stored, and segmented where that is to be; the daemon then leaves."""
        self.begin()
        self.camera.start()
        waiting, told, began = self.events(), time.monotonic(), time.monotonic()
        while True:
            sample = self.look()
            while sample is not None and waiting and sample["stored"] >= waiting[0][0]:
                self.happen(waiting.pop(0)[1])
                sample = self.look()  # none of a life that has just begun
            if sample is not None:
                if sample["stored"] >= self.frames and not sample["segmentation_backlog_frames"]:
                    break
                if time.monotonic() - told > 30:
                    told = time.monotonic()
                    print(json.dumps({k: round(v, 2) for k, v in sample.items()}), file=sys.stderr, flush=True)
            if self.given.minutes and time.monotonic() - began > 60 * self.given.minutes:
                self.frames = self.camera.stop()  # what there is, is finished
            time.sleep(self.given.every)
        assert self.daemon is not None
        self.daemon.finish()

    def verify(self) -> dict[str, int]:
        """Every planted frame against the ledger and the chunks."""
        planted = {self.places.of(i): i for i in range(self.frames)}
        found: Counter[tuple[str, int]] = Counter()
        wrong, unsegmented, models = 0, 0, set[str]()
        with contextlib.closing(sqlite3.connect(self.out / ".emstream" / "ledger.sqlite")) as db:
            rows = db.execute(
                "SELECT path, sub, slot, source_crc32c, dy, dx, state, model FROM frames WHERE state IN ('COMMITTED', 'SEGMENTED')"
            )
            for path, sub, slot, checksum, *shift, state, model in rows:
                found[path, sub] += 1
                unsegmented += self.part.segmented and state != "SEGMENTED"
                models |= {model} if model else set()
                i = planted.get((path, sub))
                if i is None or checksum != self.scene.checksum(i) or not self.whole(i, slot, shift):
                    wrong += 1
                    what = "not planted" if i is None else f"frame {i}, shift {shift}"
                    print(f"wrong: {path} {sub} in slot {slot}, {what}", file=sys.stderr, flush=True)
        lost, doubled = len(planted.keys() - found.keys()), sum(found.values()) - len(found)
        return {
            "frames": sum(found.values()), "lost": lost, "doubled": doubled, "wrong": wrong,
            "unsegmented": unsegmented, "models": len(models),
        }  # fmt: skip

    def whole(self, i: int, slot: int, shift: list[float]) -> bool:
        """Whether a slot holds the planted frame's pixels where its shift (dy, dx) px lays them."""
        side, layout = self.given.side, Layout((self.given.side,) * 2, "uint16")
        data = (self.out / "week.zarr" / "0" / chunk_name(slot)).read_bytes()
        stored = decode(data, layout.images()["0"], layout.compressor_of("0"))
        moved = [int(np.floor(s + 0.5)) for s in shift]
        inside = tuple(slice(max(0, d), max(0, side + min(0, d))) for d in moved)
        return np.array_equal(np.roll(self.scene.frame(i), moved, (0, 1))[inside], stored[inside])

    def growth(self) -> dict[str, float]:
        """Bytes of resident memory a frame in the longest life, after its first fifth (Theil–Sen, and least squares); the rest.

        A frame is done when it is stored, and segmented where that is to be.
        """
        lives = Counter(s["life"] for s in self.samples)
        rows = [s for s in self.samples if s["life"] == lives.most_common(1)[0][0]]
        done = "segmented" if self.part.segmented else "stored"
        first, last = rows[0][done], rows[-1][done]
        late = [s for s in rows if s[done] >= first + (last - first) / 5]
        x, y = (np.array([s[k] for s in late]) for k in (done, "rss"))
        sen = theilslopes(y, x) if len(x) > 2 else (np.nan,) * 4
        ms = np.array([s["metrics_ms"] for s in self.samples])
        return {
            "frames of the longest life": last - first,
            "rss MB": y[0] / 1e6,
            "rss last MB": y[-1] / 1e6,
            "bytes a frame": float(sen[0]),
            "at most (95 %)": float(sen[3]),
            "least squares": float(np.polyfit(x, y, 1)[0]) if len(x) > 2 else float("nan"),
            "files": float(np.median([s["files"] for s in late])),
            "files more": risen([s["files"] for s in late]),
            "threads": float(np.median([s["threads"] for s in late])),
            "threads more": risen([s["threads"] for s in late]),
            "/metrics p50 ms": float(np.percentile(ms, 50)),
            "/metrics p99 ms": float(np.percentile(ms, 99)),
            "restart median s": float(np.median(self.restarts)),
        }

    def close(self) -> None:
        if self.daemon is not None and self.daemon.process.poll() is None:
            self.daemon.kill()
        self.camera.stop()
        self.mount.close()
        self.disk.close()


def risen(values: list[float]) -> float:
    """How far a number's lowest value rose from the first fifth of a time to the last: a group under way holds files open."""
    fifth = max(1, len(values) // 5)
    return float(min(values[-fifth:]) - min(values[:fifth]))


def live_through(folder: Path, name: str, frames: int, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """One part, from its beginning, in a folder of its own that is gone afterwards: what happened, was found, grew."""
    folder.mkdir()
    soak = Soak(folder, name, frames, seed, given)
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
            given.samples.with_stem(f"{given.samples.stem}_{name.replace(' ', '_')}").write_text(
                "\n".join(lines) + "\n"
            )
        soak.close()
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "asked": soak.frames,
        "done": {"seconds": round(seconds), **soak.done},
        "found": found,
        "grown": soak.growth(),
    }


def table(results: dict[str, dict[str, Any]], which: str) -> str:
    """One row for each part."""
    columns = list(next(iter(results.values()))[which])
    lines = ["| part | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, result in results.items():
        values = (result[which].get(column, float("nan")) for column in columns)
        told = (str(v) if isinstance(v, int) or v != v else f"{v:.4g}" if abs(v) < 1e4 else str(int(v)) for v in values)
        lines.append(f"| {name} | " + " | ".join(told) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    ask = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    ask.add_argument("--frames", type=int, default=604_800, help="of the parts together")
    ask.add_argument("--parts", default="", help="of these alone: beginnings of their names, comma separated")
    ask.add_argument("--folder", type=Path, default=None, help="where to remember the parts that are done")
    ask.add_argument("--side", type=int, default=32)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--kills", type=int, default=20, help="in each part, as the three that follow")
    ask.add_argument(
        "--kills-until",
        type=float,
        default=0.35,
        help="the part of the frames in which kills come; 2: half of them when all are stored",
    )
    ask.add_argument("--full", type=int, default=3, help="times that the disk is filled")
    ask.add_argument("--unmounts", type=int, default=3)
    ask.add_argument(
        "--swaps", type=int, default=3, help="times that the network is activated, and the classical method again"
    )
    ask.add_argument("--set", action="append", default=[], help="a setting of the daemon")
    ask.add_argument("--disk-mb", type=int, default=0, help="of the store's disk; 0 = as much as the part needs")
    ask.add_argument("--every", type=float, default=1.0, help="seconds between two samples")
    ask.add_argument(
        "--minutes", type=float, default=0.0, help="stop each part after so long, with the frames that there are"
    )
    ask.add_argument("--samples", type=Path, default=None, help="a CSV of all samples, for each part")
    ask.add_argument("--movie", type=int, default=8000, help="frames of a movie")
    ask.add_argument("--singles", type=int, default=1000, help="single files after each movie")
    given = ask.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    chosen = {k: v for k, v in PARTS.items() if k.startswith(tuple(given.parts.split(",")))}
    days = sum(part.days for part in chosen.values())
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="emstream-soak-")))
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "done.json"
        results = json.loads(kept.read_text()) if kept.exists() else {}
        for k, (name, part) in enumerate(chosen.items()):
            if name not in results:
                place = Path(tempfile.mkdtemp(prefix="part-", dir=folder)) / "part"
                results[name] = live_through(place, name, given.frames * part.days // days, given.seed + k, given)
                place.parent.rmdir()
                kept.write_text(json.dumps(results))
                print(f"{name}: {json.dumps(results[name])}", file=sys.stderr, flush=True)
    for which in ("done", "found", "grown"):
        print(table(results, which))
    bad = [
        any(r["found"][k] for k in ("lost", "doubled", "wrong", "unsegmented")) or r["found"]["frames"] != r["asked"]
        or (r["grown"]["frames of the longest life"] >= LONG and (r["grown"]["files more"] > 8 or r["grown"]["threads more"] > 2))
        for r in results.values()
    ]  # fmt: skip
    return int(any(bad))


if __name__ == "__main__":
    sys.exit(main())
