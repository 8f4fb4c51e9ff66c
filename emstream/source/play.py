"""The simulated camera: a movie written as files, step by step, as slow and as partial as cameras write them."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from emstream.errors import BadSettings
from emstream.messages import PixelSize

if TYPE_CHECKING:
    from emstream.simulate import Movie

Format = Literal["tiff", "tiff-stack", "mrc", "npy", "png", "dm4-tree"]
FORMATS = ("tiff", "tiff-stack", "mrc", "npy", "png", "dm4-tree")
MRC_MODES = {"uint8": 0, "int16": 1, "float32": 2, "uint16": 6}


class Writer(Protocol):
    """One way of writing frames. Each step leaves the folder as a camera would between two of its writes."""

    def frame(self, i: int, pixels: np.ndarray) -> Iterator[None]:
        """Write frame i in several steps; after the last one it is whole."""
        ...

    def close(self) -> None:
        """The recording is over."""
        ...


def play(
    movie: Movie,
    dest: Path,
    *,
    fmt: str = "tiff",
    fps: float | None = None,
    pieces: int = 1,
    rename: bool = True,
    burst: int = 1,
    start: int = 0,
    stop: int | None = None,
    name: str = "movie",
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[int]:
    """Write a movie into `dest`, frame by frame; yields the number of each frame once it is whole.

    fmt    : tiff | tiff-stack | mrc | npy | png | dm4-tree
    fps    : frames a second, held on a schedule (a late frame does not shift the next); None = as fast as it goes
    pieces : each frame is written in so many parts, as a slow copy does
    rename : single-frame files appear under a temporary name first
    burst  : frames come in groups of so many, then a pause
    name   : of the movie's file, and the beginning of the frames' names
    raises : BadSettings
    """
    if fmt not in FORMATS:
        raise BadSettings(f"--format {fmt!r}", f"use {', '.join(FORMATS)}")
    if movie.dtype.name not in MRC_MODES and fmt == "mrc":
        raise BadSettings(f"MRC cannot hold {movie.dtype.name}", f"use {', '.join(MRC_MODES)}")
    dest.mkdir(parents=True, exist_ok=True)
    writer = _writer(fmt, dest, name, movie, pieces, rename)
    began = clock()
    try:
        for i in range(start, len(movie) if stop is None else min(stop, len(movie))):
            pixels = movie.frame(i)
            if fps:
                due = began + ((i - start) // burst * burst) / fps
                if (wait := due - clock()) > 0:
                    sleep(wait)
            for _ in writer.frame(i, pixels):
                pass
            yield i
    finally:
        writer.close()


def steps(
    movie: Movie, dest: Path, *, fmt: str = "tiff", pieces: int = 3, name: str = "movie"
) -> Iterator[tuple[int, bool]]:
    """The same in single steps, for tests: (frame, whether it is whole now) after each write."""
    dest.mkdir(parents=True, exist_ok=True)
    writer = _writer(fmt, dest, name, movie, pieces, rename=False)
    for i in range(len(movie)):
        for _ in writer.frame(i, movie.frame(i)):
            yield i, False
        yield i, True
    writer.close()


def _writer(fmt: str, dest: Path, name: str, movie: Movie, pieces: int, rename: bool) -> Writer:
    size = movie.pixel_size_nm
    if fmt == "mrc":
        return MrcWriter(dest / f"{name}.mrc", movie.shape, movie.dtype, size, pieces)
    if fmt == "tiff-stack":
        return TiffStackWriter(dest / f"{name}.tif", size)
    if fmt == "dm4-tree":
        return TreeWriter(dest / name, name, size, movie.time_s, pieces)
    encode = {"tiff": _tiff, "npy": _npy, "png": _png}[fmt]
    return SingleWriter(dest, name, {"tiff": "tif"}.get(fmt, fmt), lambda p: encode(p, size), pieces, rename)


class SingleWriter:
    """One file per frame."""

    def __init__(
        self, dest: Path, name: str, suffix: str, encode: Callable[[np.ndarray], bytes], pieces: int, rename: bool
    ) -> None:
        self._dest, self._name, self._suffix = dest, name, suffix
        self._encode, self._pieces, self._rename = encode, pieces, rename

    def frame(self, i: int, pixels: np.ndarray) -> Iterator[None]:
        path = self._dest / f"{self._name}_{i:06d}.{self._suffix}"
        yield from write_slowly(path, self._encode(pixels), self._pieces, self._rename)

    def close(self) -> None:
        pass


class TreeWriter:
    """Gatan's in-situ folders: NAME/Hour_00/Minute_00/Second_00/NAME_…_Frame_0000.dm4, frames counted in each second."""

    def __init__(self, root: Path, name: str, size: PixelSize | None, time_s: np.ndarray, pieces: int) -> None:
        self._root, self._name, self._size, self._time_s, self._pieces = root, name, size, time_s, pieces

    def frame(self, i: int, pixels: np.ndarray) -> Iterator[None]:
        from emstream.source.formats.dm_write import dm4

        second = int(self._time_s[i])
        inside = i - int(np.searchsorted(self._time_s, second))
        h, m, s = second // 3600, second // 60 % 60, second % 60
        folder = self._root / f"Hour_{h:02d}" / f"Minute_{m:02d}" / f"Second_{s:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self._name}_Hour_{h:02d}_Minute_{m:02d}_Second_{s:02d}_Frame_{inside:04d}"
        yield from write_slowly(folder / f"{stem}.dm4", dm4(pixels, self._size), self._pieces, rename=False)

    def close(self) -> None:
        pass


