"""One HTML file with what people publish: drift, counts, sizes through time, tracks, outlines; no network needed."""

from __future__ import annotations

import base64
import html as markup
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emstream.export import figures as figures_of
from emstream.export import kinetics
from emstream.export.crop import common
from emstream.export.draw import COLOURS, Artist
from emstream.export.outlines import through_time
from emstream.measure import dictionary
from emstream.store.run import Run

PICTURES, TRACKS = 4, 40
DAYS_S = 1e8  # a time below it cannot be of a camera's clock
_TOOLS = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}
INK = [f"rgb{c}" for c in COLOURS]


def html(run: Run, out: Path) -> None:
    """A self-contained report; plotly's script comes along inside it."""
    import plotly.io

    particles, tracks = run.table("particles"), run.table("tracks")
    whole = particles[~particles["touches_border"].astype(bool)] if len(particles) else particles
    found, ensemble = kinetics.of(run), kinetics.tables(run)[2]
    figures = []
    if len(whole):
        figures += [_counts(run, whole)]
        if ensemble is not None:
            figures.append(figures_of.radii(run, ensemble))
        figures += [_sizes(run, whole), figures_of.sizes_through_time(run, whole)]
    if len(whole) and len(tracks):
        figures.append(_single(run, whole, tracks))
    if found is not None and len(found.growth["radius"]):
        figures.append(figures_of.growth(found))
    figures.append(_drift(run))
    outlines = through_time(run, tracks) if len(tracks) else ""
    body = [f"<h1>{markup.escape(run.name)}</h1>", _facts(run, particles, tracks), _pictures(run), outlines]
    body.append(_numbers(kinetics.rows(run, found)))
    for k, figure in enumerate(figures):
        _style(figure)
        body.append(
            plotly.io.to_html(figure, include_plotlyjs="inline" if k == 0 else False, full_html=False, config=_TOOLS)
        )
    body.append(_words(run))
    out.write_text(_PAGE.format(title=markup.escape(run.name), body="\n".join(body)), encoding="utf8")


def _time(run: Run) -> np.ndarray:
    times = run.column("time_s")
    return times - times[0]


def _unit(run: Run) -> str:
    return "nm" if run.pixel_size_nm else "px"


def _figure(title: str, x: str, y: str) -> Any:
    import plotly.graph_objects as go

    return go.Figure(layout={"title": title, "xaxis_title": x, "yaxis_title": y})


def _drift(run: Run) -> Any:
    figure, t, shift = _figure("Drift", "time, s", f"shift, {_unit(run)}"), _time(run), run.column("shift")
    py, px = run.pixel_size_nm or (1.0, 1.0)
    figure.add_scatter(x=t, y=shift[:, 0] * py, name="y", line_color=INK[4])
    figure.add_scatter(x=t, y=shift[:, 1] * px, name="x", line_color=INK[5])
    figure.add_scatter(
        x=t, y=run.column("confidence"), name="confidence, 0…1", yaxis="y2", line={"color": "gray", "width": 1}
    )
    figure.update_layout(
        yaxis2={"overlaying": "y", "side": "right", "range": [0, 1.05], "showgrid": False, "title": "confidence"}
    )
    return figure


def _counts(run: Run, particles: pd.DataFrame) -> Any:
    figure, t = _figure("Particles", "time, s", "particles in the frame"), _time(run)
    size = particles.groupby("frame")[f"diameter_{_unit(run)}"].quantile(np.array([0.25, 0.5, 0.75])).unstack()
    at = t[size.index.to_numpy()]
    figure.add_scatter(x=t, y=run.column("particles"), name="count", line_color=INK[1])
    for q, name, width in ((0.25, "quarter", 0.5), (0.5, "median", 2), (0.75, "three quarters", 0.5)):
        figure.add_scatter(
            x=at, y=size[q], name=f"diameter, {name}", yaxis="y2", line={"color": INK[5], "width": width}
        )
    figure.update_layout(
        yaxis2={
            "overlaying": "y",
            "side": "right",
            "title": f"diameter, {_unit(run)}",
            "rangemode": "tozero",
            "showgrid": False,
        }
    )
    return figure


def _sizes(run: Run, particles: pd.DataFrame) -> Any:
    figure = _figure("Size distribution", f"equivalent diameter, {_unit(run)}", "share of particles")
    name, n = f"diameter_{_unit(run)}", run.n
    bins = np.histogram_bin_edges(particles[name], "fd")[:200]
    for k, part in enumerate(np.array_split(np.arange(n), min(3, n))):
        values = particles[particles["frame"].isin(part)][name]
        if not len(values):
            continue
        share, _ = np.histogram(values, bins, density=True)
        t = _time(run)[part]
        label = (
            f"{t[0]:.1f} to {t[-1]:.1f} s, mean {values.mean():.3g} {_unit(run)}" if len(values) else f"{t[0]:.1f} s"
        )
        figure.add_scatter(x=(bins[1:] + bins[:-1]) / 2, y=share, name=label, line={"shape": "hvh", "color": INK[k]})
    return figure


