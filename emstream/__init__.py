"""emstream: streaming in-situ electron microscopy. Light to import: rooms open when they are first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emstream.messages import Array
    from emstream.source.formats import Movie
    from emstream.store.run import Run

__version__ = "0.1.0"
__all__ = ["__version__", "open", "open_run", "register", "segment"]


def open(path: Any, pixel_size_nm: Any = None, *, select: str = "") -> Movie:  # shadows the builtin on purpose
    """A movie from any file or folder of a camera, a stored run, or a Zarr stack on disk or at a URL.

    path          : file, folder or URL
    pixel_size_nm : (y, x) nm per px, or one number for both; overrides what the file says
    select        : where axes beside t, y, x of a Zarr stack are held: "c=0,z=3"; "t=z": z counts the frames
    returns       : Movie: len(movie), movie.shape (y, x), .dtype, .pixel_size_nm, movie[i] -> (y, x) array
    raises        : SourceMissing, UnreadableFile, MissingExtra, BadSettings
    """
    from emstream.source.formats import open_movie

    return open_movie(path, pixel_size_nm, select=select)


def open_run(path: Any) -> Run:
    """A stored run: run.frames, run.shifts, run.labels (lazy dask arrays), run.table("particles").

    raises : NotARun
    """
    from emstream.store.run import Run

    return Run(path)


def register(reference: Array, moving: Array) -> tuple[Any, float]:
    """Shift (dy, dx) px that lays `moving` on `reference`, and a confidence 0..1. See `emstream.align.register`."""
    from emstream.align import register as register_pair

    return register_pair(reference, moving)


def __getattr__(name: str) -> Any:
    """`emstream.segment` is a room and a function: opened when it is first asked for."""
    if name == "segment":
        return import_module("emstream.segment")
    raise AttributeError(f"module 'emstream' has no attribute {name!r}")
