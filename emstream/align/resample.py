"""Frames moved onto the canvas: whole pixels without loss, or bilinear, cubic, Fourier on request."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np

from emstream.align import Resample
from emstream.arrays import array_namespace, fft_namespace, ndimage_namespace
from emstream.errors import BadImage, BadSettings
from emstream.messages import Array, Rect

ORDERS = {"bilinear": 1, "cubic": 3}
CV2_DTYPES = (np.uint8, np.uint16, np.int16, np.float32, np.float64)


def whole(shift: tuple[float, float]) -> tuple[int, int]:
    """The whole part of a shift: the nearest integers, halves upwards; |rest| <= 0.5 px."""
    return math.floor(shift[0] + 0.5), math.floor(shift[1] + 0.5)


def covered(shape: tuple[int, int], shift: tuple[float, float], mode: Resample = "integer") -> Rect:
    """The part of the canvas that a frame moved by `shift` covers: (y0, y1, x0, x1), half-open; (0, 0, 0, 0) if none."""
    if mode == "integer":
        low = high = whole(shift)
    else:
        low, high = (math.ceil(shift[0]), math.ceil(shift[1])), (math.floor(shift[0]), math.floor(shift[1]))
    y0, x0 = (max(0, s) for s in low)
    y1, x1 = (min(n, n + s) for n, s in zip(shape, high))
    return (y0, y1, x0, x1) if y1 > y0 and x1 > x0 else (0, 0, 0, 0)


def move(pixels: Array, shift: tuple[float, float], mode: Resample = "integer", fill: float = 0) -> tuple[Array, Rect]:
    """The frame on its anchor's canvas.

    pixels  : (y, x) any real dtype, numpy or cupy; not changed
    shift   : (dy, dx) px; scipy.ndimage.shift(pixels, shift) is what comes out
    mode    : integer moves by whole(shift) and keeps every count; the others interpolate, round and clip to the dtype.
              What is not finite stays so where it lands and does not spread
    returns : (y, x) of the same dtype, `fill` where nothing covers; the covered Rect
    raises  : BadImage, BadSettings
    """
    if pixels.ndim != 2:
        raise BadImage(f"move needs a (y, x) frame, got {pixels.ndim} dimensions")
    if not all(math.isfinite(s) for s in shift):
        raise BadImage(f"the shift {shift} is not finite")
    if mode not in ("integer", "bilinear", "cubic", "fourier"):
        raise BadSettings(f"resample mode {mode!r}", "use integer, bilinear, cubic or fourier")
    xp = array_namespace(pixels)
    valid = covered(pixels.shape, shift, mode)
    y0, y1, x0, x1 = valid
    if y1 == 0:
        return xp.full_like(pixels, fill), valid
    if mode == "integer":
        dy, dx = whole(shift)
        return _framed(pixels, pixels[y0 - dy : y1 - dy, x0 - dx : x1 - dx], valid, fill, xp), valid
    bad = ~xp.isfinite(pixels) if xp.issubdtype(pixels.dtype, xp.floating) else None
    if bad is not None and not bool(bad.any()):
        bad = None
    whole_ones = pixels if bad is None else xp.where(bad, _finite_mean(pixels, bad, xp), pixels)
    if mode == "fourier":
        moved = _fourier(whole_ones, shift, xp)
    else:
        moved = _spline(whole_ones, shift, ORDERS[mode], xp)
    inside = _as(moved[y0:y1, x0:x1], pixels.dtype, xp)
    if bad is not None:
        touched = _spline(bad.astype(xp.float32), shift, 1, xp)[y0:y1, x0:x1] > 1e-6
        inside = xp.where(touched, xp.asarray(np.nan, pixels.dtype), inside)
    return _framed(pixels, inside, valid, fill, xp), valid


def union(shape: tuple[int, int], shifts: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """The canvas that holds every pixel of every frame: its (y, x) shape, and where its corner lies on the anchor frame.

    shape, shifts : of the frames, (y, x) px; (t, 2) px, all finite
    raises        : BadImage
    """
    if len(shifts) == 0 or not np.isfinite(shifts).all():
        raise BadImage("a canvas needs shifts that are all finite", "leave out the frames without one")
    steps = np.floor(np.asarray(shifts, np.float64) + 0.5).astype(int)
    low, high = steps.min(axis=0), steps.max(axis=0)
    size = (int(shape[0] + high[0] - low[0]), int(shape[1] + high[1] - low[1]))
    return size, (int(low[0]), int(low[1]))


def place(
    pixels: Array, shift: tuple[float, float], size: tuple[int, int], corner: tuple[int, int], fill: float = 0
) -> tuple[Array, Rect]:
    """The frame, whole, on a larger canvas (see `union`): moved by whole(shift), every count kept -> canvas, covered Rect.

    raises : BadImage when the frame does not fit
    """
    dy, dx = whole(shift)
    y0, x0 = dy - corner[0], dx - corner[1]
    y1, x1 = y0 + pixels.shape[0], x0 + pixels.shape[1]
    if y0 < 0 or x0 < 0 or y1 > size[0] or x1 > size[1]:
        raise BadImage(f"a frame of {pixels.shape} shifted by {shift} lies outside the canvas of {size}", "see union")
    xp = array_namespace(pixels)
    out = xp.full(size, fill, pixels.dtype)
    out[y0:y1, x0:x1] = pixels
    return out, (y0, y1, x0, x1)


def _finite_mean(pixels: Array, bad: Array, xp: Any) -> Array:
    """Mean of the finite pixels, 0 without one."""
    good = pixels[~bad]
    return good.mean() if good.size else xp.asarray(0, pixels.dtype)


def _framed(like: Array, inside: Array, valid: Rect, fill: float, xp: Any) -> Array:
    """`inside` at `valid`, `fill` around it; every pixel is written once."""
    y0, y1, x0, x1 = valid
    out = xp.empty_like(like, order="C")
    out[:y0], out[y1:] = fill, fill
    out[y0:y1, :x0], out[y0:y1, x1:] = fill, fill
    out[y0:y1, x0:x1] = inside
    return out


def _as(a: Array, dtype: Any, xp: Any) -> Array:
    if not xp.issubdtype(dtype, xp.integer):
        return a.astype(dtype)
    info = np.iinfo(dtype)
    return xp.clip(xp.rint(a), info.min, info.max).astype(dtype)


def _spline(pixels: Array, shift: tuple[float, float], order: int, xp: Any) -> Array:
    if xp is np and order == 1 and pixels.dtype in CV2_DTYPES and max(pixels.shape) < 32767:
        return _bilinear_cv2(pixels, shift)
    work = pixels.astype(xp.float64 if pixels.dtype.itemsize >= 4 else xp.float32)
    return ndimage_namespace(xp).shift(work, shift, order=order, mode="nearest")


def _bilinear_cv2(pixels: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """Two separable two-tap means, exact weights; the covered part is all that is right."""
    dy, dx = (math.floor(s) for s in shift)
    ry, rx = shift[0] - dy, shift[1] - dx
    ky, kx = np.array([ry, 1 - ry], np.float32), np.array([rx, 1 - rx], np.float32)
    depth = cv2.CV_64F if pixels.dtype == np.float64 else cv2.CV_32F
    soft = cv2.sepFilter2D(np.ascontiguousarray(pixels), depth, kx, ky, anchor=(1, 1), borderType=cv2.BORDER_REPLICATE)
    h, w = pixels.shape
    out = np.zeros_like(soft)
    y0, y1, x0, x1 = max(0, dy), min(h, h + dy), max(0, dx), min(w, w + dx)
    out[y0:y1, x0:x1] = soft[y0 - dy : y1 - dy, x0 - dx : x1 - dx]
    return out


def _fourier(pixels: Array, shift: tuple[float, float], xp: Any) -> Array:
    """The band-limited shift, on a mirrored frame so that the edges do not ring."""
    fft = fft_namespace(xp)
    h, w = pixels.shape
    exact = pixels.dtype.itemsize >= 4  # float32 holds 16-bit counts, not 32-bit ones
    work = xp.pad(pixels.astype(xp.float64 if exact else xp.float32), ((0, h), (0, w)), mode="symmetric")
    fy = xp.asarray(np.fft.fftfreq(2 * h))[:, None]
    fx = xp.asarray(np.fft.rfftfreq(2 * w))[None]
    spectrum = fft.rfft2(work)
    spectrum *= xp.exp(-2j * np.pi * (fy * shift[0])).astype(spectrum.dtype)
    spectrum *= xp.exp(-2j * np.pi * (fx * shift[1])).astype(spectrum.dtype)
    return fft.irfft2(spectrum, s=(2 * h, 2 * w))[:h, :w]
