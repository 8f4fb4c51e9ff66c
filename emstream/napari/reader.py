"""A run becomes napari's layers: the image and the labels as lazy pyramids, the particles' tracks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from emstream.errors import NotARun
from emstream.store.run import Run

LayerData: TypeAlias = tuple[Any, dict[str, Any], str]
MOST_ROWS = 200_000  # of the tracks layer; of a longer run the newest are shown
SAMPLE = 5  # frames that decide the contrast


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """What reads the path; None when it is no run, so that napari asks the next plugin."""
    if not isinstance(path, str):
        return None
    try:
        Run(path)
    except NotARun:
        return None
    return read


def read(path: str | Sequence[str]) -> list[LayerData]:
    """Layers of the run at a path: image, labels, and tracks once there are any. raises : NotARun"""
    assert isinstance(path, str)
    return layers(Run(path))


def layers(run: Run) -> list[LayerData]:
    """(data, keywords, kind) of each layer. Axes t (frame), y, x; y and x in nm when calibrated.

    The last layer is missing while no particle was tracked, all of them while no frame is published.
    """
    if run.n == 0:
        return []
    size = run.pixel_size_nm or (1.0, 1.0)
    placed: dict[str, Any] = {"scale": (1.0, *size), "metadata": {"run": str(run.path), "frames": run.n}}
    made: list[LayerData] = [
        (image(run), {**placed, "name": run.name, "contrast_limits": contrast(run), "colormap": "gray"}, "image"),
        (image(run, labels=True), {**placed, "name": f"{run.name} particles", "opacity": 0.35}, "labels"),
    ]
    vertices, properties = tracks(run)
    if len(vertices):
        # the table is in nm already
        more = {**placed, "scale": (1.0, 1.0, 1.0), "name": f"{run.name} tracks", "properties": properties}
        made.append((vertices, {**more, "tail_length": 40}, "tracks"))
    return made


def image(run: Run, labels: bool = False) -> Any:
    """The frames that are published now, lazy, (t, y, x); a list of the pyramid's levels where there are several."""
    levels = run.pyramid(labels=labels)
    return levels if len(levels) > 1 else levels[0]


def contrast(run: Run) -> tuple[float, float]:
    """Black and white: the darkest and the brightest thousandth of a few frames, what no frame covers left out."""
    some = np.unique(np.linspace(0, run.n - 1, SAMPLE).astype(int))
    values = np.concatenate([run.frame(int(i))[::4, ::4].ravel() for i in some]).astype(np.float64)
    values = values[np.isfinite(values) & (values != 0)] if values.any() else np.array([0.0, 1.0])
    low, high = np.quantile(values, (0.001, 0.999))
    return float(low), float(max(high, low + 1e-6))


def tracks(run: Run) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Vertices (n, 4): track, frame, y, x (nm, or px without calibration), sorted so; diameter and growth of each."""
    unit = "px" if run.pixel_size_nm is None else "nm"
    try:
        table = run.table("particles")
    except (KeyError, OSError, ValueError):  # not written yet, or just being replaced
        return np.empty((0, 4)), {}
    table = table[(table["track"] >= 0) & (table["frame"] < run.n)].tail(MOST_ROWS)
    table = table.sort_values(["track", "frame"])
    vertices = table[["track", "frame", f"y_{unit}", f"x_{unit}"]].to_numpy(np.float64)
    wanted = ("track", f"diameter_{unit}", f"growth_{unit}_per_s")
    return vertices, {n: np.nan_to_num(table[n].to_numpy()) for n in wanted if n in table}


def path_of(layer: Any) -> Path | None:
    """The run that a layer shows; None when it is another's."""
    found = getattr(layer, "metadata", {}).get("run")
    return None if found is None else Path(found)
