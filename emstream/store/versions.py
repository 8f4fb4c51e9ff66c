"""Further label images of a run, beside `labels/particles`: another model's, a person's; made whole, then listed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emstream.errors import BadSettings, NotARun
from emstream.store.chunks import encode, little, replace, sync_folder
from emstream.store.layout import LABELS, Layout, chunk_name, dumps, label_group, labels_group
from emstream.store.pyramid import label_levels
from emstream.store.run import Run
from emstream.store.tables import write_table

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
FIRST = Path(LABELS).name  # "particles", the one that the daemon makes


class LabelVersion:
    """`labels/NAME` of a run: same frames, same levels, uint32. Frames may be written in any order, by several processes.

    Nobody sees it before `finish`, and a version of that name that was there stays until then. What is not written reads
    as background.

    path   : of the run
    name   : letters, digits, - _ . ; `particles` is the daemon's own
    raises : NotARun, BadSettings
    """

    def __init__(self, path: Path | str, name: str, fsync: bool = True) -> None:
        if not _NAME.fullmatch(name) or name == FIRST:
            raise BadSettings(f"label images cannot be named {name!r}", f"letters, digits, - _ . but not {FIRST}")
        self.run, self.name, self._fsync = Run(path), name, fsync
        self.layout = Layout(self.run.shape, self.run.dtype.name)
        self._part = self.run.path / "labels" / f".{name}.part"

    def write(self, frame: int, labels: np.ndarray) -> None:
        """Labels (y, x) of one frame; 0 = background. raises : ValueError for another shape"""
        pixels = little(labels, "uint32")
        if pixels.shape != self.run.shape:
            raise ValueError(f"labels of {pixels.shape} px do not fit frames of {self.run.shape} px")
        for level, image in enumerate(label_levels(pixels, len(self.layout.levels))):
            folder = self._part / str(level)
            folder.mkdir(parents=True, exist_ok=True)
            replace(folder / chunk_name(frame), b"".join(encode(image, "zstd")), self._fsync)

    def finish(self, about: Mapping[str, Any], tables: Mapping[str, Mapping[str, np.ndarray]] | None = None) -> None:
        """Let readers see it, whole.

        about  : what made it: model, sha256, settings …; becomes attributes.emstream of labels/NAME
        tables : name → columns, as tables/NAME/….parquet
        """
        n = self.run.n
        for level, size in enumerate(self.layout.levels):
            folder = self._part / str(level)
            folder.mkdir(parents=True, exist_ok=True)
            document = self.layout.array(f"{LABELS}/{level}", n)
            assert document["shape"][1:] == list(size)
            replace(folder / "zarr.json", dumps(document))
        scale = self.run.pixel_size_nm
        told = json.loads(json.dumps({"frames": n, **about}, default=str))
        group = label_group(self.name, len(self.layout.levels), scale, emstream=told)
        replace(self._part / "zarr.json", dumps(group), self._fsync)
        where = self.run.path / "tables" / self.name
        shutil.rmtree(where, ignore_errors=True)
        for table, columns in (tables or {}).items():
            where.mkdir(parents=True, exist_ok=True)
            write_table(where / f"{table}.parquet", columns)
        target = self.run.path / "labels" / self.name
        old = self._part.with_name(f".{self.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        self._part.rename(target)
        if self._fsync:
            sync_folder(target.parent)
        shutil.rmtree(old, ignore_errors=True)
        _list(self.run.path)

    def discard(self) -> None:
        """Forget what was written."""
        shutil.rmtree(self._part, ignore_errors=True)


def remove(path: Path | str, name: str) -> None:
    """Take a version out of a run. raises : NotARun, BadSettings (no such version, or `particles`)"""
    run = Run(path)
    if name == FIRST or name not in run.label_names:
        others = ", ".join(n for n in run.label_names if n != FIRST) or "none"
        raise BadSettings(f"the run {run.name} has no further labels {name!r}", f"it has {others}")
    gone = run.path / "labels" / f".{name}.old"
    (run.path / "labels" / name).rename(gone)
    _list(run.path)
    shutil.rmtree(gone, ignore_errors=True)
    shutil.rmtree(run.path / "tables" / name, ignore_errors=True)


def versions(path: Path) -> list[str]:
    """Names of the further label images that lie in a run, whole."""
    found = [p.parent.name for p in (path / "labels").glob("*/zarr.json")]
    return sorted(n for n in found if n != FIRST and not n.startswith("."))


def _list(path: Path) -> None:
    """labels/zarr.json names what is there."""
    if not (path / "labels" / "zarr.json").is_file():
        raise NotARun(f"{path} has no labels group", "emstream check")
    replace(path / "labels" / "zarr.json", dumps(labels_group(versions(path))))
