"""One daemon at a time holds an output folder; a second one is told who does."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path

from emstream.errors import StoreBusy


def take(lock: Path, out: Path) -> int:
    """Hold the folder until the process ends; the kernel frees it whatever way that happens.

    raises : StoreBusy
    """
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 4096).decode(errors="replace").strip() or "another process"
        os.close(fd)
        raise StoreBusy(f"{out} is in use by {holder}", "stop that one, or choose another output folder") from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%F %T %Z')}\n".encode(), 0)
    return fd
