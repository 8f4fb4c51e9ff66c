"""Which acquisition a file belongs to, told from its name and its neighbours' names; pure.

For the watcher. Every file under the watched folder is one of these:

    frame    one frame of a series of single-frame files            open it, hand out frame 0
    movie    a file (perhaps with parts) that holds a whole movie   open it, poll it while it grows
    part     a segment of a movie: its bytes are read through `main`  poll `main` when this one changes
    sidecar  a text, reference or header that holds no frames       leave it alone

A .tif or .mrc tells only when it is open whether it is a frame or a movie: pass `many` of its SourceState
(None while only one frame is there: then it counts as a frame, once it has been quiet for settle_s).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from emstream.source import Group

Role = Literal["frame", "movie", "part", "sidecar"]

TREE = re.compile(r"^(?:(?P<root>.*)/)?Hour_\d+/Minute_\d+/Second_\d+/[^/]+$")
RAW_PART = re.compile(r"^(?P<stem>.+)\.raw(?:_(?P<n>\d+))?$", re.IGNORECASE)
TVIPS_PART = re.compile(r"^(?P<stem>.+)_(?P<n>\d{3,})\.tvips$", re.IGNORECASE)
DECTRIS_PART = re.compile(r"^(?P<stem>.+)_data_(?P<n>\d+)\.h5$", re.IGNORECASE)
SIDECAR_SUFFIXES = frozenset(
    (
        ".txt",
        ".csv",
        ".tsv",
        ".log",
        ".md",
        ".json",
        ".yaml",
        ".yml",
        ".toml",
        ".xml",
        ".ini",
        ".html",
        ".pdf",
        ".hdr",
        ".mdoc",
        ".emi",
        ".metadata",
        ".gtg",
        ".db",
        ".sqlite",
    )
)
SIDECAR_ENDS = (".seq.gain.mrc", ".seq.dark.mrc", "_info.txt")
MOVIE_SUFFIXES = frozenset(
    (".seq", ".tvips", ".mib", ".ser", ".eer", ".ecc", ".h5", ".hdf5", ".emd", ".de5", ".nxs", ".hspy", ".dm5")
)
DIRECTORS = (".dm4", ".dm5")


@dataclass(frozen=True, slots=True)
class SeriesHint:
    """Where a file belongs. One `series` becomes one run (NAME-2 … when shape or dtype change)."""

    series: str  # identity: relative path of the movie's file, or of the folder of single frames ("" = the root)
    name: str  # what the run is called after; "" = the watched folder itself
    main: str  # relative path of the file to open for these frames
    role: Role


def series_of(
    relpath: str, *, many: bool | None = None, group: Group = "auto", siblings: Collection[str] = ()
) -> SeriesHint:
    """The acquisition of one file.

    relpath  : posix, relative to the watched folder
    many     : does the open file hold more than one frame? None = not known, or one so far
    group    : `source.group`: auto | folder (all frames of a folder) | file (each file) | all (one run)
    siblings : names of the files in the same folder (a set is best)
    """
    path = PurePosixPath(relpath)
    folder = "" if str(path.parent) == "." else str(path.parent)
    main, role = _main(path, siblings)
    here = f"{folder}/{main}" if folder else main
    if role == "sidecar":
        return SeriesHint(here, path.stem, here, role)
    tree = TREE.match(relpath)
    if role == "frame" and (many or path.suffix.lower() in MOVIE_SUFFIXES) and not tree:
        role = "movie"
    series, name = here, PurePosixPath(main).stem
    if group == "all":
        series, name = "", ""
    elif tree and group in ("auto", "folder"):
        series = name = tree["root"] or ""
    elif group == "folder" or (group == "auto" and role == "frame"):
        series = name = folder
    return SeriesHint(series, PurePosixPath(name).name, here, role)


def _main(path: PurePosixPath, siblings: Collection[str]) -> tuple[str, Role]:
    """Name of the file to open for this one, and this one's role."""
    name, suffix = path.name, path.suffix.lower()
    if found := RAW_PART.match(name):
        for director in DIRECTORS:
            if found["stem"] + director in siblings:
                return found["stem"] + director, "part"
        return found["stem"] + DIRECTORS[0], "part"  # its director is not there yet
    if found := TVIPS_PART.match(name):
        first = f"{found['stem']}_{0:0{len(found['n'])}d}{path.suffix}"
        if int(found["n"]) > 0 and first in siblings:
            return first, "part"
        return name, "movie"
    if (found := DECTRIS_PART.match(name)) and f"{found['stem']}_master.h5" in siblings:
        return f"{found['stem']}_master.h5", "part"
    if name.lower().endswith(SIDECAR_ENDS) or suffix in SIDECAR_SUFFIXES:
        return name, "sidecar"
    if suffix in DIRECTORS and path.stem + ".raw" in siblings:
        return name, "movie"
    return name, "frame"


def natural_key(relpath: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key by the numbers in a name: f_2 before f_10, Second_09 before Second_10. Total, stable."""
    pieces = re.split(r"(\d+)", relpath)
    key: list[tuple[int, int | str]] = []
    for k, piece in enumerate(pieces):
        if k % 2:
            key.append((1, int(piece)))
        elif piece:
            key.append((2, piece.casefold()))
    return (*key, (3, relpath))
