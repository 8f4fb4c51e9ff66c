"""A Zarr stack as a movie: a run of emstream, any OME-Zarr image, or a plain array (t, y, x); Zarr v2 and v3."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emstream.errors import FrameOutOfRange, UnreadableFile
from emstream.messages import PixelSize
from emstream.source import SourceOptions
from emstream.source.formats.protocol import SourceState, Verdict
from emstream.source.formats.single import check_out, check_size
from emstream.source.formats.units import length_nm, pixel_size

MARKS = ("zarr.json", ".zarray", ".zgroup")


def recognise(head: bytes, path: Path) -> Verdict:
    """A folder with Zarr metadata in it."""
    return Verdict.YES if any((path / mark).is_file() for mark in MARKS) else Verdict.NO


class ZarrSource:
    """One image of a Zarr store, its finest level."""

    format = "zarr"

    def __init__(self, path: Path, options: SourceOptions) -> None:
        import zarr

        self.path = path
        try:
            node: Any = zarr.open(path, mode="r")
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise UnreadableFile(f"{path} is no Zarr store that can be read: {err}") from None
        attrs: dict[str, Any] = dict(node.attrs)
        self._meta: dict[str, Any] = {}
        scales = (attrs.get("ome") or attrs).get("multiscales") if not isinstance(node, zarr.Array) else None
        self._pixel_size: PixelSize | None = None
        array: Any
        if isinstance(node, zarr.Array):
            array = node
        elif scales:
            self.format = "emstream-run" if "emstream" in attrs else "ome-zarr"
            array = node[scales[0]["datasets"][0]["path"]]
            self._pixel_size = _ome_size(scales[0])
        else:
            arrays = [a for _, a in node.arrays() if a.ndim in (2, 3)]
            if len(arrays) != 1:
                raise UnreadableFile(f"{path} is a Zarr group with {len(arrays)} stacks", "name one of its arrays")
            array = arrays[0]
        if "emstream" in attrs:
            told = attrs["emstream"]
            self._meta = {k: told.get(k) for k in ("state", "camera", "started", "source", "models")}
            size = told.get("pixel_size_nm")
            self._pixel_size = (float(size[0]), float(size[1])) if size else None
        lead = [n for n in array.shape[:-3] if n != 1]
        if array.ndim < 2 or lead or array.dtype.kind not in "iuf":
            raise UnreadableFile(f"{path} is {array.shape} {array.dtype}", "an array (t, y, x) of numbers is needed")
        self._array, self._lead = array, (0,) * max(0, array.ndim - 3)
        self._shape = (int(array.shape[-2]), int(array.shape[-1]))
        self._dtype = np.dtype(array.dtype).newbyteorder("=")
        check_size(path, self._shape, self._shape[0] * self._shape[1] * self._dtype.itemsize, options)

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._dtype

    @property
    def pixel_size_nm(self) -> PixelSize | None:
        return self._pixel_size

    def poll(self) -> SourceState:
        n = 1 if self._array.ndim == 2 else int(self._array.shape[-3])
        return SourceState(n, n, n, self._meta.get("state", "closed") == "closed", True)

    def read(self, i: int) -> np.ndarray:
        n = self.poll().n_covered
        if not 0 <= i < n:
            raise FrameOutOfRange(f"{self.path} has no frame {i}", f"it has {n}")
        try:
            part = self._array[...] if self._array.ndim == 2 else self._array[(*self._lead, i)]
        except (RuntimeError, ValueError, OSError) as err:
            raise UnreadableFile(f"frame {i} of {self.path} is damaged: {err}") from None
        return np.ascontiguousarray(part).astype(self._dtype, copy=False)

    def read_into(self, i: int, out: np.ndarray) -> None:
        check_out(out, self.shape, self.dtype)
        out[...] = self.read(i)

    def frame_time(self, i: int) -> float | None:
        return None

    def meta(self) -> Mapping[str, Any]:
        return self._meta

    def close(self) -> None:
        pass


def _ome_size(multiscale: Mapping[str, Any]) -> PixelSize | None:
    """(y, x) nm per px of the finest level."""
    axes = multiscale.get("axes") or []
    names = [a.get("name") if isinstance(a, Mapping) else a for a in axes]
    units = [a.get("unit", "") if isinstance(a, Mapping) else "" for a in axes]
    found = multiscale["datasets"][0].get("coordinateTransformations") or []
    scale = next((t["scale"] for t in found if t.get("type") == "scale"), None)
    if scale is None or "y" not in names or "x" not in names:
        return None
    y, x = names.index("y"), names.index("x")
    return pixel_size(length_nm(scale[y], units[y]), length_nm(scale[x], units[x]))
