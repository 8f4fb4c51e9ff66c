"""How sure a shift is right within 1 px, from its expected error and the height of its peak over chance."""

from __future__ import annotations

import math


def confidence(sigma_px: float, z: float, limit: float) -> float:
    """0..1: share of a Gaussian error of `sigma_px` per axis within 1 px, times the odds that the peak is no chance."""
    within = 1.0 if sigma_px <= 0 else 1 - math.exp(-0.5 / sigma_px**2)
    lock = 1 / (1 + math.exp(-min(2 * (z - limit), 50.0))) if z > 0 else 1.0
    return within * lock
