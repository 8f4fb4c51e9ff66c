"""An archive replayed: the frames of a run, a Zarr stack, a camera file or a folder, as if they came live."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from emstream import align
from emstream.errors import NotARun
from emstream.messages import Frame, Origin
from emstream.source.formats import open_movie
from emstream.store.run import Run


def replay(path: Path, *, start: int = 0, stop: int | None = None, moved: bool = False) -> Iterator[Frame]:
    """Frames start … stop - 1.

    moved  : a run's frames as they were stored, moved by the whole part of their shift; otherwise as the camera wrote
             them: from raw/ when that was kept, else moved back (what had left the frame stays 0)
    raises : SourceMissing, UnreadableFile, StoreDamaged
    """
    try:
        run = Run(path)
    except NotARun:
        yield from _movie(path, start, stop)
    else:
        yield from _run(run, start, stop, moved)


def _run(run: Run, start: int, stop: int | None, moved: bool) -> Iterator[Frame]:
    times, shifts = run.column("time_s"), run.column("shift")
    raw: Any = None if moved else run.raw
    stat = (run.path / "zarr.json").stat()
    for i in range(start, run.n if stop is None else min(stop, run.n)):
        if moved:
            pixels = run.frame(i)
        elif raw is not None:
            pixels = np.asarray(raw[i])
        else:
            whole = np.rint(shifts[i])
            pixels = align.move(run.frame(i), (-float(whole[0]), -float(whole[1])))[0]
        origin = Origin(run.path.name, i, stat.st_size, stat.st_mtime_ns, stat.st_ino)
        yield Frame(run.path.name, origin, pixels, float(times[i]), run.pixel_size_nm)


def _movie(path: Path, start: int, stop: int | None) -> Iterator[Frame]:
    with open_movie(path) as movie:
        stat = path.stat()
        fps = movie.meta.get("fps")
        for i in range(start, len(movie) if stop is None else min(stop, len(movie))):
            told = movie.frame_time(i)
            time_s = told if told is not None else stat.st_mtime + (i / fps if fps else float(i))
            origin = Origin(path.name, i, stat.st_size, stat.st_mtime_ns, stat.st_ino)
            yield Frame(path.name, origin, movie[i], time_s, movie.pixel_size_nm, meta=movie.meta)
