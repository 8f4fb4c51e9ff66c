"""The doors of the align room: a planted shift comes back, state is a value, a restart changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import scipy.ndimage

from emstream import align
from emstream.errors import BadImage, BadSettings
from emstream.messages import Status


def texture(n: int, seed: int = 0) -> np.ndarray:
    """A smooth random scene of mean 1 and contrast 15 %, periodic."""
    r = np.random.default_rng(seed)
    q = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n)[None])
    spectrum = np.fft.fft2(r.standard_normal((n, n))) * np.exp(-((q * 6) ** 2)) / np.maximum(q, 4 / n)
    image = np.fft.ifft2(spectrum).real
    return 1 + 0.15 * image / image.std()


def moved(scene: np.ndarray, shift: tuple[float, float], n: int) -> np.ndarray:
    """The central n×n of a scene moved by -shift: scipy.ndimage.shift(result, shift) is the scene again."""
    f = np.fft.fftfreq(scene.shape[0])
    ramp = np.exp(2j * np.pi * (f[:, None] * shift[0] + f[None] * shift[1]))
    out = np.fft.ifft2(np.fft.fft2(scene) * ramp).real
    o = (scene.shape[0] - n) // 2
    return out[o : o + n, o : o + n]


def series(
    t: int, n: int = 256, dose: float = 20.0, seed: int = 0, speed: float = 0.3
) -> tuple[list[np.ndarray], np.ndarray]:
    """t frames (uint16) of a drifting scene and the shifts (t, 2) that lay them on the first."""
    r = np.random.default_rng(seed)
    scene = texture(2 * n, seed)
    path = np.cumsum(np.full((t, 2), (speed, -speed)), axis=0) + 0.3 * r.standard_normal((t, 2))
    truth = path - path[0]
    return [r.poisson(dose * np.clip(moved(scene, tuple(s), n), 0, None)).astype(np.uint16) for s in truth], truth


def shifts_of(frames: list[np.ndarray]) -> Iterator[align.Estimate]:
    state = align.start(frames[0].shape, frames[0].dtype)
    for frame in frames:
        state, estimate = align.follow(state, frame)
        yield estimate


def test_a_planted_shift_comes_back_with_the_promised_sign() -> None:
    scene = texture(512)
    shift, confidence = align.register(moved(scene, (0, 0), 256), moved(scene, (7.3, -4.6), 256))
    np.testing.assert_allclose(shift, (7.3, -4.6), atol=0.01)
    assert confidence > 0.9


def test_a_drifting_series_is_followed_to_a_tenth_of_a_pixel_at_twenty_electrons() -> None:
    frames, truth = series(24)
    found = np.array([e.shift for e in shifts_of(frames)])
    error = (found - truth)[8:]
    assert np.sqrt(((error - error.mean(0)) ** 2).sum(1).mean()) < 0.1
    assert tuple(found[0]) == (0, 0)


def test_the_state_is_a_value_so_that_the_same_frame_twice_gives_the_same_shift() -> None:
    frames, _ = series(6)
    state = align.start(frames[0].shape, frames[0].dtype)
    for frame in frames[:5]:
        state, _ = align.follow(state, frame)
    once, twice = align.follow(state, frames[5])[1], align.follow(state, frames[5])[1]
    assert once == twice


def test_a_restart_changes_nothing() -> None:
    frames, _ = series(30)
    whole = [e.shift for e in shifts_of(frames)]
    state = align.start(frames[0].shape, frames[0].dtype)
    for i, frame in enumerate(frames):
        state, estimate = align.follow(align.load(align.dump(state)), frame)
        np.testing.assert_allclose(estimate.shift, whole[i], atol=1e-6)


@pytest.mark.parametrize("mode", ["integer", "bilinear", "cubic", "fourier"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_move_agrees_with_scipy_where_the_frame_covers(mode: align.Resample, dtype: type) -> None:
    frame = (100 * moved(texture(128, 3), (0, 0), 96)).astype(dtype)
    before = frame.copy()
    for shift in ((3.4, -5.3), (-2.6, 7.0), (0.0, 0.0), (12.5, -0.49)):
        out, (y0, y1, x0, x1) = align.move(frame, shift, mode)
        whole = tuple(np.floor(np.add(shift, 0.5)))
        peer = scipy.ndimage.shift(
            frame.astype(np.float64),
            whole if mode == "integer" else shift,
            order={"integer": 0, "bilinear": 1}.get(mode, 3),
        )
        assert out.dtype == frame.dtype
        np.testing.assert_array_equal(frame, before)
        off = np.abs(out.astype(float) - peer)[y0 + 6 : y1 - 6, x0 + 6 : x1 - 6]
        assert off.max() <= {"integer": 0, "bilinear": 0.51, "cubic": 0.51, "fourier": 1.5}[mode] + 1e-3
        outside = np.ones(out.shape, bool)
        outside[y0:y1, x0:x1] = False
        assert not out[outside].any()
        assert align.covered(frame.shape, shift, mode) == (y0, y1, x0, x1)


def test_what_cannot_be_aligned_is_told() -> None:
    flat = np.ones((64, 64), np.uint8)
    with pytest.raises(BadImage, match="same value"):
        align.register(flat, flat)
    with pytest.raises(BadImage, match="shapes differ"):
        align.register(flat, flat[:32])
    with pytest.raises(BadImage, match="dimensions"):
        align.register(flat[0], flat[0])
    state = align.start((64, 64), np.uint8)
    with pytest.raises(BadImage, match="one series has one shape"):
        align.follow(state, np.ones((64, 65), np.uint8))
    with pytest.raises(BadSettings, match=r"align\.resample"):
        align.AlignOptions(resample="linear")  # type: ignore[arg-type]


def test_a_blank_frame_is_flagged_and_does_not_harm() -> None:
    frames, truth = series(20)
    frames[10] = np.zeros_like(frames[10])
    found = list(shifts_of(frames))
    flagged = [i for i, e in enumerate(found) if Status.BLANK in Status(e.status)]
    assert flagged == [10]
    assert np.abs(np.array([e.shift for e in found])[11:] - truth[11:]).max() < 0.4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("level", [0, 1000])
def test_frames_in_which_all_pixels_are_equal_stay_where_they_are_and_nothing_overflows(level: int) -> None:
    state = align.start((64, 64), np.dtype(np.uint16), align.AlignOptions())
    for _ in range(3):
        state, estimate = align.follow(state, np.full((64, 64), level, np.uint16))
        assert estimate.shift == (0, 0)
    assert estimate.status & Status.REJECTED
