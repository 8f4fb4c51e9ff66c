"""Training on dask: two processes train one network, a lost one does not end it, an interrupted job goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rank_work import trained_together, vanishes_once

from emstream import simulate
from emstream.config import load
from emstream.errors import BadSettings, JobFailed
from emstream.jobs import ranks
from emstream.jobs.ranks import together
from emstream.jobs.train import Tasks, chosen, usable
from emstream.learn import LearnOptions, train


@pytest.fixture(scope="module")
def two() -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
        Client(cluster) as c,
    ):
        yield c


def test_two_ranks_train_one_network_and_begin_again_together_when_one_fails(two: Any, tmp_path: Path) -> None:
    size, weight, agreed, first = together(two, trained_together, (str(tmp_path / "tried"),), usable(two))
    assert (tmp_path / "tried").exists()
    assert size == 2
    assert weight == pytest.approx(3, abs=0.02)
    assert agreed == [0.5]
    assert first == 1.0


def test_a_group_that_always_fails_ends_with_a_word(two: Any, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="no training group"):
        together(two, int, ("x",), usable(two)[:1], attempts=1)


def test_a_workers_task_runs_on_dask_in_order(two: Any) -> None:
    assert Tasks(two, usable(two))(pow, [(2, 3), (3, 2)]) == [8, 9]


def test_a_rank_whose_process_vanishes_does_not_hang_the_group(
    two: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "LOOK_S", 0.2)
    assert together(two, vanishes_once, (str(tmp_path / "tried"),), usable(two)) >= 1
    assert (tmp_path / "tried").exists()


def test_the_daemons_workers_are_never_used() -> None:
    class Scheduler:
        def scheduler_info(self, **_: int) -> dict[str, Any]:
            return {"workers": {"tcp://a:1": {"name": "live-0"}, "tcp://b:1": {"name": 1}}}

    assert usable(Scheduler()) == ["tcp://b:1"]


def test_a_training_killed_at_any_step_ends_with_the_same_numbers(tmp_path: Path) -> None:
    scene = simulate.movie(8, (96, 96), particles=4, diameter=(16, 24), contrast=(0.3, 0.4), dose=60, seed=6)
    np.save(tmp_path / "movie.npy", scene.frames)
    np.save(tmp_path / "labels.npy", np.stack([scene.labels(i) for i in range(8)]))
    options = LearnOptions(
        recipe="supervised", widths=(8, 16), crop_px=64, crops=4, epochs=6, steps_per_epoch=4, batch=2, drawn=0.0,
        neighbours=2, start_from="none", validation=0.3,
    )  # fmt: skip
    labels = str(tmp_path / "labels.npy")
    whole = train(options, [tmp_path / "movie.npy"], tmp_path / "whole", labels=labels)
    epochs: list[int] = []

    def kill(news: Mapping[str, Any]) -> None:
        epochs.append(int(news["step"]))
        if len(epochs) in (1, 4):
            raise OSError("killed")

    for _ in range(2):
        with pytest.raises(OSError, match="killed"):
            train(options, [tmp_path / "movie.npy"], tmp_path / "again", labels=labels, progress=kill)
    again = train(options, [tmp_path / "movie.npy"], tmp_path / "again", labels=labels, progress=kill)
    assert epochs == [4, 8, 12, 16, 20, 24]
    assert again["iou"] == pytest.approx(whole["iou"], abs=1e-6)
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "again")]
    assert weights[0] == weights[1]


def test_wrong_recipes_are_named() -> None:
    options = load(env={}).learn
    assert chosen(options, "auto", "none").recipe == "student"
    assert chosen(options, "auto", "masks").recipe == "supervised"
    with pytest.raises(BadSettings, match="alchemy"):
        chosen(options, "alchemy", "none")
    with pytest.raises(BadSettings, match="--labels"):
        chosen(options, "supervised", "none")
    with pytest.raises(BadSettings, match="different data sets"):
        chosen(options, "student,supervised", "masks")
