"""A block of an archive: the steps of the loop over frames that are all there, in two passes; nothing is stored here.

The same functions do the work as in a live lane: `steps.place`, `steps.look`, `steps.measured` for each frame, and
`align.follow` for where it lies at first. What the whole archive allows is `align.block`: a frame's shift knows what
came after it. Between the passes the blocks exchange numbers and keyframes, never frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from emstream import align, arrays
from emstream.align.block import NOT_PLACED, Bench, Final, Guess, Rows, alone, among
from emstream.align.confidence import confidence
from emstream.align.exclude import frame_mask
from emstream.align.keyframe import Keyframe
from emstream.align.stack import Sight
from emstream.messages import Aligned, Array, Frame, Labelled, Measured, PixelSize, Rect, Status
from emstream.pipeline import steps as step
from emstream.pipeline.steps import Steps
from emstream.segment.average import Seen, reach
from emstream.store.chunks import decode, encode


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Frames of an archive, in the order of time."""

    frames: Sequence[Frame]  # their pixels are on the host, (y, x)
    pixels: np.ndarray  # (n, y, x), the same
    shown: Sequence[Rect] | None  # what each really holds; None: everything
    bad: Mapping[int, str]  # frames of the block that could not be read, and why
    before: Block | None = None  # the last frames before the block, for the segmenter

    def rect(self, i: int) -> Rect | None:
        return None if self.shown is None else self.shown[i]


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """What the second pass over a block has to know of the others; px."""

    guess: Guess
    around: Sequence[Iterable[tuple[Keyframe, np.ndarray]]]  # see `align.block.among`; gone through once
    before: Rows | None
    after: Rows | None
    base: np.ndarray  # (n, 2): where each frame's anchor lies on the canvas of its part
    anchor: np.ndarray  # (n,) int
    earlier: Known | None = None  # where the frames of `Block.before` lie, as far as their block alone tells


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Shifts that are not estimated: those of a run whose frames stay where they are, or nought."""

    shift: np.ndarray  # (n, 2) px
    confidence: np.ndarray  # (n,)
    anchor: np.ndarray  # (n,) int
    status: np.ndarray  # (n,) bits
    moved: bool  # whether the pixels are moved by it already
    earlier: Known | None = None  # of the frames of `Block.before`


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """One frame, finished; `labelled` and `measured` are None without segmentation and for a frame that is blank."""

    aligned: Aligned
    labelled: Labelled | None
    measured: Measured | None


def first_pass(block: Block, steps: Steps, lead: int = 0) -> tuple[Guess, list[Keyframe], list[Keyframe]]:
    """Where the frames of a block lie by themselves, and its keyframes; without and with the first `lead` of them."""
    references = steps.references(block.pixels.shape[1:])
    bench = _bench(block, steps, references)
    _fresh(steps)

    def particles(i: int) -> Array | None:
        if steps.segmenter is None:
            return None
        aligned = step.place(
            block.frames[i], bench.pixels[i], (0.0, 0.0), steps, confidence=1.0, anchor=0, status=0, shown=block.rect(i)
        )
        return step.look(steps, [step.seen(aligned, references)])().labels > 0

    return alone(bench, particles, lead)


def second_pass(block: Block, steps: Steps, known: Surroundings | Known) -> Iterator[Done]:
    """Every frame of a block, finished, in order."""
    references = steps.references(block.pixels.shape[1:])
    _fresh(steps)
    window = _Window(block, steps, references, known.earlier)
    if isinstance(known, Known):
        for i in range(len(block.frames)):
            aligned = _kept(block, i, steps, known)
            yield _finished(block, i, steps, window.of(aligned), None)
        return
    looks = _Looks(block, steps, references, known)
    final = looks.final()
    for i in range(len(block.frames)):
        frames = window.of(_placed(block, i, steps, known, final))
        yield _finished(block, i, steps, frames, looks.labels(i, frames))


class _Window:
    """The frames that each frame of a block is looked at together with, one after the other from the block's first."""

    def __init__(self, block: Block, steps: Steps, references: Mapping[str, Array], earlier: Known | None) -> None:
        self._steps, self._references = steps, references
        self._seen: deque[Seen] = deque(maxlen=reach(steps.average) + 1)
        if steps.segmenter is not None and block.before is not None and earlier is not None:
            for i in range(len(block.before.frames)):
                self._seen.append(step.seen(_kept(block.before, i, steps, earlier), references))

    def of(self, aligned: Aligned) -> Sequence[Seen]:
        """The frames that are added up for the next frame; the last is the frame itself."""
        if self._steps.segmenter is None:
            return [Seen(aligned, aligned.pixels)]
        self._seen.append(step.seen(aligned, self._references))
        return step.looked_at(self._steps, list(self._seen))


