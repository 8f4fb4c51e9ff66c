"""Workers as Slurm jobs, one process and at most one GPU each, through dask-jobqueue.

What the settings leave open is taken from dask's own `jobqueue.slurm.*` (deploy/slurm/jobqueue.yaml), then from Slurm.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emstream.config import ClusterOptions
from emstream.errors import JobFailed, MissingExtra

log = logging.getLogger("emstream.jobs")
LOOK_S, TELL_S = 1.0, 30.0  # between two looks at the queue, and two lines about it
ADAPT_S = 10.0  # between two looks at whether jobs ended and must be submitted again
LEAST_BYTES = 2 << 30  # a worker with torch loaded and nothing to do needs half of it
NOTICE_S = 120.0  # before its time is up a worker hands over and leaves


@contextmanager
def slurm(jobs: int, options: ClusterOptions, security: Any, need_bytes: int) -> Iterator[Any]:
    """A client whose workers are Slurm jobs; they are cancelled at the end.

    jobs   : how many are kept running: those that end are submitted again
    raises : MissingExtra, JobFailed (no Slurm here, it refuses the job, or its jobs end before a worker comes)
    """
    from distributed import Client

    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise MissingExtra("--cluster slurm needs dask-jobqueue", 'pip install "emstream[slurm]"') from None
    if shutil.which("sbatch") is None:
        raise JobFailed("--cluster slurm: there is no sbatch here", "run it on a login or submit node of the cluster")
    asked = described(options, need_bytes)
    with SLURMCluster(security=security, **asked) as cluster:
        _would_run(cluster.job_script())
        with Client(cluster, timeout=options.timeout_s) as c:
            cluster.scale(jobs=1 if options.adaptive else jobs)
            _first_worker(c, cluster, Path(asked["log_directory"]), options.queue_s)
            cluster.adapt(
                minimum_jobs=1 if options.adaptive else jobs, maximum_jobs=jobs, interval=f"{ADAPT_S}s", wait_count=6
            )
            yield c


def described(options: ClusterOptions, need_bytes: int = 0) -> dict[str, Any]:
    """What SLURMCluster is given. Dask's own configuration adds to it where it gives lists."""
    import dask.config

    def own(name: str, otherwise: Any = None) -> Any:
        return dask.config.get(f"jobqueue.slurm.{name}", None) or otherwise

    folder = Path(options.folder).expanduser()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    memory = int(options.memory_gb * 1e9) or int(1.3 * need_bytes)
    given: dict[str, Any] = {
        "cores": 1,  # one thread: a task is sized to its worker
        "processes": 1,
        "job_cpu": options.cpus,
        "memory": f"{max(memory, LEAST_BYTES)}B",
        "shared_temp_directory": own("shared-temp-directory", str(folder)),
        "log_directory": os.path.expanduser(own("log-directory", str(folder / "slurm"))),
        "job_extra_directives": [
            *own("job-extra-directives", []),
            *([f"--gres=gpu:{options.gpus}"] if options.gpus else []),
        ],
        "worker_extra_args": [*own("worker-extra-args", []), "--no-dashboard", "--dashboard-address", "127.0.0.1:0"],
        "scheduler_options": {**own("scheduler-options", {}), "dashboard_address": "127.0.0.1:0"},
    }
    for name, value in (("queue", options.partition), ("account", options.account), ("walltime", options.walltime)):
        if value:
            given[name] = value
    if not memory and own("memory"):
        given["memory"] = own("memory")
    limit = seconds(options.walltime or own("walltime", ""))
    if limit > 2 * NOTICE_S:
        given["worker_extra_args"] += ["--lifetime", f"{limit - NOTICE_S:.0f}s"]
    return given


def seconds(walltime: str) -> float:
    """Slurm's `minutes`, `hours:minutes:seconds`, `days-hours[:minutes[:seconds]]` …; 0 when it is no time."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(walltime).strip())
    if not found:
        return 0.0
    days, a, b, c = (int(v) if v is not None else None for v in found.groups())
    if days is not None:
        return days * 86400.0 + (a or 0) * 3600 + (b or 0) * 60 + (c or 0)
    if c is not None:
        return (a or 0) * 3600.0 + (b or 0) * 60 + c
    return (a or 0) * 60.0 + (b or 0)


def _would_run(script: str) -> None:
    """Raises JobFailed with Slurm's own words when it would refuse such a job."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        told = _ask("sbatch", "--test-only", file.name)
    if told.returncode:
        said = (told.stderr or told.stdout).strip().replace("sbatch: error: ", "").replace("allocation failure: ", "")
        raise JobFailed(
            f"Slurm refuses the workers: {' '.join(said.split())}",
            "set cluster.partition, account, walltime, memory_gb, cpus, gpus; sinfo shows what there is",
        )


def _first_worker(c: Any, cluster: Any, logs: Path, queue_s: float) -> None:
    """Wait in the queue, and say so; give up when nothing is left to wait for."""
    began = told = time.monotonic()
    while not c.scheduler_info(n_workers=-1)["workers"]:
        time.sleep(LOOK_S)
        now = time.monotonic()
        ids = [str(job.job_id) for job in cluster.workers.values() if getattr(job, "job_id", None)]
        if not ids and now - began > 60:
            raise JobFailed("Slurm took no job within a minute", "sbatch, squeue and sinfo tell why")
        waiting = states(ids) if ids else {"-": "submitting"}
        if not waiting:
            raise JobFailed(
                f"Slurm's jobs {', '.join(ids)} ended before a worker came: {last_words(logs, ids)}", f"see {logs}"
            )
        if queue_s and now - began > queue_s:
            raise JobFailed(
                f"no worker after {queue_s:g} s in Slurm's queue: {_listed(waiting)}", "raise cluster.queue_s"
            )
        if now - told > TELL_S:
            told = now
            log.info("waiting for Slurm", extra={"jobs": _listed(waiting), "for_s": round(now - began)})


def states(ids: Sequence[str]) -> dict[str, str]:
    """State and reason of the jobs that Slurm still has, by id."""
    told = _ask(
        "squeue", "--noheader", "--format=%i %T %r", f"--jobs={','.join(ids)}", "--states=PENDING,CONFIGURING,RUNNING"
    )
    if told.returncode and "Invalid job id" not in told.stderr:
        return {"-": f"squeue does not answer: {told.stderr.strip()[:200]}"}
    rows = (line.split(maxsplit=1) for line in told.stdout.splitlines() if line.strip())
    return {row[0]: row[-1].replace(" None", "") for row in rows}


def last_words(logs: Path, ids: Sequence[str]) -> str:
    """The last line that a worker wrote."""
    for job in ids:
        for file in sorted(logs.glob(f"*-{job}.*")):
            lines = [line.strip() for line in file.read_text(errors="replace").splitlines() if line.strip()]
            if lines:
                return lines[-1][:300]
    return "they wrote nothing"


def _listed(waiting: dict[str, str]) -> str:
    return ", ".join(f"{job} {state}" for job, state in list(waiting.items())[:3])


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        return subprocess.CompletedProcess(command, 1, "", str(err))
