"""Frames of a run, read once more from where they came from: what `check --repair` mends a run with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emstream.errors import EmstreamError, NotARun, SourceMissing
from emstream.source import SourceOptions
from emstream.source.archive import replay
from emstream.source.formats import FrameSource, open_source
from emstream.store.check import Report
from emstream.store.repair import repair as mend
from emstream.store.run import Run


def repair(path: Path, source: Path | None = None, progress: Callable[[int, int], None] | None = None) -> Report:
    """Mend a run; see store.repair.

    source : the folder that was watched, when it lies elsewhere now; None = where the run says it was
    raises : NotARun, StoreBusy, SourceMissing when `source` is not there
    """
    if source is not None and not source.is_dir():
        raise SourceMissing(f"the folder {source} is not there", "check the path or the mount")
    again = Again(path, source)
    try:
        return mend(path, again, progress)
    finally:
        again.close()


class Again:
    """Calls with a row of the ledger give the frame, (y, x) as the camera wrote it; raise EmstreamError.

    The folder that was watched is not told in so many words: a run names its own file or folder in it, and each frame
    its path from there on. So it is the first folder, going up, below which that path leads to a file.
    """

    def __init__(self, run: Path, source: Path | None) -> None:
        self._run, self._given = run, source
        self._open: tuple[Path, FrameSource] | None = None

    def __call__(self, row: Mapping[str, Any]) -> np.ndarray:
        attrs = Run(self._run).attrs
        file = self._find(str(row["path"]), str(attrs.get("source") or ""))
        if attrs.get("reprocessed"):
            aligned = attrs.get("settings", {}).get("align", {}).get("enabled", True)
            for frame in replay(file, start=int(row["sub"]), stop=int(row["sub"]) + 1, moved=not aligned):
                return np.asarray(frame.pixels)
            raise SourceMissing(f"{file} has no frame {row['sub']}")
        if self._open is None or self._open[0] != file:
            self.close()
            self._open = file, open_source(file, _options(attrs))
            self._open[1].poll()
        try:
            return self._open[1].read(int(row["sub"]))
        except OSError as error:
            if isinstance(error, EmstreamError):
                raise
            raise SourceMissing(f"{file} cannot be read: {error}") from error

    def close(self) -> None:
        """Give the file back."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _find(self, path: str, told: str) -> Path:
        if not told and self._given is None:
            raise NotARun("the run does not say where it came from", "--source names the folder that was watched")
        start = Path(told)
        for root in [self._given] if self._given is not None else [start, *start.parents]:
            if path and (root / path).exists():
                return root / path
        raise SourceMissing(
            f"its source {path} is not below {self._given or told}",
            "" if self._given else "--source names the folder when it moved",
        )


def _options(attrs: Mapping[str, Any]) -> SourceOptions:
    """How the run's files were read: what its settings say, as far as this version knows them."""
    told = attrs.get("settings", {}).get("source", {})
    known = {f.name for f in dataclasses.fields(SourceOptions)}
    chosen: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items() if k in known}
    return SourceOptions(**chosen)
