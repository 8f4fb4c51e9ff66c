"""Mend a run: metadata and columns from the ledger, coarse levels from level 0, frames from where they came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from emstream import align
from emstream.errors import EmstreamError, NotARun, StoreDamaged
from emstream.store import StoreOptions
from emstream.store.check import Problem, Report, check, known_rows
from emstream.store.chunks import Staged, crc32c, encode, little
from emstream.store.layout import LABELS, chunk_name
from emstream.store.ledger import FOLDER, Ledger
from emstream.store.pyramid import label_levels, levels
from emstream.store.rebuild import compressor_of
from emstream.store.run import Run
from emstream.store.shards import JOURNAL
from emstream.store.writer import RunWriter

Again: TypeAlias = Callable[[Mapping[str, Any]], np.ndarray]  # a row of the ledger -> the frame as the camera wrote it
NO_LABELS = "labels are made by a model, not read again: emstream reprocess makes new ones"


def repair(path: Path | str, again: Again, progress: Callable[[int, int], None] | None = None) -> Report:
    """Rewrite what `check` finds wrong, as far as it can be had exactly; what is sound is not touched.

    again    : reads a frame from its source; raises EmstreamError when that is gone or not what it was
    progress : called with (frames done, frames in all)
    returns  : the report of a check afterwards; `repaired` holds what was wrong and is so no longer, and each problem
               that is left says why
    raises   : NotARun; StoreBusy when a daemon holds the folder

    A frame counts as repaired only when its pixels have the checksum that was kept when it was stored.
    """
    path = Path(path)
    if (path / "tables" / JOURNAL).is_file():
        raise NotARun(f"{path} was made by reprocess", "the same emstream reprocess again writes anew what is damaged")
    with ExitStack() as held:
        before = list(check(path).problems)
        if (path.parent / FOLDER / "ledger.sqlite").is_file():
            ledger = held.enter_context(Ledger(path.parent))
            if any(p.frame is None or p.array.startswith("frames/") or p.array == "" for p in before):
                _publish_anew(path, ledger)
        report = check(path)
        reasons = dict(_chunks(path, report.problems, again, progress)) if report.problems else {}
    after = check(path)
    left = tuple(_with_reason(p, reasons) for p in after.problems)
    return replace(after, problems=left, repaired=tuple(p for p in before if p not in after.problems))


def _with_reason(problem: Problem, reasons: Mapping[tuple[str, int], str]) -> Problem:
    why = reasons.get((problem.array, -1 if problem.frame is None else problem.frame))
    return problem if why is None else replace(problem, what=f"{problem.what}; not repaired: {why}")


def _publish_anew(path: Path, ledger: Ledger) -> None:
    """Metadata and columns as the ledger has them."""
    try:
        row = ledger.run(path.name.removesuffix(".zarr"))
    except KeyError:
        return
    if row.n:
        RunWriter(path.parent, row, ledger, StoreOptions(), anew=True)


def _chunks(
    path: Path, problems: tuple[Problem, ...], again: Again, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[tuple[str, int], str]]:
    """Mend frame by frame; yields ((array, frame), why not) for what could not be mended."""
    run, rows = Run(path), known_rows(path)[0]
    wrong: dict[int, list[str]] = {}
    for p in problems:
        if p.frame is not None and (p.array.isdigit() or p.array == "raw/0" or p.array.startswith(LABELS)):
            wrong.setdefault(p.frame, []).append(p.array)
    for done, (i, arrays) in enumerate(sorted(wrong.items()), 1):
        frame = _Frame(run, i, rows.get(i), arrays, again)
        for array in sorted(arrays, key=lambda a: (a.rpartition("/")[2] != "0", a)):  # the finest first
            try:
                frame.mend(array)
            except EmstreamError as error:
                yield (array, i), str(error)
        if progress is not None:
            progress(done, len(wrong))


class _Frame:
    """One frame of a run and what is wrong with it."""

    def __init__(self, run: Run, i: int, row: Mapping[str, Any] | None, wrong: list[str], again: Again) -> None:
        self.run, self.i, self.row, self.wrong, self.again = run, i, row, set(wrong), again
        self._source: np.ndarray | None = None

    def mend(self, array: str) -> None:
        """Write the chunk of one array anew. Raises EmstreamError when that cannot be done exactly."""
        kind, _, level = array.rpartition("/")
        if kind == LABELS:
            if level == "0":
                raise StoreDamaged(NO_LABELS)
            if f"{LABELS}/0" in self.wrong:
                raise StoreDamaged(f"level 0 is damaged too, and {NO_LABELS}")
            pixels = list(label_levels(self.run.label(self.i), int(level) + 1))[-1]
        elif kind == "raw":
            pixels = self._checked(self._raw(), "source_crc32c")
        elif level == "0":
            pixels = self._moved()
        else:
            if "0" in self.wrong:
                raise StoreDamaged("level 0 is damaged too")
            pixels = list(levels(self.run.frame(self.i), int(level) + 1))[-1]
        document = json.loads((self.run.path / array / "zarr.json").read_bytes())
        staged = Staged(fsync=True)
        target = self.run.path / array / chunk_name(self.i)
        staged.write(target, encode(little(pixels, document["data_type"]), compressor_of(document)))
        staged.commit()
        self.wrong.discard(array)

    def _moved(self) -> np.ndarray:
        """The frame as it was stored: from raw/0, or from its source, moved as it was then."""
        row = self.row or {}
        dy, dx = (row[k] for k in ("dy", "dx")) if row.get("dy") is not None else self.run.column("shift")[self.i]
        settings = self.run.attrs.get("settings", {}).get("align", {})
        errors = []
        for source in (self._kept, self._raw):
            try:
                raw = source()
            except EmstreamError as error:
                errors.append(str(error))
                continue
            for mode in dict.fromkeys((settings.get("resample", "integer"), "integer")):
                pixels, _ = align.move(raw, (float(dy), float(dx)), mode=mode)
                try:
                    return self._checked(pixels, "crc32c")
                except StoreDamaged as error:
                    errors.append(str(error))
        raise StoreDamaged(errors[-1])

    def _kept(self) -> np.ndarray:
        """From raw/0, when that is there and sound."""
        if "raw/0" in self.wrong or self.run.raw is None:
            raise NotARun("raw frames were not kept")
        return self._checked(np.asarray(self.run.raw[self.i]), "source_crc32c")

    def _raw(self) -> np.ndarray:
        if self._source is None:
            if self.row is None:
                raise StoreDamaged("neither the ledger nor the run's journal knows where the frame came from")
            self._source = self.again(self.row)
        if self._source.shape != self.run.shape:
            raise StoreDamaged(f"{self.row and self.row['path']} holds frames of another shape now")
        return self._source

    def _checked(self, pixels: np.ndarray, key: str) -> np.ndarray:
        """The pixels, when they are the ones that were stored."""
        kept = None if self.row is None else self.row.get(key)
        if kept is None:
            raise StoreDamaged("no checksum was kept of it")
        if crc32c(little(pixels, self.run.dtype.name)) != kept:
            raise StoreDamaged(f"{self.row and self.row['path']} gives other pixels than the ones that were stored")
        return pixels
