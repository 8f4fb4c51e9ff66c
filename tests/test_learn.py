"""Training: drawn frames tell the truth, targets are right, a short training learns, a cut-off one goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from emstream.errors import BadSettings, ModelBroken, SourceMissing
from emstream.learn import LearnOptions, train
from emstream.learn.data import Crops, Picture, read_pictures, split
from emstream.learn.evaluate import judge, matched, overlap
from emstream.learn.fit import CHECKPOINT, fit, loss
from emstream.learn.synthetic import Look, frame, scene
from emstream.learn.targets import targets
from emstream.segment import SegmentOptions, load
from emstream.segment.unet import UNet

TINY = LearnOptions(
    recipe="supervised",
    widths=(8, 16, 16),
    epochs=2,
    steps_per_epoch=5,
    batch=2,
    crop_px=64,
    simulated=0.0,
    crops=2,
    start_from="none",
)


def test_drawn_particles_differ_from_the_film_where_the_labels_say() -> None:
    rng, z = np.random.default_rng(0), []
    for _ in range(12):
        drawn = scene(rng, (160, 160), Look(empty=0, contrast=(0.4, 0.6)))
        inside = drawn.labels > 0
        z.append(abs(drawn.base[inside].mean() - drawn.base[~inside].mean()))
    assert np.median(z) > 0.15


def test_drawn_labels_have_no_gaps_and_frames_hold_counts() -> None:
    image, labels = frame(np.random.default_rng(1), (128, 128))
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert set(np.unique(labels)) == set(range(labels.max() + 1))


def test_the_same_seed_draws_the_same_batch() -> None:
    a, b = (Crops([], TINY, 3).batch() for _ in range(2))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])


def test_depth_grows_from_edges_and_seams_and_is_one_from_five_px_on() -> None:
    yy, xx = np.mgrid[0:60, 0:100]
    labels = np.zeros((60, 100), np.int32)
    labels[np.hypot(yy - 30, xx - 30) < 20] = 1
    labels[(np.hypot(yy - 30, xx - 69) < 20) & (labels == 0)] = 2
    foreground, depth, weight, dy, dx = targets(labels)
    assert np.array_equal(foreground > 0, labels > 0)
    assert depth[30, 30] == depth[30, 69] == depth[30, 20] == 1
    assert depth[30, 13] == pytest.approx(3 / 5, abs=0.1)
    assert depth[30, 48:51].max() <= 0.2 + 1e-6
    assert depth[labels == 0].max() == 0
    assert weight[30, 49] > 1
    assert weight[5, 5] == 1
    assert (dy[18, 30], dx[18, 30]) == pytest.approx((12 / 32, 0), abs=0.02)  # the way to the middle, in 32 px
    assert not dx[labels == 0].any()


def test_what_lies_beyond_a_picture_is_unknown_and_teaches_nothing() -> None:
    labels = np.ones((40, 40), np.int32)
    labels[:, 30:] = -1
    wanted = torch.from_numpy(targets(labels))[None]
    assert not wanted[0, 2, :, 30:].any()
    right, wrong = torch.zeros(1, 4, 40, 40), torch.zeros(1, 4, 40, 40)
    wrong[..., 30:] = 9
    assert loss(wrong, wanted) == pytest.approx(float(loss(right, wanted)))


def test_measures_of_a_known_case() -> None:
    truth = np.zeros((20, 40), np.int32)
    truth[2:12, 2:12], truth[2:12, 20:30] = 1, 2
    found = np.zeros_like(truth)
    found[2:12, 2:12], found[2:12, 28:38], found[15:18, 2:5] = 1, 2, 3
    assert matched(found, truth) == (1, 2, 1)
    assert overlap(found, truth)[0] == pytest.approx(120 / 289)
    numbers = judge(found, truth)
    assert numbers["ap50"] == pytest.approx(1 / 4)
    assert numbers["count_error"] == pytest.approx(0.5)
    assert judge(truth, truth)["ap50"] == 1


def test_the_split_depends_on_names_alone_and_shares_no_picture() -> None:
    pictures = [Picture(f"{i}.png", np.zeros((8, 8), np.float32), np.zeros((8, 8), np.int32)) for i in range(200)]
    learn, kept = split(pictures, 0.15)
    again, _ = split(pictures[::-1], 0.15)
    assert {p.name for p in learn} == {p.name for p in again}
    assert not {p.name for p in learn} & {p.name for p in kept}
    assert 15 <= len(kept) <= 50


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(2)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for i in range(12):
        image, labels = frame(rng, (96, 96), Look(dose=(100, 200), contrast=(0.5, 0.7), diameter=(12, 24), empty=0))
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), np.clip(image, 0, 255).astype(np.uint8))
        cv2.imwrite(str(tmp_path / "labels" / f"{i}.png"), labels.astype(np.uint16))
    return tmp_path


def test_training_learns_is_written_and_can_be_used(folder: Path) -> None:
    options = LearnOptions(
        recipe="supervised", widths=(8, 16, 32), epochs=4, steps_per_epoch=30, batch=4, crop_px=64, drawn=0.3,
        simulated=0, scale=(0.8, 1.2), invert=0, learning_rate=5e-3, validation=0.3, crops=8, start_from="none",
    )  # fmt: skip
    heard: list[float] = []
    numbers = train(
        options,
        [folder / "images"],
        folder / "m",
        labels=str(folder / "labels"),
        progress=lambda p: heard.append(p["loss"]),
    )
    assert len(heard) == 4
    assert heard[-1] < heard[0]
    assert 0 <= numbers["iou"] <= 1
    assert (folder / "m" / "best.png").exists()
    assert len(load(SegmentOptions(model=str(folder / "m"))).sha256) == 64


def test_a_training_that_was_cut_off_goes_on_where_it_was(folder: Path) -> None:
    steps: list[int] = []

    def pull_the_plug(news: Mapping[str, object]) -> None:
        steps.append(int(str(news["step"])))
        if len(steps) == 1:
            raise RuntimeError("power cut")

    where = {"labels": str(folder / "labels"), "progress": pull_the_plug}
    with pytest.raises(RuntimeError, match="power cut"):
        train(TINY, [folder / "images"], folder / "m", **where)
    assert not (folder / "m").exists()
    train(TINY, [folder / "images"], folder / "m", **where)
    assert steps == [5, 10]
    assert (folder / "m" / "model.json").exists()
    assert not (folder / "m.part").exists()


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"not a checkpoint")
    net = UNet((8, 16))
    with pytest.raises(ModelBroken, match=CHECKPOINT):
        fit(net, lambda step: Crops([], TINY, step), TINY, tmp_path, lambda mean: {})


def test_wrong_inputs_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="nowhere"):
        train(TINY, [tmp_path / "nowhere"], tmp_path / "m", labels=str(folder / "labels"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceMissing, match="no pictures"):
        train(TINY, [tmp_path / "empty"], tmp_path / "m", labels=str(folder / "labels"))
    with pytest.raises(BadSettings, match="crop_px"):
        train(LearnOptions(crop_px=50), [folder / "images"], tmp_path / "m")
    with pytest.raises(BadSettings, match="labels"):
        train(TINY, [folder / "images"], tmp_path / "m")
    (folder / "labels" / "3.png").unlink()
    with pytest.raises(SourceMissing, match=r"3\.png"):
        read_pictures(folder / "images", folder / "labels")