class MrcWriter:
    """One growing MRC: the header comes first and says one frame until the recording is over, as cameras do."""

    def __init__(
        self, path: Path, shape: tuple[int, int], dtype: np.dtype, size: PixelSize | None, pieces: int
    ) -> None:
        self._shape, self._dtype, self._size, self._pieces, self._n = shape, dtype, size, pieces, 0
        self._file = path.open("wb", buffering=0)
        self._file.write(self._header(1))

    def frame(self, i: int, pixels: np.ndarray) -> Iterator[None]:
        data = np.ascontiguousarray(pixels).astype(self._dtype.newbyteorder("<")).tobytes()
        for part in _parts(data, self._pieces):
            self._file.write(part)
            yield
        self._n += 1

    def close(self) -> None:
        self._file.seek(0)
        self._file.write(self._header(self._n))
        self._file.close()

    def _header(self, n: int) -> bytes:
        ny, nx = self._shape
        py, px = self._size or (0.0, 0.0)
        head = bytearray(1024)
        struct.pack_into("<4i", head, 0, nx, ny, n, MRC_MODES[self._dtype.name])
        struct.pack_into("<3i", head, 28, nx, ny, n)
        struct.pack_into("<3f", head, 40, nx * px * 10, ny * py * 10, n * px * 10)  # Å
        struct.pack_into("<3f", head, 52, 90.0, 90.0, 90.0)
        struct.pack_into("<3i", head, 64, 1, 2, 3)
        head[208:216] = b"MAP \x44\x44\x00\x00"
        return bytes(head)


class TiffStackWriter:
    """One growing multi-page TIFF."""

    def __init__(self, path: Path, size: PixelSize | None) -> None:
        import tifffile

        self._writer = tifffile.TiffWriter(path, bigtiff=True)
        self._extra = _resolution(size)

    def frame(self, i: int, pixels: np.ndarray) -> Iterator[None]:
        self._writer.write(pixels, photometric="minisblack", **self._extra)
        self._writer.filehandle.flush()
        yield

    def close(self) -> None:
        self._writer.close()


def write_slowly(path: Path, data: bytes, pieces: int = 1, rename: bool = True) -> Iterator[None]:
    """Write a file in parts; with `rename` under a temporary name until it is whole."""
    target = path.with_name(path.name + ".part") if rename else path
    with target.open("wb", buffering=0) as file:
        for part in _parts(data, pieces):
            file.write(part)
            yield
    if rename:
        os.replace(target, path)


def _parts(data: bytes, pieces: int) -> Iterator[bytes]:
    step = max(1, -(-len(data) // max(1, pieces)))
    return (data[k : k + step] for k in range(0, len(data), step))


def _tiff(pixels: np.ndarray, size: PixelSize | None) -> bytes:
    import io

    import tifffile

    out = io.BytesIO()
    tifffile.imwrite(out, pixels, photometric="minisblack", **_resolution(size))
    return out.getvalue()


def _resolution(size: PixelSize | None) -> dict[str, Any]:
    """Pixels per centimetre; TIFF has no smaller unit."""
    if size is None:
        return {}
    return {"resolution": (1e7 / size[1], 1e7 / size[0]), "resolutionunit": "CENTIMETER"}


def _npy(pixels: np.ndarray, size: PixelSize | None) -> bytes:
    import io

    out = io.BytesIO()
    np.save(out, pixels)
    return out.getvalue()


def _png(pixels: np.ndarray, size: PixelSize | None) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.png_encode(pixels))


def check_truth(path: Path) -> None:
    """Whether the truth may be written there: nothing else than an older truth is ever replaced. raises : BadSettings"""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    import zarr

    try:
        known = zarr.open_group(path, mode="r")
        older = {"dose", "seed"} <= set(known.attrs) and "drift" in known
    except (OSError, ValueError, KeyError, TypeError):
        older = False
    if not older:
        raise BadSettings(f"{path} is there, is no simulation's truth, and would be replaced", "--truth another name")


def write_truth(movie: Movie, path: Path) -> None:
    """What is true of the movie: a Zarr group with drift, shift, labels, tracks and events.

    drift, shift : (t, 2) px · labels : (t, y, x) int32, frame coordinates · tracks/… and events/… : one array a column
    """
    import zarr

    check_truth(path)
    group = zarr.open_group(path, mode="w")
    group.attrs.update(
        {"dose": movie.dose, "pixel_size_nm": list(movie.pixel_size_nm or ()), "seed": movie.seed, "frames": len(movie)}
    )
    group.create_array("drift", data=movie.drift)
    group.create_array("shift", data=movie.shift)
    group.create_array("time_s", data=movie.time_s)
    y, x = movie.shape
    labels = group.create_array("labels", shape=(len(movie), y, x), chunks=(1, y, x), dtype="int32")
    for i in range(len(movie)):
        labels[i] = movie.labels(i)
    for name, table in (("tracks", movie.tracks), ("events", movie.events)):
        columns = group.create_group(name)
        for column in table.dtype.names or ():
            values = table[column]
            if values.dtype.kind == "U":
                kinds, values = np.unique(values, return_inverse=True)
                columns.attrs[column] = kinds.tolist()
            columns.create_array(column, data=np.ascontiguousarray(values))
