"""Labels from everywhere: COCO, painted stacks, a run's label store, masks as pictures; unpainted frames are not empty."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import zarr

from emstream.errors import SourceMissing, UnreadableFile
from emstream.learn.labels import Labels, instances
from emstream.learn.material import Material

MOVIE = Material("/nowhere/movie.npy", "movie", (0, 1, 2))
PICTURES = Material("/nowhere", "pictures", (0, 1), ("a.png", "b.png"))


def painted() -> np.ndarray:
    stack = np.zeros((3, 40, 50), np.int32)
    stack[1, 5:15, 5:15], stack[1, 20:30, 20:40] = 4, 9
    return stack


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_a_painted_stack_labels_the_frames_that_were_painted(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"labels.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, painted().astype(np.uint16), photometric="minisblack")
    else:
        zarr.save_array(path, painted())
    labels = Labels.of(str(path))
    assert labels.frames(MOVIE) == (1,)
    assert labels.read(MOVIE, 0) is None
    assert np.array_equal(labels.read(MOVIE, 1), painted()[1])


def test_the_label_store_of_a_run_is_named(tmp_path: Path) -> None:
    zarr.save_array(tmp_path / "run.zarr" / "labels" / "corrected", painted())
    run = Material(str(tmp_path / "run.zarr"), "run", (0, 1, 2))
    assert Labels.of("corrected").frames(run) == (1,)
    with pytest.raises(SourceMissing, match="corrected"):
        Labels.of("mine").frames(run)


def test_coco_polygons_and_run_lengths_become_instances(tmp_path: Path) -> None:
    runs = [5 * 40 + 3, 10, 30, 10, 40 * 50 - 253]  # columns of height 40, two of them with ten pixels
    told = {
        "images": [{"id": 7, "file_name": "sub/a.png", "height": 40, "width": 50}],
        "annotations": [
            {"image_id": 7, "segmentation": [[20, 20, 39, 20, 39, 29, 20, 29]]},
            {"image_id": 7, "segmentation": {"size": [40, 50], "counts": runs}},
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(told))
    labels = Labels.of(str(tmp_path / "coco.json"))
    assert labels.frames(PICTURES) == (0,)
    found = labels.read(PICTURES, 0)
    assert found is not None
    assert (found[20:30, 20:40] == 1).all()
    assert (found == 2).sum() == 20
    assert (found[3:13, 5] == 2).all()


def test_masks_as_pictures_are_taken_apart_and_a_missing_one_means_not_labelled(tmp_path: Path) -> None:
    mask = np.zeros((40, 50), np.uint8)
    mask[5:15, 5:15], mask[20:30, 20:40] = 255, 255
    cv2.imwrite(str(tmp_path / "b_mask.png"), mask)
    labels = Labels.of(str(tmp_path))
    assert labels.frames(PICTURES) == (1,)
    found = labels.read(PICTURES, 1)
    assert found is not None
    assert found.max() == 2


def test_what_is_no_label_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="whole numbers"):
        instances(np.full((4, 4), 0.5))
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UnreadableFile, match="COCO"):
        Labels.of(str(tmp_path / "x.json")).frames(PICTURES)
    with pytest.raises(SourceMissing, match=r"gone\.tif"):
        Labels.of("gone.tif")
