"""What this machine offers and what will bite: examined before a session, not found out during one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emstream import arrays
from emstream.config import Settings
from emstream.source.filesystem import is_remote, mount_kind

Row = dict[str, Any]


def examine(source: Path | None, out: Path | None, settings: Settings) -> list[Row]:
    """One row per question: {"what", "verdict": good | note | bad, "found", "advice"}."""
    rows = [*_folders(source, out), *_inotify(), *_clock(), *_compute(settings), *_port(settings)]
    return [dict(zip(("what", "verdict", "found", "advice"), row)) for row in rows]


def _folders(source: Path | None, out: Path | None) -> Iterator[tuple[str, str, str, str]]:
    for role, path, mode in (("source", source, os.R_OK | os.X_OK), ("out", out, os.W_OK | os.X_OK)):
        if path is None:
            continue
        there = path if path.exists() else next((p for p in path.resolve().parents if p.exists()), Path("/"))
        if role == "source" and not path.is_dir():
            yield role, "bad", f"{path} is no folder", "check the path or the mount"
            continue
        allowed = os.access(there, mode)
        yield (
            f"{role} permissions",
            "good" if allowed else "bad",
            "ok" if allowed else f"no access to {there}",
            "" if allowed else "run as the user that owns it",
        )
        kind = mount_kind(there)
        if is_remote(kind):
            advice = (
                "no change events here: the folder is swept"
                if role == "source"
                else "keep OUT on a local disk: the ledger needs one"
            )
            yield f"{role} file system", "note" if role == "source" else "bad", kind, advice
        else:
            yield f"{role} file system", "good", kind, ""
        if role == "out":
            free = shutil.disk_usage(there).free
            seconds = free / (2048 * 2048 * 2 * 40 / 1.6)
            yield (
                "free space",
                "good" if free > 50e9 else "note",
                f"{free / 1e9:.1f} GB",
                f"about {seconds / 3600:.1f} h of 2048² uint16 at 40 frames/s",
            )


def _inotify() -> Iterator[tuple[str, str, str, str]]:
    for name, least in (("max_user_watches", 65536), ("max_queued_events", 16384), ("max_user_instances", 128)):
        path = Path("/proc/sys/fs/inotify") / name
        if not path.exists():
            yield f"inotify {name}", "note", "not on this system", "folders are swept"
            continue
        value = int(path.read_text())
        ok = value >= least
        yield (
            f"inotify {name}",
            "good" if ok else "note",
            str(value),
            "" if ok else f"sysctl fs.inotify.{name}={least * 8}",
        )


def _clock() -> Iterator[tuple[str, str, str, str]]:
    ran = None
    if shutil.which("timedatectl"):
        ran = subprocess.run(
            ["timedatectl", "show", "-p", "NTPSynchronized", "--value"],
            capture_output=True,
            text=True,
            check=False,
            timeout=5,
        )
    synced = ran.stdout.strip() if ran and ran.returncode == 0 else ""
    verdict = {"yes": "good", "no": "note"}.get(synced, "note")
    advice = (
        "" if verdict == "good" else "ages are taken on the monotonic clock; only displayed times depend on this one"
    )
    yield "clock", verdict, f"{time.strftime('%Y-%m-%d %H:%M:%S %Z')}, synchronised: {synced or 'unknown'}", advice


def _compute(settings: Settings) -> Iterator[tuple[str, str, str, str]]:
    n = arrays.cuda_devices()
    wanted = settings.compute.device
    yield (
        "GPU",
        "good" if n else "note",
        f"{n} usable by cupy",
        "" if n else 'the CPU is used; with a GPU: pip install "emstream[gpu]"',
    )
    yield "compute.device", "good", f"{wanted} → {arrays.pick_device(wanted)}", ""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    yield (
        "CPU",
        "good",
        f"{os.cpu_count()} cores, bfloat16 {'yes' if 'avx512_bf16' in flags or 'amx_bf16' in flags else 'no'}",
        "",
    )


def _port(settings: Settings) -> Iterator[tuple[str, str, str, str]]:
    if not settings.view.http:
        yield "page", "note", "not served", "--http 127.0.0.1:8765"
        return
    host, _, port = settings.view.http.rpartition(":")
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host or "127.0.0.1", int(port or 0)))
        except OSError as err:
            yield "page", "bad", f"{settings.view.http}: {err.strerror}", "take another port"
        else:
            yield "page", "good", f"{settings.view.http} is free", ""
