"""One frame's particles in a few numbers: how many, how large, how much of the area."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emstream.measure.window import mean_of, quantiles_of, weights
from emstream.messages import Rect

BINS = 40


@dataclass(frozen=True, slots=True)
class Summary:
    """One frame. Lengths px; NaN where there is no particle to take them from."""

    count: int  # all particles, those at the border too
    whole: int  # particles not cut by the border: the sizes below are theirs
    density: float  # particles per px², from those that no border cuts
    area_fraction: float  # of the covered area, 0..1
    mean: float  # diameter
    std: float
    median: float
    quantiles: tuple[float, ...]  # diameters at the levels that were asked for


def summarize(columns: Mapping[str, np.ndarray], covered: Rect, levels: Sequence[float] = (0.1, 0.5, 0.9)) -> Summary:
    """Count, density, sizes and covered fraction of one frame's particles; sizes do not depend on the covered area.

    columns : of `particles`, px · covered : the covered pixels; for the weights see `window.weights`
    """
    area_px = max(0, covered[1] - covered[0]) * max(0, covered[3] - covered[2])
    cut = columns["touches_border"].astype(bool)
    d = columns["diameter"][~cut]
    w, n, nan = weights(d, covered), len(cut), float("nan")
    mean, std, _ = mean_of(d, w)
    return Summary(
        count=n,
        whole=len(d),
        density=float(w.sum()) if area_px else nan,
        area_fraction=float(columns["area"].sum()) / area_px if area_px else nan,
        mean=mean,
        std=std,
        median=quantiles_of(d, w, (0.5,))[0],
        quantiles=quantiles_of(d, w, levels),
    )


def edges(largest: float, bins: int = BINS) -> np.ndarray:
    """Bin edges from 0 to the first round number (1, 2, 5 times a power of ten) per bin above `largest`: (bins + 1,).

    Fixed for a run, so that distributions of different frames can be laid over each other.
    """
    if not largest > 0:
        return np.linspace(0.0, float(bins), bins + 1)
    step = largest / bins
    power = 10.0 ** np.floor(np.log10(step))
    width = power * next(m for m in (1.0, 2.0, 5.0, 10.0) if m * power >= step * (1 - 1e-12))
    return np.arange(bins + 1) * width


def histogram(diameters: np.ndarray, bin_edges: np.ndarray, whole: np.ndarray | None = None) -> np.ndarray:
    """Particles per bin, int64 (bins,); those beyond the last edge count in the last bin.

    whole : (n,) bool, only these count; None = all
    """
    d = diameters if whole is None else diameters[whole]
    return np.histogram(np.clip(d, bin_edges[0], bin_edges[-1]), bin_edges)[0].astype(np.int64)


def volume_weighted(diameters: np.ndarray) -> float:
    """De Brouckere mean diameter, sum d⁴ / sum d³: what the mass of the particles is like. NaN when there is none."""
    d = np.asarray(diameters, np.float64)
    return float((d**4).sum() / (d**3).sum()) if len(d) else float("nan")
