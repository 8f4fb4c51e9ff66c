"""The simulated movie is what it says: its drift, labels, tracks, events and dose are the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import center_of_mass, fourier_shift

from emstream.errors import BadSettings, FrameOutOfRange
from emstream.simulate import movie
from emstream.simulate.detector import poisson
from emstream.simulate.film import granular_film, shifted_crop


def displacement(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How far b's content lies from a's, px (dy, dx): least squares on the phases of the low frequencies, periodic."""
    cross = np.fft.fft2(b) * np.conj(np.fft.fft2(a))
    qy, qx = np.meshgrid(*(np.fft.fftfreq(n) for n in a.shape), indexing="ij")
    use = (np.hypot(qy, qx) < 0.3) & (np.hypot(qy, qx) > 0)
    weight = np.sqrt(np.abs(cross[use]))
    waves = -2 * np.pi * np.column_stack((qy[use], qx[use])) * weight[:, None]
    return np.linalg.lstsq(waves, np.angle(cross[use]) * weight, rcond=None)[0]


def test_the_film_moves_by_a_fraction_of_a_pixel_as_a_fourier_shift_moves_it() -> None:
    film = granular_film((128, 160), 3.0, np.random.default_rng(0))
    for dy, dx in ((0.5, 0.5), (0.25, -0.4), (-0.13, 0.77)):
        exact = np.fft.ifft2(fourier_shift(np.fft.fft2(film), (dy, dx))).real
        moved = shifted_crop(film, (-dy, -dx), film.shape)
        assert np.abs(moved - exact).max() < 0.005  # of an rms of 1
        assert np.abs(displacement(film, moved) - (dy, dx)).max() < 1e-3


def test_the_film_beyond_its_edge_is_the_film_again() -> None:
    film = granular_film((64, 96), 3.0, np.random.default_rng(0))
    np.testing.assert_array_equal(shifted_crop(film, (-70, 200), (32, 48)), np.roll(film, (70, -200), (0, 1))[:32, :48])


def test_frame_content_is_displaced_by_the_drift_within_a_hundredth_of_a_pixel() -> None:
    """A particle's centroid, and its label's, lie where tracks say, and the tracks move by the drift."""
    m = movie(
        6, (128, 128), particles=3, diameter=(18, 24), film=0.0, drift_per_frame=(0.37, -0.61), jitter=0.4, seed=4
    )
    seen = m.tracks[m.tracks["inside"]]
    whole = [k for k in np.unique(seen["particle"]) if (seen["particle"] == k).sum() == len(m)]
    assert whole
    for k in whole:
        path = np.array(
            [center_of_mass(1 - m.clean(i) * (m.labels(i) == k + 1) - (m.labels(i) != k + 1)) for i in range(6)]
        )
        true = np.column_stack((seen["y"], seen["x"]))[seen["particle"] == k]
        np.testing.assert_allclose(true - true[0], m.drift - m.drift[0], atol=1e-9)
        assert np.abs(path - true).max() < 0.1  # the centroid over the label's whole pixels
    for row in seen:
        alone = np.abs(1 - m.clean(row["frame"]))
        y, x, r = row["y"], row["x"], row["diameter"] / 2 + 5
        box = np.s_[int(y - r) : int(y + r) + 2, int(x - r) : int(x + r) + 2]
        at = np.add(center_of_mass(alone[box]), (box[0].start, box[1].start))
        assert np.abs(at - (y, x)).max() < 0.01


def test_shift_follows_the_convention_of_scipy() -> None:
    from scipy.ndimage import shift

    m = movie(5, (96, 96), particles=4, diameter=(10, 16), jitter=0.0, drift_per_frame=(2.0, -3.0), seed=1)
    laid = shift(m.clean(4), m.shift[4], order=1)
    inside = np.s_[12:-12, 16:-16]
    np.testing.assert_allclose(laid[inside], m.clean(0)[inside], atol=2e-3)


def test_labels_have_the_area_that_the_diameter_says() -> None:
    m = movie(1, (512, 512), particles=12, diameter=(24, 60), facets=0.7, roughness=0.05, seed=2)
    for row in m.tracks[m.tracks["inside"]]:
        area = np.count_nonzero(m.labels(0) == row["particle"] + 1)
        assert area == pytest.approx(np.pi * row["diameter"] ** 2 / 4, rel=0.02)


