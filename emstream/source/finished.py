"""Which files are done with, in 12 bytes each: a week of frames stays small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

RECENT = 1024
PLACES = 4096  # files whose first frame is remembered


class HashSet:
    """A growing set of hashes of 64 (or 32) bits: the newest in a Python set, the rest in a few sorted arrays."""

    def __init__(self, bits: int = 64) -> None:
        self._dtype: type[np.signedinteger[Any]] = np.int64 if bits == 64 else np.int32
        self._mask = (1 << (bits - 1)) - 1
        self._recent: set[int] = set()
        self._tiers: list[np.ndarray] = []  # sorted, each more than twice as long as the next

    def __len__(self) -> int:
        return len(self._recent) + sum(map(len, self._tiers))

    def add(self, key: int) -> None:
        self._recent.add(key & self._mask)
        if len(self._recent) >= RECENT:
            tier = np.sort(np.fromiter(self._recent, self._dtype))
            self._recent.clear()
            while self._tiers and len(self._tiers[-1]) <= 2 * len(tier):
                tier = np.sort(np.concatenate((self._tiers.pop(), tier)), kind="stable")
            self._tiers.append(tier)

    def discard(self, key: int) -> None:
        """Take one out, if it is in."""
        key &= self._mask
        self._recent.discard(key)
        self._tiers = [tier[tier != key] if (tier == key).any() else tier for tier in self._tiers]

    def __contains__(self, key: int) -> bool:
        return bool(self.which([key])[0])

    def which(self, keys: Sequence[int]) -> np.ndarray:
        """(n,) bool: which of them are in."""
        keys = [k & self._mask for k in keys]
        wanted = np.array(keys, self._dtype)
        found = np.fromiter((k in self._recent for k in keys), bool, len(keys))
        for tier in self._tiers:
            at = np.minimum(np.searchsorted(tier, wanted), len(tier) - 1)
            found |= tier[at] == wanted
        return found


class Finished:
    """Files that are done with, by name and by what they are: (size, mtime, inode), which a renamed file keeps.

    A chance collision of what they are would hide a file: 63 bits, one in 10⁵ among ten million files. Names only tell
    a scan which files to look at first, and the slow comparison of all files looks at every one: 31 bits do.
    """

    def __init__(self) -> None:
        self._names = HashSet(32)
        self._stamps = HashSet()

    def __len__(self) -> int:
        return len(self._stamps)

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


class Fingerprints:
    """What the first frames of finished files look like, by path; a fixed table in which newer files push older ones out."""

    def __init__(self, places: int = PLACES) -> None:
        self._names = np.zeros(places, np.int64)
        self._prints = np.zeros(places, np.uint32)

    def put(self, path: str, fingerprint: int) -> None:
        """Remember it."""
        at = hash(path) % len(self._names)
        self._names[at], self._prints[at] = hash(path), fingerprint

    def take(self, path: str) -> int | None:
        """What is remembered of a path, and forgotten with this; None when nothing is."""
        at = hash(path) % len(self._names)
        if self._names[at] != hash(path):
            return None
        self._names[at] = 0
        return int(self._prints[at])
