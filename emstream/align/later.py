"""Shifts made final some frames later: each frame is compared once more, the frames after it now in the reference too.

The running reference sums all frames, so the reference that a frame would have had, had it come last, is that sum less
its own part. What is measured there goes, with what was measured around it, through `final.solve`. A frame whose reference
was of so many frames that those after it add little is not compared again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from emstream.align import AlignOptions, Estimate, peak
from emstream.align.final import Solved, solve
from emstream.align.grid import ramp
from emstream.align.reference import Canvas, halves, roomy
from emstream.align.series import DriftState, Seen, follow, start
from emstream.align.view import Scale, look, make_scale
from emstream.arrays import array_namespace, fft_namespace
from emstream.messages import Array, Status

BLOCK = 8  # frames made final together
ENOUGH = 4  # times `lag` frames in the reference: those after it add little
CONTEXT = 32  # frames made final before that the path is laid through as well
NEAR = 12  # cells: as far as a frame is looked for that was not found before
NOTHING = np.full(2, np.nan), np.full((2, 2), np.inf)


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A frame whose shift is not final yet; px are on the reference's canvas."""

    slot: int
    causal: np.ndarray  # (2,) px, where it was laid
    measured: np.ndarray  # (2,) px, NaN when it was not
    noise: np.ndarray  # (2, 2) px²
    base: np.ndarray  # (2,) px: where its anchor lies on the canvas
    jump: bool  # the stage jumped before it
    joined: int  # frames in the reference before it; -1 when it did not join
    seen: Seen | None  # None when it is not to be compared again


@dataclass(frozen=True, slots=True, eq=False)
class Settling:
    """The frames that wait, and those before them; a value that `settle` replaces."""

    lag: int  # frames that must follow a frame before it is final
    waiting: tuple[Waiting, ...] = ()
    past: tuple[Waiting, ...] = ()
    drift: DriftState | None = None  # after the newest frame
    scale: Scale | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Final:
    """The final shift of one frame."""

    slot: int
    shift: tuple[float, float]  # (dy, dx) px, onto the anchor frame


def settle(s: Settling, drift: DriftState, estimate: Estimate, slot: int) -> tuple[Settling, list[Final]]:
    """After `follow` gave the state `drift` and an estimate for frame `slot`: what became final, oldest first.

    s : `Settling(lag)` before the first frame; with lag 0 every shift is final at once, and as it was
    """
    if s.lag == 0:
        return s, [Final(slot, estimate.shift)]
    done: list[Final] = []
    if drift.canvas.count == 1 and s.drift is not None:  # nothing links this frame to those before
        s, done = finish(s)
        s = Settling(s.lag)
    s = replace(s, waiting=(*s.waiting, _waiting(s.drift, drift, estimate, slot, s.lag)), drift=drift)
    if len(s.waiting) < s.lag + BLOCK:
        return s, done
    s, more = _settled(s, BLOCK)
    return s, done + more


def finish(s: Settling) -> tuple[Settling, list[Final]]:
    """All frames that wait, made final with what there is; more frames may follow."""
    return _settled(s, len(s.waiting)) if s.waiting else (s, [])


def resume(
    lag: int, drift: DriftState, stored: Iterable[tuple[int, Array | None, tuple[float, float], bool]]
) -> Settling:
    """The frames that waited when a run was left, seen again: `drift` is the state after the newest of them.

    stored : of each, oldest first: slot, pixels (y, x) as the camera wrote them (None: blank), the shift onto its anchor
             that it was stored with, and whether it joined the reference; all on the anchor that `drift` has now
    """
    rows = list(stored)
    waiting: list[Waiting] = []
    joined = drift.canvas.count
    for slot, pixels, shift, joins in reversed(rows):
        joined -= joins
        base = np.array(drift.base)
        at = np.array(shift) + base
        seen = None if pixels is None else replace(_seen(drift, pixels), noise=np.full((2, 2), np.inf))
        waiting.append(Waiting(slot, at, *NOTHING, base, False, joined if joins else -1, seen))
    return Settling(lag, tuple(reversed(waiting)), (), drift)


