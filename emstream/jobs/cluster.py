"""A dask client from one word: local, the address of a scheduler, or slurm. Never the live daemon's workers."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from emstream import __version__, arrays
from emstream.config import ClusterOptions, Settings
from emstream.errors import BadSettings, JobFailed

log = logging.getLogger("emstream.jobs")
SHARE = 0.9  # of the memory that this process may use: what the workers together get
ASKED_AT_MOST = 16  # workers of a scheduler that are asked for their version
DASHBOARD = "127.0.0.1:0"  # loopback only: whoever reaches a dask dashboard sees everything


@contextmanager
def client(
    where: str = "local", workers: int = 0, settings: Settings | None = None, *, need_bytes: int = 0
) -> Iterator[Any]:
    """A dask.distributed.Client with at least one worker; a cluster that was made here is also ended here.

    where      : local | tcp://HOST:PORT | tls://HOST:PORT | slurm
    workers    : processes (local) or jobs (slurm); 0 = cluster.workers, and where that is 0 as many as fit
    settings   : `cluster` and `compute.device` of it
    need_bytes : memory that one task needs; local workers are as many as fit, a Slurm job asks for so much
    raises     : BadSettings, MissingExtra, JobFailed (no scheduler or worker answers, or it is of another version)
    """
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.WARNING)  # who came and went is told by us
    settings = settings or Settings()
    options, workers = settings.cluster, workers or settings.cluster.workers
    if where == "local":
        with _local(workers, settings, need_bytes) as cluster, Client(cluster, timeout=options.timeout_s) as c:
            _tell_dashboard(c)
            yield c
    elif where == "slurm":
        from emstream.jobs.slurm import slurm

        with slurm(workers or 1, options, security(options), need_bytes) as c:
            _tell_dashboard(c)
            yield c
    elif where.startswith(("tcp://", "tls://")):
        with _at(where, options) as c:
            yield c
    else:
        raise BadSettings(f"--cluster {where!r}", "use local, tcp://HOST:PORT, tls://HOST:PORT or slurm")


def leaving() -> None:
    """After Ctrl-C: what dask has to say of the tasks and workers that are let go is no news to anybody."""
    for name in ("distributed", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def on_worker(settings: Settings) -> Settings:
    """The settings for a task: a worker that sees one GPU calls it the first, and no others share its cores."""
    compute = settings.compute
    device = compute.device if compute.device == "cpu" else "auto"
    return dataclasses.replace(
        settings, compute=dataclasses.replace(compute, device=device, threads=compute.threads or 1)
    )


def fitting(cores: int, memory: int, gpus: int, need: int, asked: int = 0) -> int:
    """How many workers: as many as asked, else as memory and cores allow; never two on one GPU.

    cores, gpus  : of this machine, as far as this process may use them; gpus = 0: work on the CPU
    memory, need : bytes that all workers may use; that one needs
    """
    most = gpus or cores
    room = max(1, int(memory * SHARE) // need) if need else most
    if asked:
        return min(asked, gpus) if gpus else asked
    return max(1, min(most, room))


def devices(visible: str | None, count: int, wanted: str = "auto") -> list[str]:
    """CUDA_VISIBLE_DEVICES of each worker: one GPU each, by the names that this process was given.

    visible : CUDA_VISIBLE_DEVICES of this process: "2,3", "GPU-…", "MIG-…", or None
    count   : CUDA devices that this process can use
    wanted  : compute.device; cuda:N is that one alone, cpu none
    """
    if wanted == "cpu" or not count:
        return []
    names = [name.strip() for name in visible.split(",") if name.strip()] if visible else []
    names = (names or [str(k) for k in range(count)])[:count]
    if wanted.startswith("cuda:"):
        names = names[int(wanted[5:]) : int(wanted[5:]) + 1]
    return names


def local_workers(n: int, gpus: Sequence[str], memory: int, common: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """What SpecCluster starts: n processes of one thread each, each with its share of memory and its own GPU."""
    from distributed import Nanny

    spec = {}
    for k in range(n):
        env = {"CUDA_VISIBLE_DEVICES": gpus[k]} if gpus else {}
        share = int(memory * SHARE) // n
        own = {"nthreads": 1, "memory_limit": share, "env": env, "name": k, "preload": ["emstream.jobs.deaf"]}
        spec[k] = {"cls": Nanny, "options": {**common, **own}}
    return spec


def security(options: ClusterOptions) -> Any:
    """Certificates of the settings; without them one-time ones. None: unencrypted, as dask's own configuration says.

    raises : BadSettings
    """
    from distributed.security import Security

    given = {"cluster.tls_ca": options.tls_ca, "cluster.tls_cert": options.tls_cert, "cluster.tls_key": options.tls_key}
    if any(given.values()):
        for name, path in given.items():
            if not os.path.isfile(os.path.expanduser(path)):
                raise BadSettings(f"{name} = {path!r} is no file", "tls_ca, tls_cert and tls_key belong together")
        ca, cert, key = (os.path.expanduser(path) for path in given.values())
        roles = {
            f"tls_{role}_{kind}": path
            for role in ("client", "worker", "scheduler")
            for kind, path in (("cert", cert), ("key", key))
        }
        return Security(tls_ca_file=ca, require_encryption=True, **roles)
    if not options.tls:
        return None
    if importlib.util.find_spec("cryptography") is None:
        log.warning(
            "workers talk unencrypted: others on this network could send them work",
            extra={"fix": 'pip install "emstream[slurm]"'},
        )
        return None
    return Security.temporary()


def _local(asked: int, settings: Settings, need: int) -> Any:
    """Worker processes of one thread each; everything on loopback."""
    from dask.system import CPU_COUNT
    from distributed import Scheduler, SpecCluster
    from distributed.system import MEMORY_LIMIT

    gpus = devices(os.environ.get("CUDA_VISIBLE_DEVICES"), arrays.cuda_devices(), settings.compute.device)
    n = fitting(CPU_COUNT, MEMORY_LIMIT, len(gpus), need, asked)
    if need * n > MEMORY_LIMIT * SHARE:
        log.warning(
            "workers may run out of memory", extra={"workers": n, "each_needs": need, "there_are": MEMORY_LIMIT}
        )
    keys = security(settings.cluster)
    talk = {"host": "127.0.0.1", "protocol": "tls://" if keys else "tcp://", "security": keys}
    log.info("local workers", extra={"workers": n, "memory_each": int(MEMORY_LIMIT * SHARE) // n, "gpus": gpus})
    return SpecCluster(
        workers=local_workers(n, gpus, MEMORY_LIMIT, {**talk, "dashboard": False, "silence_logs": logging.CRITICAL}),
        scheduler={"cls": Scheduler, "options": {**talk, "port": 0, "dashboard_address": DASHBOARD}},
        security=keys,
        silence_logs=logging.ERROR,
    )


@contextmanager
def _at(where: str, options: ClusterOptions) -> Iterator[Any]:
    """A scheduler that others run."""
    from distributed import Client

    given = where.startswith("tls://") and (options.tls_ca or options.tls_cert or options.tls_key)
    keys = {"security": security(options)} if given else {}  # without them dask's own configuration holds
    try:
        c = Client(where, timeout=options.timeout_s, **keys)
    except (OSError, TimeoutError, TypeError, ValueError, RuntimeError) as err:
        hint = "start one with: dask scheduler"
        if where.startswith("tls://"):
            hint += "; or are cluster.tls_ca, tls_cert and tls_key those of the scheduler?"
        raise JobFailed(f"no dask scheduler answers at {where}: {err or type(err).__name__}", hint) from None
    with c:
        _has_workers(c, where, options.timeout_s)
        _same_version(c, where)
        yield c


def _has_workers(c: Any, where: str, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        c.wait_for_workers(1, timeout=timeout_s)
    workers = c.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        raise JobFailed(f"the scheduler at {where} has no workers", f"dask worker {where} --nthreads 1")
    threads = max(worker["nthreads"] for worker in workers.values())
    if threads > 1:
        log.warning(
            "workers run several tasks at once: each needs its memory",
            extra={"threads": threads, "fix": "dask worker --nthreads 1"},
        )


def _same_version(c: Any, where: str) -> None:
    """Raises JobFailed when emstream, Python or dask differ between here and the workers."""
    from importlib.metadata import version

    some = list(c.scheduler_info(n_workers=-1)["workers"])[:ASKED_AT_MOST]
    wrong = {}
    for name, found in c.run(version, "emstream", workers=some, on_error="return").items():
        if isinstance(found, BaseException):
            wrong[name] = f"no emstream ({type(found).__name__})"
        elif found != __version__:
            wrong[name] = f"emstream {found}"
    ours = c.get_versions()
    here = _versions(ours["client"])
    for name, told in {**{k: ours["workers"].get(k) for k in some}, "the scheduler": ours["scheduler"]}.items():
        differ = [f"{k} {v} (here {here[k]})" for k, v in _versions(told).items() if v != here[k]]
        if differ and name not in wrong:
            wrong[name] = ", ".join(differ)
    if wrong:
        told = "; ".join(f"{name} has {what}" for name, what in list(wrong.items())[:4])
        raise JobFailed(
            f"at {where} {told}; here is emstream {__version__}", "install the same versions on all of them"
        )


def _versions(told: Any) -> dict[str, str]:
    """Python to its minor version, and the packages whose messages must agree."""
    told = told or {"host": {}, "packages": {}}
    python = ".".join(str(told["host"].get("python", "?")).split(".")[:2])
    return {"python": python, **{k: str(told["packages"].get(k, "?")) for k in ("dask", "distributed")}}


def dashboard(c: Any) -> str:
    """Address of the dashboard of a cluster that was made here: loopback, whatever address the scheduler has.

    returns : "" where dask has none (it needs bokeh)
    """
    port = c.scheduler_info(n_workers=0)["services"].get("dashboard")
    return f"http://127.0.0.1:{port}/status" if port and importlib.util.find_spec("bokeh") else ""


def _tell_dashboard(c: Any) -> None:
    log.info("dask", extra={"scheduler": c.scheduler.address, "dashboard": dashboard(c) or "none: it needs bokeh"})