def _single(run: Run, particles: pd.DataFrame, tracks: pd.DataFrame) -> Any:
    figure = _figure("Single particles", "time, s", f"equivalent diameter, {_unit(run)}")
    longest = tracks.sort_values("frames", ascending=False)["track"].head(TRACKS)
    t = _time(run)
    for k, track in enumerate(longest.tolist()):
        rows = particles[particles["track"] == track]
        figure.add_scatter(
            x=t[rows["frame"].to_numpy()], y=rows[f"diameter_{_unit(run)}"], name=f"track {track}", showlegend=False,
            line={"color": INK[k % len(INK)], "width": 1},
        )  # fmt: skip
    return figure


def _style(figure: Any) -> None:
    figure.update_layout(
        template="none",
        height=380,
        margin={"l": 70, "r": 70, "t": 60, "b": 60},
        font={"family": "system-ui, sans-serif", "color": "#777"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": 1.12, "x": 1, "xanchor": "right"},
        title={"x": 0.01, "xanchor": "left"},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "rgba(128,128,128,.6)", "activecolor": "#777"},
    )
    figure.update_xaxes(gridcolor="rgba(128,128,128,.2)", zeroline=False)
    figure.update_yaxes(
        gridcolor="rgba(128,128,128,.2)", zeroline=False, tickmode="auto"
    )  # else odd numbers on the right


def _pictures(run: Run) -> str:
    """A few frames with outlines coloured by track."""
    import imagecodecs

    crop = common(run)
    artist, t = Artist.of(run, crop.rect, 640, enlarge=True), _time(run)
    cells = []
    for k in np.unique(np.linspace(0, len(crop.frames) - 1, PICTURES).astype(int)):
        i = int(crop.frames[k])
        data = base64.b64encode(imagecodecs.png_encode(artist.draw(i))).decode()
        cells.append(
            f'<figure><img src="data:image/png;base64,{data}"><figcaption>frame {i}, {t[i]:.2f} s</figcaption></figure>'
        )
    return f'<div class="pictures">{"".join(cells)}</div>'


def _facts(run: Run, particles: pd.DataFrame, tracks: pd.DataFrame) -> str:
    attrs, t = run.attrs, _time(run)
    size = run.pixel_size_nm
    facts = {
        "frames": f"{run.n} of {run.shape[0]} × {run.shape[1]} px, {run.dtype}",
        "duration": f"{t[-1]:.2f} s, from {attrs.get('started') or _when(run)}",
        "pixel size": f"{size[0]:.4g} × {size[1]:.4g} nm" if size else "unknown: lengths are in pixels",
        "largest shift": f"{np.nanmax(np.hypot(*run.column('shift').T)):.2f} px",
        "particles": f"{len(particles)} in all frames, {len(tracks)} tracks",
        "models": ", ".join(f"{m['name']} {m['sha256'][:12]}" for m in run.models) or "none",
        "source": attrs.get("source", ""),
        "state": run.state,
    }
    rows = "".join(f"<dt>{k}</dt><dd>{markup.escape(str(v))}</dd>" for k, v in facts.items() if v)
    return f"<dl>{rows}</dl>"


def _when(run: Run) -> str:
    """When the first frame was taken."""
    first = float(run.column("time_s")[0])
    known = np.isfinite(first) and first > DAYS_S  # else seconds from the start, not since 1970
    return datetime.fromtimestamp(first, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if known else "an unknown time"


def _numbers(rows: list[dict[str, Any]]) -> str:
    """What was measured, with its standard error."""
    cells = "".join(
        f"<tr><td>{markup.escape(r['quantity'])}</td><td>{markup.escape(r['text'])}</td></tr>" for r in rows
    )
    return f"<h2>Kinetics</h2><table><tr><th>quantity</th><th>value ± standard error</th></tr>{cells}</table>"


def _words(run: Run) -> str:
    rows = "".join(
        f"<tr><td><code>{name}</code></td><td>{c['unit']}</td><td>{markup.escape(c['meaning'])}</td></tr>"
        for name, c in dictionary("particles", run.pixel_size_nm is not None).items()
    )
    head = "<tr><th>column</th><th>unit</th><th>meaning</th></tr>"
    return f"<h2>Columns of the particle table</h2><table>{head}{rows}</table>"


_PAGE = """<!doctype html><html lang="en"><meta charset="utf8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1.2rem;
  background: light-dark(#fff, #16181c); color: light-dark(#1c1e21, #e3e5e8) }}
h1 {{ font-weight: 600; letter-spacing: -.02em }} h2 {{ font-weight: 600; margin-top: 2.5rem }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem }}
dt {{ color: #888 }} dd {{ margin: 0; font-variant-numeric: tabular-nums }}
.pictures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); gap: .8rem; margin: 1.5rem 0 }}
figure {{ margin: 0 }} img {{ width: 100%; border-radius: 4px }} figcaption {{ color: #888; font-size: 13px }}
table {{ border-collapse: collapse; font-size: 14px }}
td, th {{ text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #8883 }}
</style><body>{body}</body></html>"""
