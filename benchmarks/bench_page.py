"""How soon the page shows what is known, in a headless Chromium that draws in software.

    python benchmarks/bench_page.py show  --fps 30 --seconds 20     # labels ready → drawn on the canvas
    python benchmarks/bench_page.py scrub --frames 28800 --fps 1    # a wish on the slider → that frame on the canvas
    python benchmarks/bench_page.py scrub --frames 864000 --fps 30

The clock of both sides is the machine's. `drawn` is the moment after the last call on the canvas, in the page.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from long_run import long_run
from selenium import webdriver

from emstream import measure, simulate
from emstream.metrics import Metrics
from emstream.view import ViewOptions
from emstream.view.latest import Latest
from emstream.view.server import start
from emstream.view.shown import DaemonStatus, Shown, whereabouts
from emstream.view.stored import serve

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


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    ask.add_argument("what", choices=["show", "scrub"])
    ask.add_argument("--fps", type=float, default=30.0)
    ask.add_argument("--seconds", type=float, default=20.0)
    ask.add_argument("--side", type=int, default=512)
    ask.add_argument("--frames", type=int, default=28_800)
    ask.add_argument("--keep", type=Path, help="folder for the long run; made when it is not there")
    given = ask.parse_args()
    with tempfile.TemporaryDirectory(prefix="emstream-page-") as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if given.what == "show":
            row = show(given.fps, given.seconds, given.side)
        else:
            row = scrub(given.frames, given.fps, folder)
    sys.stdout.write(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
