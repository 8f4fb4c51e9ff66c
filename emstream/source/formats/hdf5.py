"""HDF5 movies (needs the extra `hdf5`): Berkeley EMD, Dectris masters, Velox EMD, or the largest stack in any file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from emstream.errors import FrameOutOfRange, MissingExtra, NotComplete, UnreadableFile
from emstream.messages import PixelSize
from emstream.source import SourceOptions
from emstream.source.formats.base import SourceBase, check_size
from emstream.source.formats.files import regular_stat
from emstream.source.formats.protocol import SourceState, Verdict
from emstream.source.formats.units import length_nm, pixel_size

MAGIC = b"\x89HDF\r\n\x1a\n"


def recognise(head: bytes, path: Path) -> Verdict:
    """HDF5's own magic."""
    if len(head) < 8:
        return Verdict.NOT_YET if path.suffix.lower() in (".h5", ".hdf5", ".emd", ".de5", ".nxs") else Verdict.NO
    return Verdict.YES if head[:8] == MAGIC else Verdict.NO


class Hdf5Source(SourceBase):
    """One HDF5 file with its linked data files. It is opened for each poll: a plain HDF5 cannot be followed."""

    format = "hdf5"

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self.path, self.options = path, options
        regular_stat(path)
        try:
            import h5py
            import hdf5plugin  # noqa: F401  registers bitshuffle-LZ4 and the others
        except ImportError:
            raise MissingExtra(f"{path} is HDF5, which needs h5py", 'pip install "emstream[hdf5]"') from None
        try:
            self._file = h5py.File(path, "r", locking=False)
        except BlockingIOError as err:
            raise NotComplete(f"{path} is being written: {err}") from None
        except OSError as err:
            raise NotComplete(f"{path} is no whole HDF5 file yet: {err}") from None
        try:
            self._stacks, self._last_axis = _stacks(self._file)
        except (RuntimeError, OSError, KeyError, ValueError, TypeError) as err:  # what h5py raises for damaged files
            self._file.close()
            raise UnreadableFile(f"{path} is damaged: {err}") from None
        if not self._stacks:
            self._file.close()
            raise UnreadableFile(f"{path} holds no image or stack", reason="unknown_format")
        first = self._stacks[0]
        if self._last_axis:
            self._shape = (int(first.shape[0]), int(first.shape[1]))
        else:
            self._shape = (int(first.shape[-2]), int(first.shape[-1]))
        self._dtype = first.dtype.newbyteorder("=")
        check_size(path, self._shape, self._shape[0] * self._shape[1] * self._dtype.itemsize, options)
        self._pixel_size = _emd_size(first)

    def poll(self) -> SourceState:
        n = sum(self._count(s) for s in self._stacks)
        st = os.stat(self.path)
        return SourceState(n, n, n, True, n > 1, 0, st.st_size, st.st_mtime_ns, st.st_ino)

    def _count(self, stack: Any) -> int:
        return 1 if stack.ndim == 2 else int(stack.shape[-1] if self._last_axis else stack.shape[0])

    def read(self, i: int) -> np.ndarray:
        k = i
        for stack in self._stacks:
            n = self._count(stack)
            if 0 <= k < n:
                try:
                    part = stack[()] if stack.ndim == 2 else stack[..., k] if self._last_axis else stack[k]
                except (OSError, RuntimeError, ValueError) as err:
                    raise UnreadableFile(f"frame {i} of {self.path} cannot be decoded: {err}") from None
                return np.ascontiguousarray(np.asarray(part).reshape(self._shape)).astype(self._dtype, copy=False)
            k -= n
        raise FrameOutOfRange(f"{self.path} has no frame {i}")

    def close(self) -> None:
        self._file.close()


def _stacks(file: Any) -> tuple[list[Any], bool]:
    """The datasets that hold the frames, in order; whether time is their last axis (Velox)."""
    import h5py

    data = file.get("entry/data")
    if isinstance(data, h5py.Group):
        linked = [data[k] for k in sorted(data) if k.startswith("data_") and _linked(data, k)]
        if linked:
            return linked, False
    if "Data/Image" in file:
        images = [g["Data"] for g in file["Data/Image"].values() if "Data" in g]
        if images:
            return images[:1], True
    found: list[Any] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim in (2, 3) and item.dtype.kind in "iuf" and min(item.shape) > 0:
            found.append(item)

    file.visititems(visit)
    found.sort(key=lambda d: (d.size, d.ndim), reverse=True)
    return found[:1], False


def _linked(group: Any, name: str) -> bool:
    """A link to a data file that is not there yet is no error."""
    try:
        return group[name] is not None
    except (KeyError, OSError):
        return False


def _emd_size(dataset: Any) -> PixelSize | None:
    """Berkeley EMD: dim1, dim2 … beside the data, with units."""
    group = dataset.parent
    sizes: list[float | None] = []
    for axis in range(dataset.ndim - 1, dataset.ndim + 1):
        dim = group.get(f"dim{axis}")
        if dim is None or dim.size < 2:
            return None
        unit = dim.attrs.get("units", b"")
        text = unit.decode() if isinstance(unit, bytes) else str(unit)
        sizes.append(length_nm(abs(float(dim[1]) - float(dim[0])), text.strip("[]")))
    return pixel_size(*sizes)
