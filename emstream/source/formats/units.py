"""Lengths and times as instruments spell them, in nanometres and seconds."""

from __future__ import annotations

import math
from typing import Any

from emstream.messages import PixelSize

NM_PER_UNIT = {
    "fm": 1e-6,
    "pm": 1e-3,
    "a": 0.1,
    "å": 0.1,
    "\u212b": 0.1,
    "angstrom": 0.1,
    "ångström": 0.1,
    "angstroms": 0.1,
    "nm": 1.0,
    "n_m": 1.0,
    "nanometer": 1.0,
    "nanometre": 1.0,
    "nanometers": 1.0,
    "um": 1e3,
    "u_m": 1e3,
    "µm": 1e3,
    "\u03bcm": 1e3,
    "\\u00b5m": 1e3,
    "micron": 1e3,
    "microns": 1e3,
    "micrometer": 1e3,
    "micrometre": 1e3,
    "mm": 1e6,
    "m_m": 1e6,
    "millimeter": 1e6,
    "cm": 1e7,
    "centimeter": 1e7,
    "m": 1e9,
    "meter": 1e9,
    "metre": 1e9,
    "inch": 2.54e7,
}
SECONDS_PER_UNIT = {
    "nanosecond": 1e-9,
    "ns": 1e-9,
    "microsecond": 1e-6,
    "us": 1e-6,
    "µs": 1e-6,
    "millisecond": 1e-3,
    "ms": 1e-3,
    "second": 1.0,
    "seconds": 1.0,
    "s": 1.0,
    "minute": 60.0,
    "min": 60.0,
    "hour": 3600.0,
    "h": 3600.0,
    "day": 86400.0,
}


def length_nm(scale: Any, unit: Any) -> float | None:
    """`scale` in `unit` as nm; None when the unit is no length that we know or the scale is not positive and finite."""
    factor = NM_PER_UNIT.get(str(unit).strip().strip("\0").casefold())
    try:
        value = float(scale) * factor if factor is not None else math.nan
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def pixel_size(y: float | None, x: float | None) -> PixelSize | None:
    """(y, x) nm per px, or None when either is unknown, not finite or not positive."""
    if y is None or x is None or not (math.isfinite(y) and math.isfinite(x) and y > 0 and x > 0):
        return None
    return (float(y), float(x))


def seconds(value: Any, unit: Any) -> float | None:
    """`value` in `unit` as seconds; None when the unit is no time that we know or the value is not positive and finite."""
    factor = SECONDS_PER_UNIT.get(str(unit).strip().casefold())
    try:
        time = float(value) * factor if factor is not None else math.nan
    except (TypeError, ValueError, OverflowError):
        return None
    return time if math.isfinite(time) and time > 0 else None
