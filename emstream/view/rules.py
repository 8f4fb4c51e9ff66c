"""The language of alarms: `count fell 30 % in 5 s`, `drift > 2 nm/s for 3 s`, `no frame for 3 periods`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from emstream.errors import BadRule

Kind = Literal["above", "below", "fell", "rose", "changed", "silence"]

LONGEST_S = 3600.0  # what is compared may not lie further back
LONGEST_RULE = 160  # characters

_LENGTH = {"nm": ("nm", 1.0), "µm": ("nm", 1e3), "um": ("nm", 1e3), "px": ("px", 1.0)}
_PER = {"s": 1.0, "min": 1 / 60, "h": 1 / 3600}
_SPEED = {f"{a}/{b}": (scale, k * per) for a, (scale, k) in _LENGTH.items() for b, per in _PER.items()}
_DENSITY = {f"/{a}{two}": (scale, k**-2) for a, (scale, k) in _LENGTH.items() for two in ("2", "²")}
_SHARE = {"": ("", 1.0), "%": ("", 0.01)}
_TIME = {"s": ("", 1.0), "ms": ("", 1e-3), "min": ("", 60.0), "h": ("", 3600.0)}
_BYTES = {u: ("", 1e3**i) for i, u in enumerate(("B", "kB", "MB", "GB", "TB"))}
_COUNT = {"": ("", 1.0), "particles": ("", 1.0), "frames": ("", 1.0), "files": ("", 1.0), "events": ("", 1.0)}
_RATE = {"frames/s": ("", 1.0), "fps": ("", 1.0)}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number that an alarm can watch. units : how it may be written → (its scale: nm, px or none, factor)."""

    name: str
    meaning: str
    units: dict[str, tuple[str, float]]
    aliases: tuple[str, ...] = ()
    of_daemon: bool = False  # told by the daemon about itself, in wall-clock time; else by each frame, in its own time


