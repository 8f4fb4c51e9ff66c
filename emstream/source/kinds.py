"""Of which series and suffixes a file holds one frame: of a million more of them none need be opened to know it."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from emstream.source.formats.series import SeriesHint

MOST_KINDS = 256  # that are remembered


class SingleKinds:
    """(series, suffix) -> bytes of such a file."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[tuple[str, str], int] = OrderedDict()

    def learn(self, path: str, hint: SeriesHint, size: int) -> None:
        """This file of so many bytes holds one frame."""
        kind = _kind(path, hint)
        self._sizes[kind] = size
        self._sizes.move_to_end(kind)
        if len(self._sizes) > MOST_KINDS:
            self._sizes.popitem(last=False)

    def know(self, path: str, hint: SeriesHint) -> bool:
        """Whether one of its kind was learned."""
        return _kind(path, hint) in self._sizes

    def size(self, path: str, hint: SeriesHint) -> int | None:
        """Bytes of the last one of its kind."""
        return self._sizes.get(_kind(path, hint))


def _kind(path: str, hint: SeriesHint) -> tuple[str, str]:
    return hint.series, Path(path).suffix
