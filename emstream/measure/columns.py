"""What the tables' columns are called, in which unit they are and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from emstream.measure.particles import ellipse
from emstream.messages import PixelSize

Table = Literal["particles", "tracks", "events", "frames", "kinetics"]
Kind = Literal["plain", "y", "x", "length", "area", "volume", "density", "rate"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name inside emstream, how calibration changes it, and what it means."""

    name: str
    dtype: str
    meaning: str
    kind: Kind = "plain"
    unit: str = ""
    optional: bool = False  # NaN where nobody tells it

    def called(self, calibrated: bool) -> str:
        """The name in a table: lengths end in _nm, areas in _nm2 …; without calibration in _px."""
        if self.kind == "plain":
            return self.name
        return self.name + ("_{}" if self.kind not in _FORMS else _FORMS[self.kind][0 if calibrated else 1]).format(
            "nm" if calibrated else "px"
        )

    def measured_in(self, calibrated: bool) -> str:
        """The unit, for the data dictionary."""
        length = "nm" if calibrated else "px"
        return {"plain": self.unit, **{k: f[2].format(length) for k, f in _FORMS.items()}}.get(self.kind, length)


_FORMS = {  # kind → how its name ends with and without calibration, and its unit
    "area": ("_nm2", "_px", "{}²"),
    "volume": ("_nm3", "_px", "{}³"),
    "density": ("_per_nm2", "_per_px", "{}⁻²"),
    "rate": ("_{}_per_s", "_{}_per_s", "{}/s"),
}

_FRAME = Column("frame", "int64", "frame of the run, counted from 0")
_TIME = Column("time_s", "float64", "absolute time of the frame, seconds since 1970 where the camera tells", unit="s")
_Y = Column("y", "float64", "centroid, down, in the aligned (anchor) frame", "y")
_X = Column("x", "float64", "centroid, to the right, in the aligned (anchor) frame", "x")

