"""Where a frame lies on the reference: near its prediction first, then everywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from emstream.align import peak
from emstream.align.grid import Grid
from emstream.align.reference import Canvas, roomy
from emstream.align.track import Track, expected
from emstream.align.view import Scale, View, look, make_scale
from emstream.messages import Array

NEAR = 12  # cells: as far as a shift is looked for around its prediction
FAR = 3 / 8  # of the grid: as far as it is looked for when it is not found near
LEAP = 20.0  # nats by which a far peak must beat the near one: the odds against a jump
PRIOR_CELLS = 0.1  # cells² added to the prior, for the discreteness of the search


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A measured shift, px."""

    shift: np.ndarray  # (2,)
    noise: np.ndarray  # (2, 2) px²
    z: float
    limit: float  # z that chance alone reaches
    far: bool
    view: View


def find(
    canvas: Canvas, scale: Scale, track: Track, level: float, moving: Array, window: Array, grid: Grid
) -> tuple[Canvas, Scale, Found]:
    """Look near the prediction; where that shows too little, everywhere.

    level   : running height of z
    moving  : (gy, gx//2+1) complex64, transform of the windowed frame; window (gy, gx) float32
    returns : the canvas moved to where the frame lies, the scale for the reference there, the shift
    """
    b = grid.bin
    mean, cov = expected(track)
    at = (math.floor(mean[0] / b + 0.5), math.floor(mean[1] / b + 0.5))
    canvas = roomy(canvas, at, grid)
    seen = look(canvas, at, moving, window, scale, grid)
    if not 0.8 < seen.frames / scale.frames < 1.25:
        scale = make_scale(scale.spectrum, seen.frames, grid)
        seen = look(canvas, at, moving, window, scale, grid)
    in_cells = cov / b**2
    reach = math.ceil(4 * math.sqrt(float(np.linalg.eigvalsh(in_cells)[1])) + 1)
    radius = min(max(2, reach), NEAR, min(grid.shape) // 2 - 1)
    prior = (np.array(at) - mean / b, np.linalg.inv(in_cells + PRIOR_CELLS * np.eye(2)))
    lag, height = peak.near(seen.cross, radius, grid, prior)
    z, limit = height / max(seen.noise, 1e-30), math.sqrt(2 * math.log((2 * radius + 1) ** 2)) + 1
    far = False
    if z < limit or z < 0.5 * level:
        reach2 = (int(grid.shape[0] * FAR), int(grid.shape[1] * FAR))
        lag2, height2 = peak.wide(seen.cross, reach2, grid)
        limit2 = math.sqrt(2 * math.log(4 * reach2[0] * reach2[1])) + 1
        if height2 / max(seen.noise, 1e-30) > limit2 and height2 > max(height, 0) + LEAP:
            at = (at[0] - int(lag2[0]), at[1] - int(lag2[1]))
            canvas = roomy(canvas, at, grid)
            seen = look(canvas, at, moving, window, scale, grid)
            lag, height = peak.near(seen.cross, 2, grid, (np.zeros(2), 1e-6 * np.eye(2)))
            z, limit, far = height / max(seen.noise, 1e-30), limit2, True
    fine, _, height = peak.refine(seen.cross, lag, grid)
    shift = (np.array(at) - np.array(fine)) * b
    noise = seen.share * np.linalg.inv(scale.info + 1e-9 * np.eye(2)) * b**2
    return canvas, scale, Found(shift, noise, max(height, 0.0) / max(seen.noise, 1e-30), limit, far, seen)
