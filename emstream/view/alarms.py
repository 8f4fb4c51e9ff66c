"""Alarms that watch the numbers while frames come, whether or not a page is open."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emstream.errors import BadRule
from emstream.messages import Status
from emstream.store.chunks import replace
from emstream.view.judge import ARRIVALS, State, period, silence, step
from emstream.view.rules import Rule, parse
from emstream.view.shown import DaemonStatus, Shown, finite, summary

log = logging.getLogger("emstream.alarms")
TURN_S = 0.25  # how often they are looked at
MOST = 32  # rules
QUEUE = 4096  # frames that may wait for the next turn
DAEMON = {"throughput": "fps", "lag": "lag_s", "backlog": "backlog", "pending": "pending", "quarantined": "quarantined",
          "lost": "lost", "free": "free_bytes"}  # fmt: skip
KINDS = ("nucleation", "dissolution", "coalescence", "split", "detachment")


@dataclass(eq=False)
class _Watched:
    rule: Rule
    fixed: bool  # from the settings: cannot be taken away on the page
    state: State = field(default_factory=State)
    fired: int = 0
    fired_at: float = math.nan  # wall clock
    ended_at: float = math.nan
    frame: int | None = None  # the newest one when it fired
    run: str = ""
    peak: float = math.nan  # its value when it fired
    unseen: bool = False  # fired, and nobody said that they saw it


@dataclass(frozen=True, slots=True)
class _Heard:
    """Numbers of one frame, in px."""

    run: str
    frame: int
    time_s: float
    nm_per_px: float | None
    numbers: Mapping[str, float]


class Alarms:
    """Rules, what they remember, and a thread that looks at them; nobody ever waits for it.

    settings : lines of `view.alarms`
    keep     : JSON file of the rules that were set on the page; None = they are forgotten at the end
    daemon   : what the daemon says of itself now
    tell     : (name, active, fired) after every change, and for each rule at the start; metrics
    send     : a message for the webhook; must not block
    raises   : BadRule
    """

    def __init__(
        self,
        settings: Sequence[str] = (),
        keep: Path | None = None,
        *,
        daemon: Callable[[], DaemonStatus] = DaemonStatus,
        tell: Callable[[str, bool | None, bool], None] = lambda name, active, fired: None,
        send: Callable[[dict[str, Any]], None] = lambda message: None,
    ) -> None:
        self._keep, self._daemon, self._tell, self._send = keep, daemon, tell, send
        self._lock = threading.Lock()
        self._heard: deque[_Heard] = deque(maxlen=QUEUE)
        self._arrived: deque[tuple[float, float]] = deque(maxlen=ARRIVALS)  # came, taken
        self._run, self._frame, self._open = "", -1, True
        self._measured: tuple[str, int] = ("", -1)
        self._happened = dict.fromkeys(KINDS, 0)
        self._watched: dict[str, _Watched] = {}
        for text in settings:
            self._set(parse(text), fixed=True)
        for text in self._kept():
            try:
                self._set(parse(text), fixed=False)
            except BadRule as err:
                log.warning("an alarm that was kept is left out", extra={"rule": text, "why": str(err)})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="alarms", daemon=True)

    # ---- what comes in; called by the loop, costs microseconds -----------------------------------------------------

    def committed(self, shown: Shown) -> None:
        """A frame is safe in the store."""
        self._arrived.append((time.monotonic(), shown.time_s))
        self._open = True
        if shown.status & Status.LATE:  # its time lies before that of others
            return
        self._hear(shown, {
            "drift": shown.drift_speed, "shift": math.hypot(*shown.shift), "confidence": shown.confidence,
        })  # fmt: skip

    def measured(self, shown: Shown) -> None:
        """A frame was measured; an older one than was told already counts for its events alone."""
        for event in shown.events:
            kind = str(event.get("kind"))
            if kind in self._happened:
                self._happened[kind] += 1
        run, newest = self._measured
        if shown.status & Status.LATE or (shown.run == run and shown.frame < newest):
            return
        self._measured = (shown.run, shown.frame)
        sizes = summary(shown.whole_diameters())
        numbers = {"particles": shown.count if shown.count is not None else math.nan, "density": shown.density}
        numbers |= {"diameter": sizes["median"], "mean": sizes["mean"], "area": shown.area_fraction}
        numbers |= {"agreement": shown.agreement, "growth": shown.pace.rate}
        numbers |= {f"{kind}s": n for kind, n in self._happened.items()}
        self._hear(shown, numbers | {"events": sum(self._happened.values())})

    def closed(self) -> None:
        """No run is open: silence is what is expected."""
        self._open = False
        self._arrived.clear()

    def _hear(self, shown: Shown, numbers: Mapping[str, float]) -> None:
        self._heard.append(_Heard(shown.run, shown.frame, shown.time_s, shown.nm_per_px, numbers))

    # ---- rules -----------------------------------------------------------------------------------------------------

    def add(self, text: str) -> dict[str, Any]:
        """Set one more alarm, or another rule for a name that is there. raises : BadRule"""
        rule = parse(text)
        with self._lock:
            if rule.name in self._watched and self._watched[rule.name].fixed:
                raise BadRule(f"the alarm {rule.name!r} stands in the settings", "give this one another name")
            if rule.name not in self._watched and len(self._watched) >= MOST:
                raise BadRule(f"there are {MOST} alarms already", "take one away first")
            self._set(rule, fixed=False)
            self._save()
        return self.told(rule.name)

    def remove(self, name: str) -> bool:
        """Take an alarm away that was set on the page; False when there is none. raises : BadRule for a fixed one"""
        with self._lock:
            watched = self._watched.get(name)
            if watched is None:
                return False
            if watched.fixed:
                raise BadRule(f"the alarm {name!r} stands in the settings", "take it out of view.alarms")
            del self._watched[name]
            self._save()
        self._tell(name, None, False)
        return True

    def seen(self, name: str | None = None) -> None:
        """Somebody saw that it fired; None = all."""
        with self._lock:
            for watched in self._watched.values():
                if name in (None, watched.rule.name):
                    watched.unseen = False

    def told(self, name: str) -> dict[str, Any]:
        """One alarm, as `all` tells it. raises : KeyError"""
        return next(row for row in self.all() if row["name"] == name)

    def all(self) -> list[dict[str, Any]]:
        """JSON: name, rule, fixed, active, unseen, value and unit (what is compared with the limit), fired (times),
        fired_at, ended_at (seconds since 1970), run, frame, peak of the last time."""
        with self._lock:
            return [_row(w) for w in self._watched.values()]

    def _set(self, rule: Rule, *, fixed: bool) -> None:
        self._watched[rule.name] = _Watched(rule, fixed)
        self._tell(rule.name, False, False)

    def _kept(self) -> list[str]:
        try:
            kept = json.loads(self._keep.read_bytes()) if self._keep else []
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as err:
            log.warning("kept alarms cannot be read", extra={"file": str(self._keep), "why": str(err)})
            return []
        return [str(text) for text in kept][:MOST] if isinstance(kept, list) else []

    def _save(self) -> None:
        if self._keep is None:
            return
        texts = [w.rule.text for w in self._watched.values() if not w.fixed]
        try:
            self._keep.parent.mkdir(parents=True, exist_ok=True)
            replace(self._keep, json.dumps(texts, indent=1, ensure_ascii=False).encode(), False)
        except OSError as err:
            log.warning("alarms are not kept", extra={"file": str(self._keep), "why": str(err)})

    # ---- the thread ------------------------------------------------------------------------------------------------

    def start(self) -> Alarms:
        """Look at the rules from now on."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Look at what is left, then end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def _watch(self) -> None:
        while not self._stop.wait(TURN_S):
            self.turn(time.monotonic(), time.time())
        self.turn(time.monotonic(), time.time())

    def turn(self, now: float, wall: float) -> None:
        """Look at every rule once. now : s, the clock of arrivals · wall : s since 1970"""
        heard = [self._heard.popleft() for _ in range(len(self._heard))]
        arrived, daemon = tuple(self._arrived) if self._open else (), self._daemon()
        waited = now - arrived[-1][0] if arrived else math.nan
        quiet = waited, period([a[1] for a in arrived], [a[0] for a in arrived])
        changes: list[tuple[_Watched, bool]] = []
        with self._lock:
            for one in heard:
                if one.run != self._run:
                    self._begin(one.run)
                self._frame = max(self._frame, one.frame)
            for watched in self._watched.values():
                before = watched.state
                for state in self._judged(watched, heard, quiet, daemon, now):
                    if state.active != watched.state.active:
                        changes.append((watched, state.active))
                        self._note(watched, state, wall)
                    watched.state = state
                if before is not watched.state and watched.state.active and not math.isnan(watched.state.value):
                    watched.peak = _worse(watched.rule, watched.peak, watched.state.value)
            told = [(w.rule.name, active, _message(w, active, wall)) for w, active in changes]
        for name, active, message in told:
            self._tell(name, active, active)
            self._send(message)
            log.log(logging.WARNING if active else logging.INFO, message["text"], extra={"alarm": name})

    def _begin(self, run: str) -> None:
        """Another run: what was before is not compared with it."""
        self._run, self._frame = run, -1
        for watched in self._watched.values():
            if not watched.rule.of_daemon and watched.rule.kind != "silence":
                watched.state = State(active=watched.state.active, value=watched.state.value)

    def _judged(
        self, watched: _Watched, heard: list[_Heard], quiet: tuple[float, float], daemon: DaemonStatus, now: float
    ) -> list[State]:
        rule, state, states = watched.rule, watched.state, []
        if rule.kind == "silence":
            return [silence(rule, *quiet)]
        if rule.of_daemon:
            value = getattr(daemon, DAEMON[rule.quantity])
            return [step(rule, state, now, math.nan if value is None else float(value) * rule.factor(None))]
        for one in heard:
            if one.run == self._run and rule.quantity in one.numbers:
                value = one.numbers[rule.quantity]
                state = step(rule, state, one.time_s, value if rule.relative else value * rule.factor(one.nm_per_px))
                states.append(state)
        return states

    def _note(self, watched: _Watched, state: State, wall: float) -> None:
        if state.active:
            watched.fired += 1
            watched.fired_at, watched.ended_at, watched.unseen = wall, math.nan, True
            watched.run, watched.frame, watched.peak = self._run, self._frame if self._frame >= 0 else None, state.value
        else:
            watched.ended_at = wall


