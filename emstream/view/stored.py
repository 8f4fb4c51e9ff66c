"""The page on runs that are stored: looked at frame by frame, also while they grow."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from emstream import measure
from emstream.errors import EmstreamError, NotARun
from emstream.messages import Rect, Status
from emstream.metrics import Metrics
from emstream.store.run import Run
from emstream.view import ViewOptions, particles
from emstream.view.history import History
from emstream.view.latest import Latest
from emstream.view.server import Server, start
from emstream.view.shown import DaemonStatus, Shown, whereabouts


class Stored:
    """Runs under a folder, or one run; opened when they are asked for. Safe to use from several threads."""

    def __init__(self, path: str | Path, history: int = 4096) -> None:
        self.path, self.history = Path(path), history
        self._lock = threading.Lock()
        self._curves: dict[tuple[str, int, str], dict[str, Any]] = {}  # run, frames, state → its curves
        self._runs: dict[str, Run] = {}

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
                run = self.run(name)
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

    def run(self, name: str) -> Run:
        """The run of that name.

        raises : NotARun; names with a path in them are never opened
        """
        if name not in self.names():
            raise NotARun(f"there is no run {name!r} here")
        with self._lock:
            if name not in self._runs:
                self._runs[name] = Run(self.path if self.path.suffix == ".zarr" else self.path / f"{name}.zarr")
            return self._runs[name]

    def frame(self, run: str, index: int) -> Shown:
        """One stored frame with its labels and numbers. raises : NotARun, FrameOutOfRange, StoreDamaged"""
        source = self.run(run)
        pixels = source.frame(index)
        status = int(_cell(source, "status", index, 0))
        labelled = bool(status & Status.SEGMENTED)
        labels = source.label(index) if labelled else None
        shift = _cell(source, "shift", index, (0.0, 0.0))
        y, x = float(shift[0]), float(shift[1])
        valid = _covered(pixels.shape, (y, x))
        rest = (y - math.floor(y + 0.5), x - math.floor(x + 0.5)) if math.isfinite(y + x) else (0.0, 0.0)
        columns = measure.particles(labels, valid=valid, shift_rest=rest) if labels is not None else {}
        models = source.models
        return Shown(
            run=run,
            frame=index,
            time_s=float(_cell(source, "time_s", index, math.nan)),
            pixels=pixels,
            label_image=labels,
            pixel_size_nm=source.pixel_size_nm,
            valid=valid,
            shift=(y, x),
            confidence=float(_cell(source, "confidence", index, math.nan)),
            anchor=int(_cell(source, "anchor", index, 0)),
            status=status,
            drift_speed=_speed(source, index),
            count=len(columns["label"]) if columns else None,
            area_fraction=float(_cell(source, "area_fraction", index, math.nan)),
            labels=columns.get("label"),
            tracks=particles.tracks_of(source, index, columns["label"]) if columns else None,
            areas=whereabouts(columns)[0],
            places=whereabouts(columns)[1],
            diameters=np.asarray(columns.get("diameter", ()), np.float32),
            model=models[-1]["name"] if models and labelled else "",
        )

    def events(self, run: str, track: int | None = None) -> list[dict[str, Any]]:
        """The last 50 events of a run, or those of one track, in the order of frames. raises : NotARun"""
        return particles.events(self.run(run), track)

    def track(self, run: str, number: int, points: bool = True) -> dict[str, Any] | None:
        """One particle through time, see `particles.track`; None when no table knows it. raises : NotARun"""
        return particles.track(self.run(run), number, points)

    def curves(self, run: str) -> dict[str, Any]:
        """The curves of a whole run from its columns and its particle table, as `History.since`. raises : NotARun"""
        source = self.run(run)
        key = (run, source.n, source.state)
        with self._lock:
            if key not in self._curves:
                self._curves = {k: v for k, v in list(self._curves.items())[-7:] if k[0] != run}
                self._curves[key] = _curves(source, self.history)
            return {"run": run, **self._curves[key]}


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


def _cell(run: Run, name: str, index: int, otherwise: Any) -> Any:
    """A value of `frames/`; `otherwise` where the run has no such column or row."""
    try:
        return run.column(name)[index]
    except (KeyError, IndexError):
        return otherwise


def _speed(run: Run, index: int) -> float:
    """Drift speed, px/s, from this frame and the one before; NaN for the first and across anchors."""
    if index < 1:
        return math.nan
    time_s, shift, anchor = (run.column(name)[index - 1 : index + 1] for name in ("time_s", "shift", "anchor"))
    if len(time_s) < 2 or time_s[1] <= time_s[0] or anchor[0] != anchor[1]:
        return math.nan
    return float(np.hypot(*(shift[1] - shift[0])) / (time_s[1] - time_s[0]))


def _covered(shape: tuple[int, ...], shift: tuple[float, float]) -> Rect:
    """What a frame moved by `shift` covers of its anchor's canvas."""
    from emstream.align import covered

    if not all(math.isfinite(s) for s in shift):
        return (0, shape[0], 0, shape[1])
    return covered((shape[0], shape[1]), shift)


def _curves(run: Run, capacity: int) -> dict[str, Any]:
    n = run.n
    columns = {name: run.column(name)[:n] for name in ("time_s", "shift", "confidence", "particles", "area_fraction")}
    n = min(n, *(len(c) for c in columns.values()))
    rows = np.unique(np.r_[np.arange(0, n, max(1, math.ceil(n / capacity))), n - 1]) if n else np.empty(0, int)
    sizes = _sizes(run)
    history = History(capacity)
    for i in rows.tolist():
        row = {
            "time_s": columns["time_s"][i],
            "shift_y": columns["shift"][i, 0],
            "shift_x": columns["shift"][i, 1],
            "confidence": columns["confidence"][i],
        }
        if columns["particles"][i] >= 0:
            row |= {
                "particles": columns["particles"][i],
                "area_fraction": columns["area_fraction"][i],
                **sizes.get(i, {}),
            }
        history.put(i, {k: float(v) for k, v in row.items()})
    return history.since()


def _sizes(run: Run) -> dict[int, dict[str, float]]:
    """median, q10, q90 of the diameters (px) of each frame, from the particle table; {} when there is none yet."""
    try:
        table = run.table("particles")
    except (KeyError, OSError, ValueError):  # not written yet, or being written
        return {}
    size = run.pixel_size_nm
    name, per_px = ("diameter_px", 1.0) if size is None else ("diameter_nm", math.sqrt(size[0] * size[1]))
    if name not in table or table.empty:
        return {}
    found = table.groupby("frame")[name].quantile(np.array([0.1, 0.5, 0.9])).unstack() / per_px
    return {
        int(frame): {"q10": q10, "median": median, "q90": q90}
        for frame, q10, median, q90 in zip(found.index, found[0.1], found[0.5], found[0.9])
    }
