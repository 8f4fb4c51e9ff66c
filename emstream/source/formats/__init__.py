"""Readers of camera files: open a file or folder as a Movie, or as a FrameSource that may still grow.

For the watcher: `sniff` says which reader knows a file (NotComplete: ask again), `open_source` opens it
(NotComplete: the header is not whole yet), then `poll` while it grows and `read` what is whole.
`series.series_of` says which run a file belongs to.
"""

from __future__ import annotations

import os
from pathlib import Path

from emstream.errors import NotComplete, UnreadableFile
from emstream.messages import PixelSize
from emstream.source import SourceOptions
from emstream.source.formats.movie import Movie
from emstream.source.formats.protocol import FrameSource, SourceState, Verdict
from emstream.source.formats.registry import HEAD, Reader, named, readers, recognise, sniff, suffixes

__all__ = [
    "HEAD",
    "FrameSource",
    "Movie",
    "Reader",
    "SourceState",
    "Verdict",
    "named",
    "open_movie",
    "open_source",
    "readers",
    "recognise",
    "sniff",
    "suffixes",
]


def open_source(path: Path | str, options: SourceOptions | None = None) -> FrameSource:
    """The frames of one file (with the files that belong to it), or of one folder; it may still grow.

    raises : SourceMissing, NotComplete (too short yet: ask again), UnreadableFile, MissingExtra
    """
    options = options or SourceOptions()
    path = Path(path)
    return sniff(path, options.format).open(path, options)


def open_movie(path: Path | str, pixel_size_nm: PixelSize | float | None = None) -> Movie:
    """A movie from any file or folder of a camera, or a stored run.

    path          : file or folder
    pixel_size_nm : (y, x) nm per px, or one number for both; overrides what the file says
    raises        : SourceMissing, UnreadableFile, MissingExtra
    """
    path = Path(path)
    size = (float(pixel_size_nm),) * 2 if isinstance(pixel_size_nm, (int, float)) else pixel_size_nm
    try:
        source = open_source(path)
    except NotComplete as err:
        empty = path.is_file() and os.path.getsize(path) == 0
        reason = "empty" if empty else "truncated"
        raise UnreadableFile(f"{path} holds nothing" if empty else err.what, err.hint, reason=reason) from err
    movie = Movie(source, size)
    if len(movie) == 0:
        movie.close()
        what = movie.problem or f"{path} holds no whole frame"
        raise UnreadableFile(what, "it may still be written", reason="truncated")
    return movie
