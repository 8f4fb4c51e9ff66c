"""A block of a series: its frames found on each other (`alone`), then among the blocks around them (`among`).

The drift of a long series is found in three steps, of which the first and the last are the same for every block and
need no other block's pixels:

    alone      each frame of a block by itself: followed as live does, then compared with all others of the block. Leaves
               where each lies on the block's own canvas, and that canvas, the keyframe: the mean of its frames
    link       keyframes compared with those 1, 2, 4 and 8 before them; `final.agreed` solves for where each one lies
    among      each frame compared with everything around it, the neighbours' keyframes now in the reference, and one
               robust path laid through what was measured (`final.solve`)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np

from emstream.align import AlignOptions
from emstream.align.clean import clean, start_cleaner
from emstream.align.defects import find_defects
from emstream.align.exclude import frame_mask
from emstream.align.final import Solved, solve
from emstream.align.grid import Grid
from emstream.align.keyframe import Keyframe, added
from emstream.align.reference import Canvas
from emstream.align.series import DriftState, contrast, follow, start
from emstream.align.stack import NOTHING, Sight, compared, fine_grid, first_scale, laid, roomy_for, sight, spectrum
from emstream.align.vote import DOUBT
from emstream.arrays import array_namespace
from emstream.errors import BadImage
from emstream.messages import Array, Rect, Status

Rows: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # place, measured, noise, jump

LARGEST = 3.0  # frames' widths that one canvas may extend over; beyond, the block has another
LOST = 12  # cells: as far as a frame is looked for that was not found before
LOOK_EVERY = 4  # frames after which the particles that do not vote are looked for anew
KEPT = 0.5  # of the pixels' bytes that spectra and masks may take; a spectrum beyond is made anew when it is asked for
TOO_MANY = 0.25  # of a block's frames that may show too little without their particles; of more the particles vote, too
GUESS = ("place", "measured", "noise", "status", "part", "jitter", "masked")
NOT_PLACED = Status.REJECTED | Status.BLANK


@dataclass(frozen=True, slots=True, eq=False)
class Guess:
    """Where the frames of a block lie, as far as the block alone tells; small numbers. px, on the canvas of their part.

    A block has one part, and one more each time that lock was lost in it.
    """

    place: np.ndarray  # (n, 2) float64
    measured: np.ndarray  # (n, 2) float64, NaN where nothing was
    noise: np.ndarray  # (n, 2, 2) float64 px²
    status: np.ndarray  # (n,) uint8 bits of Status
    part: np.ndarray  # (n,) int64, from 0
    jitter: float  # px², vibration per axis
    masked: bool = True  # whether particles do not vote

    def cut(self, rows: np.ndarray | slice, offset: np.ndarray) -> Guess:
        """Some of the frames, told on a canvas on which this one lies at `offset` (2,) px."""
        return replace(
            self, place=self.place[rows] + offset, measured=self.measured[rows] + offset, noise=self.noise[rows],
            status=self.status[rows], part=self.part[rows],
        )  # fmt: skip

    def rows(self) -> Rows:
        """As the path is laid through them."""
        return self.place, self.measured, self.noise, (self.status & int(Status.JUMP)) > 0

    def dump(self) -> dict[str, np.ndarray]:
        """As plain arrays."""
        return {name: np.asarray(getattr(self, name)) for name in GUESS}

    @classmethod
    def load(cls, arrays: Mapping[str, np.ndarray]) -> Guess:
        """What `dump` gave."""
        a = arrays
        return cls(a["place"], a["measured"], a["noise"], a["status"], a["part"], float(a["jitter"]), bool(a["masked"]))


@dataclass(frozen=True, slots=True, eq=False)
class Final:
    """Where a frame lies when everything is known; px, on the same canvas as its guess."""

    place: np.ndarray  # (n, 2) float64
    sigma: np.ndarray  # (n,) px rms per axis
    z: np.ndarray  # (n,) height of the peak over its noise
    limit: np.ndarray  # (n,) height that chance alone reaches


class Bench:
    """The frames of a block made comparable: cleaned, reduced to the fine grid, without what may not vote."""

    def __init__(
        self,
        pixels: Array,
        options: AlignOptions,
        *,
        references: Mapping[str, Array],
        shown: Sequence[Rect] | None = None,
        bad: Sequence[int] = (),
    ) -> None:
        """pixels (n, y, x) as the camera wrote them; shown: what each frame really holds (y0, y1, x0, x1), the rest was
        lost; bad: frames without pixels. raises : BadImage"""
        self.xp = array_namespace(pixels)
        self.pixels, self.options, self.bad = pixels, options, frozenset(bad)
        self.shape = (int(pixels.shape[1]), int(pixels.shape[2]))
        self.shown = shown
        self.grid: Grid = fine_grid(self.shape, options.grid, self.xp)
        self.references = {k: v for k, v in references.items() if k != "defects"}
        self._room = KEPT * pixels.nbytes
        self.defects = self._defects(references.get("defects"))
        self._cleaner = start_cleaner(self.grid, self.references.get("dark"), self.references.get("gain"), self.defects)

    def __len__(self) -> int:
        return len(self.pixels)

    def start(self) -> DriftState:
        """The state before the block's first frame; its shifts stay on one canvas until lock is lost."""
        options = replace(self.options, defects=False, least_cover=0.0)
        return start(self.shape, self.pixels.dtype, options, xp=self.xp, defects=self.defects, **self.references)

    def frame(self, i: int) -> Array:
        """(y, x) the frame; as bright as its mean where nothing was kept of it."""
        if self.shown is None:
            return self.pixels[i]
        y0, y1, x0, x1 = self.shown[i]
        if (y0, y1, x0, x1) == (0, self.shape[0], 0, self.shape[1]) or y1 <= y0 or x1 <= x0:
            return self.pixels[i]
        inside = self.pixels[i][y0:y1, x0:x1]
        out = self.xp.full_like(self.pixels[i], inside.mean().astype(inside.dtype))
        out[y0:y1, x0:x1] = inside
        return out

    def sight(self, i: int, mask: Array | None) -> Sight | None:
        """What is compared of frame i; mask (gy, gx) 0..1 of what may vote. None: it shows nothing."""
        if i in self.bad:
            return None
        try:
            x = self._contrast(i)
        except BadImage:
            return None
        if float(x.max()) == float(x.min()):
            return None
        seen = sight(x, self._held(i, mask), self.grid)
        need, votes = seen.moving().nbytes, seen.mask
        self._room -= 0 if votes is None else votes.nbytes
        if self._room < need:
            return Sight(partial(self._spectrum, i, votes), votes)
        self._room -= need
        return seen

    def _spectrum(self, i: int, votes: Array | None) -> Array:
        return spectrum(self._contrast(i), votes, self.grid)

    def _contrast(self, i: int) -> Array:
        _, x, dose = clean(self._cleaner, self.frame(i), self.grid, find=False)
        return contrast(x, dose, self.xp)

    def _held(self, i: int, mask: Array | None) -> Array | None:
        """The mask, without the cells of which nothing was kept."""
        if self.shown is None or self.shown[i] == (0, self.shape[0], 0, self.shape[1]):
            return mask
        y0, y1, x0, x1 = self.shown[i]
        held, b = self.xp.zeros(self.grid.shape, self.xp.float32), self.grid.bin
        held[-(-y0 // b) : y1 // b, -(-x0 // b) : x1 // b] = 1
        return held if mask is None else held * mask

    def _defects(self, given: Array | None) -> Array | None:
        """(y, x) bool: pixels that stand out in the sum of the whole block, and those that were given."""
        xp = self.xp
        good = [i for i in range(len(self.pixels)) if i not in self.bad]
        if not self.options.defects or not good:
            return given
        total = xp.zeros(self.shape, xp.float32)
        for i in good:
            total += self.pixels[i]
        total = xp.where(xp.isfinite(total), total, xp.float32(0))
        found = find_defects(total, xp, counting=bool(xp.issubdtype(self.pixels.dtype, xp.integer)))
        flat = xp.zeros(self.shape, bool) if given is None else xp.asarray(given).astype(bool).copy()
        flat.ravel()[xp.asarray(found)] = True
        return flat if bool(flat.any()) else None


def alone(
    bench: Bench, particles: Callable[[int], Array | None] = lambda i: None, lead: int = 0
) -> tuple[Guess, list[Keyframe], list[Keyframe]]:
    """Where each frame of a block lies on the block's own canvas, and the canvases: one for each part.

    lead      : frames at the beginning that are those of the block before; they help to find the others, and to link the
                block with that one, but are neither told of nor in its keyframes
    particles : frame → (y, x) bool in the frame's own coordinates: pixels that move by themselves and do not vote in
                it and the frames after it; asked every LOOK_EVERY frames
    returns   : the guess, the keyframes, and the keyframes with the frames of `lead` in them
    raises    : BadImage
    """
    found = _followed(bench, particles)
    if found.weak > TOO_MANY:  # what is not particles shows too little: small frames, few electrons
        other = _followed(bench, None)
        found = other if other.unplaced < found.weak else found
    sights = found.sights
    guess = _together(bench, sights, found.place, found.status, found.part, found.jitter)
    guess = replace(guess, masked=found.masked)
    wide = _keyframes(bench, sights, guess)
    if not lead:
        return guess, wide, wide
    own = guess.cut(np.s_[lead:], np.zeros(2))
    own = replace(own, part=own.part - own.part[0])
    return own, _keyframes(bench, sights[lead:], own), wide[int(guess.part[lead]) :]


def among(
    bench: Bench,
    sights: Sequence[Sight | None],
    guess: Guess,
    around: Sequence[Iterable[tuple[Keyframe, np.ndarray]]],
    before: Rows | None = None,
    after: Rows | None = None,
) -> Final:
    """Where each frame of a block lies, its neighbours known.

    around        : for each part of the block the keyframes near it, with where they lie on its canvas, (2,) px; its own
                    is not among them; one is held at a time
    before, after : `Guess.rows` of the frames next to the block, on the canvas of its first and of its last part
    """
    n = len(bench)
    place, sigma = guess.place.copy(), np.full(n, math.sqrt(guess.jitter) + 1.0)
    z, limit = np.zeros(n), np.ones(n)
    last = int(guess.part[-1])
    for number in range(last + 1):
        here = [int(i) for i in np.flatnonzero(guess.part == number)]
        canvas = roomy_for(guess.place[here], bench.grid)
        for key, offset in around[number]:
            canvas = added(canvas, key, offset, bench.grid)
        mine = [sights[i] if not guess.status[i] & int(NOT_PLACED) else None for i in here]
        canvas = laid(mine, guess.place[here], bench.grid, canvas)
        rows = _compared(bench, [sights[i] for i in here], guess.place[here], guess.status[here], canvas)
        parts = [r for r in (before if number == 0 else None, rows[0], after if number == last else None) if r]
        head = len(parts[0][0]) if parts[0] is not rows[0] else 0
        solved = _path(parts, guess.jitter, bench.options.drift_noise_px)
        place[here] = solved.shift[head : head + len(here)]
        spread = np.trace(rows[0][2], axis1=1, axis2=2) / 2
        known = np.isfinite(spread)
        own = spread[known] * solved.jitter / np.maximum(spread[known] + solved.jitter, 1e-12)
        sigma[np.array(here)[known]] = np.sqrt(own)
        z[here], limit[here] = rows[1].T
    return Final(place, sigma, z, limit)


@dataclass(frozen=True, slots=True, eq=False)
class _Followed:
    """The frames of a block, each found on those before it."""

    place: np.ndarray
    status: np.ndarray
    part: np.ndarray
    sights: list[Sight | None]
    jitter: float
    masked: bool
    voted: np.ndarray  # (n,) bool: where particles were to be left out, and `follow` believed them

    @property
    def unplaced(self) -> float:
        """Share of the frames that show something and were not found."""
        return self._share((self.status & int(Status.REJECTED)) > 0)

    @property
    def weak(self) -> float:
        """The same, and those that were found by their particles."""
        return self._share(((self.status & int(Status.REJECTED)) > 0) | self.voted)

    def _share(self, frames: np.ndarray) -> float:
        shown = self.status & int(Status.BLANK) == 0
        return float(frames[shown].mean()) if shown.any() else 0.0


def _followed(bench: Bench, particles: Callable[[int], Array | None] | None) -> _Followed:
    """particles : as `alone` takes it; None: everything votes"""
    n = len(bench)
    place, status, part = np.zeros((n, 2)), np.full(n, int(NOT_PLACED), np.uint8), np.zeros(n, np.int64)
    sights: list[Sight | None] = [None] * n
    voted = np.zeros(n, bool)
    state = bench.start()
    exclude: Array | None = None
    any_placed = False
    number, corner, low, high = 0, np.zeros(2), np.zeros(2), np.zeros(2)
    for i in range(n):
        e = None
        if i not in bench.bad:
            try:
                state, e = follow(state, bench.frame(i), exclude=exclude)
            except BadImage:  # nothing finite in it
                e = None
        if e is None:
            place[i], part[i] = place[max(i - 1, 0)], number
            continue
        voted[i] = exclude is not None and state.seen is not None and state.seen.whole
        begun = state.canvas.count == 1 and not e.status & Status.REJECTED  # nothing links it to those before
        if begun:
            exclude, corner = None, np.zeros(2)
        at = np.array(e.shift) + corner
        low, high = np.minimum(low, at), np.maximum(high, at)
        if any_placed and (begun or (high - low > LARGEST * np.array(bench.shape)).any()):
            number, low, high = number + 1, at, at
        any_placed = True
        place[i], status[i], part[i] = at, int(e.status), number
        if i % LOOK_EVERY == 0 and not e.status & NOT_PLACED:
            exclude, corner = None if particles is None else particles(i), at
            state = replace(state, base=(float(at[0]), float(at[1])))  # shifts are told from this frame on
        if not e.status & Status.BLANK:
            mask = None if exclude is None else frame_mask(exclude, at - corner, bench.options.dilate_px, bench.grid)
            sights[i] = bench.sight(i, mask)
    voted &= state.doubt < DOUBT  # in the end the film was against them
    return _Followed(place, status, part, sights, state.track.jitter, particles is not None, voted)


def _together(
    bench: Bench, sights: list[Sight | None], place: np.ndarray, status: np.ndarray, part: np.ndarray, jitter: float
) -> Guess:
    """Each frame compared with all others of its part."""
    place = place.copy()
    measured, noise = np.full((len(place), 2), np.nan), np.full((len(place), 2, 2), np.inf)
    shook = [jitter]
    for number in range(int(part[-1]) + 1):
        here = [int(i) for i in np.flatnonzero(part == number)]
        seen = [sights[i] if not status[i] & int(NOT_PLACED) else None for i in here]
        canvas = laid(seen, place[here], bench.grid)
        rows, _ = _compared(bench, [sights[i] for i in here], place[here], status[here], canvas)
        solved = _path([rows], jitter, bench.options.drift_noise_px)
        shook.append(solved.jitter)
        place[here], measured[here], noise[here] = solved.shift, rows[1], rows[2]
    return Guess(place, measured, noise, status, part, float(np.median(shook)))


def _keyframes(bench: Bench, sights: Sequence[Sight | None], guess: Guess) -> list[Keyframe]:
    """The mean of each part's frames, where they lie."""
    keys = []
    for number in range(int(guess.part[-1]) + 1):
        here = [int(i) for i in np.flatnonzero(guess.part == number)]
        seen = [sights[i] if not guess.status[i] & int(NOT_PLACED) else None for i in here]
        canvas = laid(seen, guess.place[here], bench.grid)
        good = guess.place[here][[s is not None for s in seen]]
        low, high = (good.min(0), good.max(0)) if len(good) else (np.zeros(2), np.zeros(2))
        keys.append(Keyframe(canvas, low, high))
    return keys


def _compared(
    bench: Bench, sights: Sequence[Sight | None], place: np.ndarray, status: np.ndarray, canvas: Canvas
) -> tuple[Rows, np.ndarray]:
    """Each frame against a canvas of which it is a part, unless it was not placed before; (n, 2) z and its limit."""
    seen = [i for i, s in enumerate(sights) if s is not None]
    scale = first_scale(canvas, place[seen[len(seen) // 2]], bench.grid) if len(seen) > 1 else None
    out = []
    for s, at, bits in zip(sights, place, status):
        found = NOTHING
        if s is not None and scale is not None:
            lost = bool(bits & int(NOT_PLACED))
            found = compared(s, at, canvas, scale, bench.grid, own=not lost, reach=LOST if lost else 2)
            found = found if found.z >= (1.0 if lost else 0.8) * found.limit else NOTHING
        out.append(found)
    measured, noise = np.array([f.measured for f in out]), np.array([f.noise for f in out])
    return (place, measured, noise, (status & int(Status.JUMP)) > 0), np.array([(f.z, f.limit) for f in out])


def _path(parts: Sequence[Rows], jitter: float, drift_noise_px: float) -> Solved:
    """One robust path through frames in a row."""
    place, measured, noise, jump = (np.concatenate(column) for column in zip(*parts))
    return solve(measured, noise, causal=place, jitter_px=math.sqrt(jitter), drift_noise_px=drift_noise_px, breaks=jump)
