"""Single-frame files of one series, standing in line by the numbers in their names until it is each one's turn."""

from __future__ import annotations

from bisect import insort
from collections import deque

from emstream.source import SourceOptions
from emstream.source.followed import Followed
from emstream.source.formats.series import natural_key
from emstream.source.order import Sequence

AHEAD = 4  # files opened at most before it is known whether the first one is whole


class Line:
    """Found files wait in `waiting`; the few that are being looked at stand in `front`, both in natural order."""

    def __init__(self) -> None:
        self.waiting: deque[Followed] = deque()
        self.front: list[Followed] = []
        self.order = Sequence()

    def __len__(self) -> int:
        return len(self.waiting) + len(self.front)

    def join(self, file: Followed) -> None:
        """Stand in line where the name says."""
        if not self.waiting or natural_key(self.waiting[-1].path) < natural_key(file.path):
            self.waiting.append(file)
        else:
            insort(self.waiting, file, key=_key)

    def leave(self, file: Followed) -> None:
        """It is done with, or is no single frame."""
        if file in self.front:
            self.front.remove(file)

    def step_up(self) -> Followed | None:
        """The next file to open, when those in front do not suffice."""
        if not self.waiting:
            return None
        if self.front:
            blocking = sum(not f.passed and not f.handed for f in self.front)
            first = natural_key(self.front[0].path)
            if blocking >= AHEAD and natural_key(self.waiting[0].path) > first:
                return None
        file = self.waiting.popleft()
        insort(self.front, file, key=_key)
        return file

    def turn(self, now: float, options: SourceOptions) -> Followed | None:
        """Whose turn it is: the first whole file, unless an earlier one is worth waiting for.

        An earlier one is waited for at most `reorder_s` from when the later one was found; where only quiet tells that
        a file is whole, `settle_s` longer, which the earlier one needs as well.
        """
        unready: list[Followed] = []
        for file in self.front:
            if file.single and file.ready(now, options) > file.handed:
                waits = bool(unready) or (self.order.skips(file.path) and not self.order.is_late(file.path))
                patience = options.reorder_s + (0.0 if file.whole else options.settle_s)
                if waits and now - file.found_at < patience:
                    return None
                for earlier in unready:
                    earlier.passed = True
                return file
            if not file.passed and not file.handed:  # else its frame went out, perhaps in an earlier life
                unready.append(file)
        return None


def _key(file: Followed) -> tuple[tuple[int, int | str], ...]:
    return natural_key(file.path)
