"""The format on one page: which arrays a run has, their axes, chunks, codecs and metadata (Zarr v3, OME-Zarr 0.5).

    NAME.zarr/                  group: attributes.ome, attributes.emstream
      0/ 1/ …                   (t, y, x) frames; level l is ceil(size / 2^l), down to <= 256 px
      raw/0/                    (t, y, x) frames as the camera wrote them, when they are kept
      labels/particles/0/ 1/ …  (t, y, x) uint32, the same levels
      frames/COLUMN/            (t,) or (t, 2): one array for each column of COLUMNS
      labels/NAME/0/ …          the same, of another model or hand: store.versions
      tables/                   parquet, and origins.jsonl: where each frame came from

Each frame is one chunk, `c.SLOT.0.0`, compressed and closed by its crc32c. The first number of an array's shape is how
many frames a reader may trust; it is the only thing in the metadata that changes while a run grows.

A run that `reprocess` made is sharded: one file, `c.BLOCK.0.0`, holds `shard` frames of an array as tiles of
SHARD_INNER frames of SHARD_TILE² px, each closed by its crc32c (Zarr's sharding_indexed codec), so that a frame and
the course of one pixel in time are both read without the rest. Further labels lie beside `particles`, as labels/NAME,
with their tables under tables/NAME/. tables/shards.jsonl has the checksum of every shard.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emstream.messages import PixelSize

FORMAT = 1
LABELS = "labels/particles"
LARGEST_TOP = 256  # px: levels are added until the frame is no larger
COLUMN_CHUNK = 4096  # rows of a column in one chunk file
CRC = {"name": "crc32c"}
SHARD_INNER = 8  # frames in a tile
SHARD_TILE = 256  # px a side of a tile


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `frames/`."""

    dtype: str
    fill: float | int  # what a row reads as before it is known
    width: int = 1
    doc: str = ""
    always: bool = True  # False: runs that older versions wrote lack it


