"""Frames moved: whole pixels lose nothing, the others are as exact as their kind allows; canvases hold every pixel."""

from __future__ import annotations

import numpy as np
import pytest

from emstream import align
from emstream.align.resample import place, union
from emstream.errors import BadImage

N, LARGEST = 96, 0.1  # px; cycles per px: the image has nothing faster
BOUND = {"bilinear": 0.055, "cubic": 0.002, "fourier": 0.002}  # of the amplitude; (2π·0.1)²/8 = 0.049 for bilinear
MARGIN = {"bilinear": 0, "cubic": 8, "fourier": 12}  # px from the rim of the frame where its outside is guessed


def waves(dy: float, dx: float, seed: int = 0) -> np.ndarray:
    """A band-limited image of amplitude 1 known at every place, moved by (dy, dx)."""
    r = np.random.default_rng(seed)
    y, x = np.mgrid[:N, :N].astype(np.float64)
    out, total = np.zeros((N, N)), 0.0
    for _ in range(12):
        angle, q, phase, size = (
            r.uniform(0, 2 * np.pi),
            r.uniform(0.02, LARGEST),
            r.uniform(0, 2 * np.pi),
            r.uniform(0.5, 1),
        )
        out += size * np.cos(2 * np.pi * q * (np.sin(angle) * (y - dy) + np.cos(angle) * (x - dx)) + phase)
        total += size
    return out / total


@pytest.mark.parametrize("mode", ["bilinear", "cubic", "fourier"])
@pytest.mark.parametrize("shift", [(0.5, 0.5), (3.25, -5.75), (-0.1, 12.4), (-7.5, 0.0)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16", "int32", "uint8"])
def test_a_band_limited_image_is_moved_within_the_error_of_its_kind(
    mode: align.Resample, shift: tuple[float, float], dtype: str
) -> None:
    scale, offset = {"uint8": (100, 128), "uint16": (3e4, 3.2e4), "int32": (2e9, 0)}.get(dtype, (1.0, 0.0))
    counts = waves(0, 0) * scale + offset
    frame = (np.rint(counts) if np.dtype(dtype).kind in "iu" else counts).astype(dtype)
    moved, (y0, y1, x0, x1) = align.move(frame, shift, mode)
    assert moved.dtype == frame.dtype
    assert (y0, x0) == tuple(max(0, int(np.ceil(s))) for s in shift)
    assert (y1, x1) == tuple(min(N, N + int(np.floor(s))) for s in shift)
    m = MARGIN[mode]
    inner = np.s_[y0 + m : y1 - m, x0 + m : x1 - m]
    truth = waves(*shift) * scale + offset
    rounding = 2.0 if np.dtype(dtype).kind in "iu" else 0.0  # what goes in (5 standard deviations) and what comes out
    error = np.abs(moved.astype(np.float64) - truth)[inner].max()
    assert error <= BOUND[mode] * scale + rounding
    outside = np.ones(moved.shape, bool)
    outside[y0:y1, x0:x1] = False
    assert not moved[outside].any()


@pytest.mark.parametrize("mode", ["cubic", "fourier"])
def test_large_counts_come_back_from_a_whole_shift_unchanged(mode: align.Resample) -> None:
    frame = np.random.default_rng(1).integers(0, 2**31 - 1, (64, 64)).astype(np.int32)
    moved, (y0, y1, x0, x1) = align.move(frame, (5.0, -3.0), mode)
    np.testing.assert_array_equal(moved[y0:y1, x0:x1], frame[:-5, 3:])


@pytest.mark.parametrize("mode", ["cubic", "fourier"])
def test_what_overshoots_is_clipped_not_wrapped(mode: align.Resample) -> None:
    frame = np.zeros((64, 64), np.uint8)
    frame[24:40, 24:40] = 255
    moved, _ = align.move(frame, (0.5, 0.5), mode)
    assert moved[30:34, 30:34].min() > 200
    assert moved[:16].max() < 60


@pytest.mark.parametrize("mode", ["bilinear", "cubic", "fourier"])
def test_a_pixel_that_is_not_finite_does_not_spread(mode: align.Resample) -> None:
    frame = waves(0, 0).astype(np.float32)
    frame[40, 50], frame[41, 70] = np.nan, np.inf
    moved, (y0, y1, x0, x1) = align.move(frame, (2.5, -1.25), mode)
    inside = moved[y0:y1, x0:x1]
    assert 2 <= np.isnan(inside).sum() <= 8
    assert np.isnan(moved[42, 49]) or np.isnan(moved[43, 49])
    assert np.nanmax(np.abs(inside)) < 3


@pytest.mark.parametrize("shift", [(0.5, -0.5), (3.49, 3.51), (-2.5, 1.5), (0.0, 0.0), (95.0, 0.0), (96.0, 0.0)])
def test_whole_pixels_keep_every_count(shift: tuple[float, float]) -> None:
    frame = np.random.default_rng(2).integers(1, 2**16, (N, N)).astype(np.uint16)
    moved, (y0, y1, x0, x1) = align.move(frame, shift)
    dy, dx = (int(np.floor(s + 0.5)) for s in shift)
    assert (y1 - y0) * (x1 - x0) == max(0, N - abs(dy)) * max(0, N - abs(dx))
    np.testing.assert_array_equal(moved[y0:y1, x0:x1], frame[y0 - dy : y1 - dy, x0 - dx : x1 - dx])
    assert (moved > 0).sum() == (y1 - y0) * (x1 - x0)


def test_the_union_canvas_holds_every_pixel_of_every_frame() -> None:
    scene = np.random.default_rng(3).integers(1, 2**16, (80, 90)).astype(np.uint16)
    corners = [(10, 20), (4, 31), (17, 8)]
    frames = [scene[y : y + 40, x : x + 50] for y, x in corners]
    shifts = np.array([(y - 10 + 0.3, x - 20 - 0.4) for y, x in corners])
    size, corner = union((40, 50), shifts)
    assert (size, corner) == ((40 + 13, 50 + 23), (-6, -12))
    for frame, shift, (y, x) in zip(frames, shifts, corners):
        laid, (y0, y1, x0, x1) = place(frame, tuple(shift), size, corner)
        assert (y0, y1, x0, x1) == (y - 4, y - 4 + 40, x - 8, x - 8 + 50)
        np.testing.assert_array_equal(laid[y0:y1, x0:x1], scene[y : y + 40, x : x + 50])
        assert laid.astype(bool).sum() == 40 * 50
        assert laid.dtype == frame.dtype
    with pytest.raises(BadImage, match="outside"):
        place(frames[0], (50.0, 0.0), size, corner)
    with pytest.raises(BadImage, match="finite"):
        union((40, 50), np.array([(np.nan, 0.0)]))
