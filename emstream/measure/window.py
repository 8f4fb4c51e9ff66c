"""Sizes of what is seen through a window: large particles are cut by its border more often than small ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from emstream.messages import Rect


def weights(diameter: np.ndarray, valid: Rect) -> np.ndarray:
    """1 / ((H - d)(W - d)) of each particle that no border cuts: (n,) per px²; their sum is the number per px².

    A round particle of diameter d lies uncut in a window of H × W px when its centre lies in one of (H - d)(W - d), so
    it stands for as many as are cut (the Miles-Lantuéjoul correction; J. Serra, Image Analysis and Mathematical
    Morphology, Academic Press 1982, p. 246). The sizes of what is left do not depend on the window then.
    """
    height, width = max(valid[1] - valid[0], 1), max(valid[3] - valid[2], 1)
    return 1.0 / (np.maximum(height - diameter, 1.0) * np.maximum(width - diameter, 1.0))


def mean_of(values: np.ndarray, w: np.ndarray) -> tuple[float, float, float]:
    """Weighted mean, standard deviation, and standard error of the mean (effective number (Σw)²/Σw²); NaN when none."""
    if not len(values):
        return math.nan, math.nan, math.nan
    total = float(w.sum())
    mean = float((w * values).sum()) / total
    effective = total * total / float((w * w).sum())
    if effective <= 1:
        return mean, math.nan, math.nan
    variance = float((w * (values - mean) ** 2).sum()) / total * effective / (effective - 1)
    return mean, math.sqrt(variance), math.sqrt(variance / effective)


def quantiles_of(values: np.ndarray, w: np.ndarray, levels: Sequence[float]) -> tuple[float, ...]:
    """Weighted quantiles, linear between the values as numpy's when all weights are equal; NaN when there are none."""
    if not len(values):
        return (math.nan,) * len(levels)
    order = np.argsort(values)
    v, share = values[order], np.cumsum(w[order])
    share = (share - w[order][0]) / max(float(share[-1] - w[order][0]), 1e-300) if len(v) > 1 else np.zeros(1)
    return tuple(float(q) for q in np.interp(levels, share, v))
