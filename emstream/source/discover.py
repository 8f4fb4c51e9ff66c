"""Finding files: a scan that reconciles the folder with what is known is the truth, hints only make it quick."""

from __future__ import annotations

import fnmatch
import os
import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from emstream.source.filesystem import Kind, identity, kind_of, printable
from emstream.source.finished import Finished
from emstream.source.formats.series import natural_key
from emstream.source.hints import Hinted

STATS_PER_SECOND = 12_500  # entries looked at in the background: about 5 % of one core
AT_ONCE = 4096  # entries looked at in one step at most
MOST_FOUND = 20_000  # files that one scan tells; the next scan tells the rest
CLOSE = 32  # files: as near as the last one that is known is looked for at the start
PIECE = 1024  # files that are looked at together; in the background, frames are read between two pieces
SMALL = 2000  # entries; a folder of fewer is compared file by file whenever it is scanned
HOT_S = 120.0  # a folder that changed in this time, and its parents, are looked at first
GRANULE_S = 2.0  # the coarsest clock of a file system: two changes within it may look like one
DEEP_S = 30.0  # between two comparisons of all files
DIGITS = str.maketrans("123456789", "000000000")


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is new, or not what it was."""

    path: str  # relative to the root, posix
    size: int
    mtime_ns: int
    inode: int
    whole: bool = False  # its writer closed it or renamed it into place


class Findings(Protocol):
    """Who is told."""

    def found(self, files: list[Found]) -> None: ...
    def knows(self, file: Found) -> bool: ...
    def foreign(self, path: str, what: str) -> None: ...
    def missed(self, n: int) -> None: ...
    def root_up(self, up: bool) -> None: ...


@dataclass(slots=True)
class Folder:
    """What is remembered of a folder."""

    mtime_ns: int = -1
    entries: int = 0
    changed_at: float = -1e9  # when a change was last seen, monotonic
    scanned_at: float = -1e9


class HintSource(Protocol):
    """See hints.Hints."""

    @property
    def alive(self) -> bool: ...
    def start(self) -> bool: ...
    def take(self) -> Hinted: ...
    def stop(self) -> None: ...


class Discovery:
    """Looks at the watched folder, a little at each `step`.

    root     : the watched folder
    ignore   : patterns (fnmatch) of names to leave alone
    finished : files that are done with
    busy     : paths that are being followed already
    to       : who is told what was found
    hints    : file events; None = scan only
    """

    def __init__(
        self,
        root: Path,
        ignore: Collection[str],
        finished: Finished,
        busy: Collection[str],
        to: Findings,
        hints: HintSource | None,
    ) -> None:
        self.root = root
        self._real = os.path.realpath(root)
        self._ignored = re.compile("|".join(fnmatch.translate(p) for p in ignore) or r"(?!)").match
        self._finished, self._busy, self._to, self._hints = finished, busy, to, hints
        self._folders: dict[str, Folder] = {"": Folder()}
        self._identity = identity(root)
        self._up = self._identity is not None
        self._round: Iterator[int] = self._first_walk()
        self._walked = False  # the first walk is over
        self._credit = 0.0
        self._stepped_at: float | None = None
        self._hot_at = -1e9
        self._hinting = bool(hints and self._up and hints.start())
        self._next_start = 0.0
        self._restart_s = 1.0
        self._unhinted: dict[str, float] = {}

    @property
    def up(self) -> bool:
        """The root is there."""
        return self._up

    @property
    def walked(self) -> bool:
        """Everything that was there at the start has been told."""
        return self._walked

    def step(self, now: float, room: bool = True) -> None:
        """Look a little further. `room` False: enough is waiting, only hints and the root are looked at."""
        elapsed = 0.0 if self._stepped_at is None else now - self._stepped_at
        self._stepped_at = now
        if not self._check_root(now):
            return
        self._check_hints(now)
        if self._hints is not None:
            self._follow_hints(self._hints.take(), now)
        if not room:
            return
        interval = 1.0 if self._hinting else 0.2
        if self._walked and now - self._hot_at >= interval:
            self._hot_at = now
            self._look_at_hot(now)
        self._credit = min(AT_ONCE, self._credit + elapsed * STATS_PER_SECOND) if self._walked else AT_ONCE
        while self._credit > 0:
            cost = next(self._round, None)
            if cost is None:
                self._round = self._background(now)
                self._walked = True
                break
            self._credit -= cost

    def stop(self) -> None:
        """Listen no more."""
        if self._hints is not None:
            self._hints.stop()

    def at(self, path: str) -> Found | None:
        """The regular file of that relative path as it is now."""
        return self._stat(path)

    def look_again(self, path: str) -> None:
        """The folder of this path is scanned at the next step."""
        folder = self._folders.get(path.rpartition("/")[0])
        if folder is not None:
            folder.mtime_ns = -1

    # -- the root

    def _check_root(self, now: float) -> bool:
        there = identity(self.root)
        if there is not None and there == self._identity:
            if not self._up:
                self._come_back(now)
            return True
        if there is not None and self._full(self.root):  # another folder under that name: mounted anew, or replaced
            self._identity = there
            self._come_back(now)
            return True
        if self._up:
            self._up = False
            self._to.root_up(False)
            if self._hints is not None:
                self._hints.stop()
            self._hinting = False
        return False

    @staticmethod
    def _full(root: Path) -> bool:
        """Not empty: an empty folder is what an unmounted one looks like."""
        try:
            with os.scandir(root) as entries:
                return next(entries, None) is not None
        except OSError:
            return False

    def _come_back(self, now: float) -> None:
        self._up = True
        self._real = os.path.realpath(self.root)
        self._to.root_up(True)
        self._hinting = bool(self._hints and self._hints.start())
        self._folders = {"": Folder()}
        self._round = self._first_walk()

    # -- hints

    def _check_hints(self, now: float) -> None:
        """Listen again when the listener died; not too often when the system refuses."""
        if self._hints is None or now < self._next_start or (self._hinting and self._hints.alive):
            return
        self._hinting = self._hints.start()
        self._restart_s = 1.0 if self._hinting else min(60.0, 2 * self._restart_s)
        self._next_start = now + self._restart_s
        for folder in self._folders.values():
            folder.mtime_ns = -1

    def _follow_hints(self, hinted: Hinted, now: float) -> None:
        if hinted.everything:
            for folder in self._folders.values():
                folder.mtime_ns = -1
            self._hot_at = -1e9
        found = []
        for absolute, whole in hinted.files.items():
            path = self._relative(absolute)
            if path is None or any(map(self._ignored, path.split("/"))):
                continue
            self._unhinted.pop(path, None)
            seen = self._stat(path, whole)
            if seen is not None and (path in self._busy or not self._done(seen)):
                found.append(seen)
        found.sort(key=lambda f: natural_key(f.path))
        if found:
            self._to.found(found)
        for absolute in sorted(hinted.folders):
            path = self._relative(absolute)
            if path is not None and not any(map(self._ignored, path.split("/"))):
                for _ in self._scan(path, now):
                    pass
        self._count_missed(now)

    def _relative(self, absolute: str) -> str | None:
        for root in (str(self.root), self._real):
            if absolute.startswith(root + os.sep):
                return absolute[len(root) + 1 :].replace(os.sep, "/")
        return "" if absolute in (str(self.root), self._real) else None

    def _count_missed(self, now: float) -> None:
        """Files that a scan found and no hint named within two seconds."""
        late = [p for p, at in self._unhinted.items() if now - at > GRANULE_S]
        for path in late:
            del self._unhinted[path]
        if late:
            self._to.missed(len(late))

    # -- scans

    def _look_at_hot(self, now: float) -> None:
        """Folders that changed lately, and their parents: scanned again when they changed, or might have."""
        for path, folder in list(self._folders.items()):
            if now - folder.changed_at < HOT_S and now - folder.scanned_at >= 2.4e-5 * folder.entries:
                for cost in self._look(path, folder, now):
                    self._credit -= cost

    def _look(self, path: str, folder: Folder, now: float) -> Iterator[int]:
        """Scan one folder if its mtime moved, or moved so lately that another change may hide behind it."""
        try:
            mtime_ns = os.stat(self._absolute(path)).st_mtime_ns
        except OSError:
            if path and identity(self.root) == self._identity:
                self._folders.pop(path, None)
            return
        if mtime_ns != folder.mtime_ns or now - folder.changed_at < GRANULE_S:
            yield from self._scan(path, now)

    def _first_walk(self) -> Iterator[int]:
        """Everything, in natural order, with what the folders hold."""
        yield from self._scan("", self._stepped_at or 0.0, below=True)

    def _background(self, started: float) -> Iterator[int]:
        """One round: the mtimes of all folders again and again, then every file compared."""
        while self._now - started < DEEP_S:
            begun = self._now
            for path, folder in list(self._folders.items()):
                yield 1
                yield from self._look(path, folder, self._now)
            while self._now - begun < 1.0:
                yield AT_ONCE
        for path in sorted(self._folders, key=natural_key):
            if path in self._folders:
                yield from self._scan(path, self._now, deep=True)

    @property
    def _now(self) -> float:
        return self._stepped_at or 0.0

    def _scan(self, path: str, now: float, deep: bool = False, below: bool = False) -> Iterator[int]:
        """One folder, and the folders in it that are not known yet; yields how many entries it looked at.

        deep  : compare every file, not only those with unknown names
        below : its known folders too
        """
        folder = self._folders.get(path)
        known = folder is not None
        folder = folder or Folder()
        try:
            mtime_ns = os.stat(self._absolute(path)).st_mtime_ns  # before listing: what comes later moves it again
            files, folders = self._list(path)
        except OSError:
            return
        if mtime_ns != folder.mtime_ns:
            self._warm(path, now)
        folder.mtime_ns, folder.scanned_at, folder.entries = mtime_ns, now, len(files) + len(folders)
        if not known or path not in self._folders:
            folder.changed_at = now
            self._folders[path] = folder
        yield len(files) + len(folders) + 1
        unknown = Names(self._unknown(files, deep))
        del files
        split = len(unknown)
        if folders and not deep:
            split = bisect_right(unknown, natural_key(folders[0]), key=natural_key)
        hinted = known and self._hinting and self._walked
        for k, (begin, end) in enumerate(((0, split), (split, len(unknown)))):
            middle = self._first_new(unknown, begin, end) if below else begin
            for pieces in (unknown.between(middle, end), unknown.between(begin, middle)):
                yield from self._compare(pieces, folder, now, hinted, None if below else MOST_FOUND)
            for sub in folders if k == 0 else ():
                if below or sub not in self._folders:
                    yield from self._scan(sub, now, below=below)

    def _compare(
        self, pieces: Iterable[list[str]], folder: Folder, now: float, hinted: bool, most: int | None
    ) -> Iterator[int]:
        """Files whose names are not known, or might have changed: those that are new are told, a piece at a time.

        hinted : the system should have named them · most : files that are told, the others at the next scan; None = all
        """
        told = 0
        for some in pieces:
            found = [f for f in map(self._stat, some) if f is not None and not self._done(f)]
            if hinted and found:
                self._unhinted.update((f.path, now) for f in found[: max(0, 1024 - told)])
            if found:
                self._to.found(sorted(found, key=lambda f: natural_key(f.path)))
            told += len(found)
            if most is not None and told >= most:
                folder.mtime_ns = -1
                return
            yield len(some) if most is not None else AT_ONCE  # at the start, what was found is read first

    def _first_new(self, paths: Names, low: int, high: int) -> int:
        """Of a folder at the start: what to begin with, because it came after the files that an earlier life knows.

        They are a long beginning of it, as a rule; whatever they are, all are told.
        """
        while high - low > CLOSE:
            middle = (low + high) // 2
            file = self._stat(paths[middle])
            if file is not None and self._to.knows(file):
                low = middle
            else:
                high = middle
        return low

    def _list(self, path: str) -> tuple[list[str], list[str]]:
        """Relative paths of the files and of the folders in a folder, in natural order. Raises OSError."""
        files, folders = [], []
        prefix = path + "/" if path else ""
        with os.scandir(self._absolute(path)) as entries:
            for entry in entries:
                if self._ignored(entry.name):
                    continue
                kind = kind_of(entry, self._real)
                if kind is Kind.FILE:
                    files.append(prefix + entry.name)
                elif kind is Kind.FOLDER:
                    folders.append(prefix + entry.name)
                elif kind in (Kind.FOREIGN, Kind.SPECIAL):
                    self._refuse(prefix + entry.name, kind)
        folders.sort(key=natural_key)
        return files, folders

    def _unknown(self, files: list[str], deep: bool) -> list[str]:
        """Those that must be looked at, in natural order; when all are compared, as they come."""
        if not deep and len(files) > SMALL and len(self._finished):
            named = self._finished.named(files)
            files = [f for f, known in zip(files, named) if not known]
        files = [f for f in files if f not in self._busy]
        return files if deep else in_order(files)

    def _stat(self, path: str, whole: bool = False) -> Found | None:
        """The file as it is; None when it is gone or no regular file."""
        try:
            st = os.lstat(self._absolute(path))
        except (OSError, ValueError):
            return None
        if (st.st_mode & 0o170000) != 0o100000:
            return None
        return Found(path, st.st_size, st.st_mtime_ns, st.st_ino, whole)

    def _done(self, f: Found) -> bool:
        return self._finished.has(f.size, f.mtime_ns, f.inode)

    def _refuse(self, path: str, kind: Kind) -> None:
        if self._finished.named([path])[0]:
            return
        self._finished.add(path, -1, 0, hash(path))
        what = "is a link that leads out of the watched folder" if kind is Kind.FOREIGN else "is no regular file"
        self._to.foreign(path, f"{printable(path)} {what}")

    def _warm(self, path: str, now: float) -> None:
        """A folder that changed is hot, and so are its parents: there the next new folder will be."""
        while True:
            if path in self._folders:
                self._folders[path].changed_at = now
            if not path:
                return
            path = path.rpartition("/")[0]

    def _absolute(self, path: str) -> str:
        return os.path.join(self.root, path) if path else str(self.root)


class Names:
    """The names in a folder, joined: a million of them may wait for hours at a first start, in their own length, not in 100 bytes each."""

    def __init__(self, names: list[str]) -> None:
        self._pieces = ["\0".join(names[i : i + PIECE]) for i in range(0, len(names), PIECE)]
        self._length = len(names)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, at: int) -> str:
        return self._pieces[at // PIECE].split("\0")[at % PIECE]

    def between(self, begin: int, end: int) -> Iterator[list[str]]:
        """Those from `begin` to before `end`, at most PIECE at a time."""
        for first in range(begin // PIECE * PIECE, end, PIECE):
            yield self._pieces[first // PIECE].split("\0")[max(0, begin - first) : end - first]


def in_order(paths: list[str]) -> list[str]:
    """In natural order; a million names that differ in digits alone are sorted as they are, five times as fast."""
    alike = len(paths) > PIECE and len({p.translate(DIGITS) for p in paths}) == 1
    return sorted(paths) if alike else sorted(paths, key=natural_key)
