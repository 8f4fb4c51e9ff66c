"""The watched folder as the file system shows it now; nothing is remembered of it but where it really is."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from emstream.source.filesystem import Kind, kind_of
from emstream.source.formats.series import natural_key


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is new, or not what it was."""

    path: str  # relative to the root, posix
    size: int
    mtime_ns: int
    inode: int
    whole: bool = False  # its writer closed it or renamed it into place


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder holds, as relative paths."""

    files: list[str]
    folders: list[str]  # in natural order
    strange: list[tuple[str, Kind]]  # links that lead out of the root, and what is no regular file


class Tree:
    """All paths are relative to `root`, posix.

    ignore : patterns (fnmatch) of names to leave alone
    """

    def __init__(self, root: Path, ignore: Collection[str]) -> None:
        self.root = root
        self._ignored = re.compile("|".join(fnmatch.translate(p) for p in ignore) or r"(?!)").match
        self.arrive()

    def arrive(self) -> None:
        """The root was mounted, perhaps anew."""
        self._real = os.path.realpath(self.root)

    def full(self) -> bool:
        """Not empty: an empty folder is what an unmounted one looks like."""
        try:
            with os.scandir(self.root) as entries:
                return next(entries, None) is not None
        except OSError:
            return False

    def ignores(self, path: str) -> bool:
        """Whether it, or a folder above it, is to be left alone."""
        return any(map(self._ignored, path.split("/")))

    def relative(self, absolute: str) -> str | None:
        """The path of what the system named; None when it is not below the root."""
        for root in (str(self.root), self._real):
            if absolute.startswith(root + os.sep):
                return absolute[len(root) + 1 :].replace(os.sep, "/")
        return "" if absolute in (str(self.root), self._real) else None

    def mtime_ns(self, path: str) -> int:
        """Of a folder. Raises OSError."""
        return os.stat(self._absolute(path)).st_mtime_ns

    def listing(self, path: str) -> Listing:
        """What is in a folder. Raises OSError."""
        found = Listing([], [], [])
        prefix = path + "/" if path else ""
        with os.scandir(self._absolute(path)) as entries:
            for entry in entries:
                if self._ignored(entry.name):
                    continue
                kind = kind_of(entry, self._real)
                if kind is Kind.FILE:
                    found.files.append(prefix + entry.name)
                elif kind is Kind.FOLDER:
                    found.folders.append(prefix + entry.name)
                elif kind in (Kind.FOREIGN, Kind.SPECIAL):
                    found.strange.append((prefix + entry.name, kind))
        found.folders.sort(key=natural_key)
        return found

    def stat(self, path: str, whole: bool = False) -> Found | None:
        """The file as it is; None when it is gone or no regular file."""
        try:
            st = os.lstat(self._absolute(path))
        except (OSError, ValueError):
            return None
        if (st.st_mode & 0o170000) != 0o100000:
            return None
        return Found(path, st.st_size, st.st_mtime_ns, st.st_ino, whole)

    def _absolute(self, path: str) -> str:
        return os.path.join(self.root, path) if path else str(self.root)