def _worse(rule: Rule, a: float, b: float) -> float:
    if math.isnan(a):
        return b
    return min(a, b) if rule.kind == "below" else max(a, b)


def _unit(rule: Rule) -> str:
    return "s" if rule.kind == "silence" else rule.unit


def _said(rule: Rule, value: float) -> float | None:
    """What is compared with the limit, as it is written: a share as percent."""
    return float(f"{value * (100 if rule.relative else 1):.4g}") if math.isfinite(value) else None


def _row(w: _Watched) -> dict[str, Any]:
    rule = w.rule
    return {
        "name": rule.name, "rule": rule.text.removeprefix(f"{rule.name}: "), "fixed": w.fixed,
        "active": w.state.active, "unseen": w.unseen, "value": _said(rule, w.state.value), "unit": _unit(rule),
        "fired": w.fired, "fired_at": finite(w.fired_at), "ended_at": finite(w.ended_at), "run": w.run or None,
        "frame": w.frame, "peak": _said(rule, w.peak),
    }  # fmt: skip


def _message(w: _Watched, active: bool, wall: float) -> dict[str, Any]:
    """What the webhook gets; `text` is what chat programs show."""
    row = _row(w)
    value = row["value"] if active else row["peak"]
    number = "" if value is None else f" ({'it was ' if not active else ''}{value:g} {row['unit']}".rstrip() + ")"
    where = f", run {w.run}, frame {w.frame}" if w.run else ""
    text = f"emstream: {row['name'] if row['name'] == row['rule'] else row['name'] + ': ' + row['rule']}"
    text += number + where if active else f" is over{number}{where}"
    return {"text": text, "state": "active" if active else "over", "at": wall, **{k: row[k] for k in (
        "name", "rule", "value", "unit", "peak", "run", "frame", "fired_at", "ended_at")}}  # fmt: skip
