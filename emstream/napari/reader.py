"""A run becomes napari's layers: the image and the labels as lazy pyramids, the particles' tracks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from emstream.errors import NotARun
from emstream.store.run import Run

LayerData: TypeAlias = tuple[Any, dict[str, Any], str]
MOST_ROWS = 50_000  # of the tracks layer, about; of a longer run the newest are shown
SAMPLE = 5  # frames that decide the contrast
TAIL = 40  # frames of a track that are drawn behind the one that is shown


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
    """(data, keywords, kind) of each layer. Axes frame, y, x; y and x in nm when calibrated.

    The last layer is missing while no particle was tracked, all of them while no frame is published.
    """
    n = run.n
    if n == 0:
        return []
    made = [image_layer(run, n), labels_layer(run, n)]
    vertices, properties = tracks(run)
    return [*made, tracks_layer(run, vertices, properties)] if len(vertices) else made


def image_layer(run: Run, n: int) -> LayerData:
    """The first n frames."""
    how = {"name": run.name, "contrast_limits": contrast(run, n), "colormap": "gray"}
    return image(run, n), {**_placed(run), **how}, "image"


def labels_layer(run: Run, n: int) -> LayerData:
    """The particles of the first n frames."""
    how = {"name": f"{run.name} particles", "opacity": 0.35}
    return image(run, n, labels=True), {**_placed(run), **how}, "labels"


def tracks_layer(run: Run, vertices: np.ndarray, properties: dict[str, np.ndarray]) -> LayerData:
    """What `tracks` found."""
    how = {"name": f"{run.name} tracks", "properties": properties, "tail_length": TAIL, "scale": (1.0, 1.0, 1.0)}
    placed = _placed(run)
    del placed["cache"]
    return vertices, {**placed, **how}, "tracks"  # the table is in nm already


def _placed(run: Run) -> dict[str, Any]:
    size = run.pixel_size_nm
    unit = "pixel" if size is None else "nm"
    return {
        "scale": (1.0, *(size or (1.0, 1.0))),
        "units": ("pixel", unit, unit),
        "axis_labels": ("frame", "y", "x"),
        "metadata": {"run": str(run.path)},
        # napari's cache keeps blocks of many frames by a name that does not tell what was filled in since, and reads
        # a whole block for one frame
        "cache": False,
    }


def image(run: Run, n: int, labels: bool = False) -> Any:
    """The first n frames, lazy, (t, y, x); a list of the pyramid's levels where there are several."""
    levels = [level[:n] for level in run.pyramid(labels=labels)]
    return levels if len(levels) > 1 else levels[0]


def contrast(run: Run, n: int) -> tuple[float, float]:
    """Black and white: the darkest and the brightest 0.5 % of a few of n frames, as on the page; what no frame covers left out."""
    some = np.unique(np.linspace(0, n - 1, SAMPLE).astype(int))
    values = np.concatenate([run.frame(int(i))[::4, ::4].ravel() for i in some]).astype(np.float64)
    values = values[np.isfinite(values) & (values != 0)] if values.any() else np.array([0.0, 1.0])
    low, high = np.quantile(values, (0.005, 0.995))
    return float(low), float(max(high, low + 1e-6))


def tracks(run: Run) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Vertices (n, 4): track, frame, y, x (nm, or px without calibration), sorted so; diameter and growth of each."""
    unit = "px" if run.pixel_size_nm is None else "nm"
    try:
        left = np.cumsum(run.column("particles")[::-1].astype(np.int64).clip(0)) <= MOST_ROWS
        table = run.table("particles", since=run.n - int(left.sum()))
    except (KeyError, OSError, ValueError):  # not written yet, or just being replaced
        return np.empty((0, 4)), {}
    table = table[(table["track"] >= 0) & (table["frame"] < run.n)]
    table = table.sort_values(["track", "frame"])
    vertices = table[["track", "frame", f"y_{unit}", f"x_{unit}"]].to_numpy(np.float64)
    wanted = ("track", f"diameter_{unit}", f"growth_{unit}_per_s")
    return vertices, {n: np.nan_to_num(table[n].to_numpy()) for n in wanted if n in table}


def path_of(layer: Any) -> Path | None:
    """The run that a layer shows; None when it is another's."""
    found = getattr(layer, "metadata", {}).get("run")
    return None if found is None else Path(found)
