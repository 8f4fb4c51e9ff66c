"""Latency at a given frame rate: a camera whose frames lie ready, the daemon as a process, its own histograms.

    python benchmarks/bench_live.py --fps 20 --frames 200 --side 1024

The frames lie in the watched folder under temporary names, and the camera renames them on schedule: it costs nothing; `/metrics` is asked every
half second, as a monitoring system would ask. Latencies are from the moment a file was whole. The last line is the
daemon's CPU time per frame: on n cores it must stay below n / fps.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from socket import socket

import numpy as np

from emstream import open_run, simulate
from emstream.source.play import play

STEPS = ("seen", "committed", "segmented")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def asked(port: int, path: str) -> str:
    """An answer of the daemon; "" while it does not answer."""
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).read().decode()
    except (OSError, urllib.error.HTTPError):
        return ""


def latency(text: str, to: str) -> tuple[int, list[tuple[float, int]]]:
    """Frames so far, and the histogram's (upper edge in s, frames up to it)."""
    found = re.findall(rf'^emstream_frame_latency_seconds_bucket{{le="([^"]+)",to="{to}"}} ([0-9.e+]+)', text, re.M)
    steps = [(float(edge), int(float(n))) for edge, n in found]
    return (steps[-1][1] if steps else 0), steps


def quantile(steps: list[tuple[float, int]], share: float) -> float:
    """Linear between the histogram's edges, s: as Prometheus' histogram_quantile."""
    wanted, low, before = share * steps[-1][1], 0.0, 0
    for edge, n in steps:
        if n >= wanted:
            return low if np.isinf(edge) else low + (edge - low) * (wanted - before) / max(n - before, 1)
        low, before = edge, n
    return low


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    ask.add_argument("--fps", type=float, default=20.0)
    ask.add_argument("--frames", type=int, default=200)
    ask.add_argument("--side", type=int, default=1024)
    ask.add_argument("--model", default="default")
    ask.add_argument("--set", action="append", default=[], metavar="ROOM.KEY=VALUE")
    ask.add_argument("--keep", type=Path, help="folder for camera files and runs; a temporary one otherwise")
    given = ask.parse_args()
    with socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="emstream-live-") as temporary:
        folder = given.keep or Path(temporary)
        ready, camera, out = folder / "ready", folder / "camera", folder / "runs"
        camera.mkdir(parents=True)
        movie = simulate.movie(given.frames, (given.side, given.side), dose=20.0, seed=3)
        for _ in play(movie, ready, fmt="tiff", name="m"):
            pass
        for path in sorted(ready.iterdir()):
            os.link(path, camera / f"{path.name}.part")
        command = [sys.executable, "-m", "emstream", "live", camera, out, "--model", given.model]
        command += ["--http", f"127.0.0.1:{port}", "--set", "log.level=warning"]
        command += [word for setting in given.set for word in ("--set", setting)]
        daemon = subprocess.Popen([str(c) for c in command])
        while not asked(port, "/readyz"):
            time.sleep(0.1)
        time.sleep(1.0)  # a session begins with an empty folder, long before the first frame
        spent, began, text = cpu_seconds(daemon.pid), time.monotonic(), ""
        for i, path in enumerate(sorted(ready.iterdir())):
            time.sleep(max(0.0, began + i / given.fps - time.monotonic()))
            part = camera / f"{path.name}.part"
            os.utime(part)  # the file is whole now
            part.rename(camera / path.name)
            if i % max(1, int(given.fps / 2)) == 0:
                text = asked(port, "/metrics")
        recorded = time.monotonic() - began
        at_end = latency(text, "segmented")[0]
        while latency(text, "segmented")[0] < given.frames and time.monotonic() - began < 20 * recorded + 60:
            time.sleep(0.25)
            text = asked(port, "/metrics")
        took, cpu = time.monotonic() - began, cpu_seconds(daemon.pid) - spent
        daemon.terminate()
        code = daemon.wait(60)
        row = {"fps": given.fps, "frames": given.frames, "side": given.side, "exit": code}
        for to in STEPS:
            n, steps = latency(text, to)
            within = max((k for edge, k in steps if edge <= 1.0), default=0)
            row[to] = {"frames": n, "p50_s": round(quantile(steps, 0.5), 3), "p95_s": round(quantile(steps, 0.95), 3),
                       "within_1_s": within}  # fmt: skip
        row |= {"segmented_when_the_camera_stopped": at_end, "all_segmented_after_s": round(took, 2)}
        (run,) = out.glob("*.zarr")
        rest = np.asarray(open_run(run).shifts) - movie.shift
        row["drift_rms_px"] = round(float(np.sqrt(((rest - rest.mean(0)) ** 2).sum(1).mean())), 3)
        row["cpu_ms_per_frame"] = round(1e3 * cpu / given.frames, 1)
        sys.stdout.write(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
