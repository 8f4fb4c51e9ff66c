"""A chunk's bytes, exactly as zarr-python would write them, and files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from pathlib import Path

import google_crc32c
import numcodecs
import numpy as np
from numcodecs.blosc import BITSHUFFLE, Blosc

from emstream.errors import StoreDamaged
from emstream.store.failpoints import failpoint

PARTIAL = ".partial"  # the end of a file's name until it is whole
_BLOSC = Blosc(cname="lz4", clevel=1, shuffle=BITSHUFFLE)  # the type size is taken from the array
_ZSTD = numcodecs.Zstd(level=1)


def crc32c(data: np.ndarray | bytes) -> int:
    """Castagnoli checksum of an array's memory in C order, or of bytes."""
    if isinstance(data, np.ndarray):
        data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        data.flags.writeable = False  # of this view: the extension takes read-only memory alone
    return int(google_crc32c.value(data))


def little(array: np.ndarray, dtype: str) -> np.ndarray:
    """The array C-ordered, little-endian, of `dtype`."""
    return np.ascontiguousarray(array, dtype=np.dtype(dtype).newbyteorder("<"))


def encode(array: np.ndarray, compressor: str) -> tuple[bytes, bytes]:
    """(payload, checksum): together the chunk file of a little-endian C-ordered array."""
    if compressor == "blosc-lz4":
        payload = bytes(_BLOSC.encode(array))
    elif compressor == "zstd":
        payload = bytes(_ZSTD.encode(array))
    else:
        payload = array.tobytes()
    return payload, crc32c(payload).to_bytes(4, "little")


def decode(data: bytes, kind: tuple[tuple[int, int], str], compressor: str) -> np.ndarray:
    """The (y, x) array of a chunk file that `encode` made.

    kind   : ((y, x), dtype)
    raises : StoreDamaged
    """
    payload, dtype = data[:-4], np.dtype(kind[1]).newbyteorder("<")
    if crc32c(payload).to_bytes(4, "little") != data[-4:]:
        raise StoreDamaged("a chunk has not the checksum that it was written with", "emstream check")
    if compressor == "blosc-lz4":
        payload = _BLOSC.decode(payload)
    elif compressor == "zstd":
        payload = _ZSTD.decode(payload)
    return np.frombuffer(payload, dtype).reshape(kind[0])


def sound(path: Path) -> bool:
    """Whether a chunk file is there and whole."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    return len(data) > 4 and crc32c(data[:-4]).to_bytes(4, "little") == data[-4:]


class Staged:
    """Files written beside their places, which `commit` puts there all together: bytes, fsync, rename, fsync of folders."""

    def __init__(self, fsync: bool) -> None:
        self._fsync = fsync
        self._files: dict[Path, tuple[int, bool]] = {}

    def write(self, path: Path, parts: Iterable[bytes], durable: bool = True) -> int:
        """Write a file that is not visible yet; returns its bytes.

        What a killed writer left of it under that name is overwritten, so that a start need not look for it among a
        million chunks.

        durable : fsync it at commit; False for what can be made again from the rest
        raises  : OSError
        """
        if path in self._files:
            os.close(self._files.pop(path)[0])
        fd = os.open(f"{path}{PARTIAL}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._files[path] = fd, durable
        size = 0
        for part in parts:
            left = memoryview(part)
            while left:
                left = left[os.write(fd, left) :]
            size += len(part)
        failpoint("chunk.written")
        return size

    def commit(self) -> None:
        """Make every staged file visible and, where asked, durable."""
        folders = set()
        if self._fsync:
            for path, (fd, durable) in self._files.items():
                if durable:
                    os.fsync(fd)
                    folders.add(path.parent)
            failpoint("chunk.synced")
        for path in list(self._files):
            os.rename(f"{path}{PARTIAL}", path)
            os.close(self._files.pop(path)[0])
            failpoint("chunk.renamed")
        for folder in sorted(folders):
            sync_folder(folder)

    def discard(self) -> None:
        """Forget what is staged, after an error."""
        for path, (fd, _) in self._files.items():
            os.close(fd)
            Path(f"{path}{PARTIAL}").unlink(missing_ok=True)
        self._files.clear()


def replace(path: Path, data: bytes | memoryview | Iterable[bytes], fsync: bool = False) -> None:
    """Put a whole new file in the place of `path`, or create it: readers see the old one or the new one."""
    name = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")  # hidden: a folder of parts is read whole
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        for part in (data,) if isinstance(data, (bytes, memoryview)) else data:
            left = memoryview(part)
            while left:
                left = left[os.write(fd, left) :]
        failpoint("file.written")
        if fsync:
            os.fsync(fd)
    except OSError:
        name.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    os.rename(name, path)
    if fsync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_partial(folder: Path) -> int:
    """Delete files that a killed writer left half written in a folder; returns how many."""
    try:
        with os.scandir(folder) as entries:
            leftovers = [entry.path for entry in entries if entry.name.endswith(PARTIAL)]
    except FileNotFoundError:
        return 0
    for file in leftovers:
        os.unlink(file)
    return len(leftovers)
