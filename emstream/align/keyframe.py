"""Keyframes: the mean of a block's frames, with which blocks are laid on each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from emstream.align.final import Link
from emstream.align.grid import Grid
from emstream.align.reference import EMPTY, Canvas
from emstream.align.stack import compared, first_scale, sight, solid
from emstream.align.view import make_scale
from emstream.arrays import to_host

REACH = 12  # cells within which a keyframe is looked for first


@dataclass(frozen=True, slots=True, eq=False)
class Keyframe:
    """Frames of one part of a block, summed where they lie."""

    canvas: Canvas
    low: np.ndarray  # (2,) px, the least and the largest place of its frames
    high: np.ndarray  # (2,) px

    def dump(self) -> dict[str, np.ndarray]:
        """As plain arrays: num and den (2, my, mx) float32, and numbers."""
        c = self.canvas
        return {
            "num": np.stack([to_host(a) for a in c.num]),
            "den": np.stack([to_host(a) for a in c.den]),
            "numbers": np.array([*c.origin, c.count], np.int64),
            "ends": np.stack([self.low, self.high]),
        }


def load_keyframe(arrays: Mapping[str, np.ndarray], xp: Any = np) -> Keyframe:
    """What `dump` gave."""
    num, den = xp.asarray(arrays["num"]), xp.asarray(arrays["den"])
    y, x, count = (int(v) for v in arrays["numbers"])
    canvas = Canvas(num=(num[0], num[1]), den=(den[0], den[1]), origin=(y, x), count=count)
    return Keyframe(canvas, arrays["ends"][0], arrays["ends"][1])


def link(a: Keyframe, b: Keyframe, guess: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray] | None:
    """Where b's canvas lies on a's: (2,) px and its covariance (2, 2) px²; None when they do not show the same.

    guess : (2,) px, where it is thought to lie; it is looked for everywhere when it is not near
    """
    if not b.canvas.count or not a.canvas.count:
        return None
    on_b = np.clip((a.low + a.high) / 2 - guess, b.low, b.high)  # where b sees most of what a sees
    at = np.floor(on_b / grid.bin + 0.5).astype(int)
    y, x = at - np.array(b.canvas.origin)
    cut = np.s_[y : y + grid.shape[0], x : x + grid.shape[1]]
    dense = solid(b.canvas, grid)
    num, den = dense.num[0][cut] + dense.num[1][cut], dense.den[0][cut] + dense.den[1][cut]
    scale = first_scale(b.canvas, at * grid.bin, grid)
    if den.shape != grid.shape or scale is None:
        return None
    worth = max(1.0, float((den * grid.window).sum()) / float((grid.window**2).sum()))
    mean = sight(num / grid.xp.maximum(den, EMPTY), den > EMPTY, grid)
    spectrum = replace(scale.spectrum, noise=scale.spectrum.noise / np.float32(worth))
    found = compared(
        mean,
        guess + at * grid.bin,
        a.canvas,
        make_scale(spectrum, 1.0, grid),
        grid,
        own=False,
        reach=REACH,
        worth=worth,
    )
    if not found.z >= found.limit:
        return None
    return found.measured - at * grid.bin, found.noise


def added(canvas: Canvas, key: Keyframe, offset: np.ndarray, grid: Grid) -> Canvas:
    """A canvas with a keyframe in it; `offset` (2,) px is where the keyframe's canvas lies on this one."""
    cells = offset / grid.bin
    whole = np.floor(cells + 0.5).astype(int)
    rest = cells - whole
    top = np.array(key.canvas.origin) + whole - np.array(canvas.origin)
    size, mine = np.array(key.canvas.num[0].shape), np.array(canvas.num[0].shape)
    low, high = np.maximum(top, 0), np.minimum(top + size, mine)
    if (high <= low).any():
        return canvas
    out = np.s_[low[0] : high[0], low[1] : high[1]]
    inner = np.s_[low[0] - top[0] : high[0] - top[0], low[1] - top[1] : high[1] - top[1]]
    for half in (0, 1):
        canvas.num[half][out] += _shifted(key.canvas.num[half], rest, grid)[inner]
        canvas.den[half][out] += _shifted(key.canvas.den[half], rest, grid)[inner]
    return replace(canvas, count=canvas.count + key.canvas.count)


def _shifted(image: Any, rest: np.ndarray, grid: Grid) -> Any:
    """The image moved by less than a cell, between cells linearly: sums and weights alike, so that their ratio holds.

    In Fourier space the edges of what did not vote would ring, and where weights are small their ratio with it.
    """
    for axis in (0, 1):
        part = float(abs(rest[axis]))
        if part:
            image = image * grid.xp.float32(1 - part) + grid.xp.roll(
                image, int(np.sign(rest[axis])), axis
            ) * grid.xp.float32(part)
    return image


def as_link(a: int, b: int, found: tuple[np.ndarray, np.ndarray]) -> Link:
    """The link between the keyframes of these numbers."""
    return Link(a, b, found[0], found[1])
