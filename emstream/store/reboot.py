"""After the machine went down: what was not synced when it was written is made again from what was."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emstream.errors import StoreDamaged
from emstream.store.chunks import Staged, decode, encode, sound
from emstream.store.layout import LABELS, Layout, chunk_name
from emstream.store.pyramid import label_levels, levels

if TYPE_CHECKING:
    from emstream.store import StoreOptions
    from emstream.store.ledger import Ledger

log = logging.getLogger("emstream.store")


def mend_runs(ledger: Ledger, options: StoreOptions) -> list[str]:
    """At a start after a reboot: publish every run anew that was growing; returns their names.

    Frames, raw frames and labels are synced before they count. Coarse levels, columns, metadata and the journal are
    not: they can all be made again, which going on with a run does.
    """
    from emstream.store.writer import RunWriter

    if not ledger.recovery.rebooted:
        return []
    names = []
    for row in ledger.recovery.runs:
        try:
            if row.n:
                RunWriter(ledger.out, row, ledger, options)
                names.append(row.name)
        except (OSError, StoreDamaged) as error:
            log.warning("run not mended after a reboot", extra={"run": row.name, "error": str(error)})
    return names


def mend_coarse(path: Path, layout: Layout, rows: Sequence[Mapping[str, Any]], fsync: bool) -> int:
    """Write the coarse levels of these frames again where they are missing or torn; returns how many chunks.

    rows : of the ledger; only frames that are SEGMENTED have labels
    """
    count = len(layout.levels)
    staged, written = Staged(fsync), 0
    for row in rows:
        for prefix in ("", *([f"{LABELS}/"] if row["state"] == "SEGMENTED" else [])):
            file = chunk_name(row["slot"])
            wrong = [k for k in range(1, count) if not sound(path / f"{prefix}{k}" / file)]
            if not wrong:
                continue
            compressor = layout.compressor_of(f"{prefix}0")
            finest = decode((path / f"{prefix}0" / file).read_bytes(), layout.images()[f"{prefix}0"], compressor)
            images = list((label_levels if prefix else levels)(finest, count))
            for k in wrong:
                staged.write(path / f"{prefix}{k}" / file, encode(images[k], compressor))
            written += len(wrong)
            staged.commit()
    return written


def sync_file_system(folder: Path) -> None:
    """Everything that was written to the file system of this folder is on the disk when this returns."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None:
            os.sync()
        elif syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(fd)
