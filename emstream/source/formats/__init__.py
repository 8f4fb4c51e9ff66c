"""Readers of camera files: open a file or folder as a Movie, or as a FrameSource that may still grow.

For the watcher: `sniff` says which reader knows a file (NotComplete: ask again), `open_source` opens it
(NotComplete: the header is not whole yet), then `poll` while it grows and `read` what is whole.
`series.series_of` says which run a file belongs to.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from emstream.errors import NotComplete, UnreadableFile
from emstream.messages import PixelSize
from emstream.source import SourceOptions, size_given
from emstream.source.formats.movie import Movie
from emstream.source.formats.place import Place, Url, place
from emstream.source.formats.protocol import FrameSource, SourceState, Verdict
from emstream.source.formats.registry import HEAD, Reader, named, readers, recognise, sniff, suffixes

__all__ = [
    "HEAD",
    "FrameSource",
    "Movie",
    "Reader",
    "SourceState",
    "Url",
    "Verdict",
    "named",
    "open_movie",
    "open_source",
    "place",
    "readers",
    "recognise",
    "sniff",
    "suffixes",
]


def open_source(path: Place | str, options: SourceOptions | None = None) -> FrameSource:
    """The frames of one file (with the files that belong to it), of one folder, or of a Zarr store.

    It may still grow. At a URL a Zarr store is read where it is; a camera file is fetched first, as it is now.
    raises : SourceMissing, NotComplete (too short yet: ask again), UnreadableFile, MissingExtra
    """
    options = options or SourceOptions()
    at = place(path)
    if isinstance(at, Url) and (at.suffix.lower() in suffixes() or options.format not in ("auto", "zarr")):
        from emstream.source.formats.fetch import fetched

        at = fetched(at, options.cache)
    return sniff(at, options.format).open(at, options)


def open_movie(
    path: Place | str,
    pixel_size_nm: PixelSize | float | None = None,
    *,
    select: str = "",
    options: SourceOptions | None = None,
) -> Movie:
    """A movie from any file or folder of a camera, a stored run, or a Zarr stack; all of them also at a URL.

    path          : file, folder or URL
    pixel_size_nm : (y, x) nm per px, or one number for both; overrides what the file says
    select        : where axes beside t, y, x of a Zarr stack are held: "c=0,z=3"; "t=z": z counts the frames
    options       : how to read it; the two above are stronger
    raises        : SourceMissing, UnreadableFile, MissingExtra, BadSettings
    """
    options = options or SourceOptions()
    if select:
        options = replace(options, select=select)
    if pixel_size_nm is not None:
        options = replace(options, pixel_size_nm=pixel_size_nm)
    at = place(path)
    try:
        source = open_source(at, options)
    except NotComplete as err:
        empty = isinstance(at, Path) and at.is_file() and os.path.getsize(at) == 0
        reason = "empty" if empty else "truncated"
        raise UnreadableFile(f"{path} holds nothing" if empty else err.what, err.hint, reason=reason) from err
    movie = Movie(source, size_given(options))
    if len(movie) == 0:
        movie.close()
        what = movie.problem or f"{path} holds no whole frame"
        raise UnreadableFile(what, "it may still be written", reason="truncated")
    return movie
