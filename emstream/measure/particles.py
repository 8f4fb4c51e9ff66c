"""A label image becomes a table of particles: moments by bincount over the runs of its rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from emstream.arrays import array_namespace, to_host
from emstream.errors import BadImage
from emstream.messages import Array, Rect

_RING = 3  # px beyond a particle's edge at which its surroundings are sampled
_FRAME = _RING + 1  # px put around the image
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
    if labels.ndim != 2 or (pixels is not None and pixels.shape != labels.shape):
        raise BadImage(
            f"labels {labels.shape} and pixels {None if pixels is None else pixels.shape} are not one (y, x) image"
        )
    xp = array_namespace(labels)
    y0, y1, x0, x1 = valid or (0, labels.shape[0], 0, labels.shape[1])
    small = xp.int16 if int(labels.max(initial=0)) < 1 << 15 else xp.int32  # half of the memory to pass through
    framed = _framed(xp, labels[y0:y1, x0:x1], small, _OUTSIDE)
    flat, width = framed.ravel(), framed.shape[1]
    values = None if pixels is None else _framed(xp, pixels[y0:y1, x0:x1], pixels.dtype, 0).ravel()
    inside = xp.flatnonzero(flat > 0)  # everything below looks at these pixels alone
    if inside.size == 0:
        return _columns(*np.empty((11, 0)))
    own = flat[inside]
    first, last = flat[inside - 1] != own, flat[inside + 1] != own  # of a run of one label in a row
    begin, end = inside[first], inside[last] + 1
    names, place = _dense(xp, own[first])
    index, n = place(own), len(names)
    origin = (y0 - _FRAME, x0 - _FRAME)
    area, cy, cx, *moments = _moments(xp, begin, end, index[first], n, width, origin)
    if values is None:
        integrated = xp.full(n, xp.nan)
    else:
        integrated = xp.bincount(index, weights=values[inside], minlength=n)
    perimeter, cut, around = _outline(xp, flat, values, inside, own, index, width, n)
    table = [area, cy + shift_rest[0], cx + shift_rest[1], *moments, perimeter, cut, integrated, around, names]
    return _columns(*to_host(xp.stack([c.astype(xp.float64) for c in table])))


def _framed(xp: Any, image: Array, dtype: Any, fill: int) -> Array:
    """The image with `_FRAME` px of `fill` around it: neighbours need no bounds, runs never cross rows."""
    out = xp.full((image.shape[0] + 2 * _FRAME, image.shape[1] + 2 * _FRAME), fill, dtype)
    out[_FRAME:-_FRAME, _FRAME:-_FRAME] = image
    return out


def _dense(xp: Any, own: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Names in rising order, and the function that gives the position of each name in them."""
    largest = int(own.max())
    if largest > 4 * own.size + 1000:  # names far apart: a table of all possible ones would not fit
        names = xp.unique(own)
        return names, lambda labels: xp.searchsorted(names, labels)
    there = xp.zeros(largest + 1, dtype=bool)
    there[own] = True
    order = xp.cumsum(there) - 1
    return xp.flatnonzero(there), lambda labels: order[labels]


def _moments(
    xp: Any, begin: Array, end: Array, index: Array, n: int, width: int, origin: tuple[int, int]
) -> tuple[Array, ...]:
    """Area, centroid (y, x) and second central moments (yy, xx, yx) from runs, each summed in closed form."""

    def total(weights: Array) -> Array:
        return xp.bincount(index, weights=weights, minlength=n)

    count = (end - begin).astype(xp.float64)
    y = begin // width
    x = (begin - y * width + origin[1]).astype(xp.float64)
    y = (y + origin[0]).astype(xp.float64)
    steps = count * (count - 1) / 2  # 0 + 1 + … + (count - 1)
    area = total(count)
    cy, cx = total(count * y) / area, total(count * x + steps) / area
    dy, dx = y - cy[index], x - cx[index]
    squares = count * dx * dx + 2 * dx * steps + steps * (2 * count - 1) / 3
    along = count * dx + steps
    return area, cy, cx, total(count * dy * dy) / area, total(squares) / area, total(dy * along) / area


def _outline(
    xp: Any, flat: Array, values: Array | None, inside: Array, own: Array, index: Array, width: int, n: int
) -> tuple[Array, Array, Array]:
    """Perimeter (n,) px; cut (n,), > 0 where uncovered pixels are next; mean of the surroundings (n,), NaN if none.

    inside, own, index : the particles' pixels, their labels, and the labels' positions in the table
    The outline is crossed along rows, columns and both diagonals; each crossing also looks `_RING` px further on.
    """
    perimeter, cut, number, brightness = xp.zeros(n), xp.zeros(n), xp.zeros(n), xp.zeros(n)
    for step in (1, width, width + 1, width - 1):
        straight = step in (1, width)
        for towards in (step, -step):
            beyond = flat[inside + towards]
            edge = xp.flatnonzero(beyond != own)
            at, of = inside[edge], index[edge]
            perimeter += xp.bincount(of, minlength=n) * (1.0 if straight else math.sqrt(0.5))
            if straight:
                cut += xp.bincount(of, weights=beyond[edge] == _OUTSIDE, minlength=n)
            if values is not None:
                there = at + _RING * towards
                background = xp.flatnonzero(flat[there] == 0)
                of, there = of[background], there[background]
                number += xp.bincount(of, minlength=n)
                brightness += xp.bincount(of, weights=values[there], minlength=n)
    around = brightness / xp.where(number > 0, number, xp.nan)
    return perimeter * (math.pi / 8), cut, around


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
