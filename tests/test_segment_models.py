"""Models by name, tried before they are used, exchanged between two frames."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emstream.errors import ModelBroken
from emstream.messages import Labelled
from emstream.segment import SHIPPED, Segmenter, SegmentOptions, desk, load
from emstream.segment.exchange import Exchange, Swap, Swapper
from emstream.segment.golden import RECORD, Live, golden_frames, record, self_test
from emstream.segment.model import write_model
from emstream.segment.registry import Registry
from emstream.segment.unet import UNet


class Planted:
    """A segmenter that gives what it is told to."""

    sha256 = ""

    def __init__(self, labels: Any, name: str = "planted", numbers: bool = True) -> None:
        self.name, self.labels, self.numbers, self.warmed = name, labels, numbers, ()

    def __call__(self, pixels: np.ndarray, **_: Any) -> Labelled:
        return Labelled(self.labels(pixels), self.name, "")

    def look(self, pixels: np.ndarray, **_: Any) -> Any:
        return lambda: self(pixels)

    def warm_up(self, shape: tuple[int, int], dtype: str = "uint16") -> None:
        self.warmed = shape

    memory: Any = None

    def reset(self, polarity: str = "auto") -> None:
        pass

    def finite(self, pixels: np.ndarray) -> bool:
        return self.numbers


def good(pixels: np.ndarray) -> np.ndarray:
    """What is far from the median is a particle."""
    import cv2

    smooth = cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), 2)
    middle = float(np.median(smooth))
    return (abs(smooth - middle) > 0.2 * middle).astype(np.int32)


def au(folder: Path, name: str = "Au") -> Path:
    shutil.copytree(SHIPPED / "default", folder)
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(about | {"name": name}))
    return folder


def test_the_shipped_models_and_those_of_a_folder_are_found_by_name(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    assert [m.name for m in registry.models()] == ["classical", "default"]
    registry.activate(registry.find(au(tmp_path / "trained")))
    assert [m.name for m in registry.models()] == ["classical", "default", "Au"]
    found = registry.find("Au")
    assert found.path is not None
    assert found.path.name == f"Au-{found.sha256[:8]}"
    shutil.rmtree(tmp_path / "trained")  # what made the labels stays
    assert registry.active().model == found.path.name  # type: ignore[union-attr]
    assert not Registry(tmp_path).find("Au").problem
    with pytest.raises(ModelBroken, match="classical, default, Au"):
        registry.find("Pt")


def test_activating_tries_the_model_first_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    told = desk.activate(str(au(tmp_path / "trained")), out, SegmentOptions())
    assert told["iou"]["planted dark"] > 0.7
    assert told["iou"]["planted bright"] > 0.7
    before = Registry(out).active()
    blind = UNet((8, 16))
    assert blind.head.bias is not None
    torch.nn.init.zeros_(blind.head.weight)
    torch.nn.init.constant_(blind.head.bias, -9)
    write_model(tmp_path / "blind", blind, {"name": "blind"})
    with pytest.raises(ModelBroken, match="finds nothing"):
        desk.activate(str(tmp_path / "blind"), out, SegmentOptions())
    with pytest.raises(ModelBroken, match=r"model\.json is missing"):
        desk.activate(str(tmp_path), out, SegmentOptions())
    assert Registry(out).active() == before
    assert [r["name"] for r in desk.table(out) if r["state"] == "active"] == [f"Au-{told['sha256'][:8]}"]
    desk.activate(str(tmp_path / "blind"), out, SegmentOptions(), anyway=True)
    assert self_test(load(SegmentOptions(model=str(tmp_path / "blind"))), Registry(out).find("blind").path)


def test_show_tells_where_a_model_comes_from() -> None:
    told = desk.show("default", None)
    assert told["validation.pictures"] == 51
    assert told["provenance.pictures.validation"] == "51 of them"


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (Planted(good, numbers=False), "not finite"),
        (Planted(lambda p: np.zeros((4, 4), np.int32)), r"labels of \(4, 4\)"),
        (Planted(lambda p: np.zeros(p.shape, np.float32)), "float32"),
        (Planted(lambda p: np.full(p.shape, -1, np.int32)), "from -1"),
        (Planted(lambda p: np.zeros(p.shape, np.int32)), "finds nothing"),
        (Planted(lambda p: np.ones(p.shape, np.int32)), "finds nothing"),
    ],
)
def test_what_no_model_may_give_is_refused_with_its_reason(harm: Planted, why: str) -> None:
    with pytest.raises(ModelBroken, match=why):
        self_test(harm)


def test_a_model_that_knows_no_golden_particles_may_agree_with_what_is_at_work() -> None:
    frame = golden_frames()[0][0]
    mine = Planted(lambda p: np.eye(len(p), dtype=np.int32))
    with pytest.raises(ModelBroken):
        self_test(mine)
    same = Live(frame, None, None, np.eye(len(frame), dtype=bool))
    assert self_test(mine, live=same)["now"] == 1


def test_other_masks_than_when_it_was_activated_are_refused(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_bytes(record(Planted(good)))
    assert self_test(Planted(good), tmp_path)["record"] == 1
    with pytest.raises(ModelBroken, match="other masks"):
        self_test(Planted(lambda p: np.roll(good(p), 3, 0)), tmp_path)
    (tmp_path / RECORD).write_bytes(b"PK broken")
    with pytest.raises(ModelBroken, match="cannot be read"):
        self_test(Planted(good), tmp_path)


def test_half_precision_and_full_precision_keep_the_same_golden_masks() -> None:
    half, full = load(SegmentOptions(judge_every=0)), load(SegmentOptions(judge_every=0))
    full.dtype, full.net = torch.float32, full.net.float()  # type: ignore[attr-defined]
    full.run = full.net  # type: ignore[attr-defined]
    for frame in golden_frames()[0]:
        a, b = half(frame).labels > 0, full(frame).labels > 0
        assert (a & b).sum() / (a | b).sum() > 0.98


def test_an_offered_segmenter_begins_with_the_next_frame_and_what_was_begun_is_finished() -> None:
    exchange, frame = Exchange(Planted(good, "old")), golden_frames()[0][0]
    begun = exchange.look(frame)
    taken: list[str] = []
    exchange.offer(Planted(good, "new"), lambda: taken.append("new"))
    assert exchange.name == "old"
    assert exchange(frame).model == "new"
    assert begun().model == "old"
    assert taken == ["new"]
    live = exchange.live
    assert live is not None
    assert live.mask.any()


def test_the_swapper_offers_what_was_activated_and_refuses_what_is_broken(tmp_path: Path) -> None:
    registry, told = Registry(tmp_path), list[Swap]()
    made: dict[str, Segmenter] = {
        "classical": Planted(good, "classical"),
        "default": Planted(lambda p: p * np.nan, "default"),
    }
    exchange = Exchange(Planted(good, "first"))
    swapper = Swapper(registry, exchange, lambda name: made[name], told.append)
    swapper.look()
    assert not told
    registry.activate(registry.find("classical"))
    swapper.look()
    assert exchange(golden_frames()[0][0]).model == "classical"
    assert made["classical"].warmed == (1024, 1024)  # type: ignore[attr-defined]
    registry.activate(registry.find("default"))
    swapper.look()
    assert exchange(golden_frames()[0][0]).model == "classical"
    assert told[-1].problem
    assert told[-1].before == "classical"
    assert registry.folder is not None
    (registry.folder / "active.json").write_text("{")
    swapper.look()
    assert "cannot be read" in told[-1].problem
