"""A dask client from one word: local, the address of a scheduler, or slurm."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from emstream.errors import BadSettings, JobFailed, MissingExtra


@contextmanager
def client(where: str = "local", workers: int = 0, timeout_s: float = 20.0) -> Iterator[Any]:
    """A dask.distributed.Client; a cluster that was made here is also ended here.

    where   : local | tcp://HOST:PORT | tls://HOST:PORT | slurm
    timeout_s : how long a scheduler may take to answer
    workers : processes; 0 = one per core (local) or one job (slurm)
    raises  : BadSettings, MissingExtra, JobFailed (no scheduler answers)
    """
    from distributed import Client

    if where == "local":
        with _local(workers or os.cpu_count() or 1) as cluster, Client(cluster) as c:
            yield c
    elif where == "slurm":
        with _slurm(workers or 1) as cluster, Client(cluster) as c:
            yield c
    elif where.startswith(("tcp://", "tls://")):
        try:
            c = Client(where, timeout=timeout_s)
        except (OSError, TimeoutError) as err:
            raise JobFailed(f"no dask scheduler answers at {where}: {err}", "start one with: dask scheduler") from None
        with c:
            yield c
    else:
        raise BadSettings(f"--cluster {where!r}", "use local, tcp://HOST:PORT, tls://HOST:PORT or slurm")


def _local(workers: int) -> Any:
    """Worker processes of one thread each; everything on loopback, no dashboard to expose."""
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        silence_logs=40,
    )


def _slurm(jobs: int) -> Any:
    """Jobs of the site's default partition; dask's own jobqueue settings (jobqueue.slurm.*) hold."""
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise MissingExtra("--cluster slurm needs dask-jobqueue", 'pip install "emstream[slurm]"') from None
    cluster = SLURMCluster(cores=1, processes=1, memory="8GB")
    cluster.scale(jobs=jobs)
    return cluster
