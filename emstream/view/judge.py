"""Whether an alarm's condition holds: pure, one number after the other, in bounded memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from emstream.view.rules import Rule

PIECES = 64  # into which the time that a change looks back is cut
CLEAR_S = 1.0  # an alarm ends once its condition has not held for so long, or for the rule's own time
LEAST_SILENCE_S = 1.0  # disks and networks are never more regular than that
ARRIVALS = 33  # frames from which the time between frames is known


@dataclass(frozen=True, slots=True)
class State:
    """What a rule remembers. value : what was compared with its limit, in the rule's unit (a share for %)."""

    active: bool = False
    value: float = math.nan
    time_s: float = -math.inf  # of the newest number
    since: float = math.inf  # when the condition began to hold, or to fail while active
    recent: tuple[float, ...] = ()  # the last three numbers
    pieces: tuple[tuple[float, float, float], ...] = ()  # begin, lowest, highest of each piece of the window


def step(rule: Rule, state: State, time_s: float, value: float) -> State:
    """The state after one more number.

    A level (`>`, `<`) holds when the number is beyond the limit. A change holds when the median of the last three
    numbers, which a single odd frame cannot move, is that far below (`fell`) the highest or above (`rose`) the lowest
    of such medians of the last `window_s` seconds, absolute or as a share of it; `changed` takes either. What holds for
    `for_s` makes the alarm active; it ends once the condition has failed for as long, at least CLEAR_S.

    time_s : s, of the number; when it goes back, another recording has begun and the past is forgotten
    value  : in the rule's unit; NaN (not known) changes nothing
    """
    if math.isnan(value):
        return state
    if time_s < state.time_s:
        state = State(active=state.active)
    if rule.kind in ("above", "below"):
        told, holds = value, value > rule.limit if rule.kind == "above" else value < rule.limit
    else:
        state, told = _changed(rule, state, time_s, value)
        holds = told >= rule.limit - 1e-12
    return _settle(rule, replace(state, value=told, time_s=time_s), holds)


def silence(rule: Rule, waited_s: float, period_s: float) -> State:
    """The state of a rule about silence.

    waited_s : since the last frame came; NaN when none is expected
    period_s : between frames, see `period`; NaN when not known yet
    """
    limit = max(rule.limit * period_s, LEAST_SILENCE_S) if rule.periods else rule.limit
    return State(active=waited_s > limit, value=waited_s)


def period(taken_s: Sequence[float], came_s: Sequence[float]) -> float:
    """Time between frames, s: the camera's own, or that in which they really come when that is longer.

    taken_s, came_s : the last frames' times by the camera and by arrival; frames may come in bursts, so the median of
                      the first and the mean of the second are taken. NaN with fewer than two frames
    """
    if len(came_s) < 2:
        return math.nan
    taken = sorted(b - a for a, b in itertools.pairwise(taken_s))[(len(taken_s) - 1) // 2]
    came = (came_s[-1] - came_s[0]) / (len(came_s) - 1)
    return max(came, taken) if math.isfinite(taken) else came


def _changed(rule: Rule, state: State, time_s: float, value: float) -> tuple[State, float]:
    recent = (*state.recent, value)[-3:]
    here = sorted(recent)[len(recent) // 2] if len(recent) == 3 else recent[0]
    pieces = tuple(p for p in state.pieces if time_s - p[0] <= rule.window_s)
    if pieces and time_s - pieces[-1][0] < rule.window_s / PIECES:
        begin, low, high = pieces[-1]
        pieces = (*pieces[:-1], (begin, min(low, here), max(high, here)))
    else:
        pieces = (*pieces, (time_s, here, here))
    low, high = min(p[1] for p in pieces), max(p[2] for p in pieces)
    fell, rose = high - here, here - low
    if rule.relative:
        fell, rose = fell / abs(high) if high else 0.0, rose / abs(low) if low else 0.0
    told = {"fell": fell, "rose": rose}.get(rule.kind, max(fell, rose))
    return replace(state, recent=recent, pieces=pieces), told


def _settle(rule: Rule, state: State, holds: bool) -> State:
    if holds == state.active:
        return replace(state, since=math.inf)
    since = min(state.since, state.time_s)
    enough = max(rule.for_s, CLEAR_S) if state.active else rule.for_s
    if state.time_s - since >= enough:
        return replace(state, active=holds, since=math.inf)
    return replace(state, since=since)