class _Looks:
    """The first look at each frame of a block, where its guess lays it: its particles do not vote for where it lies.

    Most frames are found to lie within the same pixel; their labels are then final, and are kept until they are asked for.
    """

    def __init__(self, block: Block, steps: Steps, references: Mapping[str, Array], known: Surroundings) -> None:
        self._block, self._steps, self._known = block, steps, known
        self._references = references
        self._window = _Window(block, steps, references, known.earlier)
        self._kept: dict[int, tuple[list[Place], bytes, Labelled]] = {}

    def final(self) -> Final:
        """Where each frame lies, everything known."""
        known, n = self._known, len(self._block.frames)
        bench = _bench(self._block, self._steps, self._references)
        sights: list[Sight | None] = []
        for i in range(n):
            if known.guess.status[i] & int(Status.BLANK):
                sights.append(None)
                if self._steps.segmenter is not None:
                    self._window.of(self._laid(i))
                continue
            mask = None
            if self._steps.segmenter is not None:
                shift, labels = known.guess.place[i] - known.base[i], self._look(i)
                if known.guess.masked:
                    mask = frame_mask(labels > 0, shift, bench.options.dilate_px, bench.grid)
            sights.append(bench.sight(i, mask))
        return among(bench, sights, known.guess, known.around, known.before, known.after)

    def labels(self, i: int, frames: Sequence[Seen]) -> Labelled | None:
        """The labels of a frame, if the same frames are added up, laid where they were."""
        if i not in self._kept:
            return None
        places, packed, labelled = self._kept.pop(i)
        if self._steps.align.resample != "integer" or places != _places(frames):
            return None
        found = decode(packed, (self._block.pixels.shape[1:], "int32"), "zstd")
        return replace(labelled, labels=found)

    def _look(self, i: int) -> Array:
        frames = self._window.of(self._laid(i))
        labelled = step.look(self._steps, frames)()
        host = np.ascontiguousarray(arrays.to_host(labelled.labels), np.int32)
        self._kept[i] = _places(frames), b"".join(encode(host, "zstd")), replace(labelled, labels=None)
        return labelled.labels

    def _laid(self, i: int) -> Aligned:
        """A frame where its guess lays it."""
        known = self._known
        shift = known.guess.place[i] - known.base[i]
        return step.place(
            self._block.frames[i], arrays.to_device(self._block.pixels[i], self._steps.device),
            (float(shift[0]), float(shift[1])), self._steps, confidence=1.0, anchor=int(known.anchor[i]),
            status=int(known.guess.status[i]), shown=self._block.rect(i),
        )  # fmt: skip


Place: TypeAlias = tuple[int, tuple[int, int]]  # a frame, by its slot in the archive, and the whole part of its shift


def _places(frames: Sequence[Seen]) -> list[Place]:
    """What decides on the labels of a frame in a block."""
    return [(s.aligned.frame.origin.sub, align.whole(s.aligned.shift)) for s in frames]


def _bench(block: Block, steps: Steps, references: Mapping[str, Array]) -> Bench:
    pixels = arrays.to_device(block.pixels, steps.device)
    return Bench(pixels, steps.align, references=references, shown=block.shown, bad=tuple(block.bad))


def _placed(block: Block, i: int, steps: Steps, known: Surroundings, final: Final) -> Aligned:
    """The frame where it lies for good."""
    at = final.place[i] - known.base[i]
    status = int(known.guess.status[i]) | int(Status.ALIGNED)
    sure = confidence(float(final.sigma[i]), float(final.z[i]), float(final.limit[i]))
    if final.z[i] >= final.limit[i] and not status & Status.BLANK:
        status &= ~int(Status.REJECTED)
    elif status & NOT_PLACED:
        sure = 0.5 * confidence(float(final.sigma[i]), 0.0, 1.0)
    if i in block.bad:
        sure, status = 0.0, int(NOT_PLACED)
    pixels = arrays.to_device(block.pixels[i], steps.device)
    return step.place(
        block.frames[i], pixels, (float(at[0]), float(at[1])), steps, confidence=float(sure),
        anchor=int(known.anchor[i]), status=status, shown=block.rect(i),
    )  # fmt: skip


def _kept(block: Block, i: int, steps: Steps, known: Known) -> Aligned:
    """The frame where it is said to lie."""
    shift = (float(known.shift[i, 0]), float(known.shift[i, 1]))
    status = int(NOT_PLACED) if i in block.bad else int(known.status[i])
    told: dict[str, Any] = {
        "confidence": float(known.confidence[i]), "anchor": int(known.anchor[i]), "status": status,
    }  # fmt: skip
    pixels = arrays.to_device(block.pixels[i], steps.device)
    if not known.moved:
        return step.place(block.frames[i], pixels, shift, steps, shown=block.rect(i), **told)
    return Aligned(block.frames[i], pixels, shift, valid=align.covered(pixels.shape, shift), **told)


def _finished(block: Block, i: int, steps: Steps, frames: Sequence[Seen], labelled: Labelled | None) -> Done:
    """Segmented, unless it was; measured; on the host. frames : of `_Window.of`"""
    aligned, found = frames[-1].aligned, None
    if steps.segmenter is None or i in block.bad:
        labelled = None
    else:
        if labelled is None:
            labelled = step.look(steps, frames)()
        found = step.measured(labelled, aligned)
        labelled = replace(labelled, labels=arrays.to_host(labelled.labels))
        aligned = replace(aligned, status=aligned.status | int(Status.SEGMENTED))
    return Done(replace(aligned, pixels=arrays.to_host(aligned.pixels)), labelled, found)


def _fresh(steps: Steps) -> None:
    """What a segmenter learned from other frames does not count: a block is the same whoever does it, and when."""
    if steps.segmenter is not None:
        steps.segmenter.reset()


def rows_of(found: Measured, slot: int, time_s: float, pixel_size_nm: PixelSize | None) -> dict[str, np.ndarray]:
    """The frame's rows of the particle table, not yet linked (track -1)."""
    from emstream import measure

    columns: dict[str, Any] = {**found.particles, "track": -1, "frame": slot, "time_s": time_s}
    return measure.rows("particles", columns, pixel_size_nm)
