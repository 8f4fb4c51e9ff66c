"""Memory over a long session: the daemon as a process, thousands of small frames, its resident memory per frame.

    python benchmarks/bench_memory.py --frames 5000

Prints the slope of the resident memory after a fifth of the frames (least squares), and the queues' largest sizes.
"""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np

from emstream import simulate
from emstream.source.play import play


def resident(pid: int) -> int:
    """Bytes of resident memory."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def metric(text: str, name: str) -> float:
    """A sample of the exposition; 0 when it is not there."""
    found = re.search(rf"^emstream_{re.escape(name)} ([0-9.e+]+)", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    ask.add_argument("--frames", type=int, default=5000)
    ask.add_argument("--side", type=int, default=96)
    ask.add_argument("--model", default="default")
    ask.add_argument(
        "--fps", type=float, default=25.0, help="what the daemon keeps up with; 0 = as fast as the camera can"
    )
    given = ask.parse_args()
    movie = simulate.movie(
        200,
        (given.side, given.side),
        particles=4,
        diameter=(10, 20),
        contrast=(0.3, 0.4),
        drift_per_frame=(0, 0),
        seed=1,
    )
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="emstream-memory-") as folder:
        camera, out = Path(folder) / "camera", Path(folder) / "runs"
        camera.mkdir()
        command = [sys.executable, "-m", "emstream", "live", camera, out, "--model", given.model]
        command += ["--http", f"127.0.0.1:{port}", "--set", "log.level=warning", "--set", "source.read_ahead_mb=8"]
        daemon = subprocess.Popen([str(c) for c in command])

        def record() -> None:
            for k in range(-(-given.frames // len(movie))):
                left = given.frames - k * len(movie)
                for _ in play(
                    movie, camera, fmt="npy", name=f"m{k:04d}", fps=given.fps or None, stop=min(len(movie), left)
                ):
                    pass

        threading.Thread(target=record, daemon=True).start()
        rows, done = [], 0.0
        while done < given.frames:
            time.sleep(0.5)
            try:
                text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
            except OSError:
                continue
            done = metric(text, 'frames_total{state="segmented"}')
            queues = [metric(text, f'queue_bytes{{queue="{q}"}}') for q in ("read_ahead", "write_behind")]
            rows.append((time.monotonic(), done, resident(daemon.pid), *queues))
        daemon.terminate()
        code = daemon.wait(60)
    table = np.array(rows)
    late = table[table[:, 1] > given.frames / 5]
    slope = np.polyfit(late[:, 1], late[:, 2], 1)[0]
    print(f"{given.frames} frames of {given.side}², {done / (table[-1, 0] - table[0, 0]):.0f} frames/s, exit {code}")
    print(f"resident memory {late[0, 2] / 1e6:.0f} → {late[-1, 2] / 1e6:.0f} MB: {slope:.0f} bytes a frame")
    print(f"largest queues: read-ahead {table[:, 3].max() / 1e6:.2f} MB, write-behind {table[:, 4].max() / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
