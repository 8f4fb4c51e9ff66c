"""Watching a folder: every frame that a camera writes into it, once, in order, as soon as it is whole."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from emstream.errors import NotComplete, SourceMissing, UnreadableFile
from emstream.messages import Frame
from emstream.source import SourceOptions
from emstream.source.beside import Beside
from emstream.source.discover import Discovery, Found, HintSource
from emstream.source.filesystem import identity, is_remote, mount_kind, printable
from emstream.source.finished import Fingerprints, Finished
from emstream.source.followed import Followed, Opener
from emstream.source.formats import open_source, suffixes
from emstream.source.formats.series import SeriesHint, natural_key, series_of
from emstream.source.hints import Hints
from emstream.source.line import Line

IDLE_S = 0.05  # longest wait between two looks
BUSY_S = 0.05  # longest time of reading before the folder is looked at again
TURN = 16  # frames of one series before the next one's turn: batches stay whole
MOST_WAITING = 20_000  # files; beyond, the scan pauses until some are read
MOST_OPEN = 64  # files held open
MOST_RESTING = 1024  # movies that are looked at for growth; beyond, the slow comparison of all files finds it
GONE_S = 2.0  # a file that vanished may show under another name for so long
MOST_KINDS = 256  # series and suffixes that are remembered to be single frames
ASKED_S = 1.0  # how often is asked whether quarantined files shall be read once more


class SourceReport(Protocol):
    """Who is told how the source is; called from the thread that runs the source."""

    def seen(self, n: int) -> None:
        """n more frames were found complete."""

    def read(self, seconds: float, nbytes: int) -> None:
        """A frame was read and decoded."""

    def quarantined(self, path: str, reason: str, what: str, frame: int = -1) -> None:
        """A file (-1), or a frame of it, that cannot be read; it is looked at again when it changes."""

    def retried(self, path: str) -> None:
        """A quarantined file is looked at again because somebody asked for it."""

    def pending(self, count: int, oldest_s: float, settling: int) -> None:
        """Files that are found and not finished, how long the oldest has been waiting, and how many of them changed
        so lately, or were not looked at yet, that they may become frames within a moment."""

    def watch_up(self, up: bool) -> None:
        """The watched folder is there."""

    def missed_hint(self, n: int) -> None:
        """n files were found by scanning that the operating system should have named."""

    def lost(self, path: str) -> None:
        """A file that was seen went away before it was read."""


class Known(Protocol):
    """Who remembers from earlier lives: the ledger."""

    def known_frames(self, path: str, size: int, mtime_ns: int, inode: int) -> int:
        """How many frames of exactly this file are taken already."""

    def asked_again(self) -> list[str]:
        """Paths that were quarantined and shall be read once more; each is told once."""


class Stop(Protocol):
    """threading.Event, or alike."""

    def is_set(self) -> bool: ...


def watch(
    root: Path,
    options: SourceOptions,
    known: Known,
    stop: Stop | None,
    report: SourceReport,
) -> Iterator[Frame | None]:
    """Every frame under `root`, pixels read, as soon as it is whole; None about every 0.05 s while there is none.

    Frames of one series come in the order of the numbers in their names, then of their index in the file; one that
    turns up after its successors has `late` set. Files are only ever read. Never raises for what a file or a mount does.
    """
    root = Path(root)
    stop = stop or threading.Event()
    remote = is_remote(mount_kind(root))
    hints = None if remote or options.watch == "scan" else Hints(root)
    watcher = Watcher(root, options, known, report, hints)
    try:
        while not stop.is_set():
            idle = True
            for frame in watcher.step(time.monotonic()):
                idle = False
                yield frame
                if stop.is_set():
                    return
            if idle:
                yield None
                if hints is None:
                    time.sleep(IDLE_S)
                else:
                    hints.wait(watcher.rest_s(time.monotonic()))
    finally:
        watcher.close()


class Watcher:
    """The state of a watch. `step` takes the time, so that tests need none."""

    def __init__(
        self,
        root: Path,
        options: SourceOptions,
        known: Known,
        report: SourceReport,
        hints: HintSource | None = None,
        opener: Opener = open_source,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root, self._options, self._known, self._report = root, options, known, report
        self._opener, self._timer = opener, timer
        self._files: dict[str, Followed] = {}  # by path: all that are found and not finished
        self._lines: dict[str, Line] = {}  # by series
        self._movies: dict[str, Followed] = {}  # by path, in the order in which they were found
        # (series, suffix) of which files hold one frame -> bytes of such a file
        self._singles: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._recent = Fingerprints()  # of finished single frames
        self._gone: dict[str, tuple[Followed, float]] = {}
        self._open: OrderedDict[str, Followed] = OrderedDict()
        self._finished = Finished()
        self._suffixes = suffixes()
        self._now = 0.0
        self._told_at = self._asked_at = -1e9
        self._discovery = Discovery(root, options.ignore, self._finished, self._files, self, hints)
        report.watch_up(self._discovery.up)

    def step(self, now: float) -> Iterator[Frame]:
        """Look at the folder once, then hand out what is ready, for a short while."""
        self._now = now
        self._discovery.step(now, room=len(self._files) < MOST_WAITING)
        self._settle_gone(now)
        if now - self._asked_at >= ASKED_S and self._discovery.up:
            self._asked_at = now
            for path in self._known.asked_again():
                self._again(path)
        self._tell(now)
        began = self._timer()
        served = True
        while served and self._discovery.up:
            served = False
            for name in list(self._lines):
                for frame in self._serve_line(name, self._lines[name]):
                    served = True
                    yield frame
                    if self._timer() - began > BUSY_S:
                        return
            for file in sorted(self._movies.values(), key=lambda f: natural_key(f.path)):
                for frame in self._serve_movie(file):
                    served = True
                    yield frame
                    if self._timer() - began > BUSY_S:
                        return

    def rest_s(self, now: float) -> float:
        """How long nothing needs to be looked at, at most IDLE_S."""
        due = min((f.next_look for f in self._movies.values()), default=now + IDLE_S)
        for line in self._lines.values():
            due = min([due, *(f.next_look for f in line.front)])
        return min(IDLE_S, max(0.002, due - now))

    def close(self) -> None:
        """Give everything back."""
        self._discovery.stop()
        for file in self._files.values():
            file.rest()

    # -- what discovery tells

    def found(self, files: list[Found]) -> None:
        """New or changed files."""
        beside: Beside | None = None
        for f in files:
            file = self._files.get(f.path)
            if file is not None:
                file.seen(f, self._now)
                continue
            if self._finished.has(f.size, f.mtime_ns, f.inode):
                continue  # read while the scan that found it was pausing
            folder = f.path.rpartition("/")[0]
            if beside is None or beside.folder != folder:
                beside = Beside(self.root, folder)
            self._take_up(f, series_of(f.path, group=self._options.group, siblings=beside))

    def knows(self, file: Found) -> bool:
        """Whether frames of exactly this file were taken in an earlier life."""
        return self._known.known_frames(printable(file.path), file.size, file.mtime_ns, file.inode) > 0

    def foreign(self, path: str, what: str) -> None:
        """Something that is no file."""
        self._report.quarantined(printable(path), "not_a_file", what)

    def missed(self, n: int) -> None:
        """Hints that did not come."""
        self._report.missed_hint(n)

    def root_up(self, up: bool) -> None:
        """The watched folder went away or came back."""
        self._report.watch_up(up)
        for file in self._files.values():
            file.rest()
            file.next_look = self._now
        self._open.clear()

    def _again(self, path: str) -> None:
        """Forget all that is known of a file, and find it anew."""
        handed = 0
        file = self._files.get(path)
        if file is not None:
            handed = file.handed
            file.rest()
            self._open.pop(path, None)
            self._forget(file)
        self._recent.take(path)
        self._finished.forget(path, -1, 0, hash(path))
        self._discovery.look_again(path)
        found = self._discovery.at(path)
        if found is not None:
            self._finished.forget(path, found.size, found.mtime_ns, found.inode)
            self._report.retried(path)
            self.found([found])
            if path in self._files:
                self._files[path].late_below = handed

    def _take_up(self, f: Found, hint: SeriesHint) -> None:
        if hint.role == "part":
            main = self._files.get(hint.main)
            if main is not None:
                main.touched(self._now)
                self._finished.add(f.path, f.size, f.mtime_ns, f.inode)
            elif (self.root / hint.main).exists():
                self._discovery.look_again(hint.main)
            return
        suffix = Path(f.path).suffix.lower()
        strange = self._options.format == "auto" and suffix not in self._suffixes
        if hint.role == "sidecar" or strange:
            self._finished.add(f.path, f.size, f.mtime_ns, f.inode)
            return
        handed = self._known.known_frames(printable(f.path), f.size, f.mtime_ns, f.inode)
        if handed == 1 and hint.role != "movie" and self._singles.get((hint.series, Path(f.path).suffix)) == f.size:
            self._finished.add(f.path, f.size, f.mtime_ns, f.inode)  # one of a million: it need not be opened for that
            self._lines.setdefault(hint.series, Line()).order.handed(f.path)
            return
        file = Followed(self.root, f, hint, self._now, handed)
        first = self._recent.take(f.path)
        if first is not None:
            file.recall(first)
        self._files[f.path] = file
        if hint.role == "movie":
            self._movies[f.path] = file
        else:
            self._lines.setdefault(hint.series, Line()).join(file)

    # -- handing out

    def _serve_line(self, name: str, line: Line) -> Iterator[Frame]:
        for _ in range(TURN):
            self._look_ahead(line)
            file = line.turn(self._now, self._options)
            if file is None:
                break
            frame = self._read(file, late=line.order.is_late(file.path))
            if frame is not None:
                line.order.handed(file.path)
            if file.single and file.handed >= 1:
                self._finish(file)  # before the frame goes out: nobody may come back after that
            if frame is not None:
                yield frame
        if not len(line) and self._options.group == "file":
            del self._lines[name]

    def _serve_movie(self, file: Followed) -> Iterator[Frame]:
        for _ in range(TURN):
            self._look(file)
            if file.path not in self._movies or file.ready(self._now, self._options) <= file.handed:
                return
            frame = self._read(file, late=file.handed < file.late_below)
            if frame is None:
                return
            yield frame

    def _look_ahead(self, line: Line) -> None:
        """Look at the files in front that are due, and let as many step up as are needed for somebody's turn."""
        for file in list(line.front):
            if file.next_look <= self._now:
                self._look(file)
        while line.turn(self._now, self._options) is None:
            stepped = line.step_up()
            if stepped is None:
                return
            self._look(stepped)

    def _look(self, file: Followed) -> None:
        """Look at one file when it is due; what cannot be read, is a movie after all, or is gone leaves its place."""
        if file.next_look > self._now and file.state is not None:
            return
        file.look(self._now, self._options, self._opener)
        if file.missing:
            self._miss(file)
            return
        self._hold(file)
        if file.refused is not None:
            self._refuse(file, file.refused.reason, file.refused.what)
        elif file.state is not None and file.state.many and file.path not in self._movies:
            self._become_movie(file)
        elif file.path not in self._movies:
            self._settle_single(file)
        if self._stuck(file):
            problem = file.state.problem if file.state is not None else ""
            self._refuse(
                file, "truncated", problem or f"{file.path} did not become whole in {self._options.stuck_s:g} s"
            )

    def _settle_single(self, file: Followed) -> None:
        """A file of one frame so far is a single frame once its writer has done with it."""
        done = file.whole or file.quiet(self._now, self._options)
        kind = (file.hint.series, Path(file.path).suffix)
        if file.state is not None and file.state.n_covered == 1:
            if done or (file.state.many is False and file.state.n_complete == 1):
                self._singles[kind] = file.stamp[0]
                self._singles.move_to_end(kind)
                if len(self._singles) > MOST_KINDS:
                    self._singles.popitem(last=False)
            if done or (kind in self._singles and file.state.n_complete == 1):  # as all of its kind before it
                file.single = True
        if file.single and file.handed >= 1 and done:  # taken in an earlier life
            self._line(file).order.handed(file.path)
            self._finish(file)

    def _become_movie(self, file: Followed) -> None:
        self._line(file).leave(file)
        file.hint = series_of(file.path, many=True, group=self._options.group)
        file.single = False
        self._movies[file.path] = file

    def _stuck(self, file: Followed) -> bool:
        """It has bytes, nothing whole is left in it, and nothing came for `stuck_s`."""
        if file.path not in self._files or self._now - file.changed_at < self._options.stuck_s or not file.stamp[0]:
            return False
        return file.state is None or (file.state.n_covered == 0) or bool(file.state.problem)

    def _read(self, file: Followed, late: bool) -> Frame | None:
        """The next frame of a file; one that cannot be read is told of and left out."""
        began = self._timer()
        try:
            frame = file.read(self._options, late)
        except (NotComplete, SourceMissing):
            file.next_look = self._now
            return None
        except UnreadableFile as err:
            self._report.quarantined(printable(file.path), err.reason, err.what, file.handed)
            file.skip()
            return None
        if frame is not None:
            self._report.seen(1)
            self._report.read(self._timer() - began, frame.pixels.nbytes)
        return frame

    def _refuse(self, file: Followed, reason: str, what: str) -> None:
        """Quarantined: told once, and looked at again when it changes."""
        if file.tell_once():
            self._report.quarantined(printable(file.path), reason, what)
        self._finish(file)

    def _finish(self, file: Followed) -> None:
        """Done with, as it is now; a change makes it new."""
        file.rest()
        self._open.pop(file.path, None)
        self._forget(file)
        self._finished.add(file.path, *file.stamp)
        if file.first is not None:
            self._recent.put(file.path, file.first)

    def _forget(self, file: Followed) -> None:
        self._files.pop(file.path, None)
        self._movies.pop(file.path, None)
        if file.hint.series in self._lines:
            self._lines[file.hint.series].leave(file)

    def _line(self, file: Followed) -> Line:
        return self._lines.setdefault(file.hint.series, Line())

    def _hold(self, file: Followed) -> None:
        """Keep few files open: the one that was looked at longest ago is closed until it changes."""
        if file.source is None:
            return
        self._open[file.path] = file
        self._open.move_to_end(file.path)
        while len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)[1].rest()

    # -- what goes away

    def _miss(self, file: Followed) -> None:
        """It is gone; perhaps it was renamed and shows up under its new name."""
        if identity(self.root) is None:
            return
        file.rest()
        self._forget(file)
        self._gone[file.path] = (file, self._now)

    def _settle_gone(self, now: float) -> None:
        for path, (file, since) in list(self._gone.items()):
            if path in self._files:
                del self._gone[path]
            elif not self._discovery.up:  # all of them are away, and may come back
                self._gone[path] = (file, now)
            elif now - since > GONE_S:
                del self._gone[path]
                elsewhere = self._finished.has(*file.stamp) or any(f.stamp == file.stamp for f in self._files.values())
                known = self._known.known_frames(printable(path), *file.stamp)
                if file.handed == 0 and not known and not elsewhere and file.stamp[0]:
                    self._report.lost(printable(path))

    def _tell(self, now: float) -> None:
        """How many files wait, how long, and how many of them may still become frames within a moment."""
        if now - self._told_at < 0.2 and len(self._files) > 256:
            return
        self._told_at = now
        waiting = [f for f in self._files.values() if f.path not in self._movies or self._unfinished(f)]
        oldest = max((now - f.found_at for f in waiting), default=0.0)
        settling = sum(now - f.changed_at < 2 * self._options.settle_s + 0.5 and f.stamp[0] > 0 for f in waiting)
        if self._discovery.up:  # what nobody has looked at yet may hold new frames, too
            settling += sum(len(line.waiting) for line in self._lines.values()) + (not self._discovery.walked)
        self._report.pending(len(waiting), oldest, settling)

    def _unfinished(self, movie: Followed) -> bool:
        state = movie.state
        return state is None or state.n_covered > movie.handed


__all__ = ["Known", "SourceReport", "Watcher", "watch"]
