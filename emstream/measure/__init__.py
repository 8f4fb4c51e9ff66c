"""Labels become particles, particles become tracks, tracks become distributions and kinetics. Pure: no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emstream.measure.particles import particles

if TYPE_CHECKING:
    from emstream.measure.columns import dictionary, rows, schema, to_physical
    from emstream.measure.detail import shape_details
    from emstream.measure.distribution import histogram, summarize
    from emstream.measure.gaps import Relinked, relink
    from emstream.measure.study import Study, study_run
    from emstream.measure.track import TrackState, dump, finish, link, load, now, start_tracks

__all__ = [
    "MeasureOptions",
    "Relinked",
    "Study",
    "TrackState",
    "dictionary",
    "dump",
    "finish",
    "histogram",
    "link",
    "load",
    "now",
    "particles",
    "relink",
    "rows",
    "schema",
    "shape_details",
    "start_tracks",
    "study_run",
    "summarize",
    "to_physical",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureOptions:
    """How particles are followed; lengths in px of the aligned frame, times in linked frames."""

    search_px: float = 5.0  # how far a particle may step from frame to frame without overlapping itself
    memory: int = 3  # frames that a particle may be unseen before its track ends
    confirm: int = 3  # frames that a birth, a split or a coalescence must last to be believed
    contact: int = 20  # frames after which particles that are joined but not round yet are believed to be one
    area_ratio: float = 3.0  # a leftover is never linked to one that is this many times larger or smaller
    rate_frames: int = 25  # a particle's growth now is that of about so many frames; older ones are forgotten
    volume_tolerance: float = 0.35  # relative; coalescence must keep the volume (of equivalent spheres) this well


_DOORS = {
    "shape_details": "detail",
    "dictionary": "columns",
    "dump": "track",
    "finish": "track",
    "histogram": "distribution",
    "link": "track",
    "load": "track",
    "now": "track",
    "Relinked": "gaps",
    "relink": "gaps",
    "rows": "columns",
    "schema": "columns",
    "start_tracks": "track",
    "Study": "study",
    "study_run": "study",
    "summarize": "distribution",
    "to_physical": "columns",
    "TrackState": "track",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _DOORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_DOORS[name]}"), name)
