"""What happens to one frame: place, segment, measure, link. Pure; a live lane and an offline block do the same to it.

`lane` takes these steps frame by frame as a camera gives them: where a frame lies is known from the frames before it.
`blocks` takes them over a block of an archive: where a frame lies is known from all frames. Nothing else differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from emstream import align, arrays, measure
from emstream.align import AlignOptions
from emstream.measure import MeasureOptions
from emstream.messages import Aligned, Array, Frame, Labelled, Measured, PixelSize, Rect
from emstream.segment import Segmenter
from emstream.segment.average import Seen, added, common, together
from emstream.source.correct import Correction

Tables: TypeAlias = dict[str, Mapping[str, np.ndarray]]  # table name → rows, physical units

SMALLEST = 32  # px a side; smaller frames are stored as they are


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What happens to a frame, made once from the rooms' options.

    correction : dark, gain and defects; never applied to what is stored
    segmenter  : None when segmentation is off
    average, long_side_px : how many aligned frames it is given at once, see `average.together`; of the segmenter's own size
    """

    align: AlignOptions
    measure: MeasureOptions
    segmenter: Segmenter | None
    device: str = "cpu"
    correction: Correction | None = None
    keep_raw: bool = False
    average: int = 1
    long_side_px: int = 0

    def references(self, shape: tuple[int, int]) -> dict[str, Array]:
        """dark, gain and defects for frames of this shape, on the device; those that there are."""
        maps = self.correction.maps(shape) if self.correction else {}
        return {k: arrays.to_device(v, self.device) for k, v in maps.items()}

    def aligns(self, shape: tuple[int, int]) -> bool:
        """Whether frames of this shape are aligned at all."""
        return self.align.enabled and min(shape) >= SMALLEST


def place(
    frame: Frame,
    pixels: Array,
    shift: tuple[float, float],
    steps: Steps,
    *,
    confidence: float,
    anchor: int,
    status: int,
    shown: Rect | None = None,
) -> Aligned:
    """The frame moved onto its anchor.

    pixels : of the frame, (y, x), on the device · shift : (dy, dx) px
    shown  : what the frame really holds, in its own coordinates; None = all of it
    """
    moved, valid = align.move(pixels, shift, mode=steps.align.resample)
    if shown is not None:
        dy, dx = align.whole(shift)
        y0, y1, x0, x1 = shown
        valid = common(valid, (y0 + dy, y1 + dy, x0 + dx, x1 + dx))
    return Aligned(frame, moved, shift, confidence, anchor, status, valid)


def seen(aligned: Aligned, references: Mapping[str, Array]) -> Seen:
    """An aligned frame as the network is given it. references : of `Steps.references`"""
    return Seen(aligned, corrected(aligned, references))


def looked_at(steps: Steps, frames: Sequence[Seen]) -> Sequence[Seen]:
    """Which of a frame and those before it the network is given. frames : up to `average.reach` of them, and the frame"""
    return together(frames, steps.average, steps.long_side_px)


def look(steps: Steps, frames: Sequence[Seen]) -> Callable[[], Labelled]:
    """Let the network look at an aligned frame; what is returned makes its particles of that.

    frames : those that are added up, oldest first; the last is the frame itself (`looked_at`)
    """
    assert steps.segmenter is not None
    aligned = frames[-1].aligned
    try:
        pixels = added(frames)
    except (RuntimeError, MemoryError) as problem:
        if not arrays.out_of_memory(problem):
            raise
        arrays.free_unused()
        pixels = added(frames)
    particles = steps.segmenter.look(pixels, valid=aligned.valid, pixel_size_nm=aligned.frame.pixel_size_nm)
    return lambda: replace(particles(), averaged=len(frames))


def corrected(aligned: Aligned, references: Mapping[str, Array]) -> Array:
    """(counts - dark) * gain, the references moved as the frame was; the counts themselves without references."""
    pixels, (dy, dx) = aligned.pixels, align.whole(aligned.shift)
    for name in ("dark", "gain"):
        if name in references:
            reference, _ = align.move(references[name], (float(dy), float(dx)))
            pixels = pixels - reference if name == "dark" else pixels * reference
    return pixels


def measured(labelled: Labelled, aligned: Aligned) -> Measured:
    """The particles of one frame, px of the aligned frame."""
    dy, dx = align.whole(aligned.shift)
    rest = (aligned.shift[0] - dy, aligned.shift[1] - dx)
    columns = measure.particles(labelled.labels, aligned.pixels, valid=aligned.valid, shift_rest=rest)
    covered = max(1, area_of(aligned.valid))
    return Measured(columns, len(columns["label"]), float(np.sum(columns["area"])) / covered)


def linked(
    tracks: Any, slot: int, aligned: Aligned, labelled: Labelled, found: Measured, pixel_size_nm: PixelSize | None
) -> tuple[Any, Measured, Tables]:
    """The next frame's particles linked to those before.

    tracks  : `measure.TrackState` after the frame before
    returns : the state after this frame, its particles with tracks and events, the rows that it adds to the tables
    """
    time_s = aligned.frame.time_s
    tracks, numbers, events = measure.link(
        tracks, labelled.labels, found.particles, slot, time_s, valid=aligned.valid, anchor=aligned.anchor
    )
    when, kinetics = {"frame": slot, "time_s": time_s}, tracks.kinetics or {}
    columns: dict[str, Any] = {**found.particles, "track": numbers, **when, **measure.now(tracks, numbers)}
    tables: Tables = {
        "particles": measure.rows("particles", columns, pixel_size_nm),
        "kinetics": measure.rows("kinetics", {**kinetics, **when}, pixel_size_nm),
    }
    if tracks.finished and len(tracks.finished["track"]):
        tables["tracks"] = measure.rows("tracks", tracks.finished, pixel_size_nm)
    if events:
        tables["events"] = measure.rows(
            "events", {k: np.array([e[k] for e in events]) for k in events[0]}, pixel_size_nm
        )
    return tracks, Measured(columns, found.count, found.area_fraction, tuple(events), kinetics), tables


def alive(tracks: Any, pixel_size_nm: PixelSize | None) -> Tables:
    """The rows of the tracks that are alive at the end."""
    found = measure.finish(tracks)
    return {"tracks": measure.rows("tracks", found, pixel_size_nm)} if len(found["track"]) else {}


def area_of(valid: Rect) -> int:
    """Pixels in the covered rectangle."""
    y0, y1, x0, x1 = valid
    return max(0, y1 - y0) * max(0, x1 - x0)
