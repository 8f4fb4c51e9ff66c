"""How soon the page shows what is known, in a headless Chromium that draws in software; what a slow page costs the store.

    python benchmarks/bench_page.py show  --fps 30 --seconds 20     # labels ready → drawn on the canvas
    python benchmarks/bench_page.py scrub --frames 28800 --fps 1    # a wish on the slider → that frame on the canvas
    python benchmarks/bench_page.py scrub --frames 864000 --fps 30
    python benchmarks/bench_page.py slow  --fps 10                  # commit times with and without pages that never read

The clock of both sides is the machine's. `drawn` is the moment after the last call on the canvas, in the page.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from long_run import long_run
from selenium import webdriver
from websockets.sync.client import connect

from emstream import measure, simulate
from emstream.config import load
from emstream.live import Daemon
from emstream.metrics import Metrics
from emstream.source.play import play
from emstream.view import ViewOptions
from emstream.view.latest import Latest
from emstream.view.server import start
from emstream.view.shown import DaemonStatus, Shown, whereabouts
from emstream.view.stored import serve

WARM_S = 8.0  # a run's first seconds are another matter
FLAGS = "--headless=new --no-sandbox --disable-gpu --use-angle=swiftshader --disable-dev-shm-usage --no-first-run --window-size=1366,768"
WATCH = """window.drawn = []; new MutationObserver(() => window.drawn.push([+document.documentElement.dataset.frame,
 performance.timeOrigin + performance.now()])).observe(document.documentElement, {attributes: true, attributeFilter: ['data-frame']})"""
HEAR = """window.heard = {}; const Plain = WebSocket; window.WebSocket = class extends Plain { constructor(...a) { super(...a);
 this.addEventListener('message', ({data}) => { if (typeof data !== 'string') { const n = new DataView(data).getUint32(4, true);
 const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 8, n))); window.heard[head.frame] = performance.timeOrigin + performance.now(); } }); } }"""
WISH = """const [frame, done] = arguments, slider = document.getElementById('scrub'), begin = performance.now();
 const look = () => { if (document.documentElement.dataset.frame === String(frame)) done(performance.now() - begin);
 else if (performance.now() - begin > 20000) done(null); else setTimeout(look, 1); };
 slider.value = frame; slider.dispatchEvent(new Event('input')); look();"""
DRAG = """const [from, to, n, done] = arguments, slider = document.getElementById('scrub'); let i = 0, begin;
 const look = () => { if (document.documentElement.dataset.frame === String(to)) done([performance.now() - begin, window.drawn.length]);
 else if (performance.now() - begin > 20000) done(null); else setTimeout(look, 1); };
 window.drawn.length = 0;
 const move = () => { slider.value = Math.round(from + (to - from) * ++i / n); slider.dispatchEvent(new Event('input'));
 if (i < n) setTimeout(move, 16); else { begin = performance.now(); look(); } }; move();"""


def browser() -> Any:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in FLAGS.split():
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(60)
    return driver


def quantiles(values: Any) -> dict[str, float]:
    p50, p95, p99 = np.percentile(np.asarray(values, float), (50, 95, 99))
    return {
        "n": len(values),
        "p50": round(p50, 2),
        "p95": round(p95, 2),
        "p99": round(p99, 2),
        "max": round(max(values), 2),
    }


def show(fps: float, seconds: float, side: int) -> dict[str, Any]:
    """Frames whose labels are ready at `fps`, in this process as in the daemon; what one page shows of them, and when."""
    movie = simulate.movie(64, (side, side), particles=100, dose=20.0, fps=fps, seed=2)
    made = []
    for i in range(64):
        labels, pixels = movie.labels(i), movie.frame(i)
        made.append((pixels, labels, measure.particles(labels, pixels)))
    latest, ready = Latest(), {}
    options = ViewOptions(http="127.0.0.1:0")
    with start(latest, options, metrics=Metrics(), runs=list, ready=lambda: (True, [])) as server:
        latest.status(DaemonStatus(state="streaming"))
        driver = browser()
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": HEAR})
        driver.get(server.url)
        driver.execute_script(WATCH)
        begin = time.perf_counter()
        for i in range(int(fps * seconds)):
            time.sleep(max(0.0, begin + i / fps - time.perf_counter()))
            pixels, labels, columns = made[i % 64]
            areas, places = whereabouts(columns)
            ready[i] = time.time()
            latest.show(
                Shown(
                    run="bench", frame=i, time_s=1e9 + i / fps, pixels=pixels, label_image=labels, status=3,
                    pixel_size_nm=(0.5, 0.5), confidence=0.9, drift_speed=1.0, count=len(columns["label"]),
                    area_fraction=0.1, labels=columns["label"], diameters=columns["diameter"].astype(np.float32),
                    tracks=columns["label"].astype(np.int64), areas=areas, places=places, model="bench",
                )
            )  # fmt: skip
        time.sleep(0.5)
        drawn, heard = driver.execute_script("return [window.drawn, window.heard]")
        driver.quit()
    rows = [(f, at / 1e3 - ready[f]) for f, at in drawn if f >= 2 * fps]  # the first two seconds: plotly is loaded
    late = quantiles([1e3 * dt for _, dt in rows])
    sent = int(fps * (seconds - 2))
    received = quantiles([heard[str(f)] - 1e3 * ready[f] for f, _ in rows])
    return {
        "ready_to_drawn_ms": late,
        "ready_to_received_ms": received,
        "sent": sent,
        "shown": len(rows),
        "share": round(len(rows) / sent, 3),
    }


def scrub(frames: int, fps: float, folder: Path) -> dict[str, Any]:
    """Wishes all over a stored run, each one new, then a drag across it."""
    rng = np.random.default_rng(1)
    wishes = [int(v) for v in rng.choice(frames - 2, 60, replace=False) + 1]
    some = None if frames <= 100_000 else [0, *wishes, *range(0, frames, 1000), frames - 1]
    if not (folder / "long.zarr").exists():
        began = time.perf_counter()
        long_run(folder, frames, fps, pixels_of=some)
        sys.stderr.write(f"made in {time.perf_counter() - began:.0f} s\n")
    with serve(folder, ViewOptions(http="127.0.0.1:0")) as server:
        driver = browser()
        began = time.perf_counter()
        driver.get(server.url)
        driver.execute_script(WATCH)
        ready = "return document.documentElement.dataset.frame === '0' && !document.getElementById('scrub').disabled"
        while not driver.execute_script(ready):
            time.sleep(0.02)
        opened = time.perf_counter() - began
        whole = (
            "const d = document.getElementById('chart-diameter').data; return Boolean(d && d[2] && d[2].y.length > 100)"
        )
        while not driver.execute_script(whole):
            time.sleep(0.05)
        curves = time.perf_counter() - began
        time.sleep(3.0)
        took = [driver.execute_async_script(WISH, frame) for frame in wishes]
        drags = []
        for k in range(5):
            ends = (0, frames - 1) if k % 2 else (frames - 1, 0)
            drags.append(driver.execute_async_script(DRAG, *ends, 60))
        driver.quit()
    return {
        "wish_to_drawn_ms": quantiles(took), "opened_s": round(opened, 2), "curves_s": round(curves, 2),
        "drag_end_to_drawn_ms": quantiles([d[0] for d in drags]), "frames_drawn_in_a_drag_of_60": [d[1] for d in drags],
    }  # fmt: skip


def commits(ready: Path, folder: Path, fps: float, blocks: int, block_s: float) -> list[tuple[bool, list[float]]]:
    """One run of the daemon, in blocks of time without and with pages that never read, in the order ABBA ABBA …

    returns : of each block whether the pages were there, and the commit times, s from the file's completion, of its frames;
              the first tenth of a block is left out
    """
    camera, out, told = folder / "camera", folder / "runs", list[tuple[float, float]]()
    camera.mkdir(parents=True)
    sets = [
        "view.http=127.0.0.1:0",
        "view.token=bench",
        "log.level=error",
        "store.fsync=true",
        "segment.long_side_px=256",
    ]
    settings = load(env={}, sets=sets)  # a network that keeps up: its backlog is another matter
    with Daemon(camera, out, settings) as daemon:
        observe = daemon.metrics.latency
        daemon.metrics.latency = lambda to, s: (  # type: ignore[method-assign]
            observe(to, s), told.append((time.perf_counter() - s, s)) if to == "committed" else None
        )  # fmt: skip
        begun: list[float] = []
        there = [k % 4 in (1, 2) for k in range(blocks)]  # what drifts on the machine falls on both

        def record() -> None:
            files = sorted(ready.iterdir())
            begun.append(time.perf_counter() + WARM_S)
            for i in range(int(fps * (WARM_S + blocks * block_s))):
                time.sleep(max(0.0, begun[0] - WARM_S + i / fps - time.perf_counter()))
                part = camera / f"m{i:06d}.tif.part"
                shutil.copyfile(files[i % len(files)], part)
                part.rename(camera / f"m{i:06d}.tif")
            time.sleep(1.0)
            daemon.stop()

        def visit() -> None:
            address = f"ws{daemon.url.removeprefix('http').partition('?')[0]}ws"
            command = [sys.executable, __file__, "pages", "--address", address]
            with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as pages:
                assert pages.stdin is not None
                while not begun:
                    time.sleep(0.01)
                for k in range(blocks):
                    time.sleep(max(0.0, begun[0] + k * block_s - time.perf_counter()))
                    pages.stdin.write("come\n" if there[k] else "go\n")
                    pages.stdin.flush()
                time.sleep(block_s)

        threads = [threading.Thread(target=work) for work in (record, visit)]
        for thread in threads:
            thread.start()
        daemon.loop()
        for thread in threads:
            thread.join()
    found: list[tuple[bool, list[float]]] = [(t, []) for t in there]
    for whole, s in told:
        k, rest = divmod(whole - begun[0], block_s)
        if 0 <= k < blocks and rest > 0.1 * block_s:
            found[int(k)][1].append(s)
    return found


def never_read(address: str) -> None:
    """Eight pages that ask for a frame again and again and read none, while the last line of stdin says `come`."""
    wanted, ask = threading.Event(), {"additional_headers": {"Authorization": "token bench"}, "max_queue": 1}

    def hear() -> None:
        for line in sys.stdin:
            (wanted.set if line.strip() == "come" else wanted.clear)()
        os._exit(0)

    threading.Thread(target=hear, daemon=True).start()
    while wanted.wait():
        with ExitStack() as opened:
            pages = [opened.enter_context(connect(address, close_timeout=0.1, **ask)) for _ in range(8)]  # type: ignore[arg-type]
            while wanted.is_set():
                time.sleep(0.5)
                for page in pages:
                    page.send('{"credit": 1}')


def slow(fps: float, blocks: int, block_s: float, folder: Path, into: Path | None) -> dict[str, Any]:
    """Whether pages that never read delay the store: p99 over the blocks with them and those without, and how sure that is.

    into : a file to which the blocks are added, and over all of whose blocks is told: runs at several quiet times make one
    """
    ready = folder / "ready"
    if not ready.is_dir():
        movie = simulate.movie(64, (512, 512), dose=20.0, seed=3)
        for _ in play(movie, ready, fmt="tiff", name="m"):
            pass
    shutil.rmtree(folder / "run", ignore_errors=True)
    found = commits(ready, folder / "run", fps, blocks, block_s)
    if into is not None:
        with into.open("a") as file:
            file.writelines(json.dumps(block) + "\n" for block in found)
        found = [json.loads(line) for line in into.read_text().splitlines()]
    ms = {w: [1e3 * np.array(s) for there, s in found if there == w] for w in (False, True)}
    rng = np.random.default_rng(0)

    def change(p: float, a: list[np.ndarray], b: list[np.ndarray]) -> float:
        return 100 * float(np.percentile(np.concatenate(b), p) / np.percentile(np.concatenate(a), p) - 1)

    told: dict[str, Any] = {}
    for p in (50, 95, 99):
        again = [
            change(p, *([ms[w][k] for k in rng.integers(len(ms[w]), size=len(ms[w]))] for w in (False, True)))
            for _ in range(2000)
        ]  # blocks drawn anew
        told[f"p{p}_change_percent"] = round(change(p, ms[False], ms[True]), 1)
        told[f"p{p}_change_interval_90"] = [round(float(v), 1) for v in np.percentile(again, (5, 95))]
    for w, name in ((False, "without"), (True, "with_8_pages_that_never_read")):
        told[f"{name}_ms"] = quantiles(list(np.concatenate(ms[w])))
        told[f"{name}_p99_of_each_block"] = [round(float(np.percentile(s, 99)), 1) for s in ms[w]]
    return told


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    ask.add_argument("what", choices=["show", "scrub", "slow", "pages"])
    ask.add_argument("--fps", type=float, default=30.0)
    ask.add_argument("--seconds", type=float, default=20.0)
    ask.add_argument("--side", type=int, default=512)
    ask.add_argument("--frames", type=int, default=28_800)
    ask.add_argument("--blocks", type=int, default=16, help="of time, half of them with pages that never read")
    ask.add_argument("--block-s", type=float, default=10.0)
    ask.add_argument("--into", type=Path, help="file that gathers the blocks of several runs")
    ask.add_argument("--address", default="", help=argparse.SUPPRESS)
    ask.add_argument("--keep", type=Path, help="folder for the long run or the frames; made when it is not there")
    given = ask.parse_args()
    if given.what == "pages":
        never_read(given.address)
    with tempfile.TemporaryDirectory(prefix="emstream-page-") as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if given.what == "show":
            row = show(given.fps, given.seconds, given.side)
        elif given.what == "scrub":
            row = scrub(given.frames, given.fps, folder)
        else:
            row = slow(given.fps, given.blocks, given.block_s, folder, given.into)
    sys.stdout.write(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
