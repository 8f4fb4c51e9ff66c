"""The page on runs that are stored: looked at frame by frame, also while they grow."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from emstream.errors import EmstreamError, NotARun
from emstream.metrics import Metrics
from emstream.store.run import Run
from emstream.view import ViewOptions, particles
from emstream.view.history import History
from emstream.view.latest import Latest
from emstream.view.line import Line
from emstream.view.opened import Opened
from emstream.view.server import Server, start
from emstream.view.shown import DaemonStatus, Shown, finite

OPEN = 8  # runs that are remembered


class Stored:
    """Runs under a folder, or one run; opened when they are asked for. Safe to use from several threads."""

    def __init__(self, path: str | Path, history: int = 4096) -> None:
        self.path, self.history = Path(path), history
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Opened] = OrderedDict()

    def names(self) -> list[str]:
        """Runs that are here, oldest first."""
        if self.path.suffix == ".zarr":
            return [self.path.stem]
        if not self.path.is_dir():
            return []
        found = [p for p in self.path.glob("*.zarr") if (p / "zarr.json").is_file()]
        return [p.stem for p in sorted(found, key=_begun)]

    def runs(self) -> list[dict[str, Any]]:
        """name, frames, state, shape, dtype, pixel_size_nm of every run that can be read, oldest first."""
        rows = []
        for name in self.names():
            try:
                run = Run(self._where(name))
                attrs = run.attrs
                rows.append(
                    {
                        "name": name,
                        "frames": run.n,
                        "state": attrs.get("state"),
                        "shape": list(run.shape),
                        "dtype": run.dtype.name,
                        "pixel_size_nm": attrs.get("pixel_size_nm"),
                    }
                )
            except (EmstreamError, OSError, ValueError, KeyError):  # not begun, or being taken away: shown next time
                continue
        return rows

    def _where(self, name: str) -> Path:
        return self.path if self.path.suffix == ".zarr" else self.path / f"{name}.zarr"

    def opened(self, name: str) -> Opened:
        """The run of that name, with what is remembered of it.

        raises : NotARun; names with a path in them are never opened
        """
        known = bool(name) and Path(name).name == name and self._where(name).name == f"{name}.zarr"
        if not known or not (self._where(name) / "zarr.json").is_file():
            raise NotARun(f"there is no run {name!r} here")
        with self._lock:
            if name not in self._open:
                self._open[name] = Opened(Run(self._where(name)), self.history)
                if len(self._open) > OPEN:
                    self._open.popitem(last=False)
            self._open.move_to_end(name)
            return self._open[name]

    def run(self, name: str) -> Run:
        """The run of that name. raises : NotARun"""
        return self.opened(name).run

    def frame(self, run: str, index: int, size: int = 512) -> Shown:
        """One stored frame with its labels and numbers. raises : NotARun, FrameOutOfRange, StoreDamaged

        size : px; a coarser level is read where its longer side is no less
        """
        return self.opened(run).frame(index, size)

    def events(self, run: str, track: int | None = None) -> list[dict[str, Any]]:
        """The last 50 events of a run, or those of one track, in the order of frames. raises : NotARun"""
        return particles.events(self.run(run), track)

    def track(self, run: str, number: int, points: bool = True) -> dict[str, Any] | None:
        """One particle through time, see `particles.track`; None when no table knows it. raises : NotARun"""
        return particles.track(self.run(run), number, points)

    def curves(self, run: str, version: int = 0, stride: int = 0) -> dict[str, Any]:
        """The curves of a whole run from its columns and its particle table, as `History.since`. raises : NotARun"""
        return {"run": run, **self.opened(run).grown().since(version, stride)}

    def distribution(self, run: str) -> dict[str, Any]:
        """How the sizes of a run change, as `History.distribution`. raises : NotARun"""
        return {"run": run, **self.opened(run).grown().distribution()}

    def line(self, run: str, line: Line) -> dict[str, Any]:
        """A kymograph, as `Kymograph.picture`, with the times of its frames. raises : NotARun"""
        opened = self.opened(run)
        size = opened.run.pixel_size_nm
        nm = None if size is None else math.sqrt(size[0] * size[1])
        picture = opened.lines.picture(line, opened.run.n, nm)
        return {"run": run, **picture, "time_s": [finite(opened.time_s(i)) for i in picture["frame"]]}

    def labels(self, run: str) -> list[str]:
        """Names of the label images of a run, `particles` first. raises : NotARun"""
        return sorted(self.run(run).label_names, key=lambda name: name != "particles")

    def version(self, run: str, name: str, index: int, size: int = 512) -> np.ndarray | None:
        """Labels of a frame in another label image, of a level fit for `size` px; None when it has none. raises : NotARun"""
        return self.opened(run).version(name, index, size)

    def recall(self, run: str) -> History:
        """The curves of a run that goes on after a restart, for the page of the daemon. raises : NotARun"""
        return self.opened(run).grown()


def serve(path: str | Path, options: ViewOptions) -> Server:
    """The page on a run or a folder of runs; `with serve(…) as server:` or `server.stop()`.

    raises : NotARun when there is nothing to look at, AddressRefused
    """
    stored, latest = Stored(path, options.history), Latest(options.history)
    if not stored.runs():
        raise NotARun(f"{path} is no run of emstream and holds none", "give NAME.zarr, or the folder that holds runs")
    latest.status(DaemonStatus(state="stored"))
    ready: Callable[[], tuple[bool, list[str]]] = lambda: (True, [])  # noqa: E731
    return start(latest, options, metrics=Metrics(), runs=stored.runs, ready=ready, shelf=stored)


def _begun(path: Path) -> tuple[float, str]:
    try:
        chunks = path / "tables"
        return (chunks.stat().st_ctime if chunks.exists() else path.stat().st_ctime), path.name
    except OSError:
        return math.inf, path.name
