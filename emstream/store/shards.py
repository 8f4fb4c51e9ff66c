"""Shards: many frames of an array in one file, as Zarr's sharding codec has them (ZEP 2); written whole or not at all.

A shard is its tiles, one after the other, then an index of each tile's offset and length, then the index's crc32c.
What a run of shards is made of is told in tables/shards.jsonl: {"array", "shard", "bytes", "crc32"} for every file.
(The CRC of bytes that each end in their own CRC depends on their lengths alone: hence one of another polynomial.)
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emstream.store.chunks import crc32c, encode, little, replace
from emstream.store.layout import SHARD_INNER, tile_of

NOTHING = np.uint64(2**64 - 1)  # in the index: there is no such tile
JOURNAL = "shards.jsonl"
READ = 4 << 20  # bytes read at once


class Shard:
    """One shard, from frames that come one after the other; holds the tiles of SHARD_INNER frames and what is compressed.

    size, dtype : of each frame, (y, x) px
    frames      : how many frames a shard of this array holds, a multiple of SHARD_INNER
    """

    def __init__(self, size: tuple[int, int], dtype: str, compressor: str, frames: int) -> None:
        self._size, self._dtype, self._compressor = size, dtype, compressor
        self._tile = tile_of(size)
        self._grid = tuple(-(-s // t) for s, t in zip(size, self._tile[1:]))
        self._index = np.full((frames // SHARD_INNER, *self._grid, 2), NOTHING, np.uint64)
        self._parts: list[bytes] = []
        self._slab: np.ndarray | None = None
        self._count = self._offset = 0

    def add(self, frame: np.ndarray) -> None:
        """The next frame, (y, x)."""
        if self._slab is None:
            whole = (SHARD_INNER, *(g * t for g, t in zip(self._grid, self._tile[1:])))
            self._slab = np.zeros(whole, np.dtype(self._dtype).newbyteorder("<"))
        at = self._count % SHARD_INNER
        self._slab[at, : self._size[0], : self._size[1]] = little(frame, self._dtype)
        self._count += 1
        if at == SHARD_INNER - 1:
            self._flush()

    def finish(self) -> list[bytes]:
        """The file, in parts."""
        if self._count % SHARD_INNER:
            self._flush()
        index = self._index.astype("<u8").tobytes()
        return [*self._parts, index, crc32c(index).to_bytes(4, "little")]

    def _flush(self) -> None:
        slab, (_, y, x) = self._slab, self._tile
        assert slab is not None
        t = (self._count - 1) // SHARD_INNER
        for i in range(self._grid[0]):
            for j in range(self._grid[1]):
                tile = np.ascontiguousarray(slab[:, i * y : (i + 1) * y, j * x : (j + 1) * x])
                data = encode(tile, self._compressor)
                length = sum(map(len, data))
                self._index[t, i, j] = self._offset, length
                self._offset += length
                self._parts += data
        self._slab = None


def summary(array: str, shard: int, parts: Iterable[bytes]) -> dict[str, Any]:
    """The line of the journal for a file of these parts."""
    check, size = 0, 0
    for part in parts:
        check = zlib.crc32(part, check)
        size += len(part)
    return {"array": array, "shard": shard, "bytes": size, "crc32": check}


def shard_path(run: Path, line: Mapping[str, Any]) -> Path:
    """The file of a line of the journal."""
    return run / str(line["array"]) / f"c.{line['shard']}.0.0"


def wrong(run: Path, line: Mapping[str, Any]) -> str:
    """What is wrong with a shard; "" when it is the file that was written."""
    check, size = 0, 0
    try:
        with shard_path(run, line).open("rb") as file:
            while data := file.read(READ):
                check = zlib.crc32(data, check)
                size += len(data)
    except FileNotFoundError:
        return "shard is missing"
    except OSError as error:
        return f"shard cannot be read: {error}"
    if size != line["bytes"]:
        return f"shard has {size} bytes, {line['bytes']} were written"
    return "" if check == line["crc32"] else "shard has not the checksum that it was written with"


def write_journal(folder: Path, lines: Sequence[Mapping[str, Any]], fsync: bool) -> None:
    """tables/shards.jsonl, or that of another set of labels."""
    replace(folder / JOURNAL, b"".join(json.dumps(line).encode() + b"\n" for line in lines), fsync)


def read_journal(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines; none when there is no journal."""
    path = folder / JOURNAL
    if path.is_file():
        for line in path.read_bytes().splitlines():
            yield json.loads(line)
