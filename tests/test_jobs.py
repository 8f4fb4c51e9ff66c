"""Offline jobs on dask: archives reprocessed through the same loop, a model trained, wrong words refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import zarr

from emstream import simulate
from emstream.config import Settings, load
from emstream.errors import BadSettings, SourceMissing
from emstream.jobs.cluster import client
from emstream.jobs.reprocess import reprocess
from emstream.jobs.train import train
from emstream.store import Run

SETTINGS = load(env={}, sets=["segment.model=classical"])


@pytest.fixture(scope="module")
def movie() -> simulate.Movie:
    return simulate.movie(12, (128, 128), particles=5, diameter=(14, 26), contrast=(0.3, 0.4), dose=60, seed=4)


def one(path: Path, out: Path, settings: Settings, **how: Any) -> dict[str, Any]:
    """One archive, in this process."""
    (row,) = reprocess([path], out, settings, cluster="here", **how)
    return row


def drift_error(run: Run, movie: simulate.Movie) -> float:
    error = (run.column("shift") - movie.shift)[4:]
    return float(np.sqrt(((error - error.mean(0)) ** 2).sum(1).mean()))


def test_a_camera_file_becomes_a_run_on_a_dask_worker(movie: simulate.Movie, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "old.tif", movie.frames)
    (row,) = reprocess([tmp_path / "old.tif"], tmp_path / "new", SETTINGS)
    assert row["frames"] == row["segmented"] == len(movie)
    run = Run(tmp_path / "new" / "old.zarr")
    assert run.state == "closed"
    assert drift_error(run, movie) < 0.3


def test_a_plain_zarr_array_becomes_a_run(movie: simulate.Movie, tmp_path: Path) -> None:
    zarr.save_array(tmp_path / "stack.zarr", movie.frames)
    assert one(tmp_path / "stack.zarr", tmp_path / "new", SETTINGS)["frames"] == len(movie)
    assert drift_error(Run(tmp_path / "new" / "stack.zarr"), movie) < 0.3


def test_a_run_is_segmented_again_and_the_old_one_stays(movie: simulate.Movie, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "cam.tif", movie.frames)
    one(tmp_path / "cam.tif", tmp_path / "a", load(env={}, sets=["segment.enabled=false"]))
    before = (tmp_path / "a" / "cam.zarr" / "zarr.json").read_bytes()
    one(tmp_path / "a" / "cam.zarr", tmp_path / "b", SETTINGS)
    again = Run(tmp_path / "b" / "cam.zarr")
    assert again.n == len(movie)
    assert again.column("particles").min() > 0
    assert drift_error(again, movie) < 0.3
    assert (tmp_path / "a" / "cam.zarr" / "zarr.json").read_bytes() == before


def test_frames_that_are_aligned_already_stay_where_they_are(movie: simulate.Movie, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "cam.tif", movie.frames)
    plain = load(env={}, sets=["segment.enabled=false"])
    one(tmp_path / "cam.tif", tmp_path / "a", plain)
    one(tmp_path / "a" / "cam.zarr", tmp_path / "b", plain, align="keep")
    before, after = Run(tmp_path / "a" / "cam.zarr"), Run(tmp_path / "b" / "cam.zarr")
    assert np.abs(before.column("shift")).max() > 1
    assert np.array_equal(before.frames.compute(), after.frames.compute())
    assert np.array_equal(before.column("shift"), after.column("shift"))


def test_a_model_is_trained_on_a_worker_and_segments(tmp_path: Path) -> None:
    for folder in ("pictures", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(8):
        scene = simulate.movie(1, (96, 96), particles=4, diameter=(16, 30), contrast=(0.3, 0.4), dose=50, seed=i)
        cv2.imwrite(str(tmp_path / "pictures" / f"{i}.png"), np.clip(scene.frame(0) * 2, 0, 255).astype(np.uint8))
        cv2.imwrite(str(tmp_path / "masks" / f"{i}.png"), (scene.labels(0) > 0).astype(np.uint8) * 255)
    learn = dataclasses.replace(
        SETTINGS.learn,
        epochs=2,
        steps_per_epoch=3,
        batch=2,
        crop_px=64,
        widths=(8, 16),
        validation=0.3,
        start_from="none",
        crops=4,
    )
    settings = dataclasses.replace(SETTINGS, learn=learn)
    numbers = train(
        [tmp_path / "pictures"], tmp_path / "model", settings, labels=str(tmp_path / "masks"), recipe="supervised"
    )
    assert 0 <= numbers["iou"] <= 1
    from emstream.segment import SegmentOptions
    from emstream.segment import load as load_model

    model = load_model(SegmentOptions(model=str(tmp_path / "model")))
    assert len(model.sha256) == 64
    assert model(np.zeros((96, 96), np.uint16)).labels.shape == (96, 96)


def test_wrong_words_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="nowhere"):
        reprocess([tmp_path / "nowhere"], tmp_path / "out", SETTINGS)
    with pytest.raises(BadSettings, match="sometimes"):
        reprocess([tmp_path], tmp_path / "out", SETTINGS, align="sometimes")
    with pytest.raises(BadSettings, match="--labels"):
        train([tmp_path], tmp_path / "m", SETTINGS, recipe="supervised")
    with pytest.raises(BadSettings, match="carrier-pigeon"), client("carrier-pigeon"):
        pass
