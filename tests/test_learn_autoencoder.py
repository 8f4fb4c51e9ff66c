"""The historical autoencoder: its size, its published files, its faults, and a training that can be used."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from emstream import simulate
from emstream.errors import ModelBroken
from emstream.learn import LearnOptions, train
from emstream.learn.fit import follow
from emstream.segment import SegmentOptions, load
from emstream.segment.autoencoder import Autoencoder, dead_channels, from_published, unit
from emstream.segment.unet import parameters


class Published(nn.Module):
    """The layers that the two published checkpoints declare; of eight only the first and last two are used."""

    def __init__(self, eight: bool) -> None:
        super().__init__()
        inner = [(8, 16), (16, 2)] if eight else []
        outer = [(2, 16), (16, 8)] if eight else []
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 7, padding=3) for i, o in [(1, 2), (2, 8), *inner])
        back = [*outer, (8, 2), (2, 1)]
        self.back = nn.ModuleList(nn.ConvTranspose2d(i, o, 7, padding=3) for i, o in back)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for o in [2, 8, *[o for _, o in (*inner, *outer)], 2, 1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layers = [*self.convs, *self.back]
        for k in (0, 1, -2, -1):
            x = self.norms[k](torch.relu(layers[k](x)))
        return x


def test_it_has_1803_numbers() -> None:
    assert parameters(Autoencoder()) == 1803


@pytest.mark.parametrize(("eight", "prefix"), [(False, ""), (True, "module.")])
def test_the_published_shapes_load_and_give_the_same_image(eight: bool, prefix: str) -> None:
    torch.manual_seed(0)
    theirs = Published(eight)
    x = torch.rand(2, 1, 24, 24)
    theirs(x)  # so that the norms have statistics
    theirs.eval()
    assert parameters(theirs) == (17609 if eight else 1803)
    ours = from_published({prefix + k: v for k, v in theirs.state_dict().items()})
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_a_checkpoint_of_something_else_is_refused() -> None:
    with pytest.raises(ModelBroken, match="convolutions"):
        from_published(nn.Conv2d(1, 2, 3).state_dict())


def test_dead_channels_are_counted() -> None:
    net = Autoencoder()
    with torch.no_grad():
        torch.as_tensor(net.conv[1].weight)[:3] = 0
        torch.as_tensor(net.conv[1].bias)[:3] = -1
    for _ in range(200):
        net(unit(torch.randn(4, 1, 16, 16)))
    assert dead_channels(net) == 3


def test_the_running_mean_of_the_weights_knows_the_brightness_that_the_norms_have_seen() -> None:
    net, images = Autoencoder(), unit(torch.randn(4, 1, 16, 16))
    mean = copy.deepcopy(net)
    for _ in range(300):
        net.train()(images)
        follow(mean, net, 0.9)
    assert torch.allclose(mean.eval()(images), net.eval()(images), atol=1e-5)


def test_it_is_trained_without_labels_and_can_be_activated(tmp_path: Path) -> None:
    scene = simulate.movie(6, (128, 128), particles=4, diameter=(24, 34), contrast=(0.4, 0.5), dose=200, seed=1)
    np.save(tmp_path / "movie.npy", scene.frames)
    options = LearnOptions(recipe="autoencoder", crop_px=64, crops=4, epochs=3, steps_per_epoch=20, batch=4)
    numbers = train(replace(options, bottleneck=True), [tmp_path / "movie.npy"], tmp_path / "m")
    assert numbers["gate"]["promoted"]
    model = load(SegmentOptions(model=str(tmp_path / "m")))
    found = model(scene.frame(0)).labels
    assert found.shape == (128, 128)
    assert len(model.sha256) == 64


def test_two_recipes_are_trained_side_by_side_and_the_better_one_is_kept(tmp_path: Path) -> None:
    scene = simulate.movie(6, (128, 128), particles=4, diameter=(24, 34), contrast=(0.4, 0.5), dose=200, seed=1)
    np.save(tmp_path / "movie.npy", scene.frames)
    options = LearnOptions(recipe="student,autoencoder", crop_px=64, crops=4, epochs=1, steps_per_epoch=2, batch=2)
    train(options, [tmp_path / "movie.npy"], tmp_path / "m", incumbent="classical")
    told = json.loads((tmp_path / "m" / "model.json").read_text())
    rows = {c["name"]: c["checks"]["score"] for c in told["candidates"]}
    assert set(rows) == {"student-0-1", "autoencoder-0-1"}
    assert told["provenance"]["recipe"] == max(rows, key=rows.__getitem__).split("-")[0] == "student"
