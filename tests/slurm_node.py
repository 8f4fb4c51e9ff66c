"""A whole Slurm on this machine for a test: munged, slurmctld and slurmd with their own files, on loopback.

Needs no service of the system and leaves none: everything lies in a folder of its own, ports are free ones, and what was
started is ended by its process id.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
PLACES = ("/usr/sbin", "/usr/local/sbin", "/sbin")  # daemons are not on everybody's PATH


def missing() -> str:
    """Why there can be no Slurm here; "" when there can."""
    if sys.platform != "linux":
        return "Slurm needs Linux"
    lacking = [name for name in PROGRAMS if _find(name) is None]
    return f"no {', '.join(lacking)}: apt-get install slurmctld slurmd slurm-client munge" if lacking else ""


@contextmanager
def slurm_node(cpus: int = 2) -> Iterator[dict[str, str]]:
    """The environment in which sbatch speaks to a Slurm of one node with the partition `debug`.

    raises : RuntimeError with the logs' ends when it does not come up
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="em-slurm-", ignore_cleanup_errors=True)))
        env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (folder / "munge.key").chmod(0o400)
        (folder / "slurm.conf").write_text(_conf(folder, cpus))
        for name in ("state", "spool"):
            (folder / name).mkdir()
        mine = {f"{kind}-file": folder / f"munged.{kind}" for kind in ("log", "pid", "seed")}
        options = [f"--{name}={path}" for name, path in mine.items()]
        _start(
            stack,
            folder,
            env,
            "munged",
            "--foreground",
            "--force",
            f"--socket={folder}/munge.sock",
            f"--key-file={folder}/munge.key",
            *options,
        )
        _until(lambda: (folder / "munge.sock").exists(), folder, "munged")
        _start(stack, folder, env, "slurmctld", "-D", "-c")
        _start(stack, folder, env, "slurmd", "-D", "-N", "em1")
        _until(lambda: "idle" in _told(env, "sinfo", "--noheader", "--format=%T"), folder, "slurmctld and slurmd")
        stack.callback(_empty, env)
        yield env


def _conf(folder: Path, cpus: int) -> str:
    me = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        ports = a.getsockname()[1], b.getsockname()[1]
    lines = {
        "ClusterName": "em",
        "SlurmctldHost": f"{socket.gethostname()}(127.0.0.1)",
        "SlurmctldPort": ports[0],
        "SlurmdPort": ports[1],
        "SlurmUser": me,
        "SlurmdUser": me,
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder}/munge.sock",
        "CredType": "cred/munge",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU",
        "SlurmdParameters": "config_overrides",
        "SchedulerParameters": "sched_interval=1,batch_sched_delay=0,sched_min_interval=0",
        "ReturnToService": 2,
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid",
        "SlurmctldLogFile": folder / "slurmctld.log",
        "SlurmdLogFile": folder / "slurmd.log",
        "NodeName": f"em1 NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000",
        "PartitionName": "debug Nodes=em1 Default=YES MaxTime=INFINITE State=UP",
    }
    return "".join(f"{name}={value}\n" for name, value in lines.items())


def _find(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *PLACES)))


def _start(stack: ExitStack, folder: Path, env: dict[str, str], name: str, *options: str) -> None:
    program = _find(name)
    assert program
    out = stack.enter_context((folder / f"{name}.out").open("wb"))
    process = subprocess.Popen([program, *options], env=env, stdout=out, stderr=out, start_new_session=True)
    stack.callback(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _told(env: dict[str, str], *command: str) -> str:
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def _empty(env: dict[str, str]) -> None:
    """No job is left before the daemons go: the steps would outlive them."""
    deadline = time.monotonic() + 15
    while (jobs := _told(env, "squeue", "--noheader", "--format=%i").split()) and time.monotonic() < deadline:
        _told(env, "scancel", *jobs)
        time.sleep(0.2)


def _until(true: object, folder: Path, what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():  # type: ignore[operator]
        if time.monotonic() > deadline:
            ends = {f.name: f.read_text(errors="replace")[-400:] for f in folder.glob("*.[lo][ou][gt]")}
            raise RuntimeError(f"{what} did not come up: {ends}")
        time.sleep(0.05)
