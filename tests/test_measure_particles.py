"""Particles of a label image: against the truth and against scikit-image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter, label

from emstream.arrays import cuda_devices
from emstream.errors import BadImage, BadSettings
from emstream.measure import particles, shape_details


@pytest.fixture(scope="module")
def field() -> tuple[np.ndarray, np.ndarray]:
    """About 570 irregular particles on 512² and a frame of Poisson counts."""
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=(512, 512)), 3)
    labels = label(smooth > np.quantile(smooth, 0.75))[0].astype(np.int32)
    return labels, rng.poisson(20, labels.shape).astype(np.uint16)


def disc(shape: tuple[int, int], y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.indices(shape)
    return (np.hypot(rows - y, columns - x) < radius).astype(np.int32)


def test_agrees_with_region_properties_of_scikit_image(field: tuple[np.ndarray, np.ndarray]) -> None:
    peer = pytest.importorskip("skimage.measure")
    labels, pixels = field
    names = {
        "label": "label",
        "area": "area",
        "centroid-0": "y",
        "centroid-1": "x",
        "equivalent_diameter_area": "diameter",
        "axis_major_length": "major",
        "axis_minor_length": "minor",
        "perimeter_crofton": "perimeter",
        "mean_intensity": "mean_intensity",
    }
    theirs = peer.regionprops_table(
        labels, pixels, properties=["centroid", *(n for n in names if "-" not in n), "orientation"]
    )
    ours = particles(labels, pixels)
    for their, our in names.items():
        assert np.allclose(ours[our], theirs[their], rtol=1e-6, atol=1e-6), our
    turned = np.abs(ours["orientation"] - theirs["orientation"]) % np.pi
    oblong = ours["major"] - ours["minor"] > 1e-6  # a round one has no axis, and an axis has no direction
    assert oblong.sum() > 500
    assert (np.minimum(turned, np.pi - turned)[oblong] < 1e-9).all()


def test_measures_a_disc_as_a_disc() -> None:
    found = particles(disc((101, 121), 50.0, 60.0, 30.25))
    assert found["diameter"][0] == pytest.approx(60.5, rel=0.01)
    assert (found["y"][0], found["x"][0]) == (50.0, 60.0)
    assert found["perimeter"][0] == pytest.approx(np.pi * 60.5, rel=0.02)
    assert found["circularity"][0] > 0.97
    assert found["major"][0] == pytest.approx(60.5, rel=0.01)


def test_the_rest_of_the_shift_is_added_to_the_place() -> None:
    found = particles(disc((64, 64), 30.0, 31.0, 5.0), shift_rest=(0.25, -0.5))
    assert (found["y"][0], found["x"][0]) == (30.25, 30.5)


def test_nothing_is_counted_in_uncovered_pixels() -> None:
    labels = disc((64, 64), 20.0, 20.0, 5.0) + 2 * disc((64, 64), 50.0, 50.0, 5.0)
    found = particles(labels, valid=(0, 40, 0, 64))
    assert found["label"].tolist() == [1]
    half = particles(labels, valid=(0, 51, 0, 64))
    assert half["area"][1] == (labels[:51] == 2).sum()
    assert half["touches_border"].tolist() == [False, True]


def test_a_particle_at_any_side_of_the_covered_area_is_marked_as_cut() -> None:
    labels = np.zeros((40, 40), np.int32)
    for name, where in enumerate(((10, 20), (29, 20), (20, 12), (20, 31), (20, 20)), 1):
        labels[where] = name
    found = particles(labels, valid=(10, 30, 12, 32))
    assert found["touches_border"].tolist() == [True, True, True, True, False]


def test_contrast_is_that_of_the_particle_against_its_own_surroundings() -> None:
    labels = disc((80, 80), 20.0, 20.0, 6.0) + 2 * disc((80, 80), 60.0, 60.0, 6.0)
    pixels = np.full((80, 80), 100.0)
    pixels[40:] = 200.0
    pixels[labels == 1] = 70.0
    pixels[labels == 2] = 300.0
    found = particles(labels, pixels)
    assert found["contrast"] == pytest.approx([-0.3, 0.5])
    assert found["integrated_intensity"] == pytest.approx([70.0 * (labels == 1).sum(), 300.0 * (labels == 2).sum()])


def test_without_pixels_brightness_is_unknown_and_without_labels_there_are_no_rows() -> None:
    assert np.isnan(particles(disc((32, 32), 16, 16, 4))["mean_intensity"]).all()
    none = particles(np.zeros((32, 32), np.int32))
    assert set(none) == set(particles(disc((32, 32), 16, 16, 4)))
    assert all(len(v) == 0 for v in none.values())


def test_names_far_apart_cost_no_more_than_names_in_a_row() -> None:
    labels = disc((64, 64), 20.0, 20.0, 5.0) * 2_000_000_000
    labels[50:54, 50:54] = 7
    found = particles(labels)
    assert found["label"].tolist() == [7, 2_000_000_000]
    assert found["area"].tolist() == [16.0, float((labels > 7).sum())]


def test_more_about_the_shapes_comes_on_demand(field: tuple[np.ndarray, np.ndarray]) -> None:
    pytest.importorskip("skimage.measure")
    labels, pixels = field
    more = shape_details(labels, pixels, ("solidity", "intensity_std", "centroid"), valid=(0, 256, 0, 256))
    ours = particles(labels, pixels, valid=(0, 256, 0, 256))
    assert more["label"].tolist() == ours["label"].tolist()
    assert more["centroid-0"] == pytest.approx(ours["y"])
    assert ((more["solidity"] > 0.3) & (more["solidity"] <= 1)).all()
    assert "intensity_std" not in shape_details(labels)
    with pytest.raises(BadSettings, match="mood"):
        shape_details(labels, properties=("mood",))


def test_images_of_different_shapes_are_refused() -> None:
    with pytest.raises(BadImage, match="not one"):
        particles(np.zeros((8, 8), np.int32), np.zeros((8, 9)))


@settings(max_examples=60, deadline=None)
@given(arrays(np.int32, (12, 15), elements=st.integers(0, 6)))
def test_every_labelled_pixel_is_counted_once(labels: np.ndarray) -> None:
    found = particles(labels)
    assert found["label"].tolist() == sorted(set(labels.ravel().tolist()) - {0})
    for name, area, y, x in zip(found["label"], found["area"], found["y"], found["x"]):
        where = np.argwhere(labels == name)
        assert area == len(where)
        assert np.allclose((y, x), where.mean(axis=0))


@pytest.mark.gpu
@pytest.mark.skipif(cuda_devices() == 0, reason="no CUDA device that cupy can use")
def test_the_gpu_measures_what_the_processor_measures(field: tuple[np.ndarray, np.ndarray]) -> None:
    cupy = pytest.importorskip("cupy")
    labels, pixels = field
    there = cupy.asarray(labels), cupy.asarray(pixels)
    assert there[0].device.id >= 0
    on_gpu, on_cpu = particles(*there, valid=(3, 500, 0, 490)), particles(labels, pixels, valid=(3, 500, 0, 490))
    for name in on_cpu:
        assert np.allclose(on_gpu[name], on_cpu[name], rtol=1e-6, equal_nan=True), name
