"""A model appears whole at its place and replaces nothing but a model: a mistyped --out costs nobody's frames."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emstream.config import load
from emstream.errors import BadSettings
from emstream.jobs.train import train
from emstream.learn import LearnOptions
from emstream.learn.place import check_out, deliver, part, workplace


def model(folder: Path, name: str) -> Path:
    """A folder with the files of a model."""
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({"name": name}))
    (folder / "weights.safetensors").write_bytes(b"w")
    (folder / "checkpoint.safetensors").write_bytes(b"c" * 9)
    return folder


def camera(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "movie_000000.tif").write_bytes(b"the only copy")
    return folder


@pytest.mark.parametrize("where", ["cam", "runs", "file", "project"])
def test_what_is_no_model_is_not_replaced_and_nothing_is_trained(where: str, tmp_path: Path) -> None:
    frames = camera(tmp_path / "cam") / "movie_000000.tif"
    camera(tmp_path / "runs" / "Au.zarr")
    (tmp_path / "file").write_text("mine")
    model(tmp_path / "project", "with a folder in it")
    (tmp_path / "project" / "data").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadSettings, match=f"{where} is there, is not a model, and would be replaced"):
        train([tmp_path / "cam"], tmp_path / where, load(env={}))
    assert sorted(tmp_path.rglob("*")) == before
    assert frames.read_bytes() == b"the only copy"


def test_a_folder_that_only_has_the_name_of_a_training_is_left_alone(tmp_path: Path) -> None:
    camera(tmp_path / "m.part")
    with pytest.raises(BadSettings, match=r"m\.part is there, is not a training that was cut off"):
        workplace(tmp_path / "m", LearnOptions(), [], "none")
    assert (tmp_path / "m.part" / "movie_000000.tif").exists()


def test_a_model_a_training_that_was_cut_off_and_an_empty_folder_make_way(tmp_path: Path) -> None:
    out = model(tmp_path / "m", "old")
    model(tmp_path / "m.refused", "refused")
    work = workplace(out, LearnOptions(), [], "none")
    (work / "kept").touch()
    assert workplace(out, LearnOptions(), [], "none") == work == part(out)
    assert (work / "kept").exists()  # of the same training: gone on with
    workplace(out, LearnOptions(seed=1), [], "none")
    assert not (work / "kept").exists()
    deliver(model(work / "candidate", "new"), work, out, {"made": "now"})
    assert json.loads((out / "model.json").read_text()) == {"name": "new", "made": "now"}
    assert sorted(p.name for p in out.iterdir()) == ["model.json", "weights.safetensors"]  # no checkpoint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "m.part", "m.refused"]
    (tmp_path / "empty").mkdir()
    check_out(tmp_path / "empty")


def test_what_came_to_its_place_while_it_was_trained_stays(tmp_path: Path) -> None:
    out = tmp_path / "m"
    work = workplace(out, LearnOptions(), [], "none")
    camera(out)
    with pytest.raises(BadSettings, match="is not a model"):
        deliver(model(work / "candidate", "new"), work, out, {})
    assert (out / "movie_000000.tif").exists()
    assert (work / "new" / "weights.safetensors").exists()
