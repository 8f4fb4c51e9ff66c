"""Clusters from one word: local processes sized to the machine, a scheduler that others run, TLS; what is wrong is told."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster
from distributed.security import Security

from emstream.config import ClusterOptions, Settings, load
from emstream.errors import BadSettings, JobFailed, MissingExtra
from emstream.jobs import cluster, slurm

GB = 1 << 30


def settings(**chosen: Any) -> Settings:
    return Settings(cluster=ClusterOptions(**chosen))


def test_as_many_workers_as_memory_cores_and_gpus_allow() -> None:
    assert cluster.fitting(16, 64 * GB, 0, 4 * GB) == 14  # nine tenths of the memory
    assert cluster.fitting(16, 64 * GB, 0, 1 * GB) == 16
    assert cluster.fitting(16, 64 * GB, 2, 1 * GB) == 2
    assert cluster.fitting(16, 64 * GB, 4, 20 * GB) == 2
    assert cluster.fitting(16, 64 * GB, 0, 0) == 16
    assert cluster.fitting(16, 64 * GB, 0, 100 * GB) == 1
    assert cluster.fitting(16, 64 * GB, 0, 1 * GB, asked=3) == 3
    assert cluster.fitting(16, 64 * GB, 2, 1 * GB, asked=8) == 2


def test_each_worker_sees_its_own_gpu_by_the_names_that_this_process_was_given() -> None:
    assert cluster.devices(None, 3) == ["0", "1", "2"]
    assert cluster.devices("2,5", 2) == ["2", "5"]
    assert cluster.devices("MIG-a, MIG-b", 2) == ["MIG-a", "MIG-b"]
    assert cluster.devices("", 0) == []
    assert cluster.devices(None, 3, "cpu") == []
    assert cluster.devices("4,6,7", 3, "cuda:1") == ["6"]
    spec = cluster.local_workers(2, ["4", "6"], 10 * GB, {"host": "127.0.0.1"})
    assert [spec[k]["options"]["env"] for k in range(2)] == [
        {"CUDA_VISIBLE_DEVICES": "4"},
        {"CUDA_VISIBLE_DEVICES": "6"},
    ]
    assert {spec[k]["options"]["nthreads"] for k in range(2)} == {1}
    assert spec[0]["options"]["memory_limit"] == int(10 * GB * 0.9) // 2
    far = cluster.on_worker(load(env={}, sets=["compute.device=cuda:1"]))
    assert (far.compute.device, far.compute.threads) == ("auto", 1)
    assert cluster.on_worker(load(env={}, sets=["compute.device=cpu"])).compute.device == "cpu"


def test_local_workers_are_processes_on_loopback_with_what_they_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "devices", lambda *told: ["7", "9"])
    with cluster.client("local", 0, need_bytes=1000) as c:
        workers = c.scheduler_info()["workers"]
        assert len(workers) == 2
        assert all(w["nthreads"] == 1 and w["memory_limit"] > 1e8 for w in workers.values())
        assert all(name.startswith("tls://127.0.0.1:") for name in workers)
        assert c.cluster.scheduler.http_server.address == "127.0.0.1"
        assert set(c.run(lambda dask_worker: dask_worker.http_server.address).values()) == {"127.0.0.1"}
        assert sorted(c.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()) == ["7", "9"]
        pids = c.run(os.getpid)
        assert os.getpid() not in pids.values()
        for pid in pids.values():
            os.kill(pid, signal.SIGINT)  # Ctrl-C in a terminal reaches them, too: it is meant for the leader
        assert c.run(os.getpid) == pids


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """A scheduler that others run, with a worker of two threads."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    ) as made:
        yield made.scheduler_address