def solve_series(
    frames: Iterable[Array],
    options: AlignOptions | None = None,
    *,
    lag: int = 64,
    exclude: Callable[[int, tuple[float, float]], Array | None] = lambda i, shift: None,
) -> tuple[np.ndarray, np.ndarray, list[Estimate]]:
    """A stored series aligned as a whole: what `lag` frames on either side tell, then one solution over all frames.

    frames  : (y, x) each, one shape and dtype
    exclude : frame number and shift of the frame before -> (y, x) bool in aligned coordinates, pixels that do not vote
    returns : causal shifts (t, 2) and final shifts (t, 2), px, each on its own anchor; the causal estimates
    raises  : BadImage
    """
    state, settling = None, Settling(lag)
    kept: list[Waiting] = []
    segments: list[int] = []  # first frame of each canvas
    estimates: list[Estimate] = []
    before = (0.0, 0.0)
    for i, pixels in enumerate(frames):
        if state is None:
            state = start(pixels.shape, pixels.dtype, options, xp=array_namespace(pixels))
        state, e = follow(state, pixels, exclude=exclude(i, before))
        estimates.append(e)
        before = e.shift
        if state.canvas.count == 1 and settling.drift is not None:
            kept += _remeasured(settling, len(settling.waiting))[1]
            settling = Settling(lag)
        if state.canvas.count == 1 and not settling.waiting:
            segments.append(i)
        settling = replace(
            settling, waiting=(*settling.waiting, _waiting(settling.drift, state, e, i, lag)), drift=state
        )
        if len(settling.waiting) >= lag + BLOCK:
            settling, again = _remeasured(settling, BLOCK)
            kept += again
            settling = replace(settling, waiting=settling.waiting[BLOCK:])
    if state is None:
        return np.zeros((0, 2)), np.zeros((0, 2)), []
    kept += _remeasured(settling, len(settling.waiting))[1]
    final = np.empty((len(kept), 2))
    for a, b in zip(segments, [*segments[1:], len(kept)]):
        part = kept[a:b]
        final[a:b] = _solved(part, state).shift - np.array([w.base for w in part])
    return np.array([e.shift for e in estimates]), final, estimates


def _waiting(before: DriftState | None, drift: DriftState, e: Estimate, slot: int, lag: int) -> Waiting:
    status = Status(e.status)
    base = np.array(drift.base)
    measured, noise = np.array(e.measured) + base, np.full((2, 2), np.inf)
    if drift.seen is not None and not status & Status.REJECTED:
        noise = drift.seen.noise
    enough = np.isfinite(noise).all() and drift.scale is not None and drift.scale.frames > ENOUGH * lag
    count = drift.canvas.count
    joined = count - 1 if count != (before.canvas.count if before else 0) else -1
    seen, jump = None if enough else drift.seen, bool(status & Status.JUMP)
    return Waiting(slot, np.array(e.shift) + base, measured, noise, base, jump, joined, seen)


def _settled(s: Settling, n: int) -> tuple[Settling, list[Final]]:
    s, again = _remeasured(s, n)
    rest = s.waiting[n:]
    assert s.drift is not None
    solved = _solved([*s.past, *again, *rest], s.drift)
    shifts = solved.shift[len(s.past) : len(s.past) + n]
    finals = [Final(w.slot, (float(x[0] - w.base[0]), float(x[1] - w.base[1]))) for w, x in zip(again, shifts)]
    return replace(s, waiting=rest, past=(*s.past, *again)[-CONTEXT:]), finals


def _solved(frames: list[Waiting], drift: DriftState) -> Solved:
    return solve(
        np.array([w.measured for w in frames]),
        np.array([w.noise for w in frames]),
        causal=np.array([w.causal for w in frames]),
        jitter_px=math.sqrt(drift.track.jitter),
        drift_noise_px=drift.options.drift_noise_px,
        breaks=np.array([w.jump for w in frames]),
    )


