"""Which axes of an array are frames, y and x, and where the others are held: `--select c=0,z=3`; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emstream.errors import BadSettings, UnreadableFile

SAME = {
    "time": "t",
    "frame": "t",
    "frames": "t",
    "height": "y",
    "row": "y",
    "width": "x",
    "column": "x",
    "channel": "c",
}
UNNAMED = {2: "yx", 3: "tyx", 5: "tczyx"}  # what arrays without names of axes mean; five axes: as OME-Zarr once said


@dataclass(frozen=True, slots=True)
class Axes:
    """How an array is read as (t, y, x)."""

    t: int | None  # axis that counts the frames; None: there is one frame
    y: int
    x: int
    fixed: tuple[tuple[int, int], ...]  # (axis, index) of the others

    def index(self, start: int, stop: int) -> tuple[slice | int, ...]:
        """What takes frames start … stop - 1 out of the array."""
        at = dict(self.fixed)
        if self.t is not None:
            at[self.t] = -1
        wanted = slice(start, stop)
        n = len(at) + 2
        return tuple(wanted if k == self.t else at[k] if k in at else slice(None) for k in range(n))

    def turned(self, part: np.ndarray) -> np.ndarray:
        """What `index` took, as (t, y, x)."""
        left = sorted(k for k in (self.t, self.y, self.x) if k is not None)
        order = [left.index(k) for k in (self.t, self.y, self.x) if k is not None]
        part = part.transpose(order)
        return part if self.t is not None else part[np.newaxis]


def asked(select: str) -> dict[str, str]:
    """`c=0,z=3` by axis; `t=z` says that z counts the frames.

    raises : BadSettings
    """
    chosen = {}
    for item in select.replace(";", ",").split(","):
        name, equals, value = item.partition("=")
        if not item.strip():
            continue
        if not equals or not name.strip() or not value.strip():
            raise BadSettings(
                f"--select {item.strip()!r} is not of the form axis=index", "for example --select c=0,z=3"
            )
        chosen[name.strip().casefold()] = value.strip().casefold()
    return chosen


def find(where: Any, names: Sequence[str | None] | None, shape: Sequence[int], select: str, image: bool) -> Axes:
    """The axes of an array.

    where  : the array, for messages
    names  : of its axes, where the file tells them
    select : as the user wrote it
    image  : the names are OME-Zarr's, and mean what they say: z is never time
    raises : UnreadableFile (frames or pictures cannot be told), BadSettings (`select` does not fit)
    """
    known = _named(names, len(shape))
    told = ", ".join(f"{name}={n}" for name, n in zip(known, shape, strict=True))
    chosen = {SAME.get(name, name): value for name, value in asked(select).items()}
    y, x = (_axis(known, name, where, told) for name in "yx")
    counts = SAME.get(chosen.get("t", ""), chosen.get("t", "t"))  # the axis that counts the frames, as the user says
    if counts in known:
        chosen.pop("t", None)
    fixed = {}
    for name, value in chosen.items():
        if name not in known or name in "yx":
            raise BadSettings(f"--select {name}={value}: no such axis to hold in {where}", f"its axes are {told}")
        k = known.index(name)
        if not value.lstrip("-").isdigit() or not -shape[k] <= int(value) < shape[k]:
            raise BadSettings(f"--select {name}={value} in {where}", f"{name} goes from 0 to {shape[k] - 1}")
        fixed[k] = int(value) % shape[k]
    t = known.index(counts) if counts in known and counts not in chosen else None
    left = [k for k in range(len(shape)) if k not in (t, y, x) and k not in fixed]
    fixed |= {k: 0 for k in left if shape[k] == 1}
    left = [k for k in left if shape[k] != 1]
    if t is None and len(left) == 1 and not image:
        t, left = left[0], []
    if left:
        free = " and ".join(known[k] for k in left)
        hint = f"hold {free} at an index, e.g. --select {','.join(f'{known[k]}=0' for k in left)}"
        if t is None or shape[t] == 1:
            hint += f"; or --select t={known[left[0]]} where {known[left[0]]} counts the frames"
        raise UnreadableFile(f"{where} has the axes {told}: {free} would be left beside t, y, x", hint)
    return Axes(t, y, x, tuple(sorted(fixed.items())))


def _named(names: Sequence[str | None] | None, n: int) -> list[str]:
    """A short name for each axis; the last two are y and x where nothing else is told."""
    known = [SAME.get(str(name).casefold(), str(name).casefold()) if name else "" for name in names or ()]
    if len(known) != n or not any(known):
        known = list(UNNAMED.get(n, ""))
    if len(known) != n or len(set(known)) != n or "" in known:
        known = [name if name and known.count(name) == 1 else f"axis{k}" for k, name in enumerate(known or [""] * n)]
    if "y" not in known and "x" not in known and n >= 2:
        known[-2:] = ["y", "x"]
    return known


def _axis(known: Sequence[str], name: str, where: Any, told: str) -> int:
    if name not in known:
        raise UnreadableFile(f"{where} has no axis {name}", f"its axes are {told}; t, y and x are needed")
    return known.index(name)
