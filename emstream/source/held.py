"""Few files are held open: the one that was looked at longest ago is closed until it changes."""

from __future__ import annotations

from collections import OrderedDict

from emstream.source.followed import Followed

MOST_OPEN = 64


class Held:
    """The open ones, in the order in which they were looked at."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Followed] = OrderedDict()

    def hold(self, file: Followed) -> None:
        """It was looked at, and may be open since."""
        if file.source is None:
            return
        self._open[file.path] = file
        self._open.move_to_end(file.path)
        while len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)[1].rest()

    def close(self, file: Followed) -> None:
        """Close it."""
        file.rest()
        self._open.pop(file.path, None)

    def forget(self) -> None:
        """All of them were closed."""
        self._open.clear()
