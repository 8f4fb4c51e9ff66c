"""The folders of a run: made before anything is written, swept of what a kill left half written; and the room for more."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

from emstream.store import layout
from emstream.store.chunks import remove_partial, sync_folder
from emstream.store.layout import Layout


def make_folders(path: Path, of: Layout, fsync: bool) -> None:
    """All folders of a run that are not there; a power cut may have left some of them."""
    made = {path.parent, path}
    for array in (*of.images(), *(f"frames/{name}" for name in layout.COLUMNS), "tables"):
        folder = path / array
        folder.mkdir(parents=True, exist_ok=True)
        made |= {folder, *(path / p for p in Path(array).parents)}
    if fsync:  # a synced chunk is of no use in a folder that a power cut takes away
        for folder in sorted(made):
            sync_folder(folder)


def sweep(path: Path, of: Layout, large: Iterable[str] = ()) -> None:
    """Delete what a kill left half written.

    large : the folders with a chunk for each frame that are swept too; they take long
    """
    small = {p for image in (*of.images(), "frames/x", "tables/x") for p in Path(image).parents}
    tables = (f"tables/{p.name}" for p in path.glob("tables/*.parquet"))
    for folder in (*map(str, small), *(f"frames/{name}" for name in layout.COLUMNS), *tables, *large):
        remove_partial(path / folder)


def check_space(path: Path, low_water_mb: int) -> None:
    """Raises OSError (ENOSPC) when less is free."""
    free = shutil.disk_usage(path).free
    if free < low_water_mb * 2**20:
        wanted = f"store.low_water_mb = {low_water_mb}"
        raise OSError(errno.ENOSPC, f"{free >> 20} MB free, {wanted}: make room, writing goes on by itself", str(path))
