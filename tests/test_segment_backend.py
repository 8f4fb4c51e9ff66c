"""What multiplies the network's numbers gives the same masks: torch in full precision is what the others must agree with."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from emstream.errors import BadSettings, MissingExtra
from emstream.segment import SHIPPED, SegmentOptions, backend, load
from emstream.segment.golden import golden_frames
from emstream.segment.look import look_at
from emstream.segment.model import read_model
from emstream.segment.normalise import normalise

CPU = torch.device("cpu")
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason='OpenVINO is not installed: pip install "emstream[openvino]"'
)


def masks(call: backend.Call, stride: int, device: torch.device = CPU) -> list[np.ndarray]:
    images = [normalise(torch.from_numpy(f.astype(np.float32)).to(device)) for f in golden_frames()[0]]
    threshold = SegmentOptions().threshold
    return [look_at(call, image, stride, torch.float32, threshold).foreground > threshold for image in images]


@needs_openvino
def test_openvino_agrees_with_torch_on_the_golden_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    net, _, digest = read_model(SHIPPED / "default")
    full = masks(net, net.stride)
    for _ in range(2):  # converted, then from the cache
        for a, b in zip(full, masks(backend.OpenVino(net, digest, 1), net.stride), strict=True):
            assert (a & b).sum() / (a | b).sum() >= 0.999
    (kept,) = (tmp_path / "emstream" / "openvino").iterdir()
    (kept / "model.xml").write_text("broken")
    assert backend.OpenVino(net, digest, 1)(torch.zeros(1, 1, 64, 96)).shape[2:] == (64, 96)


@needs_openvino
def test_a_segmenter_on_openvino_finds_the_planted_particles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    segment = load(SegmentOptions(backend="openvino"), threads=1)
    for frame, truth in zip(*golden_frames(), strict=True):
        found = segment(frame).labels > 0
        assert (found & truth).sum() / (found | truth).sum() > 0.8


def test_openvino_is_asked_for_only_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    assert backend.chosen("auto", CPU) == "torch"
    with pytest.raises(MissingExtra, match=r"emstream\[openvino\]"):
        backend.chosen("openvino", CPU)
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: object())
    assert backend.chosen("auto", CPU) == "openvino"
    assert backend.chosen("torch", CPU) == "torch"
    assert backend.chosen("auto", torch.device("cuda:0")) == "torch"
    with pytest.raises(MissingExtra, match="CPU only"):
        backend.chosen("openvino", torch.device("cuda:0"))
    with pytest.raises(BadSettings, match=r"segment\.backend"):
        load(SegmentOptions(backend="onnx"))  # type: ignore[arg-type]


@pytest.mark.gpu
def test_a_recorded_graph_gives_what_the_network_gives() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda:0")
    net = read_model(SHIPPED / "default")[0].to(device)
    graphed = backend.Graphed(net)
    for side in (256, 384, 256, 512, 128, 320, 256):
        x = torch.randn(1, 1, side, side, device=device)
        with torch.inference_mode():
            assert torch.allclose(graphed(x), net(x), atol=1e-3)
    for a, b in zip(masks(net, net.stride, device), masks(graphed, net.stride, device), strict=True):
        assert (a & b).sum() / (a | b).sum() >= 0.999
