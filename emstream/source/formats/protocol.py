"""What every reader gives: a FrameSource, and the state of a file that may still be growing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, runtime_checkable

import numpy as np

from emstream.messages import PixelSize
from emstream.source.formats.place import Place


class Verdict(Enum):
    """Does this reader know the file?"""

    YES = "yes"
    NO = "no"
    NOT_YET = "not yet"  # consistent so far, but too short to tell


@dataclass(frozen=True, slots=True)
class SourceState:
    """How far a file is, at one instant. Frames 0 … n_complete - 1 may be read now.

    Frames n_complete … n_covered - 1 have all their bytes in the file, but nothing proves that the writer is
    done with them (a preallocated file, the last frame of a growing one): hand them out once the file was quiet
    for `settle_s`, never before. Within one epoch n_complete never decreases.
    """

    n_complete: int  # frames that are surely whole
    n_covered: int  # frames whose bytes are all there; >= n_complete
    n_expected: int | None = None  # frames that the file or a sidecar announces; a hint, headers are often stale
    closed: bool = False  # the format itself says that the file is whole as it stands (it may still be appended to)
    many: bool | None = None  # True: a movie; False: never more than one frame; None: one frame so far
    epoch: int = 0  # +1 each time the file was truncated or replaced: what was read before is another file
    size: int = 0  # bytes, of all parts together
    mtime_ns: int = 0  # newest of all parts
    inode: int = 0  # of the file that was opened
    problem: str = ""  # why it does not go on, in words; "" when nothing is wrong


@runtime_checkable
class FrameSource(Protocol):
    """The frames of one file, or of one set of files that belong together.

    Opening raises NotComplete while the header is not whole, UnreadableFile when it never will be, SourceMissing.
    `poll` is cheap (O(what is new), never decodes); `read` may be called from several threads at once.
    """

    format: str  # short name of the reader

    @property
    def path(self) -> Place: ...  # a Url only of a Zarr stack

    @property
    def shape(self) -> tuple[int, int]: ...  # (y, x) px

    @property
    def dtype(self) -> np.dtype[Any]: ...  # the camera's, native byte order

    @property
    def pixel_size_nm(self) -> PixelSize | None: ...  # (y, x) nm per px; None when unknown or not a length

    def poll(self) -> SourceState:
        """Look at the file again. Does not raise for a file that shrank or vanished: see epoch and problem."""
        ...

    def read(self, i: int) -> np.ndarray:
        """Frame i, (y, x), file order, never flipped; one that `poll` has counted.

        raises : NotComplete (also before the first poll), UnreadableFile, FrameOutOfRange
        """
        ...

    def read_into(self, i: int, out: np.ndarray) -> None:
        """The same into `out`: C-contiguous, exactly `shape` and `dtype`."""
        ...

    def frame_time(self, i: int) -> float | None:
        """Seconds since 1970 that the file itself gives for frame i; None when it gives none."""
        ...

    def meta(self) -> Mapping[str, Any]:
        """What the file tells: camera, exposure_s, fps, magnification, voltage_kv …; only what is known."""
        ...

    def close(self) -> None:
        """Give the file handle back; reading afterwards fails."""
        ...
