"""Further label images beside `labels/particles`: made whole, listed, read by name, kept when the run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emstream.errors import BadSettings
from emstream.messages import Origin
from emstream.store import FrameRecord, LabelRecord, Ledger, Run, RunWriter, StoreOptions
from emstream.store.check import check
from emstream.store.versions import LabelVersion, remove

SHAPE = (300, 280)
OPTIONS = StoreOptions(fsync=False, low_water_mb=0)


def write(out: Path, frames: range) -> None:
    """A run of frames with labels 1, gone on with when it is there."""
    with Ledger(out, fsync=False) as ledger:
        writer = RunWriter(out, ledger.run_for("a", "a", SHAPE, "uint16", (0.5, 0.5)), ledger, OPTIONS)
        if frames.start:
            writer.reopen()
        for i in frames:
            record = FrameRecord(np.full(SHAPE, 7 + i, np.uint16), Origin(f"{i}.tif", 0, 1, 1, i), float(i), (0.0, 0.0))
            writer.write_frames([record])
        writer.add_model("m", "0" * 64, frames.start)
        key = "m@" + "0" * 64
        writer.write_labels([LabelRecord(i, np.ones(SHAPE, np.int32), 1, 1.0, key, 0.5) for i in frames])
        writer.close()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    write(tmp_path, range(4))
    return Run(tmp_path / "a.zarr")


def other(i: int) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint32)
    labels[10 * i : 10 * i + 20, 40:90] = 3
    return labels


def made(run: Run, name: str = "hand") -> None:
    version = LabelVersion(run.path, name, fsync=False)
    for i in (2, 0, 3):
        version.write(i, other(i))
    assert run.label_names == ["particles"]  # nobody sees it before it is whole
    version.finish({"model": "Au", "sha256": "ab"}, {"particles": {"frame": np.arange(3), "label": np.full(3, 3)}})


def test_a_version_is_read_by_its_name_and_tells_what_made_it(run: Run) -> None:
    made(run)
    assert run.label_names == ["particles", "hand"]
    assert run.labels_of("hand").shape == (4, *SHAPE)
    assert np.array_equal(run.labels_of("hand")[2].compute(), other(2))
    assert not run.label(1, name="hand").any()  # was not written
    assert np.array_equal(run.label(3, level=1, name="hand"), other(3)[::2, ::2])
    assert run.about_labels("hand") == {"frames": 4, "model": "Au", "sha256": "ab"}
    assert list(run.table("particles", labels="hand")["label"]) == [3, 3, 3]
    assert run.labels_of().max().compute() == 1
    assert not check(run.path).problems
    with pytest.raises(KeyError, match="particles, hand"):
        run.labels_of("foot")


def test_it_is_valid_ome_zarr(run: Run) -> None:
    from ome_zarr_models.v05 import ImageLabel
    from zarr import open_group

    made(run)
    ImageLabel.from_zarr(open_group(run.path / "labels" / "hand", mode="r"))


def test_a_run_that_goes_on_keeps_its_versions(run: Run, tmp_path: Path) -> None:
    made(run)
    write(tmp_path, range(4, 6))
    assert (run.n, run.label_names) == (6, ["particles", "hand"])
    assert np.array_equal(run.label(3, name="hand"), other(3))
    assert json.loads((run.path / "labels" / "zarr.json").read_bytes())["attributes"]["ome"]["labels"][1] == "hand"


def test_a_version_is_replaced_whole_and_taken_away_whole(run: Run) -> None:
    made(run)
    again = LabelVersion(run.path, "hand", fsync=False)
    again.write(0, other(5))
    assert np.array_equal(run.label(0, name="hand"), other(0))
    again.finish({"model": "Pt"})
    assert np.array_equal(run.label(0, name="hand"), other(5))
    assert not run.label(3, name="hand").any()
    with pytest.raises(KeyError):
        run.table("particles", labels="hand")
    remove(run.path, "hand")
    assert run.label_names == ["particles"]
    assert not (run.path / "labels" / "hand").exists()


@pytest.mark.parametrize("name", ["particles", "../x", "", ".hidden", "a/b"])
def test_names_that_would_do_harm_are_refused(run: Run, name: str) -> None:
    with pytest.raises(BadSettings):
        LabelVersion(run.path, name)


def test_each_frame_tells_its_model_and_how_far_two_ways_agree(run: Run, tmp_path: Path) -> None:
    write(tmp_path, range(4, 6))
    assert run.column("model").tolist() == [0] * 6
    assert run.column("agreement").tolist() == [0.5] * 6
    assert run.models == [{"name": "m", "sha256": "0" * 64, "from_frame": 0}]
    (tmp_path / ".emstream" / "ledger.sqlite").unlink()
    with Ledger(tmp_path) as ledger:  # a lost ledger comes back from the run with both
        rows = ledger.frames(ledger.run("a").id)
    assert {row["model"] for row in rows} == {"m@" + "0" * 64}
    assert {row["agreement"] for row in rows} == {0.5}
