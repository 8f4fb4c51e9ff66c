"""`emstream live` as a process of bench_soak.py, and what the system and `/metrics` say of it."""

from __future__ import annotations

import ctypes
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1


class Daemon:
    """One life of the daemon; it does not outlive its parent."""

    def __init__(self, source: Path, out: Path, log: Path, options: list[str]) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        command = [sys.executable, "-m", "emstream", "live", source, out, "--http", f"127.0.0.1:{self.port}"]
        command += [
            "--name=week",
            "--set=source.group=all",
            "--set=view.token=secret",
            "--set=log.level=warning",
            *options,
        ]
        prctl = ctypes.CDLL(None).prctl
        self.began = time.monotonic()
        self._connection: http.client.HTTPConnection | None = None
        self._started = False
        with log.open("ab") as err:
            self.process = subprocess.Popen(
                [str(c) for c in command], stdout=err, stderr=err,
                preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
            )  # fmt: skip

    def get(self, path: str) -> tuple[int, str]:
        """Status and text, over a connection that is kept, as Prometheus does; (0, "") while it does not answer."""
        for _ in range(2):
            try:
                if self._connection is None:
                    self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                self._connection.request("GET", path)
                answer = self._connection.getresponse()
                return answer.status, answer.read().decode()
            except (OSError, http.client.HTTPException):
                self.hang_up()
        return 0, ""

    def hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def kill(self) -> None:
        self.hang_up()
        self.process.kill()
        self.process.wait()

    def finish(self) -> None:
        """SIGTERM; everything that it saw is then stored."""
        self.hang_up()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(600)
        assert code == 0, f"the daemon left with {code}"

    def sample(self) -> dict[str, float] | None:
        """None while it does not answer, or does not know yet what is to be done."""
        self._started = self._started or '"starting"' not in (self.get("/readyz")[1] or '"starting"')
        began = time.perf_counter()
        code, text = self.get("/metrics")
        took = time.perf_counter() - began
        if code != 200 or not self._started:
            return None
        values = {"metrics_ms": 1e3 * took}
        for name in ("committed", "segmented"):
            found = re.search(rf'frames_total{{state="{name}"}} ([0-9.e+]+)', text)
            values[name] = float(found[1]) if found else 0.0
        for name in ("watch_up", "store_up", "segmentation_backlog_frames"):
            found = re.search(rf"^emstream_{name} ([0-9.e+]+)", text, re.MULTILINE)
            values[name] = float(found[1]) if found else 1.0
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            values["rss"] = 1024.0 * int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]
            values["threads"] = float(re.search(r"Threads:\s+(\d+)", status)[1])  # type: ignore[index]
            values["files"] = float(len(os.listdir(f"/proc/{self.process.pid}/fd")))
        except (OSError, TypeError):
            return None
        return values
