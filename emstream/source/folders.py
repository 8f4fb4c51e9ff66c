"""What is remembered of the folders below the root: when each changed and was scanned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Folder:
    """What is remembered of a folder."""

    mtime_ns: int = -1
    entries: int = 0
    changed_at: float = -1e9  # when a change was last seen, monotonic
    scanned_at: float = -1e9


class Folders(dict[str, Folder]):
    """By relative path; the root is always among them."""

    def __init__(self) -> None:
        super().__init__({"": Folder()})

    def doubt(self) -> None:
        """Any of them may have changed: each is scanned when it is looked at next."""
        for folder in self.values():
            folder.mtime_ns = -1

    def warm(self, path: str, now: float) -> None:
        """A folder that changed is hot, and so are its parents: there the next new folder will be."""
        while True:
            if path in self:
                self[path].changed_at = now
            if not path:
                return
            path = path.rpartition("/")[0]
