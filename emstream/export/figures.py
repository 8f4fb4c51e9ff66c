"""Figures of the report that come from the tables: radii with errors, sizes through time, growth against size."""

from __future__ import annotations

from typing import Any

import numpy as np

from emstream.export.draw import COLOURS
from emstream.measure import Study
from emstream.store.run import Run

INK = [f"rgb{c}" for c in COLOURS]
TIMES, SIZES, DOTS = 80, 40, 4000


def radii(run: Run, ensemble: Any) -> Any:
    """Mean and critical radius with their standard errors, and the number density."""
    unit, per = ("nm", "per_nm2") if run.pixel_size_nm else ("px", "per_px")
    t = ensemble["time_s"].to_numpy() - run.column("time_s")[0]
    step = max(1, len(t) // 1500)
    figure = _figure("Mean and critical radius, number density", "time, s", f"radius, {unit}")
    for name, label, ink in (("mean_radius", "mean radius", INK[4]), ("critical_radius", "critical radius", INK[5])):
        value, error = (ensemble[f"{n}_{unit}"].to_numpy()[::step] for n in (name, f"{name}_error"))
        if name == "critical_radius":
            value = np.where(error < 0.5 * np.abs(value), value, np.nan)  # not known yet
            error = np.where(np.isfinite(value), error, np.nan)
        band = f"rgba{ink[3:-1]},.18)"
        x = t[::step]
        for edge, fill in ((value + error, None), (value - error, "tonexty")):
            figure.add_scatter(
                x=x, y=edge, line={"width": 0}, fill=fill, fillcolor=band, showlegend=False, hoverinfo="skip"
            )
        figure.add_scatter(x=x, y=value, name=label, line={"color": ink, "width": 2})
    scale, shown = (1e6, "µm⁻²") if unit == "nm" else (1e6, "per 10⁶ px")
    figure.add_scatter(
        x=t[::step], y=ensemble[f"density_{per}"].to_numpy()[::step] * scale, name="number density", yaxis="y2",
        line={"color": INK[2], "width": 1},
    )  # fmt: skip
    figure.update_layout(
        yaxis={"rangemode": "tozero"},
        yaxis2={
            "overlaying": "y",
            "side": "right",
            "title": f"density, {shown}",
            "rangemode": "tozero",
            "showgrid": False,
        },
    )
    return figure


def sizes_through_time(run: Run, particles: Any) -> Any:
    """The size distribution of each time step as a map: share of the particles per unit of diameter."""
    unit = "nm" if run.pixel_size_nm else "px"
    d, frame = particles[f"diameter_{unit}"].to_numpy(), particles["frame"].to_numpy()
    t = run.column("time_s") - run.column("time_s")[0]
    steps = np.unique(np.linspace(0, run.n, min(TIMES, run.n) + 1).astype(int))
    bins = np.linspace(0, float(np.quantile(d, 0.999)) * 1.05, SIZES + 1)
    share, _, _ = np.histogram2d(d, frame, (bins, steps))
    share /= np.maximum(share.sum(axis=0), 1) * (bins[1] - bins[0])
    figure = _figure("Size distribution through time", "time, s", f"equivalent diameter, {unit}")
    figure.add_heatmap(
        x=t[np.minimum(steps[:-1], run.n - 1)], y=(bins[1:] + bins[:-1]) / 2, z=share, colorscale="Viridis",
        colorbar={"title": f"share per {unit}"},
    )  # fmt: skip
    return figure


def growth(found: Study) -> Any:
    """dR/dt of each track against R, and the fitted law through it."""
    unit, g = found.unit, found.growth
    some = np.linspace(0, len(g["radius"]) - 1, min(DOTS, len(g["radius"]))).astype(int)
    figure = _figure("Growth against size", f"radius, {unit}", f"dR/dt, {unit}/s")
    figure.add_scatter(
        x=g["radius"][some], y=g["growth"][some], mode="markers", name="one track over a stretch of time",
        marker={"size": 4, "color": g["time_s"][some] - g["time_s"].min(), "colorscale": "Viridis", "opacity": 0.6,
                "colorbar": {"title": "time, s"}},
    )  # fmt: skip
    figure.add_hline(y=0, line={"color": "gray", "width": 1})
    reach = float(np.nanquantile(np.abs(g["growth"]), 0.99)) * 1.3
    figure.update_yaxes(range=[-reach, reach])
    p = found.paths
    if np.isfinite(p.exponent):
        r = np.linspace(float(np.quantile(g["radius"], 0.02)), float(g["radius"].max()), 120)
        zero = float(np.median(g["radius"]))
        law = p.rate / r ** (p.exponent - 1) * (r / zero - 1)
        figure.add_scatter(
            x=r, y=law, name=f"K / R^(n-1) (R/R* - 1), n = {p.exponent:.2f} ± {p.exponent_error:.2f}, R* = {zero:.3g} {unit}",
            line={"color": INK[5], "width": 2},
        )  # fmt: skip
    return figure


def _figure(title: str, x: str, y: str) -> Any:
    import plotly.graph_objects as go

    return go.Figure(layout={"title": title, "xaxis_title": x, "yaxis_title": y})
