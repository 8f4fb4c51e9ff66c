"""The network as a segmenter: what it finds, where it must find nothing, and models that are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from emstream.errors import BadImage, ModelBroken
from emstream.segment import SHIPPED, SegmentOptions, load
from emstream.segment.look import predict
from emstream.segment.model import read_model, write_model
from emstream.segment.normalise import normalise
from emstream.segment.predict import Network
from emstream.segment.unet import UNet, parameters

DEFAULT = SegmentOptions()
GOLDEN = ((5, 20.0), (6, 4.0), (7, 100.0), (8, 20.0))  # seed, dose


def discs(seed: int, n: int = 256, contrast: float = -0.35, dose: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    """Counts of 25 discs of 18 px on granular film (negative contrast = dark), and their mask."""
    rng = np.random.default_rng(seed)
    q = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None])
    film = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, n))) * np.exp(-((q * 6) ** 2)), s=(n, n))
    base, truth = 1 + 0.04 * film / film.std(), np.zeros((n, n), bool)
    yy, xx = np.mgrid[0:n, 0:n]
    for k in range(25):
        cy, cx = 28 + 48 * (k // 5) + rng.uniform(-6, 6), 28 + 48 * (k % 5) + rng.uniform(-6, 6)
        d = np.hypot(yy - cy, xx - cx)
        base *= 1 + contrast / (1 + np.exp((d - 9) / 0.8))
        truth |= d < 9
    return rng.poisson(dose * base).astype(np.uint16), truth


@pytest.fixture(scope="module")
def network() -> Network:
    found = load(DEFAULT, threads=1)
    assert isinstance(found, Network)
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("contrast", [-0.35, 0.5])
def test_finds_about_25_discs_at_20_electrons_per_pixel(network: Network, seed: int, contrast: float) -> None:
    frame, truth = discs(seed, contrast=contrast)
    labels = network(frame).labels
    assert labels.dtype == np.int32
    assert 23 <= labels.max() <= 28
    both, either = ((labels > 0) & truth).sum(), ((labels > 0) | truth).sum()
    assert both / either > 0.75


@pytest.mark.parametrize("dose", [1, 20, 200])
def test_noise_is_not_full_of_particles(network: Network, dose: int) -> None:
    noise = np.random.default_rng(dose).poisson(dose, (512, 512)).astype(np.uint16)
    assert network(noise).labels.max() <= 3


def test_labels_stay_inside_the_covered_area(network: Network) -> None:
    frame = discs(4)[0].copy()
    valid = (28, 240, 0, 228)
    outside = np.ones(frame.shape, bool)
    outside[28:240, 0:228] = False
    frame[outside] = 0
    labels = network(frame, valid=valid).labels
    assert not labels[outside].any()
    assert set(np.unique(labels)) == set(range(labels.max() + 1))
    assert labels.max() >= 15


@pytest.mark.parametrize("shape", [(97, 131), (64, 700), (1100, 900)])
def test_any_size_works_and_keeps_its_shape(network: Network, shape: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).poisson(20, shape).astype(np.uint16)
    assert network(frame).labels.shape == shape


def test_half_precision_gives_the_mask_of_full_precision() -> None:
    net, _, _ = read_model(SHIPPED / "default")
    images = [normalise(torch.from_numpy(discs(seed, dose=dose)[0].astype(np.float32))) for seed, dose in GOLDEN]
    full = np.stack([predict(net, x, net.stride, torch.float32)[0] > 0 for x in images])
    net.bfloat16()
    half = np.stack([predict(net, x, net.stride, torch.bfloat16)[0] > 0 for x in images])
    assert (full & half).sum() / (full | half).sum() >= 0.999


def test_a_part_of_a_frame_shows_what_the_whole_frame_shows(network: Network) -> None:
    frame = np.vstack([np.hstack([discs(10 * i + j)[0] for j in range(2)]) for i in range(2)])
    whole, part = network(frame).labels > 0, network(frame[:384, 64:448]).labels > 0
    here, there = whole[64:320, 128:384], part[64:320, 64:320]
    assert (here & there).sum() / (here | there).sum() > 0.97


def test_two_segmenters_agree_on_good_frames_and_the_flag_says_so() -> None:
    segment = load(SegmentOptions(judge_every=1), threads=1)
    good = segment(discs(6, dose=100)[0]).agreement
    assert 0.7 < good <= 1
    assert np.isnan(load(SegmentOptions(judge_every=0), threads=1)(discs(6)[0]).agreement)


def test_a_frame_does_not_depend_on_the_frames_before(network: Network) -> None:
    frame = discs(7)[0]
    first = network(frame).labels
    network(discs(8, contrast=0.5)[0])
    assert np.array_equal(network(frame).labels, first)


def test_the_shipped_model_is_small_and_says_where_it_comes_from() -> None:
    about = json.loads((SHIPPED / "default" / "model.json").read_text())
    assert (SHIPPED / "default" / "weights.safetensors").stat().st_size < 8_000_000
    assert about["validation"]["pictures"] > 40
    assert "provenance" in about
    assert len(load(DEFAULT, threads=1).sha256) == 64


def test_warming_up_changes_nothing(network: Network) -> None:
    frame = discs(9)[0]
    before = network(frame).labels
    network.warm_up((256, 256))
    assert np.array_equal(network(frame).labels, before)


def test_a_model_survives_writing_and_reading(tmp_path: Path) -> None:
    net = UNet((8, 16, 16)).eval()
    digest = write_model(tmp_path, net, {"name": "tiny"})
    again, about, found = read_model(tmp_path)
    assert (found, about["name"], parameters(again)) == (digest, "tiny", parameters(net))
    x = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(net(x), again(x), atol=0.02)


@pytest.mark.parametrize("harm", ["no_json", "bad_json", "other_format", "cut", "swapped", "widths", "pickle"])
def test_a_damaged_model_is_refused_with_its_reason(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(SHIPPED / "default", folder)
    about, weights = folder / "model.json", folder / "weights.safetensors"
    said = json.loads(about.read_text())
    if harm == "no_json":
        about.unlink()
    elif harm == "bad_json":
        about.write_text("{")
    elif harm == "other_format":
        about.write_text(json.dumps(said | {"format": 99}))
    elif harm == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif harm == "swapped":
        write_model(tmp_path / "other", UNet((8, 16)), {})
        shutil.copy(tmp_path / "other" / "weights.safetensors", weights)
    elif harm == "widths":
        about.write_text(json.dumps(said | {"architecture": {"kind": "unet", "widths": [8, 8]}}))
    else:
        torch.save({"a": 1}, weights)
        about.write_text(json.dumps({k: v for k, v in said.items() if k != "sha256"}))
    with pytest.raises(ModelBroken):
        load(SegmentOptions(model=str(folder)))


def test_wrong_pixels_are_refused(network: Network) -> None:
    with pytest.raises(BadImage):
        network(np.zeros((2, 64, 64)))
