"""Whether pages that skip frames delay the store: commit times with them and without, in one run of the daemon.

    python benchmarks/bench_slow_pages.py --folder /dev/shm                   # 20 minutes: sockets that take no CPU
    python benchmarks/bench_slow_pages.py --visits none browser --minutes 8   # a browser that draws on the same cores
    chrt -r 5 python benchmarks/bench_slow_pages.py …                         # on a machine that others keep busy

In memory (`/dev/shm`) the disk's own hesitation is left out, which pages cannot change: the ratio is then of less time, and
stricter. At real-time priority the work of others is left out.

Short blocks take turns: every round has one block of each kind, in random order, then the same backwards. What drifts on
the machine, or comes and goes within it, falls on all kinds alike; what is told is the ratio of p99, and its interval
over rounds drawn anew. Kinds of visit, eight pages each but for the last two:

    none     nobody looks
    stuck    asks twice a second and never reads: its first frame lies in the socket, and every later one is skipped
    slow     asks each second and reads 64 kB a second: most frames are skipped
    quick    one page that reads all and asks at once: what making the pictures costs, and nobody draws
    browser  Chromium that draws each frame in software: competition for two cores, and no matter of waiting

The camera and the visitors are processes of their own; the camera keeps its newest 500 files, as a full disk would have it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

VISITS = ("none", "stuck", "slow", "quick", "browser")
PAGES, CREDIT = 8, b'{"credit": 1}'
WARM_S = 8.0  # a run's first seconds are another matter
ARRIVE_S = 0.6  # of each block, in which the pages come and the last ones go; 2.5 s with a browser, which loads scripts
KEPT = 500
LONG_SIDE = 128  # of what the network sees: one that keeps up, its backlog is another matter


class Page:
    """A page as a socket, nothing in it drawn or even parsed."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)  # before it is joined: a small window
        self.socket.connect(address)
        host = "{}:{}".format(*address)
        self.socket.sendall(
            f"GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: token bench\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.socket.recv(1)
        if not answer.startswith(b"HTTP/1.1 101"):
            raise SystemExit(f"the page was refused: {answer!r}")
        self.socket.setblocking(False)

    def ask(self) -> None:
        """For the newest frame: a text message whose mask is zero."""
        self.socket.sendall(bytes((0x81, 0x80 | len(CREDIT), 0, 0, 0, 0)) + CREDIT)

    def take(self, n: int) -> None:
        """Up to n bytes of what lies there."""
        with contextlib.suppress(BlockingIOError):
            self.socket.recv(n)


def visitors(orders: Connection, port: int) -> None:
    """Comes as it is told, until it is told the next thing: one of VISITS, or `end`."""
    driver = None
    order = orders.recv()
    while order != "end":
        count = {"stuck": PAGES, "slow": PAGES, "quick": 1}.get(order, 0)
        pages = [Page(("127.0.0.1", port)) for _ in range(count)]
        every, ask_each, take = {"stuck": (0.25, 2, 0), "slow": (0.25, 4, 16384)}.get(order, (0.01, 1, 1 << 20))
        if order == "browser":
            if driver is None:
                from bench_page import browser

                driver = browser()
            driver.get(f"http://127.0.0.1:{port}/?token=bench")
        step = 0
        while not orders.poll(every if pages else None):
            for page in pages:
                if take:
                    page.take(take)
                if step % ask_each == 0:
                    page.ask()
            step += 1
        for page in pages:
            page.socket.close()
        if order == "browser" and driver is not None:
            driver.get("about:blank")
        order = orders.recv()
    if driver is not None:
        driver.quit()


def camera(ready: Path, into: Path, fps: float, begin: float, end: float) -> None:
    """Frames at a steady rate; whole under another name first."""
    files = sorted(ready.iterdir())
    for i in range(int(fps * (end - begin))):
        wait = begin + i / fps - time.perf_counter()
        if wait < -1.0:
            continue  # the whole was paused: no camera makes up for that
        time.sleep(max(0.0, wait))
        part = into / f"m{i:06d}.tif.part"
        shutil.copyfile(files[i % len(files)], part)
        part.rename(into / f"m{i:06d}.tif")
        (into / f"m{i - KEPT:06d}.tif").unlink(missing_ok=True)


def rounds(visits: list[str], n: int) -> list[str]:
    """Which visit in which block: n rounds, each in random order and backwards."""
    rng, plan = np.random.default_rng(), list[str]()
    for _ in range(n):
        order = [visits[k] for k in rng.permutation(len(visits))]
        plan += order + order[::-1]
    return plan


def commits(ready: Path, folder: Path, fps: float, plan: list[str], block_s: float, skip_s: float) -> list[list[float]]:
    """One run of the daemon. returns : of each block the commit times of its frames, s from the file's completion"""
    from emstream.config import load
    from emstream.live import Daemon

    source, told = folder / "camera", list[tuple[float, float]]()
    source.mkdir(parents=True)
    sets = ["view.http=127.0.0.1:0", "view.token=bench", "log.level=error", "store.fsync=true"]
    sets.append(f"segment.long_side_px={LONG_SIDE}")
    spawn = multiprocessing.get_context("spawn")
    with Daemon(source, folder / "runs", load(env={}, sets=sets)) as daemon:
        observe = daemon.metrics.latency
        daemon.metrics.latency = lambda to, s: (  # type: ignore[method-assign]
            observe(to, s), told.append((time.perf_counter() - s, s)) if to == "committed" else None
        )  # fmt: skip
        here, there = spawn.Pipe()
        port = int(daemon.url.rpartition(":")[2].partition("/")[0])
        guests = spawn.Process(target=visitors, args=(there, port))
        guests.start()
        first = time.perf_counter() + 3.0 + WARM_S
        end = first + len(plan) * block_s
        films = spawn.Process(target=camera, args=(ready, source, fps, first - WARM_S, end))
        films.start()

        def lead() -> None:
            for k, visit in enumerate(plan):
                time.sleep(max(0.0, first + k * block_s - time.perf_counter()))
                here.send(visit)
                if k % 20 == 0:
                    left, took = len(plan) - k, daemon.segmented
                    sys.stderr.write(f"{left} blocks to go, {daemon.committed} committed, {took} segmented\n")
            time.sleep(max(0.0, end - time.perf_counter()))
            here.send("end")
            films.join()
            time.sleep(1.0)
            daemon.stop()

        leading = threading.Thread(target=lead)
        leading.start()
        daemon.loop()
        leading.join()
        guests.join()
        if guests.exitcode or films.exitcode:
            raise SystemExit("the camera or the visitors broke off")
    found: list[list[float]] = [[] for _ in plan]
    for whole, s in told:
        k, rest = divmod(whole - first, block_s)
        if 0 <= k < len(plan) and rest > skip_s:
            found[int(k)].append(s)
    return found


def judge(blocks: list[tuple[int, str, list[float]]]) -> dict[str, Any]:
    """Quantiles of each kind of visit, and their ratios to `none`.

    blocks : (round, visit, commit times in s); rounds that miss frames, since all was paused, are left out
    """
    enough = 0.9 * float(np.median([len(s) for _, _, s in blocks]))
    paused = {r for r, _, s in blocks if len(s) < enough}
    blocks = [b for b in blocks if b[0] not in paused]
    rng, ms = np.random.default_rng(0), dict[str, dict[int, np.ndarray]]()
    for visit in dict.fromkeys(v for _, v, _ in blocks):
        numbers = sorted({r for r, _, _ in blocks})
        ms[visit] = {r: 1e3 * np.concatenate([s for q, v, s in blocks if (q, v) == (r, visit)]) for r in numbers}
    told: dict[str, Any] = {"rounds": len(numbers), "left_out": len(paused)}
    draws = rng.integers(len(numbers), size=(2000, len(numbers)))
    for visit, of in ms.items():
        whole = np.concatenate(list(of.values()))
        told[visit] = {"frames": len(whole)}
        told[visit] |= {f"p{p}_ms": round(float(np.percentile(whole, p)), 2) for p in (50, 95, 99)}
    for visit in [v for v in ms if v != "none"]:
        for p in (50, 95, 99):

            def ratio(which: Any, p: int = p, visit: str = visit) -> float:
                a, b = (np.percentile(np.concatenate([ms[v][numbers[k]] for k in which]), p) for v in ("none", visit))
                return float(b / a)

            again = [ratio(draw) for draw in draws]
            told[visit][f"p{p}_ratio"] = round(ratio(range(len(numbers))), 3)
            told[visit][f"p{p}_ratio_interval_90"] = [round(float(v), 3) for v in np.percentile(again, (5, 95))]
    return told


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    ask.add_argument("--visits", nargs="+", choices=VISITS, default=["none", "stuck", "slow"])
    ask.add_argument("--minutes", type=float, default=20.0)
    ask.add_argument("--fps", type=float, default=25.0)
    ask.add_argument("--side", type=int, default=256)
    ask.add_argument("--block-s", type=float, default=4.0)
    ask.add_argument("--folder", type=Path, help="where frames and runs lie; by default a temporary one")
    ask.add_argument("--into", type=Path, help="file that gathers the blocks of several runs; all of them are judged")
    given = ask.parse_args()
    if "none" not in given.visits:
        ask.error("--visits needs none, to compare with")
    drawn = "browser" in given.visits
    block_s, skip_s = (max(given.block_s, 8.0), 2.5) if drawn else (given.block_s, ARRIVE_S)
    plan = rounds(given.visits, max(1, round(60 * given.minutes / (2 * len(given.visits) * block_s))))
    with tempfile.TemporaryDirectory(prefix="emstream-slow-", dir=given.folder) as temporary:
        from emstream import simulate
        from emstream.source.play import play

        ready = Path(temporary) / "ready"
        movie = simulate.movie(64, (given.side, given.side), dose=20.0, seed=3)
        for _ in play(movie, ready, fmt="tiff", name="m"):
            pass
        found = commits(ready, Path(temporary), given.fps, plan, block_s, skip_s)
    mark = os.getpid()  # tells the rounds of several runs apart
    blocks = [(mark * 100_000 + k // (2 * len(given.visits)), plan[k], s) for k, s in enumerate(found)]
    if given.into is not None:
        with given.into.open("a") as file:
            file.writelines(json.dumps(block) + "\n" for block in blocks)
        blocks = [tuple(json.loads(line)) for line in given.into.read_text().splitlines()]
    sys.stdout.write(json.dumps(judge(blocks), indent=1) + "\n")


if __name__ == "__main__":
    main()
