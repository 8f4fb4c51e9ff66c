"""Which reader knows a file: by its first bytes, then by its extension; other packages may add readers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from emstream.errors import BadSettings, NotComplete, UnreadableFile
from emstream.source import SourceOptions
from emstream.source.formats.files import ByteFile
from emstream.source.formats.place import Place, Url, place
from emstream.source.formats.protocol import FrameSource, Verdict

HEAD = 512  # bytes that a reader may judge by
GROUP = "emstream.readers"  # entry points: each loads a Reader


@dataclass(frozen=True, slots=True)
class Reader:
    """One format: how it is recognised and opened. `module` is imported when it is first needed."""

    name: str  # short: what `source.format` and `emstream info` call it
    suffixes: tuple[str, ...]  # lower case, with the dot
    recognise: Callable[[bytes, Path], Verdict]  # first bytes (<= HEAD) and name; pure
    open: Callable[[Any, SourceOptions], FrameSource]  # (path, options); zarr also takes a Url
    folders: bool = False  # the path is a folder
    hint: bool | None = None  # True: always a movie; False: always one frame; None: either


def _lazy(module: str, name: str) -> Any:
    def call(*args: Any) -> Any:
        return getattr(importlib.import_module(f"emstream.source.formats.{module}"), name)(*args)

    return call


def _reader(name: str, module: str, source: str, *suffixes: str, recognise: str = "recognise", **more: Any) -> Reader:
    return Reader(name, suffixes, _lazy(module, recognise), _lazy(module, source), **more)


READERS = (
    _reader("tiff", "tiff", "TiffSource", ".tif", ".tiff", ".btf", ".tf8", ".eer", ".ecc"),
    _reader("mrc", "mrc", "MrcSource", ".mrc", ".mrcs", ".st", ".map", ".rec", ".ali"),
    _reader("npy", "npy", "NpySource", ".npy"),
    _reader("png", "picture", "PngSource", ".png", recognise="recognise_png", hint=False),
    Reader("dm4", (".dm3", ".dm4"), _lazy("dm", "recognise"), _lazy("gatan_raw", "open_dm")),
    _reader("seq", "seq", "SeqSource", ".seq", hint=True),
    _reader("mib", "mib", "MibSource", ".mib", hint=True),
    _reader("tvips", "tvips", "TvipsSource", ".tvips", hint=True),
    _reader("ser", "ser", "SerSource", ".ser", hint=True),
    _reader("hdf5", "hdf5", "Hdf5Source", ".h5", ".hdf5", ".emd", ".de5", ".nxs", ".hspy", hint=True),
    _reader("zarr", "zarr_stack", "ZarrSource", folders=True),
    _reader("folder", "folder", "FolderSource", folders=True),
    _reader("jpeg", "picture", "JpegSource", ".jpg", ".jpeg", recognise="recognise_jpeg", hint=False),
)


@lru_cache(maxsize=1)
def readers() -> dict[str, Reader]:
    """All readers by name, ours first, then those of other packages."""
    found = {r.name: r for r in READERS}
    for entry in entry_points(group=GROUP):
        reader = entry.load()
        found.setdefault(reader.name, reader)
    return found


def suffixes() -> frozenset[str]:
    """Every extension that some reader knows: what a watcher need look at."""
    return frozenset(s for r in readers().values() for s in r.suffixes)


def recognise(head: bytes, path: Path, format: str = "auto") -> Reader | None:
    """The reader of a file that begins with `head` (its first <= HEAD bytes); pure, opens nothing.

    returns : None when the file is too short to tell, but may become a frame file
    raises  : UnreadableFile (unknown_format), BadSettings when `format` names no reader
    """
    if format != "auto":
        return named(format)
    unsure = False
    for reader in readers().values():
        if reader.folders:
            continue
        verdict = reader.recognise(head, path)
        if verdict is Verdict.YES:
            return reader
        unsure = unsure or verdict is Verdict.NOT_YET
    if unsure:
        return None
    raise UnreadableFile(
        f"{path} is of no format that emstream knows",
        "set source.format if its name misleads, or install a reader for it",
        reason="unknown_format",
    )


def named(format: str) -> Reader:
    """The reader of that short name. Raises BadSettings."""
    reader = readers().get(format)
    if reader is None:
        raise BadSettings(f"source.format = {format!r} is no reader", f"one of auto, {', '.join(sorted(readers()))}")
    return reader


def sniff(path: Place | str, format: str = "auto") -> Reader:
    """The reader of a file or folder on disk; what lies at a URL is Zarr (camera files are fetched before).

    raises : SourceMissing, NotComplete (empty or too short to tell: ask again),
             UnreadableFile (unknown_format, not_a_file)
    """
    path = place(path)
    if isinstance(path, Url):
        return readers()["zarr"]
    if path.is_dir():
        for reader in readers().values():
            if reader.folders and reader.recognise(b"", path) is Verdict.YES:
                return reader
        raise UnreadableFile(f"{path} is a folder without frames that emstream knows", reason="unknown_format")
    file = ByteFile(path)
    try:
        head = file.read_at(0, min(HEAD, file.size()))
    finally:
        file.close()
    known = recognise(head, path, format)
    if known is None:
        raise NotComplete(f"{path} is {'empty' if not head else 'too short to tell what it is'}")
    return known
