"""What a run's particles did, in numbers with their uncertainty: for the report, the command line and scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emstream.measure import Study, study_run
from emstream.store.run import Run

ENDS = 10  # frames at the run's ends that its first and last numbers are means of
NO_EVENTS: Mapping[str, np.ndarray] = {n: np.empty(0, int) for n in ("frame", "track", "other_track", "kind")}


def tables(run: Run) -> tuple[Any, Any, Any]:
    """particles, events and kinetics of the run; None, no events, None where it has none (yet)."""
    found = []
    for name, otherwise in (("particles", None), ("events", NO_EVENTS), ("kinetics", None)):
        try:
            table: Any = run.table(name)
        except KeyError:
            table = otherwise
        found.append(table if table is None or len(table["frame"]) or name == "events" else None)
    return found[0], found[1], found[2]


def of(run: Run) -> Study | None:
    """The study of a run, also while it grows; None when no particle was found in it."""
    particles, events, kinetics = tables(run)
    if particles is None:
        return None
    return study_run(particles, events, kinetics, math.sqrt(math.prod(run.pixel_size_nm)) if run.pixel_size_nm else 1.0)


def told(path: str | Path) -> list[dict[str, Any]]:
    """Rows {quantity, value, error, unit, text}: value and error are None where unknown. raises : NotARun"""
    run = Run(path)
    return rows(run, of(run))


def rows(run: Run, study: Study | None) -> list[dict[str, Any]]:
    """The same of a study that was made."""
    _, events, kinetics = tables(run)
    unit = "nm" if run.pixel_size_nm else "px"
    out: list[dict[str, Any]] = []
    if kinetics is not None:
        for name, stem, end in (
            ("particles", "count", ""), ("number density", "density", f"_per_{unit}2" if unit == "nm" else "_per_px"),
            ("mean radius", "mean_radius", f"_{unit}"), ("critical radius", "critical_radius", f"_{unit}"),
        ):  # fmt: skip
            for when, part in (("first", kinetics.head(ENDS)), ("last", kinetics.tail(ENDS))):
                value, error = (float(part[f"{stem}{e}{end}"].median()) for e in ("", "_error"))
                out.append(_row(f"{name}, {when} frames", value, error, "" if stem == "count" else
                                f"{unit}⁻²" if stem == "density" else unit))  # fmt: skip
    if study is not None:
        out += [_row(name, *number) for name, number in study.told().items()]
    kinds, counts = np.unique(np.asarray(events["kind"]).astype(str), return_counts=True)
    out += [_row(f"events: {k}", float(n), math.sqrt(n), "") for k, n in zip(kinds.tolist(), counts.tolist())]
    return out


def _row(quantity: str, value: float, error: float, unit: str) -> dict[str, Any]:
    known = [v if math.isfinite(v) else None for v in (value, error)]
    text = "unknown" if known[0] is None else f"{value:.4g}"
    if known[0] is not None and known[1] is not None:
        digits = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 0
        text = f"{value:.{digits}f} ± {error:.{digits}f}" if 0 < digits < 7 else f"{text} ± {error:.2g}"
    return {"quantity": quantity, "value": known[0], "error": known[1], "unit": unit, "text": f"{text} {unit}".strip()}
