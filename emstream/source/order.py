"""The order of frames: by the numbers in their names, never by a clock; when to wait for a missing one."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass

_NUMBERS = re.compile(r"(\d+)")
_STREAMS = 64  # kinds of names that one series remembers


def numbers(path: str) -> tuple[str, tuple[int, ...]]:
    """The name with its numbers taken out, and the numbers: `a/f_0012.tif` -> (`a/f_#.tif`, (12,))."""
    return _NUMBERS.sub("#", path), tuple(int(n) for n in _NUMBERS.findall(path))


@dataclass(slots=True)
class Counter:
    """How one kind of name has counted so far."""

    last: tuple[int, ...]
    step: int = 1
    steady: bool = True  # it has counted by `step`; a jump then means that one is missing
    odd: int = 0  # jumps in a row


class Sequence:
    """The names of one series that have been handed out; tells what is late and what is worth waiting for."""

    def __init__(self) -> None:
        self._streams: OrderedDict[str, Counter] = OrderedDict()

    def is_late(self, path: str) -> bool:
        """A name of its kind with higher numbers went before."""
        kind, at = numbers(path)
        counter = self._streams.get(kind)
        return counter is not None and at < counter.last

    def skips(self, path: str) -> bool:
        """The series has counted steadily and this name leaves some out."""
        kind, at = numbers(path)
        counter = self._streams.get(kind)
        if counter is None or not at or not counter.steady or at[:-1] != counter.last[:-1]:
            return False
        return at[-1] > counter.last[-1] + counter.step

    def handed(self, path: str) -> None:
        """This name has gone out, or was taken in an earlier life."""
        kind, at = numbers(path)
        counter = self._streams.get(kind)
        if counter is None:
            counter = self._streams[kind] = Counter(at)
        elif at > counter.last:
            if at and at[:-1] == counter.last[:-1]:
                _learn(counter, at[-1] - counter.last[-1])
            counter.last = at
        self._streams.move_to_end(kind)
        if len(self._streams) > _STREAMS:
            self._streams.popitem(last=False)


def _learn(counter: Counter, jump: int) -> None:
    """A jump that repeats is the new step; jumps that keep changing mean that the number is no count."""
    if jump == counter.step:
        counter.steady, counter.odd = True, 0
        return
    counter.odd += 1
    if counter.odd >= 2:
        counter.steady = False
        counter.step = jump