def test_a_scheduler_of_others_is_used_and_left_running(scheduler: str, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with cluster.client(scheduler) as c:
            assert c.submit(pow, 2, 5).result() == 32
    assert "several tasks at once" in caplog.text


def test_a_worker_of_another_version_is_told(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "__version__", "9.9")
    with pytest.raises(JobFailed, match=r"has emstream .*here is emstream 9\.9"), cluster.client(scheduler):
        pass


def test_other_versions_of_python_and_dask_are_told(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client

    plain = Client.get_versions

    def older(self: Any, **asked: Any) -> Any:
        told = plain(self, **asked)
        told["scheduler"]["packages"] = {**told["scheduler"]["packages"], "distributed": "2024.1.0"}
        for worker in told["workers"].values():
            worker["host"] = {**worker["host"], "python": "3.9.1.final.0"}
        return told

    monkeypatch.setattr(Client, "get_versions", older)
    with (
        pytest.raises(JobFailed, match=r"python 3\.9 .*the scheduler has distributed 2024\.1\.0"),
        cluster.client(scheduler),
    ):
        pass


def test_a_scheduler_that_does_not_answer_or_has_no_workers_is_named() -> None:
    with (
        pytest.raises(JobFailed, match=r"127\.0\.0\.1:1"),
        cluster.client("tcp://127.0.0.1:1", 0, settings(timeout_s=0.5)),
    ):
        pass
    with LocalCluster(
        n_workers=0, protocol="tcp", host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
    ) as empty:
        where = empty.scheduler_address
        with (
            pytest.raises(JobFailed, match=r"no workers.*dask worker"),
            cluster.client(where, 0, settings(timeout_s=0.5)),
        ):
            pass


def test_tls_by_the_settings_and_wrong_keys_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    keys = Security.temporary()
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text(keys.tls_ca_file if name == "ca" else getattr(keys, f"tls_client_{name}"))
    ours = {f"tls_{name}": str(tmp_path / name) for name in ("ca", "cert", "key")}
    with LocalCluster(
        n_workers=1,
        processes=False,
        protocol="tls",
        host="127.0.0.1",
        security=keys,
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    ) as made:
        with cluster.client(made.scheduler_address, 0, settings(**ours)) as c:
            assert c.submit(pow, 2, 3).result() == 8
        other = Security.temporary()
        for name in ("ca", "cert", "key"):
            (tmp_path / name).write_text(other.tls_ca_file if name == "ca" else getattr(other, f"tls_client_{name}"))
        with (
            pytest.raises(JobFailed, match="tls_ca"),
            cluster.client(made.scheduler_address, 0, settings(timeout_s=2, **ours)),
        ):
            pass
    with pytest.raises(BadSettings, match=r"cluster\.tls_key = '' is no file"):
        cluster.security(ClusterOptions(tls_ca=ours["tls_ca"], tls_cert=ours["tls_cert"]))


def test_what_a_slurm_job_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dask_jobqueue = pytest.importorskip("dask_jobqueue")
    import dask.config

    options = ClusterOptions(
        folder=str(tmp_path / "shared"), partition="gpu", account="em", walltime="01:00:00", memory_gb=6, cpus=4, gpus=1
    )
    with dask.config.set({"jobqueue.slurm.job-extra-directives": ["--qos=normal"]}):
        asked = slurm.described(options)
        job = dask_jobqueue.slurm.SLURMJob(
            "tls://10.0.0.1:1",
            name="w",
            **{k: v for k, v in asked.items() if k not in ("shared_temp_directory", "scheduler_options")},
        )
    script = job.job_script()
    for line in ("-p gpu", "-A em", "-t 01:00:00", "--cpus-per-task=4", "--qos=normal", "--gres=gpu:1", "--mem=6G"):
        assert f"#SBATCH {line}" in script
    assert "--nthreads 1" in script
    assert "--no-dashboard" in script
    assert "--lifetime 3480s" in script
    assert asked["scheduler_options"]["dashboard_address"] == "127.0.0.1:0"
    assert (tmp_path / "shared").stat().st_mode & 0o077 == 0
    plain = slurm.described(ClusterOptions(folder=str(tmp_path)), need_bytes=10 * GB)
    assert plain["memory"] == f"{int(13 * GB)}B"
    assert "queue" not in plain


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("30", 1800),
        ("30:10", 1810),
        ("01:00:10", 3610),
        ("2-1", 176400),
        ("1-00:30", 88200),
        ("1-01:01:01", 90061),
        ("UNLIMITED", 0),
        ("", 0),
    ],
)
def test_walltimes_of_slurm(told: str, meant: float) -> None:
    assert slurm.seconds(told) == meant


def test_slurm_that_is_not_here_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    pytest.importorskip("dask_jobqueue")
    with pytest.raises(JobFailed, match="no sbatch here"), cluster.client("slurm", 1):
        pass
    monkeypatch.setitem(__import__("sys").modules, "dask_jobqueue", None)
    with pytest.raises(MissingExtra, match=r"emstream\[slurm\]"), cluster.client("slurm", 1):
        pass


def test_a_slurm_that_refuses_says_its_own_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue")
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    chosen = settings(partition="gpu", folder=str(tmp_path / "f"))
    with (
        pytest.raises(JobFailed, match="refuses the workers: invalid partition specified: gpu"),
        cluster.client("slurm", 1, chosen),
    ):
        pass


def test_jobs_that_end_before_a_worker_comes_are_told_with_their_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("dask_jobqueue")
    logs = tmp_path / "f" / "slurm"
    scripts = {
        "sbatch": f"[ $1 = --test-only ] || {{ echo 'ImportError: no dask here' > {logs}/dask-worker-41.err; echo Submitted batch job 41; }}",
        "squeue": "true",
        "scancel": "true",
    }
    for name, body in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "LOOK_S", 0.05)
    chosen = settings(folder=str(tmp_path / "f"))
    with (
        pytest.raises(JobFailed, match="41 ended before a worker came: ImportError: no dask here"),
        cluster.client("slurm", 1, chosen),
    ):
        pass


def test_settings_of_the_cluster_come_from_the_usual_places() -> None:
    found = load(env={"EMSTREAM_CLUSTER__PARTITION": "gpu"}, sets=["cluster.gpus=1"]).cluster
    assert (found.partition, found.gpus) == ("gpu", 1)
    assert dataclasses.replace(found, gpus=0, partition="") == ClusterOptions()