def test_noise_is_poisson_of_the_dose() -> None:
    for dose in (0.5, 4.0, 20.0):
        m = movie(1, (256, 256), dose=dose, gain_rms=0.03, seed=3)
        expected = m.clean(0) * dose * m.gain
        score = (m.frame(0) - expected) / np.sqrt(expected)
        assert abs(score.mean()) < 4 / 256
        assert score.var() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("mean", [0.0, 0.3, 3.0, 7.9, 8.0, 12.0, 60.0, 900.0])
def test_poisson_numbers_have_the_poisson_distribution(mean: float) -> None:
    n = 400_000
    drawn = poisson(np.full((1, n), mean, np.float32), np.random.default_rng(5)).ravel()
    assert (drawn == np.floor(drawn)).all()
    low, high = stats.poisson.ppf((1e-3, 1 - 1e-3), mean)
    edges = np.arange(low, high + 1)
    found = np.array([(drawn <= k).mean() for k in edges])
    np.testing.assert_allclose(found, stats.poisson.cdf(edges, mean), atol=4 * 0.5 / np.sqrt(n) + 2e-4)


def test_a_frame_is_the_same_whenever_it_is_asked_for() -> None:
    m, again = movie(8, (64, 64), seed=7), movie(8, (64, 64), seed=7)
    np.testing.assert_array_equal(m.frame(5), again.frame(5))
    m.frame(0)
    np.testing.assert_array_equal(m.frame(5), m.frames[5])
    assert not np.array_equal(m.frame(5), movie(8, (64, 64), seed=8).frame(5))


def test_a_thousand_frames_need_no_memory() -> None:
    import tracemalloc

    tracemalloc.start()
    m = movie(1000, (128, 128), particles=8)
    for i in range(0, 1000, 100):
        m.frame(i)
    assert tracemalloc.get_traced_memory()[1] < 30e6  # 1000 frames would be 33 MB
    tracemalloc.stop()


def test_dtype_blank_frames_and_hot_pixels() -> None:
    m = movie(3, (64, 64), dtype="uint8", dose=400.0, blank=(1,), hot=0.01, seed=1)
    assert m.frame(0).dtype == np.uint8
    assert m.frame(0).max() == 255
    assert np.count_nonzero(m.hot) == 41
    assert m.frame(1)[m.hot == 0].max() == 0
    assert m.frame(1)[m.hot > 0].min() > 0


def test_a_stage_jump_is_on_its_frame() -> None:
    m = movie(10, (64, 64), jitter=0.0, drift_per_frame=(0.0, 0.0), jump=(6, (20.0, -9.0)))
    np.testing.assert_array_equal(np.diff(m.drift, axis=0)[5], (20.0, -9.0))
    assert not np.delete(np.diff(m.drift, axis=0), 5, axis=0).any()


def test_the_mtf_dims_fine_detail_to_what_was_asked() -> None:
    sharp, soft = (movie(1, (256, 256), particles=0, film=0.04, mtf=m, seed=1).clean(0) for m in (None, 0.3))
    power = [np.abs(np.fft.fft2((f - 1) * np.outer(np.hanning(256), np.hanning(256)))) for f in (sharp, soft)]
    q = np.fft.fftfreq(256)
    ring = np.abs(np.hypot(q[:, None], q) - 0.25) < 0.01
    assert (power[1][ring].sum() / power[0][ring].sum()) == pytest.approx(0.3 ** (0.25 / 0.5) ** 2, rel=0.03)


def test_impossible_movies_are_refused() -> None:
    with pytest.raises(BadSettings, match="do not fit"):
        movie(1, (64, 64), particles=80, diameter=(30, 40))
    with pytest.raises(BadSettings):
        movie(0, (64, 64))
    with pytest.raises(BadSettings):
        movie(5, (64, 64), trajectory=np.zeros((4, 2)))
    with pytest.raises(FrameOutOfRange):
        movie(2, (64, 64)).frame(2)
