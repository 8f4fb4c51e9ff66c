"""The names in a large folder: sorted fast, kept small, looked at a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator

from emstream.source.formats.series import natural_key

PIECE = 1024  # files that are looked at together; in the background, frames are read between two pieces
DIGITS = str.maketrans("123456789", "000000000")


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
