"""A source that is one file on disk: opened, polled, and begun anew when the file is truncated or replaced."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from emstream.errors import FrameOutOfRange, NotComplete, SourceMissing, UnreadableFile
from emstream.source import SourceOptions
from emstream.source.formats.base import SourceBase, check_out
from emstream.source.formats.files import ByteFile
from emstream.source.formats.protocol import SourceState


class FileSource(SourceBase):
    """Base of the readers of one file. Subclasses set `format`, and write `begin`, `look` and `fill`."""

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self.path = path
        self.options = options
        self.epoch = 0
        self._last_size = 0
        self._lost = False  # truncated or replaced, and not begun anew yet
        self.file = self._open()

    def begin(self, file: ByteFile) -> None:
        """Read the header; set all state of this epoch. Raises NotComplete, UnreadableFile."""
        raise NotImplementedError

    def look(self, file: ByteFile, st: os.stat_result) -> SourceState:
        """The state now; epoch and stat fields are filled in by poll."""
        raise NotImplementedError

    def fill(self, i: int, out: np.ndarray) -> None:
        """Pixels of frame i into `out`."""
        raise NotImplementedError

    def _open(self) -> ByteFile:
        with ExitStack() as opening:
            file = ByteFile(self.path)
            opening.callback(file.close)
            self.begin(file)
            opening.pop_all()
        return file

    def poll(self) -> SourceState:
        """See FrameSource."""
        st = self.file.stat()
        if not self._lost and (st.st_size < self._last_size or self.file.replaced()):
            self._lost = True
            self.epoch += 1
        if self._lost:
            try:
                fresh = self._open()
            except (NotComplete, UnreadableFile, SourceMissing) as err:
                return self._stamp(SourceState(0, 0, problem=str(err)), st)
            self.file.close()
            self.file, self._lost = fresh, False
            st = fresh.stat()
        self._last_size = st.st_size
        try:
            return self._stamp(self.look(self.file, st), st)
        except (NotComplete, UnreadableFile) as err:  # it shrinks or breaks while we look: the next poll sees that
            return self._stamp(SourceState(0, 0, problem=str(err)), st)

    def _stamp(self, state: SourceState, st: os.stat_result) -> SourceState:
        return SourceState(
            n_complete=state.n_complete,
            n_covered=max(state.n_covered, state.n_complete),
            n_expected=state.n_expected,
            closed=state.closed,
            many=state.many,
            epoch=self.epoch,
            size=st.st_size,
            mtime_ns=st.st_mtime_ns,
            inode=st.st_ino,
            problem=state.problem,
        )

    def read(self, i: int) -> np.ndarray:
        """See FrameSource."""
        out = np.empty(self.shape, self.dtype)
        self.read_into(i, out)
        return out

    def read_into(self, i: int, out: np.ndarray) -> None:
        """See FrameSource."""
        check_out(out, self.shape, self.dtype)
        if i < 0:
            raise FrameOutOfRange(f"{self.path} has no frame {i}")
        if self._lost:
            raise NotComplete(f"{self.path} was replaced and is not whole yet")
        self.fill(i, out)

    def close(self) -> None:
        """Give the handle back."""
        self.file.close()
