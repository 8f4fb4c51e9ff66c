"""What any file, folder or run is, in a few facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emstream.source.formats import open_movie


def describe(path: Path | str, select: str = "") -> dict[str, Any]:
    """format, frames, shape [y, x], dtype, pixel_size_nm [y, x] or None, complete; then what else is known.

    select : where axes beside t, y, x of a Zarr stack are held
    raises : SourceMissing, UnreadableFile (also: axes are left over; it names them), BadSettings, MissingExtra
    """
    with open_movie(path, select=select) as movie:
        facts: dict[str, Any] = {
            "format": movie.format,
            "frames": len(movie),
            "shape": list(movie.shape),
            "dtype": movie.dtype.name,
            "pixel_size_nm": list(movie.pixel_size_nm) if movie.pixel_size_nm else None,
            "complete": movie.complete,
        }
        if movie.problem:
            facts["problem"] = movie.problem
        known = {k: v for k, v in movie.meta.items() if v not in (None, "", [])}
        return {**facts, **{k: v for k, v in known.items() if k not in facts}}
