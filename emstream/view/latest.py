"""The newest result of every run: one slot, overwritten; readers never slow the writer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from emstream.view.growth import Growth
from emstream.view.history import History
from emstream.view.shown import DaemonStatus, Shown

EVENTS = 4096  # kept of each run; the store has them all
EVENT = ("frame", "time_s", "kind", "track", "other_track")
RUNS = 3  # that keep their newest frame in memory; the store has the others


@dataclass(eq=False)
class _Slot:
    history: History
    newest: Shown | None = None
    segmented: Shown | None = None  # newest frame that has labels
    version: int = 0
    events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=EVENTS))
    told: int = 0  # events so far
    growth: Growth = field(default_factory=Growth)


class Latest:
    """Where the loop leaves what is newest, and where every page looks. Safe to use from several threads.

    `show` costs microseconds and never waits for a reader. A frame older than the one that is shown (the branch
    that catches up) only fills the curves.
    """

    def __init__(self, history: int = 4096) -> None:
        self._lock = threading.Lock()
        self._history = history
        self._slots: dict[str, _Slot] = {}
        self._current = ""
        self._status = DaemonStatus()
        self._version = 0
        self._listeners: list[Callable[[], None]] = []

    def show(self, shown: Shown, front: bool = True) -> Shown:
        """A frame was aligned, or segmented and measured: shown when it is the newest, in the curves in any case.

        front   : false when its run is not to be the current one
        returns : the frame with what is known now of how its particles grow
        """
        with self._lock:
            slot = self._slot(shown.run)
            if shown.tracks is not None:
                slot.growth.add(shown.time_s, shown.tracks, shown.diameters, shown.whole)
                rate, error = slot.growth.of(shown.tracks)
                shown = replace(shown, growth=rate, growth_error=error, pace=slot.growth.pace)
            slot.history.add(shown)
            slot.events.extend({key: event[key] for key in EVENT} for event in shown.events)
            slot.told += len(shown.events)
            self._version += 1
            slot.version = self._version
            if slot.newest is None or shown.frame >= slot.newest.frame:
                slot.newest = shown
                self._current = shown.run if front else self._current
            if shown.count is not None and (slot.segmented is None or shown.frame >= slot.segmented.frame):
                slot.segmented = shown
            listeners = tuple(self._listeners)
        for wake in listeners:
            wake()
        return shown

    def tell(self, run: str, frame: int, time_s: float, kind: str, text: str) -> None:
        """Something that happened to the run, not to a particle, for the list of events."""
        with self._lock:
            slot = self._slot(run)
            event = {"frame": frame, "time_s": time_s, "kind": kind, "track": -1, "other_track": -1, "text": text}
            slot.events.append(event)
            slot.told += 1

    def recall(self, run: str, history: History) -> None:
        """The curves of frames that are already stored, when a run goes on after a restart."""
        with self._lock:
            self._slot(run).history = history

    def _slot(self, run: str) -> _Slot:
        slot = self._slots.setdefault(run, _Slot(History(self._history)))
        for old in [name for name in self._slots if name not in (run, self._current)][
            : max(0, len(self._slots) - RUNS)
        ]:
            del self._slots[old]  # the store has it
        return slot

    def status(self, status: DaemonStatus) -> None:
        """What the daemon says of itself now."""
        with self._lock:
            self._status = status

    def newest(self, run: str | None = None) -> Shown | None:
        """The newest frame of `run`, by default of the run that got a frame last; None before the first."""
        with self._lock:
            slot = self._slots.get(run or self._current)
            return slot.newest if slot else None

    def look(self, run: str | None = None) -> tuple[int, Shown, Shown | None] | None:
        """(version, newest frame, newest frame with labels) of a run; the version grows with every frame."""
        with self._lock:
            slot = self._slots.get(run or self._current)
            if slot is None or slot.newest is None:
                return None
            return slot.version, slot.newest, slot.segmented

    def daemon(self) -> DaemonStatus:
        """What the daemon last said of itself."""
        with self._lock:
            return self._status

    def runs(self) -> list[str]:
        """Names of the runs that have a frame, oldest first."""
        with self._lock:
            return list(self._slots)

    @property
    def current(self) -> str:
        """The run that got a frame last; "" before the first."""
        return self._current

    def curves(self, run: str | None = None, version: int = 0, stride: int = 0) -> dict[str, Any] | None:
        """The curves of a run as JSON, see `History.since`; None when the run is unknown."""
        with self._lock:
            slot = self._slots.get(run or self._current)
            return None if slot is None else {"run": run or self._current, **slot.history.since(version, stride)}

    def distribution(self, run: str | None = None) -> dict[str, Any] | None:
        """How the sizes of a run change, see `History.distribution`; None when the run is unknown."""
        with self._lock:
            slot = self._slots.get(run or self._current)
            return None if slot is None else {"run": run or self._current, **slot.history.distribution()}

    def events(self, run: str | None = None, since: int = 0, track: int | None = None) -> dict[str, Any] | None:
        """Events as they became known: the last 50 of those after the `since`-th, or all that are kept of one track.

        returns : run, version (give it as `since` next time), events [{frame, time_s, kind, track, other_track}],
                  those of kind `model` with `text` and no track (-1); None when the run is unknown
        """
        with self._lock:
            slot = self._slots.get(run or self._current)
            if slot is None:
                return None
            kept, told = list(slot.events), slot.told
        if track is not None:
            found = [event for event in kept if track in (event["track"], event["other_track"])]
        else:
            new = told - since if 0 <= since <= told else told
            found = kept[len(kept) - min(new, len(kept), 50) :]
        return {"run": run or self._current, "version": told, "events": found}

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` (must not block) after every `show`; returns what ends it."""
        with self._lock:
            self._listeners.append(wake)

        def unsubscribe() -> None:
            with self._lock:
                if wake in self._listeners:
                    self._listeners.remove(wake)

        return unsubscribe
