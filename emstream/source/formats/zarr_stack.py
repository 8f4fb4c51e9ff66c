"""A Zarr stack as a movie: a run of emstream, any OME-Zarr image, or a plain array; Zarr v2 and v3, on disk or at a URL."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from emstream.errors import EmstreamError, FrameOutOfRange, SourceMissing, UnreadableFile
from emstream.messages import PixelSize
from emstream.source import SourceOptions
from emstream.source.formats import axes
from emstream.source.formats.base import SourceBase, check_size
from emstream.source.formats.decode import CODEC_ERRORS
from emstream.source.formats.place import Place, Url
from emstream.source.formats.protocol import SourceState, Verdict
from emstream.source.formats.remote import patiently, reached
from emstream.source.formats.units import length_nm, pixel_size, seconds

MARKS = ("zarr.json", ".zarray", ".zgroup")


def recognise(head: bytes, path: Path) -> Verdict:
    """A folder with Zarr metadata in it."""
    return Verdict.YES if any((path / mark).is_file() for mark in MARKS) else Verdict.NO


class ZarrSource(SourceBase):
    """One image of a Zarr store, its finest level.

    For a run of emstream the frames are those of `0/`, as they were stored; `node` is its group.
    """

    format = "zarr"

    def __init__(self, path: Place, options: SourceOptions) -> None:
        self.path = path
        self.node: Any = _open(path)
        try:
            self._begin(path, options)
        except EmstreamError:
            raise
        except CODEC_ERRORS as err:
            raise UnreadableFile(f"{path} has damaged metadata: {type(err).__name__}: {err}"[:500]) from err

    def _begin(self, path: Place, options: SourceOptions) -> None:
        """All that the metadata say; they may say anything."""
        self.node, image, array = _stack(path, self.node)
        self._meta: dict[str, Any] = {}
        self._axes = axes.find(path, _names(array, image), array.shape, options.select, image is not None)
        if image:
            self.format = "ome-zarr"
            self._pixel_size, self._meta = _calibration(image)
        told = self.node.attrs.get("ome") or self.node.attrs
        self._sparse = "image-label" in told  # frames without labels need not be stored
        run = self.node.attrs.get("emstream") or {}
        if "state" in run:  # labels of a run have such attributes too, without a state
            self.format = "emstream-run"
            self._meta = {k: run.get(k) for k in ("state", "camera", "started", "source", "models")}
            size = run.get("pixel_size_nm")
            self._pixel_size = (float(size[0]), float(size[1])) if size else None
        if array.dtype.kind not in "iuf":
            raise UnreadableFile(f"{path} is {array.shape} {array.dtype}", "an array (t, y, x) of numbers is needed")
        self._array = array
        self._shape = (int(array.shape[self._axes.y]), int(array.shape[self._axes.x]))
        self._dtype = np.dtype(array.dtype).newbyteorder("=")
        check_size(path, self._shape, self._shape[0] * self._shape[1] * self._dtype.itemsize, options)
        if isinstance(path, Url) and array.shards and not _answers_ranges(array, self._key(self._keys(0, 1)[0][0])):
            raise UnreadableFile(
                f"{path}: its server sends whole objects where a part of a shard is asked for",
                "serve it from one that answers HTTP range requests (nginx, S3 …), or copy it here",
            )
        chunk = tuple(int(n) for n in array.chunks)
        if min(chunk) < 1:
            raise UnreadableFile(f"{path} has damaged metadata: chunks of {chunk}")
        if math.prod(chunk) * self._dtype.itemsize > max(options.max_frame_bytes, array.size * self._dtype.itemsize):
            raise UnreadableFile(
                f"{path} announces chunks of {chunk}", "raise source.max_frame_bytes if that is true", reason="oversize"
            )

    @property
    def chunk(self) -> int:
        """Frames in one stored object (a shard, or a chunk): what is read together anyway."""
        return 1 if self._axes.t is None else int((self._array.shards or self._array.chunks)[self._axes.t])

    def poll(self) -> SourceState:
        live = self._meta.get("state", "closed") == "live"
        if live:  # the number of published frames is in the array's metadata
            self._array = patiently(self.path, lambda: self.node[self._array.path])
        n = 1 if self._axes.t is None else int(self._array.shape[self._axes.t])
        return SourceState(n, n, n + live, not live, True)  # of a live run at least one more is to come

    def read(self, i: int) -> np.ndarray:
        return self.read_block(i, i + 1)[0]

    def read_block(self, start: int, stop: int) -> np.ndarray:
        """Frames start … stop - 1, (t, y, x), each chunk fetched once.

        raises : FrameOutOfRange, UnreadableFile (says which frames, and the chunk), SourceMissing (out of reach now)
        """
        n = 1 if self._axes.t is None else int(self._array.shape[self._axes.t])
        if not 0 <= start < stop <= n:
            raise FrameOutOfRange(
                f"{self.path} has no frame {start if start < 0 or start >= n else stop - 1}", f"it has {n}"
            )
        try:
            part = patiently(self.path, lambda: self._array[self._axes.index(start, stop)])
        except EmstreamError:
            raise
        except CODEC_ERRORS as err:
            where, why = self._blame(start, stop, err)
            raise UnreadableFile(f"{_frames(start, stop)} of {self.path}, {where}: {why}"[:500]) from err
        if self.format == "emstream-run" and (gone := self._gone(start, stop)):
            raise UnreadableFile(f"{_frames(start, stop)} of {self.path}, {gone}: is not there", "emstream check")
        part = self._axes.turned(np.asarray(part))
        for k, frame in enumerate(() if self._sparse else part, start):
            if (
                frame.flat[0] == frame.flat[-1]
                and (frame == frame.flat[0]).all()
                and (gone := self._gone(k, k + 1, wholly=True))
            ):
                raise UnreadableFile(
                    f"frame {k} of {self.path}: {gone} is not stored", "blank from the beginning, or lost"
                )
        return np.ascontiguousarray(part).astype(self._dtype, copy=False)

    def meta(self) -> Mapping[str, Any]:
        return self._meta

    def _keys(self, start: int, stop: int) -> list[tuple[str, tuple[slice, ...]]]:
        """Key and place of every stored object that holds a part of these frames."""
        grid, shape = self._array.shards or self._array.chunks, self._array.shape
        spans = []
        for k, at in enumerate(self._axes.index(start, stop)):
            low, high = (
                (at, at + 1) if isinstance(at, int) else (at.start or 0, shape[k] if at.stop is None else at.stop)
            )
            spans.append(range(low // grid[k], -(-high // grid[k])))
        found = []
        for coords in product(*spans):
            part = tuple(slice(c * g, min((c + 1) * g, n)) for c, g, n in zip(coords, grid, shape, strict=True))
            found.append((self._array.metadata.encode_chunk_key(coords), part))
        return found

    def _blame(self, start: int, stop: int, first: Exception) -> tuple[str, str]:
        """The chunk that cannot be read, and what its codec says."""
        for key, part in self._keys(start, stop):
            try:
                patiently(self.path, lambda part=part: self._array[part])  # type: ignore[misc]
            except EmstreamError:
                raise
            except CODEC_ERRORS as err:
                return f"chunk {self._key(key)}", f"{type(err).__name__}: {err}"
        return "read as a whole", f"{type(first).__name__}: {first}"

    def _gone(self, start: int, stop: int, wholly: bool = False) -> str:
        """The first object of these frames that is missing, or with `wholly` only when all are; "" when not.

        A run stores frames of nothing but zeros as well. Others may leave out chunks without counts, but a frame of
        which nothing is stored is more often one that a copy lost.
        """
        from zarr.core.sync import sync

        first = ""
        for key, _ in self._keys(start, stop):
            whole = self._key(key)
            if patiently(self.path, lambda whole=whole: sync(self._array.store.exists(whole))):  # type: ignore[misc]
                if wholly:
                    return ""
            elif not wholly:
                return f"chunk {whole}"
            first = first or f"chunk {whole}"
        return first if wholly else ""

    def _key(self, key: str) -> str:
        return "/".join(part for part in (self._array.path, key) if part)


def _answers_ranges(array: Any, key: str) -> bool:
    """False when the store gives more of an object than was asked for: python -m http.server does."""
    from zarr.abc.store import RangeByteRequest
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    got = sync(array.store.get(key, default_buffer_prototype(), RangeByteRequest(0, 2)))
    return got is None or len(got) <= 2


def _frames(start: int, stop: int) -> str:
    return f"frame {start}" if stop == start + 1 else f"frames {start} to {stop - 1}"


def _open(path: Place) -> Any:
    """The group or array at a place. Raises SourceMissing, UnreadableFile, MissingExtra."""
    import zarr

    try:
        return reached(path, lambda: zarr.open(path if isinstance(path, Path) else str(path), mode="r"))
    except EmstreamError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise UnreadableFile(f"{path} is no Zarr store that can be read: {err}") from None


def _stack(path: Place, node: Any) -> tuple[Any, Mapping[str, Any] | None, Any]:
    """The group or array that holds the one stack of a store, its OME-Zarr description, its finest array.

    raises : UnreadableFile, naming what there is when there are several
    """
    import zarr

    if isinstance(node, zarr.Array):
        return node, None, node
    ome = node.attrs.get("ome") or node.attrs
    try:
        if images := ome.get("multiscales"):
            return node, images[0], reached(path, lambda: node[images[0]["datasets"][0]["path"]])
        try:
            inside = reached(path, lambda: _inside(node))
        except (SourceMissing, UnreadableFile):  # it cannot be listed
            inside = {}
        if not inside and "bioformats2raw.layout" in ome:  # a converter's container, over HTTP
            inside = {"0": reached(path, lambda: node["0"])}
    except KeyError as err:
        raise UnreadableFile(f"{path} names an array that is not there: {err}") from None
    if len(inside) == 1:
        return _stack(path, *inside.values())
    if not inside:
        raise UnreadableFile(
            f"{path} is a Zarr group in which no stack is seen", "name the array or image that is meant"
        )
    named = ", ".join(f"{path}/{name}" for name in sorted(inside)[:8])
    raise UnreadableFile(f"{path} is a Zarr group with {len(inside)} stacks", f"name one: {named}")


def _inside(node: Any) -> dict[str, Any]:
    """The arrays and images directly in a group, by name."""
    arrays = {name: a for name, a in node.arrays() if a.ndim >= 2}
    return arrays | {name: g for name, g in node.groups() if "multiscales" in (g.attrs.get("ome") or g.attrs)}


def _names(array: Any, image: Mapping[str, Any] | None) -> list[str | None] | None:
    """What the axes are called: by OME-Zarr, by Zarr v3, or by xarray in Zarr v2."""
    if image and image.get("axes"):
        return [str(a["name"] if isinstance(a, Mapping) else a) for a in image["axes"]]
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return list(names) if names else None


def _calibration(image: Mapping[str, Any]) -> tuple[PixelSize | None, dict[str, Any]]:
    """(y, x) nm per px of the finest level, and fps where the axis t has a unit of time."""
    told = image.get("axes") or []
    names = [str(a.get("name") if isinstance(a, Mapping) else a).casefold() for a in told]
    units = [a.get("unit", "") if isinstance(a, Mapping) else "" for a in told]
    scale = [1.0] * len(names)
    for holder in (image["datasets"][0], image):  # the image's own transformation stands on top of the level's
        for transform in holder.get("coordinateTransformations") or []:
            if transform.get("type") == "scale" and len(transform.get("scale", ())) == len(names):
                scale = [a * float(b) for a, b in zip(scale, transform["scale"], strict=True)]
    at = {name: (scale[k], units[k]) for k, name in enumerate(names)}
    size = pixel_size(length_nm(*at["y"]), length_nm(*at["x"])) if {"y", "x"} <= set(at) else None
    interval = seconds(*at["t"]) if "t" in at else None
    return size, {"fps": 1 / interval} if interval else {}