def _remeasured(s: Settling, n: int) -> tuple[Settling, list[Waiting]]:
    """The oldest n frames that wait, each compared with all the others."""
    assert s.drift is not None
    out, scale = [], s.scale
    for w in s.waiting[:n]:
        if w.seen is not None:
            w, scale = _again(w, w.seen, s.drift, scale)
        out.append(replace(w, seen=None))
    return replace(s, scale=scale), out


def _again(w: Waiting, seen: Seen, drift: DriftState, scale: Scale | None) -> tuple[Waiting, Scale | None]:
    """One frame against the reference without it; as it was when that shows nothing."""
    grid, b = drift.grid, drift.grid.bin
    if drift.scale is None:
        return w, scale
    spectrum = drift.scale.spectrum
    cells = w.causal / b
    at = (math.floor(cells[0] + 0.5), math.floor(cells[1] + 0.5))
    rest = np.array(at) - cells
    others = _without(w, seen, at, rest, drift)
    if scale is None or scale.spectrum is not spectrum:
        scale = make_scale(spectrum, max(1.0, drift.canvas.count - 1), grid)
    view = look(others, at, seen.spectrum, seen.window, scale, grid)
    if view.frames < 1 and w.joined >= 0:
        return w, scale
    if not 0.8 < view.frames / scale.frames < 1.25:
        scale = make_scale(spectrum, view.frames, grid)
        view = look(others, at, seen.spectrum, seen.window, scale, grid)
    lost = not np.isfinite(w.noise).all() and w.joined < 0
    radius = min(NEAR if lost else 2, min(grid.shape) // 2 - 1)
    lag = (float(rest[0]), float(rest[1]))
    if lost:
        lag, _ = peak.near(view.cross, radius, grid, (rest, np.eye(2) / 4.0))
    fine, _, height = peak.refine(view.cross, lag, grid)
    limit = math.sqrt(2 * math.log((2 * radius + 1) ** 2)) + 1
    if height < (1.0 if lost else 0.8) * limit * max(view.noise, 1e-30):
        return w, scale
    noise = view.share * np.linalg.inv(scale.info + 1e-9 * np.eye(2)) * b**2
    return replace(w, measured=(np.array(at) - np.array(fine)) * b, noise=noise), scale


def _without(w: Waiting, seen: Seen, at: tuple[int, int], rest: np.ndarray, drift: DriftState) -> Canvas:
    """The reference under a frame, the frame's own part taken out."""
    grid, xp = drift.grid, drift.grid.xp
    canvas = roomy(drift.canvas, at, grid)
    (n0, n1), (d0, d1) = halves(canvas, at, grid)
    num, den = n0 + n1, d0 + d1
    if w.joined >= 0:
        gain = xp.float32(_gain_of(w.joined, canvas, drift.options.memory))
        moved = seen.spectrum * ramp(grid.fy, float(rest[0]), xp)[:, None] * ramp(grid.fx, float(rest[1]), xp)
        num = num - fft_namespace(xp).irfft2(moved, s=grid.shape) * gain
        den = den - seen.window * gain
    nothing = xp.zeros((1, 1), xp.float32)
    blank = xp.broadcast_to(nothing, grid.shape)
    return Canvas(num=(num, blank), den=(den, blank), origin=at, count=canvas.count, gain=canvas.gain)


def _gain_of(joined: int, canvas: Canvas, memory: int) -> float:
    """The weight that a frame has in the reference that joined when `joined` others were there (see `admit`)."""
    return float(canvas.gain * (1 + 1 / memory) ** (max(0, joined - memory) - max(0, canvas.count - memory)))


def _seen(drift: DriftState, pixels: Array) -> Seen:
    """What `follow` compares of a frame, made again."""
    from emstream.align import weight as spectra
    from emstream.align.clean import clean
    from emstream.align.series import contrast

    grid = drift.grid
    _, x, dose = clean(drift.cleaner, pixels, grid, find=False)
    x = contrast(x, dose, grid.xp)
    x = (x - (x * grid.window).sum() / grid.window.sum()) * grid.window
    return Seen(spectra.transform(x, grid), grid.window, np.full((2, 2), np.inf))
