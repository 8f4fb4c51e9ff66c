"""The classical method on planted particles, and on frames that hold none."""

from __future__ import annotations

import numpy as np
import pytest

from emstream.errors import BadImage, BadSettings, ModelBroken
from emstream.segment import SegmentOptions, load
from emstream.segment.classical import ClassicalState, follow
from emstream.segment.faint import Faint

CLASSICAL = SegmentOptions(model="classical")


def film(rng: np.random.Generator, n: int, grain: float = 6.0) -> np.ndarray:
    """Granular support, (n, n), mean 0, rms 1."""
    q = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None])
    out = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, n))) * np.exp(-((q * grain) ** 2)), s=(n, n))
    return out / out.std()


def discs(seed: int, n: int = 256, radius: float = 9.0, contrast: float = -0.35, dose: float = 20.0) -> tuple:
    """uint16 counts of 25 discs on granular film (negative contrast = dark), and their truth mask."""
    rng = np.random.default_rng(seed)
    base, truth = 1 + 0.04 * film(rng, n), np.zeros((n, n), bool)
    yy, xx = np.mgrid[0:n, 0:n]
    for i in range(5):
        for j in range(5):
            d = np.hypot(yy - (28 + 48 * i + rng.uniform(-6, 6)), xx - (28 + 48 * j + rng.uniform(-6, 6)))
            base *= 1 + contrast / (1 + np.exp((d - radius) / 0.8))
            truth |= d < radius
    return rng.poisson(dose * base).astype(np.uint16), truth


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("contrast", [-0.35, 0.5])
@pytest.mark.parametrize("dtype", ["uint16", ">u2", "float32", "int32"])
def test_finds_25_discs_dark_or_bright_at_20_electrons_per_pixel(contrast: float, dtype: str) -> None:
    frame, truth = discs(1, contrast=contrast)
    labels = load(CLASSICAL)(frame.astype(dtype)).labels
    assert labels.dtype == np.int32
    assert 23 <= labels.max() <= 27
    assert iou(labels > 0, truth) > 0.75


def test_diameters_are_right_to_three_percent_at_a_high_dose() -> None:
    frame, truth = discs(2, dose=400)
    labels = load(CLASSICAL)(frame).labels
    assert labels.max() == 25
    assert abs(np.sqrt((labels > 0).sum() / truth.sum()) - 1) < 0.03
    assert iou(labels > 0, truth) > 0.9


@pytest.mark.parametrize("dose", [1, 5, 20, 200])
def test_noise_never_becomes_particles(dose: int) -> None:
    segment = load(CLASSICAL)
    rng = np.random.default_rng(dose)
    for _ in range(3):
        assert segment(rng.poisson(dose, (256, 256)).astype(np.uint16)).labels.max() == 0


@pytest.mark.parametrize("grain", [3, 6, 12])
def test_granular_film_never_becomes_particles(grain: float) -> None:
    segment = load(CLASSICAL)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        frame = rng.poisson(20 * (1 + 0.04 * film(rng, 256, grain)))
        assert segment(frame.astype(np.uint16)).labels.max() <= 2


def test_a_constant_frame_holds_nothing() -> None:
    assert load(CLASSICAL)(np.full((64, 64), 7, np.uint8)).labels.max() == 0


def test_a_blank_frame_in_a_series_holds_nothing_and_the_next_one_is_as_before() -> None:
    segment = load(CLASSICAL)
    rng = np.random.default_rng(0)
    for seed in range(9):
        segment(discs(seed)[0])
    assert segment(rng.poisson(0.2, (256, 256)).astype(np.uint16)).labels.max() == 0
    assert 23 <= segment(discs(20)[0]).labels.max() <= 27


def test_nothing_flickers_in_a_series_of_equal_scenes() -> None:
    segment = load(CLASSICAL)
    rng = np.random.default_rng(3)
    clean = discs(4, dose=3000)[0] / 3000
    shares = [float((segment(rng.poisson(20 * clean)).labels > 0).mean()) for _ in range(24)]
    assert np.std(shares[8:]) / np.mean(shares[8:]) < 0.03


def test_brightness_that_changes_does_not_change_the_particles() -> None:
    segment = load(CLASSICAL)
    frame = discs(5, dose=200)[0]
    for _ in range(10):
        before = segment(frame).labels
    after = segment(frame * 3 + 50).labels
    assert iou(before > 0, after > 0) > 0.99


def test_labels_stay_inside_the_covered_area_and_cut_particles_stay() -> None:
    frame = discs(6, dose=100)[0].copy()
    whole = load(CLASSICAL)(frame).labels
    y0, y1, x0, x1 = valid = (28, 240, 0, 228)  # through the first row of particles
    mask = np.zeros(frame.shape, bool)
    mask[y0:y1, x0:x1] = True
    frame[~mask] = 0
    labels = load(CLASSICAL)(frame, valid=valid).labels
    assert not labels[~mask].any()
    assert set(np.unique(labels)) == set(range(labels.max() + 1))
    assert iou(labels > 0, (whole > 0) & mask) > 0.97
    assert labels[y0 : y0 + 3].any()


