"""What lies beside a file: asked by name, so that a folder of 100,000 files is never listed for it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path


class Beside(Collection[str]):
    """The names in one folder. `in` costs one look at the disk, remembered for this object's life."""

    def __init__(self, root: Path, folder: str) -> None:
        self.folder = folder
        self._path = root / folder if folder else root
        self._known: dict[str, bool] = {}

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if name not in self._known:
            self._known[name] = os.path.lexists(self._path / name)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(os.listdir(self._path))

    def __len__(self) -> int:
        return len(os.listdir(self._path))
