"""One stored run that somebody looks at: any frame at once, its curves as they grow."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from emstream import measure
from emstream.errors import EmstreamError, NotARun
from emstream.messages import Rect, Status
from emstream.store.run import Run
from emstream.view.growth import LEAST_FRAMES, Growth
from emstream.view.history import History, binned
from emstream.view.line import SAMPLES, Kymograph
from emstream.view.shown import Shown, summary, whereabouts
from emstream.view.table import ParticleTable

ROWS = 256  # of the columns that are read at once
FRESH_S = 1.0  # rows that may still change are read again after this time
SIZED = 512  # points of the curves, about, whose sizes are read from the table of a long run
UNSEGMENTED = 4096  # last frames of a growing run that may have got their particles since
REACH = 100_000  # rows of the table, about, that are read to tell how a particle grew
_CELLS = ("time_s", "shift", "confidence", "anchor", "status", "area_fraction")
_EMPTY = {"time_s": math.nan, "shift": (0.0, 0.0), "confidence": math.nan, "anchor": 0, "status": 0,
          "area_fraction": math.nan}  # fmt: skip


class Opened:
    """A run with what is remembered of it. Safe to use from several threads."""

    def __init__(self, run: Run, capacity: int = 4096) -> None:
        self.run, self.table = run, ParticleTable(run)
        self._history = History(capacity)
        self._rows: dict[int, tuple[float, int, dict[str, np.ndarray]]] = {}  # block → when, rows there were, cells
        self.lines = Kymograph(self._coarse, run.shape)
        self._growing = threading.Lock()
        self._added, self._added_at = (0, ""), -math.inf  # frames whose numbers are in the curves, and the run's state
        self._sizer: threading.Thread | None = None

    # ---- one frame ---------------------------------------------------------------------------------------------

    def frame(self, index: int, size: int) -> Shown:
        """See `Stored.frame`."""
        run = self.run
        pixels = run.frame(index, self._level(size))
        cells = self._cells(index)
        status = int(cells["status"])
        y, x = (float(v) for v in cells["shift"])
        valid = _covered(run.shape, (y, x))
        shown = Shown(
            run=run.name, frame=index, time_s=float(cells["time_s"]), pixels=pixels, full=run.shape,
            pixel_size_nm=run.pixel_size_nm, valid=valid, shift=(y, x), confidence=float(cells["confidence"]),
            anchor=int(cells["anchor"]), status=status, drift_speed=self._speed(index, cells),
        )  # fmt: skip
        return self._with_particles(shown, size, float(cells["area_fraction"])) if status & Status.SEGMENTED else shown

    def _with_particles(self, shown: Shown, size: int, area_fraction: float) -> Shown:
        run, models = self.run, self.run.models
        columns = self.table.frame(shown.frame)
        if columns:
            labels = run.label(shown.frame, self._level(2 * size))
        else:  # not in the table (yet)
            labels, (y, x) = run.label(shown.frame), shown.shift
            rest = (y - math.floor(y + 0.5), x - math.floor(x + 0.5)) if math.isfinite(y + x) else (0.0, 0.0)
            columns = measure.particles(labels, valid=shown.valid, shift_rest=rest)
        tracks = columns.get("track")
        growth = self._growth(shown.frame, shown.time_s)
        rate, error = growth.of(tracks) if tracks is not None else (None, None)
        areas, places = whereabouts(columns)
        return replace(
            shown, label_image=labels, count=len(columns["label"]), area_fraction=area_fraction,
            labels=np.asarray(columns["label"]), diameters=np.asarray(columns["diameter"], np.float32), tracks=tracks,
            areas=areas, places=places, whole=~np.asarray(columns["touches_border"], bool), growth=rate,
            growth_error=error, pace=growth.pace, model=models[-1]["name"] if models else "",
        )  # fmt: skip

    def _coarse(self, index: int) -> tuple[np.ndarray, Rect]:
        """What a kymograph needs of a frame."""
        y, x = (float(v) for v in self._cells(index)["shift"])
        return self.run.frame(index, self._level(SAMPLES)), _covered(self.run.shape, (y, x))

    def time_s(self, index: int) -> float:
        """When a frame was taken; NaN when the run does not tell."""
        return float(self._cells(index)["time_s"])

    def version(self, name: str, index: int, size: int) -> np.ndarray | None:
        """(y, x) labels of a frame in another label image; None when it has none for this frame. raises : NotARun"""
        names = self.run.label_names
        if name not in names:
            raise NotARun(f"the run {self.run.name} has no labels {name!r}", f"there are {', '.join(names)}")
        try:
            return self.run.label(index, self._level(2 * size), name)
        except (OSError, KeyError, IndexError, EmstreamError):
            return None

    def _level(self, size: int) -> int:
        """The coarsest level whose longer side is at least `size`."""
        longer, level = max(self.run.shape), 0
        while level + 1 < self.run.levels and (longer + 1) // 2 >= size:
            longer, level = (longer + 1) // 2, level + 1
        return level

    def _cells(self, index: int) -> dict[str, Any]:
        """The row of a frame in the columns of `frames/`."""
        block, now = index // ROWS, time.monotonic()
        when, n, cells = self._rows.get(block, (-math.inf, 0, {}))
        if index - block * ROWS >= n or (now - when > FRESH_S and not (n == ROWS and self.run.state == "closed")):
            cells, n = {}, ROWS
            for name in _CELLS:
                try:
                    cells[name] = self.run.cells(name, block * ROWS, (block + 1) * ROWS)
                    n = min(n, len(cells[name]))
                except KeyError:  # a run of an older version, or of another program
                    continue
            self._rows[block] = now, n, cells
            while len(self._rows) > 64:
                self._rows.pop(next(iter(self._rows)))
        i = index - block * ROWS
        return {name: cells[name][i] if i < len(cells.get(name, ())) else _EMPTY[name] for name in _CELLS}

    def _speed(self, index: int, cells: dict[str, Any]) -> float:
        """Drift speed, px/s, from this frame and the one before; NaN for the first and across anchors."""
        if index < 1:
            return math.nan
        before = self._cells(index - 1)
        if not cells["time_s"] > before["time_s"] or before["anchor"] != cells["anchor"]:
            return math.nan
        moved = np.asarray(cells["shift"]) - np.asarray(before["shift"])
        return float(np.hypot(*moved) / (cells["time_s"] - before["time_s"]))

    def _growth(self, index: int, time_s: float) -> Growth:
        """How the particles grew in the seconds before a frame."""
        growth, need = Growth(), []
        for part in reversed([p for p in self.table.parts() if p[0] <= index]):
            rows = self.table.rows(part, part[0], index)
            need.append(rows)
            early = len(rows["frame"]) and rows["time_s"][0] < time_s - growth.window_s
            if early or sum(len(r["frame"]) for r in need) > REACH:
                break
        for rows in reversed(need):
            for frame, of in _frames(rows, time_s - growth.window_s):
                growth.add(float(rows["time_s"][of.start]), *_radii(rows, of))
                if frame == index:
                    break
        return growth

    # ---- the curves --------------------------------------------------------------------------------------------

    def grown(self) -> History:
        """The curves with all frames that are published; sizes of a long run follow within seconds."""
        with self._growing:
            n, state, now = self.run.n, self.run.state, time.monotonic()
            if (n, state) != self._added and (now - self._added_at > FRESH_S or state == "closed" or n < ROWS):
                again = 0 if state != self._added[1] else max(0, self._added[0] - UNSEGMENTED)
                self._add(again, n)
                self._added, self._added_at = (n, state), now
                if self._sizer is None or not self._sizer.is_alive():
                    self._sizer = threading.Thread(target=self._size, args=(n,), name="sizes", daemon=True)
                    self._sizer.start()
                    self._sizer.join(1.0 if n <= SIZED else 0.0)  # a short run is whole at once
            return self._history

    def _add(self, begin: int, end: int) -> None:
        """The numbers of frames begin..end, of as many as the curves have points for."""
        columns: dict[str, np.ndarray] = {}
        for name in ("time_s", "shift", "confidence", "status", "particles", "area_fraction", "anchor"):
            try:
                columns[name] = self.run.cells(name, begin, end)
            except KeyError:
                continue
        n = min((len(c) for c in columns.values()), default=0)
        if not n or not {"time_s", "shift", "confidence", "status", "particles"} <= columns.keys():
            return
        history = self._history
        step = max(history.stride, math.ceil((begin + n) / history.capacity))
        rows = np.unique(np.append(np.arange(step - 1 - begin % step, n, step), n - 1))
        speed = _speeds(columns)
        density = _densities(self.run.shape, columns["shift"][rows], columns["particles"][rows])
        bits = (
            np.bitwise_or.reduceat(columns["status"][:n], np.append(0, rows[:-1] + 1)) if n > 1 else columns["status"]
        )
        for k, i in enumerate(rows.tolist()):
            row = {"time_s": columns["time_s"][i], "shift_y": columns["shift"][i, 0], "speed": speed[i],
                   "shift_x": columns["shift"][i, 1], "confidence": columns["confidence"][i]}  # fmt: skip
            if columns["particles"][i] >= 0:
                row |= {"particles": columns["particles"][i], "density": density[k]}
                row["area_fraction"] = columns["area_fraction"][i] if "area_fraction" in columns else math.nan
            history.put(begin + i, {name: float(v) for name, v in row.items()}, int(bits[k]), keep=True)

    def _size(self, n: int) -> None:
        """Sizes and growth for the points of the curves that lack them, from the table."""
        parts = self.table.parts()
        share = max(1, SIZED // max(1, len(parts)))
        growth, before = Growth(), -2
        for k, part in enumerate(parts):
            wanted = self._history.points(range(part[0], part[1] + 1))
            if not wanted:
                continue
            if before != k - 1:
                growth.forget()
            before = k
            every = math.ceil(len(wanted) / share)
            targets = set(wanted[::-1][::every]) if n > SIZED else set(wanted)
            rows = self.table.rows(part, part[0], part[1])
            for frame, of in _frames(rows):
                diameters, whole = rows["diameter"][of], ~rows["touches_border"][of].astype(bool)
                growth.add(float(rows["time_s"][of.start]), rows["track"][of], diameters, whole)
                if frame in targets:
                    sizes = summary(diameters[whole])
                    pace = growth.pace
                    row = {key: sizes[key] for key in ("median", "q10", "q90")}
                    row |= {"growth": pace.rate, "growth_error": pace.error}
                    self._history.size(int(frame), row, binned(diameters[whole]))


def _frames(rows: dict[str, np.ndarray], since_s: float = -math.inf) -> Iterator[tuple[int, slice]]:
    """(frame, its rows) of a part, in order; those before `since_s` are left out, all but a few."""
    names, begins = np.unique(rows["frame"], return_index=True)
    ends = np.append(begins[1:], len(rows["frame"]))
    first = max(0, min(int(np.searchsorted(rows["time_s"][begins], since_s)), len(names) - LEAST_FRAMES))
    for frame, begin, end in zip(names[first:].tolist(), begins[first:].tolist(), ends[first:].tolist()):
        yield frame, slice(begin, end)


def _radii(rows: dict[str, np.ndarray], of: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tracks, diameters px, and which are whole, of some rows: what `Growth.add` takes."""
    return rows["track"][of], rows["diameter"][of], ~rows["touches_border"][of].astype(bool)


def _speeds(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Drift speed of each row, px/s, from the row before; NaN for the first and across anchors."""
    time_s, shift = columns["time_s"], columns["shift"]
    speed = np.full(len(time_s), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        gone = np.diff(time_s)
        speed[1:] = np.where(gone > 0, np.hypot(*np.diff(shift, axis=0).T) / gone, np.nan)
    if "anchor" in columns:
        speed[1:][np.diff(columns["anchor"]) != 0] = np.nan
    return speed


def _densities(shape: tuple[int, int], shift: np.ndarray, particles: np.ndarray) -> np.ndarray:
    """Particles per px² of covered area."""
    covered = np.prod(np.maximum(np.array(shape) - np.abs(np.floor(np.nan_to_num(shift) + 0.5)), 1), axis=1)
    return np.where(particles >= 0, particles / covered, np.nan)


def _covered(shape: tuple[int, int], shift: tuple[float, float]) -> Rect:
    """What a frame moved by `shift` covers of its anchor's canvas."""
    from emstream.align import covered

    if not all(math.isfinite(s) for s in shift):
        return (0, shape[0], 0, shape[1])
    return covered(shape, shift)
