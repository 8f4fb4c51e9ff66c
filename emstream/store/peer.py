"""What a store costs that is appended to in the plain way: the peer that `bench --peers` compares with."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class Appender:
    """zarr-python's own `Array.append`, one frame at a time, its default codec; no ledger, no sync, no pyramid."""

    def __init__(self, path: Path, shape: tuple[int, int], dtype: np.dtype) -> None:
        import zarr

        self._array = zarr.create_array(path, shape=(0, *shape), chunks=(1, *shape), dtype=dtype, overwrite=True)

    def append(self, frame: np.ndarray) -> None:
        """One more frame."""
        self._array.append(frame[None])
