"""One camera file from the moment it is found: when its frames may be read, and whether it is still the same file."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from emstream.errors import NotComplete, SourceMissing, UnreadableFile
from emstream.messages import Frame, Origin
from emstream.source import SourceOptions, size_given
from emstream.source.filesystem import printable
from emstream.source.formats.protocol import FrameSource, SourceState
from emstream.source.formats.series import SeriesHint
from emstream.source.tree import Found

SOONEST_S, LATEST_S = 0.01, 5.0  # between two looks at a file: the longer it did not change, the later the next
SAMPLE_ROWS = 64

Opener = Callable[[Path, SourceOptions], FrameSource]
Stamp = tuple[int, int, int]  # size, mtime_ns, inode


def fingerprint(pixels: np.ndarray) -> int:
    """Tells one camera frame from another by up to 64 of its rows; noise makes every frame its own."""
    rows = pixels[:: max(1, len(pixels) // SAMPLE_ROWS)]
    return zlib.crc32(np.ascontiguousarray(rows).view(np.uint8).data)


class Followed:
    """A file (with its parts) that is being read while it may still be written.

    handed : frames that have gone out, or were taken in an earlier life
    first  : fingerprint of frame 0 when it went out; tells a file that was copied anew from one with new content
    """

    def __init__(self, root: Path, found: Found, hint: SeriesHint, now: float, handed: int) -> None:
        self.root = root
        self.path = hint.main
        self.hint = hint
        self.handed = handed
        self.late_below = 0  # frames before this one are read when later ones have gone out already
        self.first: int | None = None
        self.found_at = now
        self.changed_at = now
        self.complete_at = now  # when the newest frame was found complete
        self.stamp: Stamp = (found.size, found.mtime_ns, found.inode)
        self.whole = found.whole  # closed, or renamed into place, and not touched since
        self.single: bool | None = None  # one frame and never more; None = not known
        self.passed = False  # later frames have gone out before it
        self.missing = False
        self.refused: UnreadableFile | None = None  # news: it cannot be read
        self.told: Stamp | None = None  # the stamp for which that was told
        self.source: FrameSource | None = None
        self.state: SourceState | None = None
        self.next_look = now
        self._epoch = 0
        self._doubt = False  # reopened or replaced: is it the same movie?
        self._tries = 0

    @property
    def file(self) -> Path:
        """The path to open."""
        return self.root / self.path

    def seen(self, found: Found, now: float) -> None:
        """It was found again: look soon, and believe that it is closed if its writer said so."""
        self._stamped((found.size, found.mtime_ns, found.inode), now)
        self.whole = self.whole or found.whole
        self.next_look = now

    def touched(self, now: float) -> None:
        """A part of it changed."""
        self.changed_at = self.next_look = now
        self.whole = False

    def look(self, now: float, options: SourceOptions, open_source: Opener) -> None:
        """Look at the file; sets state, missing, refused. Never raises for what a file can be."""
        try:
            st = os.stat(self.file)
        except (OSError, ValueError):
            self.missing = True
            self._plan(now)
            return
        self.missing = False
        changed = self._stamped((st.st_size, st.st_mtime_ns, st.st_ino), now)
        if self.source is not None or changed or self.state is None:
            self._open_and_poll(now, options, open_source)
        self._plan(now)

    def ready(self, now: float, options: SourceOptions) -> int:
        """How many frames may be read; those below `handed` have gone out already."""
        state = self.state
        if state is None or self.source is None or self._doubt:
            return 0
        if state.n_covered > state.n_complete and (self.whole or self.quiet(now, options)):
            return state.n_covered
        return state.n_complete

    def quiet(self, now: float, options: SourceOptions) -> bool:
        """It did not change for `settle_s`."""
        return now - self.changed_at >= options.settle_s

    def read(self, options: SourceOptions, late: bool) -> Frame | None:
        """The next frame. None when the file changed under the read: look again.

        raises : NotComplete, UnreadableFile, SourceMissing
        """
        assert self.source is not None
        assert self.state is not None
        i, before = self.handed, self.state
        pixels = self.source.read(i)
        if self.single and self._tries < 5 and self._moved(before):
            self._tries += 1
            return None
        self._tries = 0
        if i == 0:
            self.first = fingerprint(pixels)
        self.handed += 1
        return Frame(
            series=self.hint.series,
            origin=Origin(printable(self.path), i, before.size, before.mtime_ns, before.inode),
            pixels=pixels,
            time_s=self._time(i, before),
            pixel_size_nm=size_given(options) or self.source.pixel_size_nm,
            late=late,
            seen_at=self.complete_at,
            closed_at=before.mtime_ns / 1e9,
            meta={**self.source.meta(), "name": self.hint.name, "format": self.source.format},
        )

    def skip(self) -> None:
        """Leave the next frame out: it cannot be read."""
        self.handed += 1

    def rest(self) -> None:
        """Give the handles back; the next look opens it again when frames are left in it, else a change of its stamp."""
        if self.source is not None:
            self.source.close()
            self.source = None
            self._doubt = self.handed > 0
        if self.state is not None and self.state.n_covered > self.handed:
            self.state = None

    def recall(self, first: int) -> None:
        """Its frame went out in this life; is what lies there now still that frame?"""
        self.handed, self.first, self._doubt = max(1, self.handed), first, True

    def tell_once(self) -> bool:
        """True once for each state of the file: a problem is told when it arises, not at every look."""
        if self.told == self.stamp:
            return False
        self.told = self.stamp
        return True

    # -- inside

    def _stamped(self, stamp: Stamp, now: float) -> bool:
        if stamp == self.stamp:
            return False
        self.stamp, self.changed_at, self.whole = stamp, now, False
        return True

    def _open_and_poll(self, now: float, options: SourceOptions, open_source: Opener) -> None:
        self.refused = None
        try:
            if self.source is None:
                self.source = open_source(self.file, options)
            state = self.source.poll()
        except (NotComplete, SourceMissing):
            self.state = None
            return
        except UnreadableFile as err:
            self.refused, self.state = err, None
            return
        if state.epoch != self._epoch:
            self._epoch, self._doubt = state.epoch, self.handed > 0
        grown = self.state is None or state.n_covered > self.state.n_covered or state.size != self.state.size
        if grown and self.state is not None:
            self.changed_at = now
        if self.state is None or state.n_complete > self.state.n_complete:
            self.complete_at = now
        self.state = state
        if state.many is not None:
            self.single = not state.many
        if self._doubt:
            self._decide(state, now, options)

    def _decide(self, state: SourceState, now: float, options: SourceOptions) -> None:
        """Is what lies there now the movie whose frames went out, or another one?"""
        assert self.source is not None
        if state.n_complete == 0 and not (state.n_covered and (self.whole or self.quiet(now, options))):
            return
        try:
            same = self.first is not None and fingerprint(self.source.read(0)) == self.first
        except (NotComplete, SourceMissing):
            return
        except UnreadableFile as err:
            self.refused = err
            return
        self._doubt = False
        if not same:
            self.handed, self.first, self.single = 0, None, None

    def _moved(self, before: SourceState) -> bool:
        """The file changed since it was polled."""
        try:
            st = os.stat(self.file)
        except OSError:
            return False
        return (st.st_size, st.st_mtime_ns, st.st_ino) != (before.size, before.mtime_ns, before.inode)

    def _plan(self, now: float) -> None:
        self.next_look = now + min(LATEST_S, max(SOONEST_S, (now - self.changed_at) / 8))

    def _time(self, i: int, state: SourceState) -> float:
        """The file's own stamp, else its mtime, less the frames that came after at the rate that the file tells."""
        assert self.source is not None
        told = self.source.frame_time(i)
        if told is not None:
            return told
        fps = self.source.meta().get("fps")
        after = (state.n_covered - 1 - i) / fps if isinstance(fps, (int, float)) and fps > 0 else 0.0
        return min(state.mtime_ns / 1e9, time.time()) - after