TABLES: dict[str, tuple[Column, ...]] = {
    "particles": (
        _FRAME,
        _TIME,
        Column("label", "int32", "the particle's value in the label image of this frame"),
        Column("track", "int64", "the same particle has the same track in every frame; -1 = not tracked"),
        _Y,
        _X,
        Column("area", "float64", "projected area", "area"),
        Column("diameter", "float64", "equivalent diameter, 2 sqrt(area/pi)", "length"),
        Column("major", "float64", "long axis of the ellipse with the same second moments", "length"),
        Column("minor", "float64", "short axis of that ellipse", "length"),
        Column("orientation", "float64", "long axis, from down (+y) towards right (+x), -pi/2..pi/2", unit="rad"),
        Column("perimeter", "float64", "length of the outline (Cauchy-Crofton, four directions)", "length"),
        Column("circularity", "float64", "4 pi area / perimeter², 1 for a disc"),
        Column("mean_intensity", "float64", "mean intensity inside", unit="counts"),
        Column("integrated_intensity", "float64", "sum of the intensity inside", unit="counts"),
        Column("contrast", "float64", "(mean inside - mean around) / |mean around|; negative = darker"),
        Column("touches_border", "bool", "cut by the frame or by the uncovered area; left out of size statistics"),
        Column("growth", "float64", "dR/dt of its track now, over about `measure.rate_frames` frames; NaN at first",
               "rate", optional=True),
        Column("growth_error", "float64", "standard error of that", "rate", optional=True),
        Column("diameter_error", "float64", "standard deviation of one diameter of its track, about its trend",
               "length", optional=True),
    ),
    "tracks": (
        Column("track", "int64", "number of the track"),
        Column("first_frame", "int64", "frame in which it was first seen"),
        Column("last_frame", "int64", "frame in which it was last seen"),
        Column("first_time_s", "float64", "time of the first frame", unit="s"),
        Column("last_time_s", "float64", "time of the last frame", unit="s"),
        Column("frames", "int64", "number of frames in which it was seen"),
        Column("first_y", "float64", "first centroid, down", "y"),
        Column("first_x", "float64", "first centroid, to the right", "x"),
        Column("last_y", "float64", "last centroid, down", "y"),
        Column("last_x", "float64", "last centroid, to the right", "x"),
        Column("first_diameter", "float64", "equivalent diameter when first seen", "length"),
        Column("last_diameter", "float64", "equivalent diameter when last seen", "length"),
        Column("mean_diameter", "float64", "mean equivalent diameter over the frames in which it was whole", "length"),
        Column("growth", "float64", "slope of the radius against time, least squares", "rate"),
        Column("growth_error", "float64", "standard error of that slope", "rate"),
        Column("diameter_error", "float64", "standard deviation of one diameter, about that line", "length"),
        Column("began", "U16", "start | edge | nucleation | split | unconfirmed: how it came into view"),
        Column("ended", "U16", "end | edge | dissolution | detachment | coalescence | lost: how it went"),
        Column("other_track", "int64", "the track it split from or merged into; -1 = none"),
        Column("touched_border", "bool", "cut by the border in at least one frame"),
    ),
    "events": (
        _FRAME,
        _TIME,
        Column("kind", "U16", "nucleation | dissolution | coalescence | split | detachment"),
        Column("track", "int64", "the particle it happened to; in a coalescence or split the one that goes on"),
        Column("other_track", "int64", "the particle absorbed or split off; -1 = none"),
        _Y,
        _X,
    ),
    "frames": (
        _FRAME,
        _TIME,
        Column("shift_y_px", "float64", "drift correction, down: added to positions in the frame", unit="px"),
        Column("shift_x_px", "float64", "drift correction, to the right", unit="px"),
        Column("confidence", "float32", "of the drift correction, 0..1"),
        Column("status", "uint8", "bits: 1 aligned, 2 segmented, 4 late, 8 rejected shift, 16 lost lock, "
               "32 jump, 64 blank, 128 suspect"),
        Column("particles", "int32", "number of particles; -1 = not segmented"),
        Column("area_fraction", "float32", "of the covered area that particles cover, 0..1"),
    ),
    "kinetics": (
        _FRAME,
        _TIME,
        Column("covered", "float64", "area that the frame covers", "area"),
        Column("count", "int64", "particles seen, those at the border too"),
        Column("count_error", "float64", "sqrt(expected and not seen + seen and not yet believed)"),
        Column("density", "float64", "particles per area, from those that no border cuts, each weighted for how seldom "
               "it is uncut", "density"),
        Column("density_error", "float64", "its standard error: independent particles, and the count's error",
               "density"),
        Column("mean_radius", "float64", "mean equivalent radius, weighted so", "length"),
        Column("mean_radius_error", "float64", "its standard error", "length"),
        Column("radius_spread", "float64", "standard deviation of the radii", "length"),
        Column("radius_q10", "float64", "radius that a tenth of the particles do not reach", "length"),
        Column("median_radius", "float64", "median radius", "length"),
        Column("radius_q90", "float64", "radius that nine tenths do not reach", "length"),
        Column("thickness", "float64", "volume of equivalent spheres per area; constant while matter is kept",
               "length"),
        Column("critical_radius", "float64", "R* that neither grows nor shrinks, of R² dR/dt = K (R/R* - 1)",
               "length"),
        Column("critical_radius_error", "float64", "its standard error", "length"),
        Column("neighbour", "float64", "mean distance from centre to nearest centre", "length"),
        Column("clustering", "float64", "that over its value for random places; below 1 they cluster"),
        Column("nucleations", "int64", "told since the run began"),
        Column("dissolutions", "int64", "told since the run began"),
        Column("coalescences", "int64", "told since the run began"),
        Column("splits", "int64", "told since the run began"),
        Column("detachments", "int64", "told since the run began"),
        Column("ripened", "float64", "volume that growing particles took up one atom at a time since the run began",
               "volume"),
        Column("coalesced", "float64", "volume that went over by coalescence since the run began", "volume"),
    ),
}  # fmt: skip


def schema(table: Table, calibrated: bool) -> dict[str, np.dtype]:
    """Columns of a table in their order: name → dtype."""
    return {c.called(calibrated): np.dtype(c.dtype) for c in TABLES[table]}


SCHEMAS: dict[str, dict[str, np.dtype]] = {name: schema(name, True) for name in TABLES}  # type: ignore[arg-type]