COLUMNS: Mapping[str, Column] = {
    "time_s": Column("float64", float("nan"), doc="when the frame was taken, seconds since 1970"),
    "shift": Column("float64", float("nan"), 2, "(dy, dx) px; scipy.ndimage.shift(frame, shift) lies on the anchor"),
    "final_shift": Column("float64", float("nan"), 2, "(dy, dx) px: the shift as known once later frames were seen; NaN until then. The pixels are moved by `shift`", always=False),
    "confidence": Column("float32", float("nan"), doc="of the shift, 0..1"),
    "anchor": Column("int32", 0, doc="which anchor frame; +1 each time lock was lost"),
    "status": Column("uint8", 0, doc="bits: 1 aligned, 2 segmented, 4 late, 8 shift rejected, 16 lost lock, 32 jump, 64 blank, 128 suspect"),
    "source_index": Column("int64", -1, doc="place in the acquisition's own order"),
    "particles": Column("int32", -1, doc="how many; -1 until the frame is segmented"),
    "area_fraction": Column("float32", float("nan"), doc="of the covered area, 0..1; NaN until the frame is segmented"),
    "agreement": Column("float32", float("nan"), doc="how far model and classical method agree, 0..1, as last judged; NaN when not judged", always=False),
    "model": Column("int16", -1, doc="which of attributes.emstream.models made the labels, from 0; -1 until the frame is segmented", always=False),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """What a run is made of; everything but the number of frames is fixed when it begins."""

    shape: tuple[int, int]  # (y, x) px
    dtype: str  # the camera's, in native byte order
    compressor: str = "blosc-lz4"
    keep_raw: bool = False
    shard: int = 0  # frames in one file of an array, a multiple of SHARD_INNER; 0 = each frame is a file

    @property
    def levels(self) -> list[tuple[int, int]]:
        """(y, x) of each pyramid level, finest first."""
        sizes = [self.shape]
        while max(sizes[-1]) > LARGEST_TOP:
            y, x = sizes[-1]
            sizes.append(((y + 1) // 2, (x + 1) // 2))
        return sizes

    def images(self) -> dict[str, tuple[tuple[int, int], str]]:
        """Array path -> ((y, x), dtype) of every (t, y, x) array; coarse first, level 0 last: the order of publishing."""
        pyramid = list(enumerate(self.levels))[::-1]
        arrays = {f"{LABELS}/{level}": (size, "uint32") for level, size in pyramid}
        if self.keep_raw:
            arrays["raw/0"] = (self.shape, self.dtype)
        return arrays | {str(level): (size, self.dtype) for level, size in pyramid}

    def array(self, path: str, n: int) -> dict[str, Any]:
        """The `zarr.json` of one array that holds n frames."""
        if path.startswith("frames/"):
            column = COLUMNS[path.removeprefix("frames/")]
            tail, names = ((column.width,), ["t", "yx"]) if column.width > 1 else ((), ["t"])
            attributes = {"description": column.doc}
            return _array((n, *tail), (COLUMN_CHUNK, *tail), column.dtype, column.fill, "none", names, attributes)
        size, dtype = self.images()[path]
        return self.image(n, size, dtype, self.compressor_of(path))

    def image(self, n: int, size: tuple[int, int], dtype: str, compressor: str) -> dict[str, Any]:
        """The `zarr.json` of a (t, y, x) array of n frames of this size."""
        document = _array((n, *size), (1, *size), dtype, 0, compressor, ["t", "y", "x"], {})
        if self.shard:
            tile = tile_of(size)
            whole = [self.shard, *(-(-s // t) * t for s, t in zip(size, tile[1:]))]
            document["chunk_grid"]["configuration"]["chunk_shape"] = whole
            little = {"name": "bytes", "configuration": {"endian": "little"}}
            inner = {"chunk_shape": list(tile), "codecs": document["codecs"], "index_codecs": [little, CRC]}
            inner["index_location"] = "end"
            document["codecs"] = [{"name": "sharding_indexed", "configuration": inner}]
        return document

    def compressor_of(self, path: str) -> str:
        """What compresses a (t, y, x) array. Labels are flat: zstd makes them far smaller than blosc-lz4, and sooner."""
        return "zstd" if path.startswith(LABELS) else self.compressor

    def groups(
        self,
        name: str,
        pixel_size_nm: PixelSize | None,
        emstream: Mapping[str, Any],
        window: tuple[float, float],
        versions: Sequence[str] = (),
    ) -> dict[str, dict[str, Any]]:
        """Group path -> `zarr.json`, the root last.

        emstream : the attributes of that name
        window   : the grey levels shown as black and white, counts
        versions : names of further label images, see `store.versions`
        """
        scale = pixel_size_nm or (1.0, 1.0)
        image = {"version": "0.5", "multiscales": [_multiscale(name, len(self.levels), scale)]}
        docs: dict[str, dict[str, Any]] = {
            "frames": _group({"description": "one row for each frame"}),
            "tables": _group({"description": "parquet tables of particles, tracks, events and frames"}),
            LABELS: label_group("particles", len(self.levels), pixel_size_nm),
            "labels": labels_group(versions),
        }
        if self.keep_raw:
            docs["raw"] = _group({"ome": {"version": "0.5", "multiscales": [_multiscale("raw", 1, scale)]}})
        docs[""] = _group({"ome": image | {"omero": _omero(name, self.dtype, window)}, "emstream": dict(emstream)})
        return docs


def label_group(
    name: str, levels: int, pixel_size_nm: PixelSize | None, emstream: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The `zarr.json` of a label image; `emstream` tells what made it, where the run's own attributes do not."""
    image = {"version": "0.5", "multiscales": [_multiscale(name, levels, pixel_size_nm or (1.0, 1.0))]}
    ome = image | {"image-label": {"version": "0.5", "source": {"image": "../../"}}}
    return _group({"ome": ome} if emstream is None else {"ome": ome, "emstream": dict(emstream)})


def labels_group(versions: Sequence[str] = ()) -> dict[str, Any]:
    """The `zarr.json` that lists the label images."""
    return _group({"ome": {"version": "0.5", "labels": ["particles", *versions]}})


def tile_of(size: tuple[int, int]) -> tuple[int, int, int]:
    """(frames, y, x) of the tiles of a sharded array whose frames are of this size."""
    return SHARD_INNER, min(SHARD_TILE, size[0]), min(SHARD_TILE, size[1])


def chunk_name(slot: int) -> str:
    """The file of one frame within its array's folder."""
    return f"c.{slot}.0.0"


def column_chunk_name(name: str, chunk: int) -> str:
    """The file of rows chunk * COLUMN_CHUNK … within a column's folder."""
    return f"c.{chunk}.0" if COLUMNS[name].width > 1 else f"c.{chunk}"


def dumps(document: Mapping[str, Any]) -> bytes:
    """Metadata as the bytes of a zarr.json."""
    return json.dumps(document, indent=1, allow_nan=False).encode()


def codecs(dtype: str, compressor: str) -> list[dict[str, Any]]:
    """The codec chain of an array: little-endian bytes, compressed, checked."""
    size = np.dtype(dtype).itemsize
    chain: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if compressor == "blosc-lz4":
        blosc = {"typesize": size, "cname": "lz4", "clevel": 1, "shuffle": "bitshuffle", "blocksize": 0}
        chain.append({"name": "blosc", "configuration": blosc})
    elif compressor == "zstd":
        chain.append({"name": "zstd", "configuration": {"level": 1, "checksum": False}})
    return [*chain, CRC]


def _array(
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    dtype: str,
    fill: float,
    compressor: str,
    names: list[str],
    attributes: Mapping[str, Any],
) -> dict[str, Any]:
    is_float = np.dtype(dtype).kind == "f"
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": ("NaN" if np.isnan(fill) else float(fill)) if is_float else int(fill),
        "codecs": codecs(dtype, compressor),
        "attributes": dict(attributes),
        "dimension_names": names,
        "storage_transformers": [],
    }


def _group(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def _multiscale(name: str, levels: int, scale: PixelSize) -> dict[str, Any]:
    """Axes and scales: time in frames (the times themselves are in frames/time_s), y and x in nm."""
    axes = [
        {"name": "t", "type": "time", "unit": "second"},
        {"name": "y", "type": "space", "unit": "nanometer"},
        {"name": "x", "type": "space", "unit": "nanometer"},
    ]
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": [1.0, *(s * 2**level for s in scale)]},
                {"type": "translation", "translation": [0.0, *(s * (2**level - 1) / 2 for s in scale)]},
            ],
        }
        for level in range(levels)
    ]
    return {"name": name, "axes": axes, "datasets": datasets}


def _omero(name: str, dtype: str, window: tuple[float, float]) -> dict[str, Any]:
    kind = np.dtype(dtype)
    low, high = (float(np.iinfo(kind).min), float(np.iinfo(kind).max)) if kind.kind in "iu" else window
    shown = {"min": low, "max": high, "start": window[0], "end": window[1]}
    channel = {"label": name, "color": "FFFFFF", "active": True, "window": shown}
    return {"channels": [channel], "rdefs": {"model": "greyscale"}}
