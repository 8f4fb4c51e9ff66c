"""A label image becomes a table of particles: moments by bincount, one pass over the labelled pixels."""

from __future__ import annotations

import math

import numpy as np

from emstream.arrays import array_namespace, to_host
from emstream.errors import BadImage
from emstream.messages import Array, Rect

_AROUND = ((0, 1), (1, 0), (1, 1), (1, -1), (0, -1), (-1, 0), (-1, -1), (-1, 1))
_RING = 3  # px beyond a particle's edge at which its surroundings are sampled
_OUTSIDE = -1  # label of the pixels that no frame covers


def particles(
    labels: Array,
    pixels: Array | None = None,
    *,
    valid: Rect | None = None,
    shift_rest: tuple[float, float] = (0.0, 0.0),
) -> dict[str, np.ndarray]:
    """Size, place, shape and brightness of every labelled particle.

    labels     : (y, x) integer, 0 = background, other values name particles; numpy or cupy
    pixels     : (y, x) the aligned frame, counts; None leaves the intensity columns NaN
    valid      : the covered pixels (y0, y1, x0, x1); labels outside are not counted
    shift_rest : (dy, dx) px, the part of the drift correction that whole pixels left out; added to y and x
    returns    : columns of equal length n, in rising order of label, on the host:
                 label int32 · y, x px, centroid in the aligned frame · area px² · diameter px, 2 sqrt(area/pi) ·
                 major, minor px, 4 sqrt(eigenvalues of the second central moments) · orientation rad, of the major
                 axis from +y towards +x, -pi/2..pi/2 · perimeter px, Cauchy-Crofton formula with four directions
                 (Legland et al., Image Anal Stereol 26:83, 2007) · circularity 4 pi area / perimeter², 0..1 ·
                 mean_intensity, integrated_intensity counts ·
                 contrast (mean - surroundings) / |surroundings|, NaN where
                 no background is within 3 px · touches_border bool, cut by the frame or by the uncovered area
    raises     : BadImage
    """
    xp = array_namespace(labels)
    if labels.ndim != 2 or (pixels is not None and pixels.shape != labels.shape):
        raise BadImage(
            f"labels {labels.shape} and pixels {None if pixels is None else pixels.shape} are not one (y, x) image"
        )
    y0, y1, x0, x1 = valid or (0, labels.shape[0], 0, labels.shape[1])
    padded = xp.pad(labels[y0:y1, x0:x1].astype(xp.int32, copy=False), _RING, constant_values=_OUTSIDE)
    flat, width = padded.ravel(), padded.shape[1]
    inside = xp.flatnonzero(flat > 0)
    if inside.size == 0:
        return _empty()
    names, index = _dense(xp, flat[inside])
    n = len(names)
    y, x = xp.divmod(inside, width)
    y, x = (y - _RING + y0).astype(xp.float64), (x - _RING + x0).astype(xp.float64)
    own = flat[inside]

    def total(weights: Array) -> Array:
        return xp.bincount(index, weights=weights, minlength=n)

    area = xp.bincount(index, minlength=n).astype(xp.float64)
    cy, cx = total(y) / area, total(x) / area
    dy, dx = y - cy[index], x - cx[index]
    moments = [total(dy * dy) / area, total(dx * dx) / area, total(dy * dx) / area]
    perimeter, cut, edge = _outline(xp, flat, inside, own, index, width, n)
    if pixels is None:
        integrated = around = xp.full(n, xp.nan)
    else:
        values = xp.pad(xp.asarray(pixels)[y0:y1, x0:x1], _RING).ravel()
        integrated = total(values[inside])
        around = _surroundings(xp, flat, values, inside[edge], index[edge], width, n)
    table = [area, cy + shift_rest[0], cx + shift_rest[1], *moments, perimeter, cut, integrated, around, names]
    return _columns(*to_host(xp.stack([c.astype(xp.float64) for c in table])))


def _dense(xp: Array, own: Array) -> tuple[Array, Array]:
    """Names in rising order, and for each pixel the position of its name."""
    largest = int(own.max())
    if largest > 4 * own.size:  # names far apart: a table of all possible ones would not fit
        names, index = xp.unique(own, return_inverse=True)
        return names, index.ravel()
    there = xp.zeros(largest + 1, dtype=bool)
    there[own] = True
    names = xp.flatnonzero(there)
    place = xp.cumsum(there) - 1
    return names, place[own]


def _outline(
    xp: Array, flat: Array, inside: Array, own: Array, index: Array, width: int, n: int
) -> tuple[Array, Array, Array]:
    """Perimeter (n,) px, cut (n,) > 0 where uncovered pixels are neighbours, and which pixels lie on an edge."""
    crossings = xp.zeros(inside.size, dtype=xp.float32)
    cut = xp.zeros(inside.size, dtype=bool)
    for dy, dx in _AROUND:
        other = flat[inside + (dy * width + dx)]
        crossings += (other != own) * xp.float32(1.0 if dy * dx == 0 else math.sqrt(0.5))
        if dy * dx == 0:
            cut |= other == _OUTSIDE
    edge = xp.flatnonzero(crossings)
    where = index[edge]
    perimeter = xp.bincount(where, weights=crossings[edge], minlength=n) * (math.pi / 8)
    return perimeter, xp.bincount(where, weights=cut[edge], minlength=n), edge


def _surroundings(xp: Array, flat: Array, values: Array, edge: Array, index: Array, width: int, n: int) -> Array:
    """Mean of the background pixels `_RING` px off each particle's edge pixels, in eight directions; NaN if none."""
    number, brightness = xp.zeros(n), xp.zeros(n)
    for dy, dx in _AROUND:
        there = edge + _RING * (dy * width + dx)
        background = xp.flatnonzero(flat[there] == 0)
        where = index[background]
        number += xp.bincount(where, minlength=n)
        brightness += xp.bincount(where, weights=values[there[background]], minlength=n)
    return brightness / xp.where(number > 0, number, xp.nan)


def _columns(
    area: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    yy: np.ndarray,
    xx: np.ndarray,
    yx: np.ndarray,
    perimeter: np.ndarray,
    cut: np.ndarray,
    integrated: np.ndarray,
    around: np.ndarray,
    names: np.ndarray,
) -> dict[str, np.ndarray]:
    major, minor, orientation = ellipse(yy, xx, yx)
    mean = integrated / area
    with np.errstate(divide="ignore", invalid="ignore"):
        contrast = np.where(around == 0, np.nan, (mean - around) / np.abs(around))
    return {
        "label": names.astype(np.int32),
        "y": y,
        "x": x,
        "area": area,
        "diameter": 2 * np.sqrt(area / np.pi),
        "major": major,
        "minor": minor,
        "orientation": orientation,
        "perimeter": perimeter,
        "circularity": np.minimum(1.0, 4 * np.pi * area / perimeter**2),
        "mean_intensity": mean,
        "integrated_intensity": integrated,
        "contrast": contrast,
        "touches_border": cut > 0,
    }


def ellipse(yy: np.ndarray, xx: np.ndarray, yx: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Axes and orientation of the ellipse that has these second central moments (px²): (major, minor, angle)."""
    middle, half = (yy + xx) / 2, np.hypot((yy - xx) / 2, yx)
    major, minor = 4 * np.sqrt(middle + half), 4 * np.sqrt(np.maximum(middle - half, 0))
    return major, minor, 0.5 * np.arctan2(2 * yx, yy - xx)


def _empty() -> dict[str, np.ndarray]:
    return _columns(*(np.empty(0) for _ in range(11)))