def dictionary(table: Table, calibrated: bool) -> dict[str, dict[str, str]]:
    """The data dictionary: column → {"unit", "dtype", "meaning"}; unit "" = a number without unit."""
    return {
        c.called(calibrated): {
            "unit": c.measured_in(calibrated),
            "dtype": "string" if c.dtype.startswith("U") else c.dtype,
            "meaning": c.meaning,
        }
        for c in TABLES[table]
    }


def to_physical(
    columns: Mapping[str, Any], pixel_size_nm: PixelSize | None, table: Table = "particles"
) -> dict[str, np.ndarray]:
    """Columns in px become columns in nm, with the unit in the name; names that the table lacks are kept as they are.

    columns       : name (as `particles` calls it) → array; lengths px, areas px²
    pixel_size_nm : (y, x) nm per px, or None: the values stay in px and the names say so.
                    Where y and x differ, areas, diameters and axes are those of the undistorted image; perimeters are
                    scaled as that of the ellipse with the same moments, other lengths by the geometric mean
    """
    known = {c.name: c for c in TABLES[table]}
    calibrated = pixel_size_nm is not None
    py, px = pixel_size_nm or (1.0, 1.0)
    length = (py * px) ** 0.5
    scale = {"plain": 1.0, "y": py, "x": px, "area": py * px, "length": length, "rate": length}
    scale |= {"volume": length**3, "density": 1 / (py * px)}
    values = {name: np.asarray(v) for name, v in columns.items()}
    shape = _unsquashed(values, py, px)
    out: dict[str, np.ndarray] = {}
    for name, value in values.items():
        column = known.get(name)
        if column is None or (column.kind == "plain" and name not in shape):
            out[name] = value
        else:
            out[column.called(calibrated)] = shape.get(name, value * scale[column.kind])
    return out


def _unsquashed(px_columns: Mapping[str, np.ndarray], py: float, px: float) -> dict[str, np.ndarray]:
    """Axes, orientation, perimeter and circularity when pixels are not square; nothing to do when they are."""
    if py == px or not {"major", "minor", "orientation"} <= px_columns.keys():
        return {}
    a, b = (px_columns["major"] / 4) ** 2, (px_columns["minor"] / 4) ** 2
    c, s = np.cos(px_columns["orientation"]), np.sin(px_columns["orientation"])
    yy, xx, yx = a * c * c + b * s * s, a * s * s + b * c * c, (a - b) * s * c
    major, minor, orientation = ellipse(yy * py * py, xx * px * px, yx * py * px)
    out = {"major": major, "minor": minor, "orientation": orientation}
    if "perimeter" in px_columns:
        before = _ellipse_perimeter(px_columns["major"], px_columns["minor"])
        after = _ellipse_perimeter(major, minor)
        ratio = np.divide(after, before, out=np.full(len(after), (py * px) ** 0.5), where=before > 0)
        out["perimeter"] = px_columns["perimeter"] * ratio
        if "area" in px_columns and "circularity" in px_columns:
            out["circularity"] = np.minimum(1.0, 4 * np.pi * px_columns["area"] * py * px / out["perimeter"] ** 2)
    return out


def _ellipse_perimeter(major: np.ndarray, minor: np.ndarray) -> np.ndarray:
    """Ramanujan's first approximation; axes are full lengths."""
    a, b = major / 2, minor / 2
    return np.pi * (3 * (a + b) - np.sqrt((3 * a + b) * (a + 3 * b)))


def rows(table: Table, columns: Mapping[str, Any], pixel_size_nm: PixelSize | None) -> dict[str, np.ndarray]:
    """Rows ready for the table: physical units, the schema's order and dtypes; scalars are repeated.

    columns : every column that the table has, under its inner name (in px); extra ones are left out
    raises  : KeyError when a column is missing
    """
    wanted = {c.name: columns.get(c.name, np.nan) if c.optional else columns[c.name] for c in TABLES[table]}
    length = max((np.size(v) for v in wanted.values() if np.ndim(v)), default=1)
    full = {name: np.broadcast_to(np.asarray(v), (length,)) if np.ndim(v) == 0 else v for name, v in wanted.items()}
    physical = to_physical(full, pixel_size_nm, table)
    return {
        name: np.asarray(physical[name]).astype(dtype)
        for name, dtype in schema(table, pixel_size_nm is not None).items()
    }
