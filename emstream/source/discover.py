"""Finding files: a scan that reconciles the folder with what is known is the truth, hints only make it quick."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from emstream.source.filesystem import Kind, identity, printable
from emstream.source.finished import Finished
from emstream.source.folders import Folder, Folders
from emstream.source.formats.series import natural_key
from emstream.source.hints import Hinted
from emstream.source.listening import HintSource, Listening
from emstream.source.names import Names, in_order
from emstream.source.tree import Found, Tree

STATS_PER_SECOND = 12_500  # entries looked at in the background: about 5 % of one core
AT_ONCE = 4096  # entries looked at in one step at most
MOST_FOUND = 20_000  # files that one scan tells; the next scan tells the rest
CLOSE = 32  # files: as near as the last one that is known is looked for at the start
SMALL = 2000  # entries; a folder of fewer is compared file by file whenever it is scanned
HOT_S = 120.0  # a folder that changed in this time, and its parents, are looked at first
GRANULE_S = 2.0  # the coarsest clock of a file system: two changes within it may look like one
DEEP_S = 30.0  # between two comparisons of all files


class Findings(Protocol):
    """Who is told."""

    def found(self, files: list[Found]) -> None: ...
    def knows(self, file: Found) -> bool: ...
    def foreign(self, path: str, what: str) -> None: ...
    def missed(self, n: int) -> None: ...
    def root_up(self, up: bool) -> None: ...


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
        self._tree = Tree(root, ignore)
        self._finished, self._busy, self._to = finished, busy, to
        self._folders = Folders()
        self._identity = identity(root)
        self._up = self._identity is not None
        self._round: Iterator[int] = self._first_walk()
        self._walked = False  # the first walk is over
        self._credit = 0.0
        self._stepped_at: float | None = None
        self._hot_at = -1e9
        self._listening = Listening(hints)
        if self._up:
            self._listening.begin()

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
        if self._listening.revive(now):
            self._folders.doubt()
        if (hinted := self._listening.take()) is not None:
            self._follow_hints(hinted, now)
        if not room:
            return
        interval = 1.0 if self._listening.on else 0.2
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
        self._listening.end()

    def at(self, path: str) -> Found | None:
        """The regular file of that relative path as it is now."""
        return self._tree.stat(path)

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
        if there is not None and self._tree.full():  # another folder under that name: mounted anew, or replaced
            self._identity = there
            self._come_back(now)
            return True
        if self._up:
            self._up = False
            self._to.root_up(False)
            self._listening.end()
        return False

    def _come_back(self, now: float) -> None:
        self._up = True
        self._tree.arrive()
        self._to.root_up(True)
        self._listening.begin()
        self._folders = Folders()
        self._round = self._first_walk()

    # -- hints

    def _follow_hints(self, hinted: Hinted, now: float) -> None:
        if hinted.everything:
            self._folders.doubt()
            self._hot_at = -1e9
        found = []
        for absolute, whole in hinted.files.items():
            path = self._tree.relative(absolute)
            if path is None or self._tree.ignores(path):
                continue
            self._listening.named(path)
            seen = self._tree.stat(path, whole)
            if seen is not None and (path in self._busy or not self._done(seen)):
                found.append(seen)
        found.sort(key=lambda f: natural_key(f.path))
        if found:
            self._to.found(found)
        for absolute in sorted(hinted.folders):
            path = self._tree.relative(absolute)
            if path is not None and not self._tree.ignores(path):
                for _ in self._scan(path, now):
                    pass
        if late := self._listening.missed(now):
            self._to.missed(late)

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
            mtime_ns = self._tree.mtime_ns(path)
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
            mtime_ns = self._tree.mtime_ns(path)  # before listing: what comes later moves it again
            listing = self._tree.listing(path)
        except OSError:
            return
        for strange, kind in listing.strange:
            self._refuse(strange, kind)
        files, folders = listing.files, listing.folders
        del listing
        if mtime_ns != folder.mtime_ns:
            self._folders.warm(path, now)
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
        hinted = known and self._listening.on and self._walked
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
            found = [f for f in map(self._tree.stat, some) if f is not None and not self._done(f)]
            if hinted and found:
                self._listening.found((f.path for f in found[: max(0, 1024 - told)]), now)
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
            file = self._tree.stat(paths[middle])
            if file is not None and self._to.knows(file):
                low = middle
            else:
                high = middle
        return low

    def _unknown(self, files: list[str], deep: bool) -> list[str]:
        """Those that must be looked at, in natural order; when all are compared, as they come."""
        if not deep and len(files) > SMALL and len(self._finished):
            named = self._finished.named(files)
            files = [f for f, known in zip(files, named) if not known]
        files = [f for f in files if f not in self._busy]
        return files if deep else in_order(files)

    def _done(self, f: Found) -> bool:
        return self._finished.has(f.size, f.mtime_ns, f.inode)

    def _refuse(self, path: str, kind: Kind) -> None:
        if self._finished.named([path])[0]:
            return
        self._finished.add(path, -1, 0, hash(path))
        what = "is a link that leads out of the watched folder" if kind is Kind.FOREIGN else "is no regular file"
        self._to.foreign(path, f"{printable(path)} {what}")