QUANTITIES = (
    Quantity("particles", "particles in the frame", _COUNT, ("count", "particle count", "number")),
    Quantity("density", "particles per covered area", _DENSITY, ("number density",)),
    Quantity("diameter", "median equivalent diameter", _LENGTH, ("median", "median diameter", "size")),
    Quantity("mean", "mean equivalent diameter", _LENGTH, ("mean diameter",)),
    Quantity("area", "share of the covered area that particles cover", _SHARE, ("covered area", "area fraction")),
    Quantity("growth", "mean dR/dt of the tracks", _SPEED, ("growth rate",)),
    Quantity("drift", "drift speed", _SPEED, ("drift speed", "speed")),
    Quantity("shift", "length of the shift onto the anchor frame", _LENGTH),
    Quantity("confidence", "confidence of the shift, 0..1", _SHARE),
    Quantity("agreement", "how far network and classical method agree, 0..1", _SHARE),
    Quantity("events", "events so far", _COUNT),
    *(Quantity(f"{k}s", f"{k}s so far", _COUNT, (k,)) for k in ("nucleation", "dissolution", "coalescence", "split",
                                                                "detachment")),
    Quantity("throughput", "frames committed per second", _RATE, ("frame rate", "fps"), True),
    Quantity("lag", "from the camera's write to commit", _TIME, of_daemon=True),
    Quantity("backlog", "frames kept but not segmented yet", _COUNT, ("to segment",), True),
    Quantity("pending", "frames found but not kept yet", _COUNT, of_daemon=True),
    Quantity("quarantined", "files that could not be read", _COUNT, ("set aside",), True),
    Quantity("lost", "frames that were seen and are gone", _COUNT, ("lost frames",), True),
    Quantity("free", "free space where the runs are", _BYTES, ("free space", "disk"), True),
)  # fmt: skip
_NAMED = {name: q for q in QUANTITIES for name in (q.name, *q.aliases)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One alarm. Limits are in the rule's own unit; see `judge.step` for what they mean."""

    name: str
    text: str  # as it can be read and parsed again
    kind: Kind
    quantity: str  # a name of QUANTITIES; "frame" for silence
    limit: float  # value, amount of change, or frame periods / seconds of silence
    unit: str = ""
    relative: bool = False  # the amount is a share 0..1 of what was before
    window_s: float = 0.0  # how far back a change is looked for
    for_s: float = 0.0  # how long it must hold
    periods: bool = False  # silence is counted in frame periods

    @property
    def of_daemon(self) -> bool:
        """Whether its number comes from the daemon, not with each frame."""
        return self.kind != "silence" and _NAMED[self.quantity].of_daemon

    def factor(self, nm_per_px: float | None) -> float:
        """What turns a value in px (px/s, px⁻²) or base units into the rule's unit; NaN when the calibration lacks.

        nm_per_px : None when the pixel size is unknown
        """
        if self.kind == "silence" or self.relative:
            return 1.0
        scale, size = _NAMED[self.quantity].units[self.unit]
        if scale == "":
            return 1.0 / size
        power = -2 if self.quantity == "density" else 1
        if scale == "px":
            return 1.0 / size
        return math.nan if nm_per_px is None else nm_per_px**power / size


Made: TypeAlias = tuple[Kind, str, float, str, str, dict[str, Any]]  # kind, quantity, limit, unit, words, the rest

_NUMBER = r"(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)"
_UNIT = r"(?P<unit>%|[a-zµ/]*[²2]?(?:/[a-z]+)?)"
_SPAN = r"(?P<{0}>\d+\.?\d*|\.\d+)\s*(?P<{0}_unit>ms|s|seconds?|min|minutes?|h|hours?)"
_HOLD = rf"(?:\s+for\s+{_SPAN.format('hold')})?"
_LEVEL = re.compile(rf"(?P<what>[a-z ]+?)\s*(?P<op>>=?|<=?|above|below)\s*{_NUMBER}\s*{_UNIT}{_HOLD}", re.I)
_CHANGE = re.compile(
    rf"(?P<what>[a-z ]+?)\s+(?P<op>fell|falls|rose|rises|changed|changes)\s+(?:by\s+)?{_NUMBER}\s*{_UNIT}\s+(?:in|within)"
    rf"\s+{_SPAN.format('window')}{_HOLD}",
    re.I,
)
_SILENCE = re.compile(r"no\s+frames?\s+for\s+(?P<number>\d+\.?\d*|\.\d+)\s*(?P<unit>periods?|ms|s|seconds?|min|minutes?|h|hours?)", re.I)  # fmt: skip
_NAME = re.compile(r"^\s*(?P<name>[^:<>]{1,40}?)\s*:\s*(?P<rule>.+)$")
_EXAMPLES = "for example: count fell 30 % in 5 s · drift > 2 nm/s for 3 s · no frame for 3 periods"


def parse(text: str) -> Rule:
    """The rule that a line says: `[NAME:] WHAT > NUMBER UNIT [for TIME]`, `[NAME:] WHAT fell|rose|changed NUMBER UNIT|%
    in TIME [for TIME]`, or `[NAME:] no frame for NUMBER periods|TIME`.

    raises : BadRule
    """
    line = " ".join(text.split())
    if not line or len(line) > LONGEST_RULE or not line.isprintable():
        raise BadRule("an alarm is one line of at most 160 characters", _EXAMPLES)
    named = _NAME.match(line)
    name, rule = (named["name"], named["rule"]) if named else ("", line)
    if found := _SILENCE.fullmatch(rule):
        made = _silence(found)
    elif found := _CHANGE.fullmatch(rule):
        made = _change(found)
    elif found := _LEVEL.fullmatch(rule):
        made = _level(found)
    else:
        raise BadRule(f"{rule!r} is no alarm", _EXAMPLES)
    kind, quantity, limit, unit, words, more = made
    return Rule(
        name=name or words, text=f"{name}: {words}" if name else words, kind=kind, quantity=quantity, limit=limit,
        unit=unit, **more,
    )  # fmt: skip


def _level(found: re.Match[str]) -> Made:
    quantity, limit, hold = _quantity(found["what"]), float(found["number"]), _seconds(found, "hold")
    unit = _unit(quantity, found["unit"])
    up = found["op"][0] in ">aA"
    words = f"{quantity.name} {'>' if up else '<'} {_say(limit, unit)}{_for(hold)}"
    return "above" if up else "below", quantity.name, limit, unit, words, {"for_s": hold}


def _change(found: re.Match[str]) -> Made:
    quantity, amount = _quantity(found["what"]), float(found["number"])
    kind: Kind = "fell" if found["op"].lower().startswith("f") else "rose" if found["op"][0] in "rR" else "changed"
    window, hold, relative = _seconds(found, "window"), _seconds(found, "hold"), found["unit"] == "%"
    unit = "%" if relative else _unit(quantity, found["unit"])
    if amount <= 0 or window <= 0:
        raise BadRule(f"{found[0]!r}: the amount and the time must be above 0", "count fell 30 % in 5 s")
    if kind == "fell" and relative and amount >= 100:
        raise BadRule(f"{found[0]!r}: nothing falls by 100 % or more", "count < 1")
    words = f"{quantity.name} {kind} {_say(amount, unit)} in {_span(window)}{_for(hold)}"
    more = {"relative": relative, "window_s": window, "for_s": hold}
    return kind, quantity.name, amount / 100 if relative else amount, unit, words, more


def _silence(found: re.Match[str]) -> Made:
    if float(found["number"]) <= 0:
        raise BadRule(f"{found[0]!r}: the time must be above 0", "no frame for 3 periods")
    if found["unit"].lower().startswith("p"):
        n = float(found["number"])
        return "silence", "frame", n, "periods", f"no frame for {n:g} periods", {"periods": True}
    wait = _seconds(found, "number", "unit")
    return "silence", "frame", wait, "s", f"no frame for {_span(wait)}", {}


def _quantity(text: str) -> Quantity:
    name = " ".join(text.lower().split())
    if name not in _NAMED:
        raise BadRule(f"{name!r} is no number that alarms know", f"there are {', '.join(q.name for q in QUANTITIES)}")
    return _NAMED[name]


def _unit(quantity: Quantity, text: str) -> str:
    unit = text if text in quantity.units else text.lower().replace("um", "µm")
    if unit not in quantity.units:
        known = ", ".join(u or "no unit" for u in quantity.units if not u.startswith(("um", "/um")) and u[-1:] != "2")
        raise BadRule(f"{quantity.name} is not told in {text or 'a bare number'}", f"write {known}")
    return unit


def _seconds(found: re.Match[str], number: str, unit: str = "") -> float:
    if found[number] is None:
        return 0.0
    per = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    written = found[unit or f"{number}_unit"].lower()
    seconds = float(found[number]) * (per["ms"] if written == "ms" else per[written[0]])
    if seconds > LONGEST_S:
        raise BadRule(f"{found[0]!r} looks further back than an hour", "give at most 60 min")
    return seconds


def _say(value: float, unit: str) -> str:
    return f"{value:g} {unit}".rstrip()


def _span(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 120 else f"{seconds:g} s"


def _for(hold: float) -> str:
    return f" for {_span(hold)}" if hold else ""
