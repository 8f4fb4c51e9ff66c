"""An archive: a run, a Zarr stack, a camera file or a folder, described in a few words and read from anywhere in it.

    archive = look("s3://bucket/movie.zarr", SourceOptions(select="c=0"))   # an Input: small, picklable
    with open_input(archive) as frames:                                     # in any process, on any machine
        pixels = frames.read(64, 128)                                       # (64, y, x)

Nothing here writes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from emstream import align
from emstream.errors import FrameOutOfRange, NotComplete, UnreadableFile
from emstream.messages import Frame, Origin, PixelSize, Rect
from emstream.source import SourceOptions, size_given
from emstream.source.formats import FrameSource, open_source
from emstream.source.formats.place import Place, Url, place
from emstream.source.formats.zarr_stack import ZarrSource

AT_ONCE = 64 << 20  # bytes of frames that are read together where one chunk holds several


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """An archive as it was when it was looked at; enough for any process to open it, and hashable.

    A run that still grows counts up to the length that was published then.
    """

    where: str  # absolute path, or URL
    options: SourceOptions  # format, select, pixel_size_nm …
    moved: bool  # of a run: frames as they were stored, moved by the whole part of their shift
    name: str  # what a run of it is called
    format: str  # run = "emstream-run"
    frames: int
    shape: tuple[int, int]  # (y, x) px
    dtype: str  # the camera's
    pixel_size_nm: PixelSize | None  # (y, x) nm per px; the setting, else what the archive says
    chunk: int  # frames in one stored object: blocks that begin at multiples of it fetch each one once
    size: int  # bytes, mtime (ns) and inode of the file, or of a run's zarr.json: 0 for Zarr at a URL
    mtime_ns: int
    inode: int
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False)  # camera, exposure …: what the file tells


@dataclass(frozen=True, slots=True)
class Bad:
    """A frame that cannot be read."""

    frame: int
    why: str  # with the file or the chunk


def look(
    where: str | Path, options: SourceOptions | None = None, *, moved: bool = False, name: str | None = None
) -> Input:
    """What an archive is.

    where   : a path, or a URL that fsspec knows; a camera file there is fetched to this machine
    options : how to read it; `select` holds axes beside t, y, x
    moved   : of a run: its frames as they were stored, moved by the whole part of their shift; otherwise as the camera
              wrote them: from raw/ when that was kept, else moved back (what had left the frame stays 0)
    name    : of the run that it becomes; from the last part of `where` when None
    raises  : SourceMissing, UnreadableFile (also: axes are left over; the message names them), BadSettings, MissingExtra
    """
    options = options or SourceOptions()
    at = place(where)
    if isinstance(at, Path):
        at = at.absolute()
    source = _open(at, options)
    try:
        state = source.poll()
        if state.n_covered == 0:
            raise UnreadableFile(state.problem or f"{at} holds no whole frame", "it may still be written")
        size, mtime_ns, inode = _stamp(at, source.path, source.format)
        return Input(
            where=str(at),
            options=options,
            moved=moved,
            name=name or at.name.removesuffix(".zarr").partition(".")[0] or "run",
            format=source.format,
            frames=state.n_covered,
            shape=source.shape,
            dtype=source.dtype.name,
            pixel_size_nm=size_given(options) or source.pixel_size_nm,
            chunk=source.chunk if isinstance(source, ZarrSource) else 1,
            size=size,
            mtime_ns=mtime_ns,
            inode=inode,
            meta=dict(source.meta()),
        )
    finally:
        source.close()


def open_input(archive: Input) -> OpenInput:
    """The archive, open for reading; close it, or use `with`. One may serve several threads.

    raises : SourceMissing, UnreadableFile (also: it is not what it was when it was looked at)
    """
    return OpenInput(archive)


class OpenInput:
    """Frames of an archive by number: 0 … archive.frames - 1. See `open_input`."""

    def __init__(self, archive: Input) -> None:
        self.archive = archive
        self._at = place(archive.where)
        self._source = _open(self._at, archive.options)
        n = self._source.poll().n_covered
        now = (self._source.shape, self._source.dtype.name)
        if n < archive.frames or now != (archive.shape, archive.dtype):
            self._source.close()
            was = f"{archive.frames} frames of {archive.shape} {archive.dtype}"
            raise UnreadableFile(f"{self._at} was {was} and is now {n} of {now[0]} {now[1]}", "begin again")
        self._times: np.ndarray | None = None
        self._shifts: np.ndarray | None = None
        self._raw: ZarrSource | None = None
        if archive.format == "emstream-run":
            assert isinstance(self._source, ZarrSource)
            self._times = self.column("time_s")
            if not archive.moved and "raw" in self._source.node:
                self._raw = ZarrSource(self._at / "raw" / "0", dataclasses.replace(archive.options, select=""))
                self._raw.format = archive.format  # it is part of one: no chunk may be missing
            elif not archive.moved:
                self._shifts = self.column("shift")

    def __len__(self) -> int:
        return self.archive.frames

    def __enter__(self) -> OpenInput:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the handles back."""
        self._source.close()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames start … stop - 1, (t, y, x), the camera's dtype. Memory: this and, of Zarr, the chunks it comes from.

        raises : FrameOutOfRange, UnreadableFile naming the frame and the file or chunk, SourceMissing (the place is out
                 of reach: says nothing about the frames)
        """
        pixels, bad = self.read_good(start, stop)
        if bad:
            raise UnreadableFile(bad[0].why, "--skip-bad leaves such frames out")
        return pixels

    def read_good(self, start: int, stop: int) -> tuple[np.ndarray, list[Bad]]:
        """The same, and which frames cannot be read: they are 0 in the pixels.

        raises : FrameOutOfRange, SourceMissing
        """
        if not 0 <= start <= stop <= len(self):
            raise FrameOutOfRange(f"{self._at} has no frames {start} to {stop - 1}", f"it has {len(self)}")
        source = self._raw or self._source
        bad: list[Bad] = []
        pixels: np.ndarray | None = None
        if isinstance(source, ZarrSource) and stop > start:
            try:
                pixels = source.read_block(start, stop)
            except UnreadableFile:  # one by one, to find which
                pixels = None
        if pixels is None:
            pixels = np.zeros((stop - start, *self.archive.shape), self.archive.dtype)
            for i in range(start, stop):
                try:
                    source.read_into(i, pixels[i - start])
                except (UnreadableFile, NotComplete) as err:
                    pixels[i - start] = 0
                    bad.append(Bad(i, str(err) if f"frame {i}" in str(err) else f"frame {i} of {self._at}: {err}"))
        if self._shifts is not None:
            for k, (dy, dx) in enumerate(self._whole(start, stop)):
                pixels[k] = align.move(pixels[k], (-float(dy), -float(dx)))[0]
        return pixels, bad

    def shown(self, start: int, stop: int) -> list[Rect] | None:
        """What each frame really holds, y0, y1, x0, x1; None: everything. The rest left the frame when a run stored it."""
        if self._shifts is None:
            return None
        shape = self.archive.shape
        return [align.covered(shape, (-float(dy), -float(dx))) for dy, dx in self._whole(start, stop)]

    def times(self, start: int, stop: int) -> np.ndarray:
        """(stop - start,) float64, seconds since 1970: what the archive tells of each frame, else counted on from its
        file's mtime (by its frame rate, or one a second)."""
        if self._times is not None:
            return self._times[start:stop]
        fps = self.archive.meta.get("fps")
        began = self.archive.mtime_ns * 1e-9
        told = (self._source.frame_time(i) for i in range(start, stop))
        return np.array([began + i / (fps or 1) if t is None else t for i, t in enumerate(told, start)], np.float64)

    def _whole(self, start: int, stop: int) -> list[tuple[int, int]]:
        """By how many whole px each frame was moved when it was stored."""
        assert self._shifts is not None
        return [align.whole((float(dy), float(dx))) for dy, dx in self._shifts[start:stop]]

    def column(self, name: str) -> np.ndarray:
        """A column of a run's `frames/`: shift, final_shift, confidence, status …, one row for each frame.

        raises : KeyError (the archive is no run, or an old one without it)
        """
        node = self._source.node if isinstance(self._source, ZarrSource) else {}
        if self.archive.format != "emstream-run" or f"frames/{name}" not in node:
            raise KeyError(f"{self._at} has no column {name!r}")
        return np.asarray(node[f"frames/{name}"][: len(self)])

    def origin(self, i: int) -> Origin:
        """Where frame i came from."""
        a = self.archive
        return Origin(self._at.name, i, a.size, a.mtime_ns, a.inode)

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames start … stop - 1 one by one, as if they came live."""
        a, end = self.archive, len(self) if stop is None else min(stop, len(self))
        step = max(1, min(a.chunk, AT_ONCE // max(1, self._source.dtype.itemsize * a.shape[0] * a.shape[1])))
        while start < end:
            upto = min(end, start - start % step + step)
            pixels, times = self.read(start, upto), self.times(start, upto)
            for k, i in enumerate(range(start, upto)):
                yield Frame(self._at.name, self.origin(i), pixels[k], float(times[k]), a.pixel_size_nm, meta=a.meta)
            start = upto


def replay(
    where: str | Path | Input, *, start: int = 0, stop: int | None = None, moved: bool = False
) -> Iterator[Frame]:
    """Frames start … stop - 1 of an archive one by one; see `look`.

    raises : SourceMissing, UnreadableFile
    """
    archive = where if isinstance(where, Input) else look(where, moved=moved)
    with open_input(archive) as source:
        yield from source.frames(start, stop)


def _open(at: Place, options: SourceOptions) -> FrameSource:
    try:
        return open_source(at, options)
    except NotComplete as err:
        raise UnreadableFile(err.what, err.hint, reason="truncated") from None


def _stamp(at: Place, read: Place, format: str) -> tuple[int, int, int]:
    """read : where the source reads it: another place than `at` when it was fetched, whose inode then says nothing"""
    if isinstance(read, Url):
        return 0, 0, 0
    stat = (read / "zarr.json" if format == "emstream-run" else read).stat()
    return stat.st_size, stat.st_mtime_ns, 0 if isinstance(at, Url) else stat.st_ino
