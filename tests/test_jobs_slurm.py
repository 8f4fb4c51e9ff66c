"""Reprocessing on a real Slurm of one node, which the test starts for itself and ends again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dask.config
import numpy as np
import pytest
import tifffile
from slurm_node import missing, slurm_node

from emstream import simulate
from emstream.config import ClusterOptions, Settings
from emstream.errors import JobFailed
from emstream.jobs import slurm
from emstream.jobs.cluster import client
from emstream.store import Run

pytest.importorskip("dask_jobqueue")
TEMPLATES = Path(__file__).parents[1] / "deploy" / "slurm"
pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing() or "there is one"), pytest.mark.slow]


@pytest.fixture(scope="module")
def node() -> Iterator[dict[str, str]]:
    with slurm_node(cpus=4) as env:
        yield env


@pytest.fixture
def here(node: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("SLURM_CONF", node["SLURM_CONF"])
    return node


def queue(env: dict[str, str]) -> list[str]:
    told = subprocess.run(["squeue", "--noheader", "--format=%i"], env=env, capture_output=True, text=True, check=True)
    return told.stdout.split()


def within(seconds: float, true: object) -> bool:
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_workers_are_jobs_that_come_again_when_they_die_and_are_gone_at_the_end(
    here: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "ADAPT_S", 0.5)
    patience = dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"})
    with patience, client("slurm", 1, Settings(cluster=ClusterOptions(folder=str(tmp_path / "shared")))) as c:
        (job,) = c.run(os.getenv, "SLURM_JOB_ID").values()
        assert job in queue(here)
        assert all(name.startswith("tls://") for name in c.scheduler_info()["workers"])
        assert c.cluster.scheduler.http_server.address == "127.0.0.1"
        assert set(c.run(lambda dask_worker: dask_worker.http_server.address).values()) == {"127.0.0.1"}
        subprocess.run(["scancel", job], env=here, check=True)
        # a job that is cancelled may answer once more before it ends
        assert within(60, lambda: c.submit(os.getenv, "SLURM_JOB_ID", pure=False).result(timeout=60) != job)
    assert within(10, lambda: not queue(here))


def test_what_slurm_refuses_is_said_in_its_words(here: dict[str, str], tmp_path: Path) -> None:
    chosen = Settings(cluster=ClusterOptions(folder=str(tmp_path), partition="moon"))
    with pytest.raises(JobFailed, match=r"[Ii]nvalid partition.*moon.*cluster\.partition"), client("slurm", 1, chosen):
        pass


def test_a_camera_file_is_reprocessed_by_jobs_of_slurm_that_a_job_of_the_template_leads(
    here: dict[str, str], tmp_path: Path
) -> None:
    movie = simulate.movie(8, (96, 96), particles=4, diameter=(14, 22), contrast=(0.3, 0.4), dose=60, seed=4)
    tifffile.imwrite(tmp_path / "old.tif", movie.frames)
    settings = {"CLUSTER__FOLDER": str(tmp_path / "shared"), "CLUSTER__QUEUE_S": "60", "SEGMENT__MODEL": "classical"}
    env = {
        **here,
        "WORKERS": "2",
        "EMSTREAM": str(Path(sys.executable).with_name("emstream")),
        "EMSTREAM_ENV": str(TEMPLATES / "env.sh"),
    }
    env |= {f"EMSTREAM_{name}": value for name, value in settings.items()}
    words = ["sbatch", "--wait", f"--output={tmp_path}/log", str(TEMPLATES / "reprocess.sbatch")]
    words += [str(tmp_path / "old.tif"), str(tmp_path / "new")]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()
    run = Run(tmp_path / "new" / "old.zarr")
    assert run.n == len(movie)
    assert run.state == "closed"
    assert run.column("particles").min() > 0
    error = run.column("shift") - movie.shift
    assert np.sqrt(((error - error.mean(0)) ** 2).sum(1).mean()) < 0.5
    assert list((tmp_path / "shared" / "slurm").glob("dask-worker-*")), "the workers' logs are where the settings say"
    assert within(10, lambda: not queue(here))


def test_the_template_of_dask_s_settings_is_what_jobs_are_made_of(tmp_path: Path) -> None:
    import yaml

    site = yaml.safe_load((TEMPLATES / "jobqueue.yaml").read_text())
    known = set(dask.config.get("jobqueue.slurm"))
    assert set(site["jobqueue"]["slurm"]) <= known
    with dask.config.set({f"jobqueue.slurm.{k}": v for k, v in site["jobqueue"]["slurm"].items()}):
        asked = slurm.described(ClusterOptions(folder=str(tmp_path)))
    assert asked["worker_extra_args"][-2:] == ["--lifetime", f"{4 * 3600 - 120}s"]
    assert asked["log_directory"] == str(tmp_path / "slurm")