def test_smallest_diameter_counts_in_nanometres_where_the_scale_is_known() -> None:
    frame = discs(7, dose=200)[0]  # 18 px
    options = SegmentOptions(model="classical", min_diameter_nm=10.0)
    assert load(options)(frame).labels.max() == 25  # not calibrated: the px limit holds
    assert load(options)(frame, pixel_size_nm=(1.0, 1.0)).labels.max() == 25
    assert load(options)(frame, pixel_size_nm=(0.5, 0.5)).labels.max() == 0


def test_pixels_that_are_not_finite_do_no_harm() -> None:
    frame = discs(8, dose=100)[0].astype(np.float32)
    frame[3, 5], frame[100, 100] = np.nan, np.inf
    assert load(CLASSICAL)(frame).labels.max() == 25


def test_a_large_frame_is_cut_out_as_sharply_as_a_small_one() -> None:
    frame, truth = discs(9, n=256, dose=4000)
    large = np.kron(frame, np.ones((6, 6), np.uint16))
    labels = load(CLASSICAL)(large).labels
    assert labels.shape == (1536, 1536)
    assert labels.max() == 25
    assert iou(labels > 0, np.kron(truth, np.ones((6, 6), bool))) > 0.9


def test_classical_needs_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import numpy, sys; from emstream.segment import SegmentOptions, load;"
        "load(SegmentOptions(model='classical'))(numpy.zeros((64, 64))); assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_wrong_settings_and_wrong_pixels_are_named() -> None:
    with pytest.raises(BadSettings, match=r"segment\.polarity"):
        load(SegmentOptions(model="classical", polarity="both"))  # type: ignore[arg-type]
    with pytest.raises(ModelBroken, match="no folder"):
        load(SegmentOptions(model="/no/such/model"))
    with pytest.raises(BadImage, match=r"\(y, x\)"):
        load(CLASSICAL)(np.zeros((3, 64, 64)))


def spots(
    seed: int, diameter: float, dose: float, contrast: float = -0.4, n: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Mean counts of 30 small discs on flat film, and their mask."""
    rng = np.random.default_rng(seed)
    base, truth = np.ones((n, n)), np.zeros((n, n), bool)
    yy, xx = np.mgrid[0:n, 0:n]
    for i in range(30):
        cy, cx = 24 + 42 * (i // 6) + rng.uniform(-8, 8), 22 + 42 * (i % 6) + rng.uniform(-8, 8)
        d = np.hypot(yy - cy, xx - cx)
        base *= 1 + contrast / (1 + np.exp((d - diameter / 2) / 0.5))
        truth |= d < diameter / 2
    return dose * base, truth


@pytest.mark.parametrize("contrast", [-0.4, 0.6])
@pytest.mark.parametrize(("diameter", "dose", "least"), [(10, 4, 0.65), (6, 20, 0.65), (10, 20, 0.8)])
def test_small_particles_at_a_low_dose_are_found(diameter: float, dose: float, least: float, contrast: float) -> None:
    clean, truth = spots(1, diameter, dose, contrast)
    found = load(CLASSICAL)(np.random.default_rng(2).poisson(clean).astype(np.uint16)).labels > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > least


@pytest.mark.parametrize("diameter", [10, 24])
def test_the_area_of_a_static_scene_at_four_electrons_flickers_by_less_than_two_percent(diameter: float) -> None:
    clean, _ = spots(3, diameter, 4)
    segment, rng = load(CLASSICAL), np.random.default_rng(4)
    areas = [float((segment(rng.poisson(clean).astype(np.uint16)).labels > 0).sum()) for _ in range(44)][20:]
    assert np.std(areas) / np.mean(areas) < 0.02


def test_faint_particles_that_move_are_followed() -> None:
    clean, truth = spots(5, 12, 4)
    segment, rng = load(CLASSICAL), np.random.default_rng(6)
    for i in range(20):
        labels = segment(rng.poisson(np.roll(clean, i, 0)).astype(np.uint16)).labels

    def dice(offset: int) -> float:
        there = np.roll(truth, offset, 0)
        return float(2 * ((labels > 0) & there).sum() / ((labels > 0).sum() + there.sum()))

    assert dice(19) > 0.75
    assert max(range(14, 24), key=dice) >= 18  # at 1 px a frame they lag by no more than a frame


def test_particles_that_become_clear_late_are_cut_as_they_are_not_as_the_first_guess_was() -> None:
    state = ClassicalState()
    for _ in range(20):
        state = follow(state, ClassicalState(weak=1.0, faint=Faint(1.0, 3.0, 5.0, dark=True)), settle=8)
    state = follow(state, ClassicalState(sigma=2.4, level=0.2, dark=1.0), settle=8)
    assert (state.sigma, state.level, state.dark) == (2.4, 0.2, 1.0)
