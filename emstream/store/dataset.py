"""A training data set on disk: crops, their labels, and how each crop was made; a Zarr group that tells where it is from.

    NAME.zarr/          attributes.emstream: format, software, settings, sources, made, complete
      images            (n, y, x) float16, normalised grey
      labels            (n, y, x) uint16, instances, 0 = background; all 0 where there are no labels
      weight            (n, y, x) uint8, how sure each pixel's label is, 255 = sure
      rows/COLUMN       (n,) source, frame, learned (0 = kept for validation), agreement, and what crops.ROW names

Each frame's crops are one chunk, so that many workers can write at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from emstream.errors import NotARun

FORMAT = 1
PIXELS = {"images": "float16", "labels": "uint16", "weight": "uint8"}


def create(path: Path, n: int, per_frame: int, side: int, columns: np.dtype, about: Mapping[str, Any]) -> None:
    """An empty data set for n crops, `per_frame` of them in a chunk; what was at the path is replaced."""
    if path.exists():
        shutil.rmtree(path)
    root = zarr.open_group(path, mode="w", zarr_format=3)
    for name, dtype in PIXELS.items():
        root.create_array(name, shape=(n, side, side), chunks=(per_frame, side, side), dtype=dtype)
    for name in columns.names or ():
        root.create_array(f"rows/{name}", shape=(n,), chunks=(per_frame,), dtype=columns[name])
    root.attrs["emstream"] = {"format": FORMAT, "kind": "training crops", "complete": False, **about}


def put(path: Path, at: int, pixels: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
    """Crops from place `at` on, and their rows. Whole chunks, so tasks do not meet."""
    root: Any = zarr.open_group(path, mode="r+")
    end = at + len(rows)
    for name in PIXELS:
        root[name][at:end] = pixels[name]
    for name in rows.dtype.names or ():
        root[f"rows/{name}"][at:end] = rows[name]


def finish(path: Path, about: Mapping[str, Any]) -> None:
    """All crops are there: say so, and what else became known."""
    root: Any = zarr.open_group(path, mode="r+")
    told = dict(root.attrs["emstream"])
    root.attrs["emstream"] = {**told, **about, "complete": True}


def whole(path: Path) -> bool:
    """True when a data set is there, with all of its crops."""
    try:
        return bool(about(path))
    except NotARun:
        return False


def about(path: Path) -> dict[str, Any]:
    """attributes.emstream. raises : NotARun"""
    try:
        root: Any = zarr.open_group(path, mode="r")
        told = dict(root.attrs["emstream"])
    except (OSError, KeyError, ValueError, TypeError) as problem:
        raise NotARun(f"{path} is no data set of emstream: {problem}", "`emstream train` makes one") from problem
    if told.get("kind") != "training crops" or not told.get("complete"):
        raise NotARun(f"{path} is no whole data set of training crops", "`emstream train` makes it anew")
    return told


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Pixels by name and columns by name, all in memory. raises : NotARun"""
    about(path)
    root: Any = zarr.open_group(path, mode="r")
    return {name: root[name][:] for name in PIXELS}, {name: a[:] for name, a in root["rows"].arrays()}
