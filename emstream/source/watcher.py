"""The state of a watch: which files are found, whose turn it is, and which are done with. It looks when it is told to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from emstream.errors import NotComplete, SourceMissing, UnreadableFile
from emstream.messages import Frame
from emstream.source import SourceOptions
from emstream.source.beside import Beside
from emstream.source.discover import Discovery
from emstream.source.filesystem import identity, printable
from emstream.source.finished import Fingerprints, Finished
from emstream.source.followed import Followed, Opener
from emstream.source.formats import open_source, suffixes
from emstream.source.formats.series import SeriesHint, natural_key, series_of
from emstream.source.held import Held
from emstream.source.kinds import SingleKinds
from emstream.source.line import Line
from emstream.source.listening import HintSource
from emstream.source.parties import Known, SourceReport
from emstream.source.roster import Roster
from emstream.source.tree import Found

IDLE_S = 0.05  # longest wait between two looks
BUSY_S = 0.05  # longest time of reading before the folder is looked at again
TURN = 16  # frames of one series before the next one's turn: batches stay whole
MOST_WAITING = 20_000  # files; beyond, the scan pauses until some are read
GONE_S = 2.0  # a file that vanished may show under another name for so long
ASKED_S = 1.0  # how often is asked whether quarantined files shall be read once more


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
        self._roster = Roster()
        self._singles = SingleKinds()
        self._recent = Fingerprints()  # of finished single frames
        self._gone: dict[str, tuple[Followed, float]] = {}
        self._open = Held()
        self._finished = Finished()
        self._suffixes = suffixes()
        self._now = 0.0
        self._told_at = self._asked_at = -1e9
        self._discovery = Discovery(root, options.ignore, self._finished, self._roster.files, self, hints)
        report.watch_up(self._discovery.up)

    def step(self, now: float) -> Iterator[Frame]:
        """Look at the folder once, then hand out what is ready, for a short while."""
        self._now = now
        self._discovery.step(now, room=len(self._roster.files) < MOST_WAITING)
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
            for name in list(self._roster.lines):
                for frame in self._serve_line(name, self._roster.lines[name]):
                    served = True
                    yield frame
                    if self._timer() - began > BUSY_S:
                        return
            for file in sorted(self._roster.movies.values(), key=lambda f: natural_key(f.path)):
                for frame in self._serve_movie(file):
                    served = True
                    yield frame
                    if self._timer() - began > BUSY_S:
                        return

    def rest_s(self, now: float) -> float:
        """How long nothing needs to be looked at, at most IDLE_S."""
        due = min((f.next_look for f in self._roster.movies.values()), default=now + IDLE_S)
        for line in self._roster.lines.values():
            due = min([due, *(f.next_look for f in line.front)])
        return min(IDLE_S, max(0.002, due - now))

    def close(self) -> None:
        """Give everything back."""
        self._discovery.stop()
        for file in self._roster.files.values():
            file.rest()

    # -- what discovery tells

    def found(self, files: list[Found]) -> None:
        """New or changed files."""
        beside: Beside | None = None
        for f in files:
            file = self._roster.files.get(f.path)
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
        for file in self._roster.files.values():
            file.rest()
            file.next_look = self._now
        self._open.forget()

    def _again(self, path: str) -> None:
        """Forget all that is known of a file, and find it anew."""
        handed = 0
        file = self._roster.files.get(path)
        if file is not None:
            handed = file.handed
            self._open.close(file)
            self._roster.leave(file)
        self._recent.take(path)
        self._finished.forget(path, -1, 0, hash(path))
        self._discovery.look_again(path)
        found = self._discovery.at(path)
        if found is not None:
            self._finished.forget(path, found.size, found.mtime_ns, found.inode)
            self._report.retried(path)
            self.found([found])
            if path in self._roster.files:
                self._roster.files[path].late_below = handed

    def _take_up(self, f: Found, hint: SeriesHint) -> None:
        if hint.role == "part":
            main = self._roster.files.get(hint.main)
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
        if handed == 1 and hint.role != "movie" and self._singles.size(f.path, hint) == f.size:
            self._finished.add(f.path, f.size, f.mtime_ns, f.inode)  # one of a million: it need not be opened for that
            self._roster.line(hint.series).order.handed(f.path)
            return
        file = Followed(self.root, f, hint, self._now, handed)
        first = self._recent.take(f.path)
        if first is not None:
            file.recall(first)
        self._roster.join(file)

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
            del self._roster.lines[name]

    def _serve_movie(self, file: Followed) -> Iterator[Frame]:
        for _ in range(TURN):
            self._look(file)
            if file.path not in self._roster.movies or file.ready(self._now, self._options) <= file.handed:
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
        self._open.hold(file)
        if file.refused is not None:
            self._refuse(file, file.refused.reason, file.refused.what)
        elif file.state is not None and file.state.many and file.path not in self._roster.movies:
            self._roster.become_movie(file, self._options)
        elif file.path not in self._roster.movies:
            self._settle_single(file)
        if self._stuck(file):
            problem = file.state.problem if file.state is not None else ""
            self._refuse(
                file, "truncated", problem or f"{file.path} did not become whole in {self._options.stuck_s:g} s"
            )

    def _settle_single(self, file: Followed) -> None:
        """A file of one frame so far is a single frame once its writer has done with it."""
        done = file.whole or file.quiet(self._now, self._options)
        if file.state is not None and file.state.n_covered == 1:
            if done or (file.state.many is False and file.state.n_complete == 1):
                self._singles.learn(file.path, file.hint, file.stamp[0])
            as_before = self._singles.know(file.path, file.hint) and file.state.n_complete == 1  # all of its kind
            if done or as_before:
                file.single = True
        if file.single and file.handed >= 1 and done:  # taken in an earlier life
            self._roster.line(file.hint.series).order.handed(file.path)
            self._finish(file)

    def _stuck(self, file: Followed) -> bool:
        """It has bytes, nothing whole is left in it, and nothing came for `stuck_s`."""
        lately = self._now - file.changed_at < self._options.stuck_s
        if file.path not in self._roster.files or lately or not file.stamp[0]:
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
        self._open.close(file)
        self._roster.leave(file)
        self._finished.add(file.path, *file.stamp)
        if file.first is not None:
            self._recent.put(file.path, file.first)

    # -- what goes away

    def _miss(self, file: Followed) -> None:
        """It is gone; perhaps it was renamed and shows up under its new name."""
        if identity(self.root) is None:
            return
        file.rest()
        self._roster.leave(file)
        self._gone[file.path] = (file, self._now)

    def _settle_gone(self, now: float) -> None:
        for path, (file, since) in list(self._gone.items()):
            if path in self._roster.files:
                del self._gone[path]
            elif not self._discovery.up:  # all of them are away, and may come back
                self._gone[path] = (file, now)
            elif now - since > GONE_S:
                del self._gone[path]
                followed = any(f.stamp == file.stamp for f in self._roster.files.values())
                elsewhere = followed or self._finished.has(*file.stamp)
                known = self._known.known_frames(printable(path), *file.stamp)
                if file.handed == 0 and not known and not elsewhere and file.stamp[0]:
                    self._report.lost(printable(path))

    def _tell(self, now: float) -> None:
        """How many files wait, how long, and how many of them may still become frames within a moment."""
        if now - self._told_at < 0.2 and len(self._roster.files) > 256:
            return
        self._told_at = now
        waiting = self._roster.waiting()
        oldest = max((now - f.found_at for f in waiting), default=0.0)
        settling = sum(now - f.changed_at < 2 * self._options.settle_s + 0.5 and f.stamp[0] > 0 for f in waiting)
        if self._discovery.up:  # what nobody has looked at yet may hold new frames, too
            settling += self._roster.not_looked_at() + (not self._discovery.walked)
        self._report.pending(len(waiting), oldest, settling)
