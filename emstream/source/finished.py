"""Which files are done with, in 16 bytes each: a week of frames stays small."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RECENT = 4096


class HashSet:
    """A growing set of 64-bit hashes: the newest in a Python set, the rest in a few sorted arrays, 8 bytes each."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._tiers: list[np.ndarray] = []  # sorted, each more than twice as long as the next

    def __len__(self) -> int:
        return len(self._recent) + sum(map(len, self._tiers))

    def add(self, key: int) -> None:
        self._recent.add(key)
        if len(self._recent) >= RECENT:
            tier = np.sort(np.fromiter(self._recent, np.int64))
            self._recent.clear()
            while self._tiers and len(self._tiers[-1]) <= 2 * len(tier):
                tier = np.sort(np.concatenate((self._tiers.pop(), tier)), kind="stable")
            self._tiers.append(tier)

    def discard(self, key: int) -> None:
        """Take one out, if it is in."""
        self._recent.discard(key)
        self._tiers = [tier[tier != key] if (tier == key).any() else tier for tier in self._tiers]

    def __contains__(self, key: int) -> bool:
        return key in self._recent or bool(self.which([key])[0])

    def which(self, keys: Sequence[int]) -> np.ndarray:
        """(n,) bool: which of them are in."""
        wanted = np.array(keys, np.int64)
        found = np.fromiter((k in self._recent for k in keys), bool, len(keys))
        for tier in self._tiers:
            at = np.minimum(np.searchsorted(tier, wanted), len(tier) - 1)
            found |= tier[at] == wanted
        return found


class Finished:
    """Files that are done with, by name and by what they are: (size, mtime, inode), which a renamed file keeps.

    A chance collision of hashes would hide a file: one in 10⁵ among ten million files.
    """

    def __init__(self) -> None:
        self._names = HashSet()
        self._stamps = HashSet()

    def add(self, path: str, size: int, mtime_ns: int, inode: int) -> None:
        """The file of that relative path is done with as it is now."""
        self._names.add(hash(path))
        self._stamps.add(hash((size, mtime_ns, inode)))

    def forget(self, path: str, size: int, mtime_ns: int, inode: int) -> None:
        """It is to be looked at once more."""
        self._names.discard(hash(path))
        self._stamps.discard(hash((size, mtime_ns, inode)))

    def has(self, size: int, mtime_ns: int, inode: int) -> bool:
        """Exactly this file is done with, under whatever name."""
        return hash((size, mtime_ns, inode)) in self._stamps

    def named(self, paths: Sequence[str]) -> np.ndarray:
        """(n,) bool: of which paths a file is done with; it may have changed since."""
        return self._names.which([hash(p) for p in paths])
