"""Learning from runs: drift has moved their frames, and what the camera did not see is neither film nor particle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import emstream
from emstream import align, simulate
from emstream.learn import LearnOptions, gate, lessons
from emstream.learn.candidate import segmenter
from emstream.learn.compare import evaluate
from emstream.learn.data import within
from emstream.learn.evaluate import overlap, score
from emstream.learn.labels import Labels
from emstream.learn.material import Material, survey
from emstream.learn.recipes import model_folder
from emstream.messages import Origin
from emstream.segment import SegmentOptions, load
from emstream.store import FrameRecord, LabelRecord, Ledger, RunWriter, StoreOptions

SIDE, FRAMES = 224, 12
FAR = (9, 10)  # frames that drift has moved by some 40 px


@pytest.fixture(scope="module")
def scene() -> simulate.Movie:
    return simulate.movie(
        FRAMES, (SIDE, SIDE), particles=14, diameter=(14, 26), contrast=(0.3, 0.4), dose=20,
        drift_per_frame=(4.0, -3.0), jitter=0.2, seed=3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(scene: simulate.Movie, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The movie as the daemon stores it, with the shipped model's labels."""
    out, network = tmp_path_factory.mktemp("runs"), load(SegmentOptions(judge_every=0), threads=1)
    with Ledger(out, fsync=False) as ledger:
        row = ledger.run_for("cam", "cam", scene.shape, "uint16", (0.5, 0.5))
        writer = RunWriter(out, row, ledger, StoreOptions(fsync=False, low_water_mb=0))
        writer.add_model("default", network.sha256, 0)
        for i in range(FRAMES):
            shift = (float(scene.shift[i, 0]), float(scene.shift[i, 1]))
            moved, valid = align.move(scene.frame(i), shift)
            writer.write_frames([FrameRecord(moved, Origin(f"{i}.tif", 0, 1, 1, i), 1e9 + i / 10, shift)])
            found = network(moved, valid=valid).labels
            key = f"default@{network.sha256}"
            writer.write_labels([LabelRecord(i, found, int(found.max()), float((found > 0).mean()), key)])
        writer.close()
    return out / "cam.zarr"


@pytest.fixture(scope="module")
def material(run: Path) -> Material:
    found = survey(run)
    assert found.kind == "run"
    assert found.valid(10, (SIDE, SIDE)) != (0, SIDE, 0, SIDE)
    return found


def test_the_gate_looks_at_what_the_camera_saw(material: Material) -> None:
    trials = [gate.trial(material, i, Labels(), model_folder("default"), 3, 0) for i in FAR]
    marks = gate.examine_model("default", trials, 1)
    assert min(marks[check] for check in gate.CHECKS) > 0.7, marks


def test_validation_looks_at_what_the_camera_saw(material: Material, scene: simulate.Movie, tmp_path: Path) -> None:
    options = LearnOptions(neighbours=3)
    judged = []
    for i in FAR:
        record = lessons.make(material, 0, i, True, None, model_folder("default"), str(tmp_path), options)
        made = lessons.again(record.path)
        judged.append(within(made.valid, made.name, made.image, made.labels))
        truth, valid = align.move(scene.labels(i), (float(scene.shift[i, 0]), float(scene.shift[i, 1])))
        y0, y1, x0, x1 = valid
        assert judged[-1].image.shape == (y1 - y0, x1 - x0)
        assert ((judged[-1].labels > 0) == (truth[y0:y1, x0:x1] > 0)).mean() > 0.97
    assert score(segmenter(Path(model_folder("default")), options), judged)["iou"] > 0.75


def test_models_are_evaluated_on_what_the_camera_saw(run: Path) -> None:
    (row,) = evaluate(["default"], [run], SegmentOptions(), threads=1)
    assert row["pictures"] == FRAMES
    assert row["dice"] > 0.97  # the labels are its own; it sees the same pixels, cut out


def test_a_stored_frame_is_segmented_by_hand_as_the_daemon_did(run: Path) -> None:
    stored = emstream.open_run(run)
    for i in (0, *FAR):
        found = emstream.segment(np.asarray(stored.frames[i]))
        assert overlap(found, np.asarray(stored.labels[i]))[1] > 0.97
