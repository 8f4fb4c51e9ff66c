"""What most readers tell in the same way, and what all of them check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from emstream.errors import UnreadableFile
from emstream.messages import PixelSize
from emstream.source import SourceOptions
from emstream.source.formats.place import Place


def check_out(out: np.ndarray, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Raises ValueError when `out` cannot take a frame."""
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
        raise ValueError(f"out must be C-contiguous {shape} {dtype}, not {out.shape} {out.dtype}")


def check_size(path: Place, shape: tuple[int, int], nbytes: int, options: SourceOptions) -> None:
    """Raises UnreadableFile (corrupt, oversize) before anything is allocated; nbytes: of one frame."""
    if min(shape) <= 0:
        raise UnreadableFile(f"{path} has a damaged header: frames of {shape[0]} x {shape[1]} px")
    if nbytes > options.max_frame_bytes:
        raise UnreadableFile(
            f"{path} announces frames of {shape[0]} x {shape[1]} px ({nbytes} bytes)",
            "raise source.max_frame_bytes if that is true",
            reason="oversize",
        )


class SourceBase:
    """A FrameSource but for `poll` and `read`. Subclasses set `format` and what stands with an underscore."""

    format = ""
    _shape: tuple[int, int] = (0, 0)
    _dtype: np.dtype[Any] = np.dtype("u1")
    _pixel_size: PixelSize | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) px."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Native byte order."""
        return self._dtype

    @property
    def pixel_size_nm(self) -> PixelSize | None:
        """(y, x) nm per px."""
        return self._pixel_size

    def read(self, i: int) -> np.ndarray:
        """See FrameSource."""
        raise NotImplementedError

    def read_into(self, i: int, out: np.ndarray) -> None:
        """See FrameSource."""
        check_out(out, self.shape, self.dtype)
        out[...] = self.read(i)

    def frame_time(self, i: int) -> float | None:
        """No stamp in the file, unless a subclass knows one."""
        return None

    def meta(self) -> Mapping[str, Any]:
        """What the file tells."""
        return {}

    def close(self) -> None:
        """Give back what is open."""
