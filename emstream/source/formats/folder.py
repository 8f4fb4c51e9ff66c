"""A folder of single frames, or Gatan's Hour_00/Minute_00/Second_00 tree, as one movie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emstream.errors import FrameOutOfRange, NotComplete, UnreadableFile
from emstream.source import SourceOptions
from emstream.source.formats import registry
from emstream.source.formats.base import SourceBase
from emstream.source.formats.protocol import FrameSource, SourceState, Verdict
from emstream.source.formats.series import natural_key

SINGLE = frozenset((".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npy", ".dm3", ".dm4", ".mrc"))


def recognise(head: bytes, path: Path) -> Verdict:
    """A folder with frames in it."""
    return Verdict.YES if next(_frames(path), None) is not None else Verdict.NO


class FolderSource(SourceBase):
    """Frames in the natural order of their paths; all have the shape and dtype of the first."""

    format = "folder"

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self.path, self.options = path, options
        self._files = sorted(_frames(path), key=lambda p: natural_key(p.relative_to(path).as_posix()))
        if not self._files:
            raise UnreadableFile(f"{path} holds no frames", reason="empty")
        self._first = self._open(0)
        first = self._first
        self._shape, self._dtype, self._pixel_size = first.shape, first.dtype, first.pixel_size_nm
        state = first.poll()
        if state.n_covered > 1:
            raise UnreadableFile(
                f"{path} holds movies, not single frames ({self._files[0].name} has {state.n_covered})",
                "open one of them",
            )
        if "Hour_" in str(self._files[0].relative_to(path)):
            self.format = "gatan-tree"

    def _open(self, i: int) -> FrameSource:
        file = self._files[i]
        return registry.sniff(file, self.options.format).open(file, self.options)

    def poll(self) -> SourceState:
        n, st = len(self._files), os.stat(self.path)
        return SourceState(n, n, None, False, True, 0, n, st.st_mtime_ns, st.st_ino)

    def read(self, i: int) -> np.ndarray:
        if not 0 <= i < len(self._files):
            raise FrameOutOfRange(f"{self.path} has no frame {i}", f"it has {len(self._files)}")
        source = self._open(i)
        try:
            if source.shape != self.shape or source.dtype != self.dtype:
                what = f"{source.shape} {source.dtype}, the first one is {self.shape} {self.dtype}"
                raise UnreadableFile(f"{self._files[i]} is {what}")
            source.poll()  # what may be read is what the last look found
            return source.read(0)
        except NotComplete as err:
            raise UnreadableFile(f"{self._files[i]} is not whole: {err}", reason="truncated") from None
        finally:
            source.close()

    def frame_time(self, i: int) -> float | None:
        return self._files[i].stat().st_mtime

    def meta(self) -> Mapping[str, Any]:
        return self._first.meta()

    def close(self) -> None:
        self._first.close()


def _frames(folder: Path) -> Any:
    """Single-frame files in a folder; those of the tree below it when it has none itself."""
    here = [p for p in folder.iterdir() if p.suffix.lower() in SINGLE and not p.name.startswith(".") and p.is_file()]
    if here:
        yield from here
        return
    for hour in folder.glob("Hour_*"):
        yield from (p for p in hour.glob("Minute_*/Second_*/*") if p.suffix.lower() in SINGLE and p.is_file())
