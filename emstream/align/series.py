"""A drifting series followed frame by frame: state and frame in, state and shift out; nothing else is remembered."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from emstream.align import AlignOptions, Estimate
from emstream.align import weight as w
from emstream.align.clean import Cleaner, clean, is_blank, start_cleaner
from emstream.align.confidence import confidence
from emstream.align.exclude import frame_mask
from emstream.align.grid import Grid, make_grid, ramp
from emstream.align.reference import Canvas, admit, blank_canvas
from emstream.align.search import Found, find
from emstream.align.track import BEYOND, Track, expected, leap, predict, start_track, surprise, take, unheard_of
from emstream.align.view import Scale, half_spectra, make_scale
from emstream.align.vote import WEAK, believed, doubted
from emstream.align.witness import Witness, attend, trusted
from emstream.arrays import array_namespace, fft_namespace
from emstream.errors import BadImage
from emstream.messages import Array, Status

FADED = 0.2  # of the usual height: a peak so low is a chance one
LEAPT = 16.0  # a shift that no prediction guarded may be this much worse, in variance, than its noise says
EARLY = 8.0  # … and the first pairs, whose spectrum is a guess, this much


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What was compared of the newest frame, so that it can be compared again once more is known."""

    spectrum: Array  # (gy, gx//2+1) complex64, transform of window × contrast
    window: Array  # (gy, gx) float32
    noise: np.ndarray  # (2, 2) px², of the shift that was measured; infinite for an anchor
    whole: bool = True  # whether everything voted, particles too


@dataclass(frozen=True, slots=True, eq=False)
class DriftState:
    """All that is known of a series so far; a value that `follow` replaces."""

    options: AlignOptions
    grid: Grid
    dtype: np.dtype
    cleaner: Cleaner
    canvas: Canvas
    track: Track
    scale: Scale | None = None
    anchor: int = 0
    missed: int = 0  # frames in a row that were not believed
    level: tuple[float, float] = (0.0, 0.0)  # running height of z: of whole frames, and without their particles
    frame: int = 0
    base: tuple[float, float] = (0.0, 0.0)  # px: where this anchor lies on the reference's canvas
    seen: Seen | None = None  # of the newest frame; None for a blank one. Not saved
    settling: float = 0.0  # px² per axis: how far the reference may lie off its first frame
    witness: Witness = field(default_factory=Witness)
    doubt: float = 0.0  # nats against particles, where they were asked


def start(
    shape: tuple[int, int],
    dtype: Any,
    options: AlignOptions | None = None,
    *,
    dark: Array | None = None,
    gain: Array | None = None,
    defects: Array | None = None,
    xp: Any = np,
) -> DriftState:
    """The state before the first frame.

    shape, dtype : of every frame, (y, x), at least 32 px a side
    dark, gain   : (y, x) references: (counts - dark) * gain is what is aligned
    defects      : (y, x) bool, pixels known to be bad
    xp           : numpy, or cupy to keep the state on the device
    raises       : BadImage
    """
    options = options or AlignOptions()
    if len(shape) != 2 or min(shape) < 32:
        raise BadImage(f"frames of shape {tuple(shape)} cannot be aligned", "(y, x) of at least 32 px a side")
    longest = options.grid or (256 if xp is np and max(shape) < 4096 else 512)
    grid = make_grid((int(shape[0]), int(shape[1])), longest, xp)
    return DriftState(
        options=options,
        grid=grid,
        dtype=np.dtype(dtype),
        cleaner=start_cleaner(grid, dark, gain, defects),
        canvas=blank_canvas(grid),
        track=start_track(options.jitter_px),
    )


def follow(
    state: DriftState, pixels: Array, *, exclude: Array | None = None, dt: float = 1.0
) -> tuple[DriftState, Estimate]:
    """Where the next frame lies.

    pixels  : (y, x) any real dtype; numpy or cupy as the state is; not changed
    exclude : (y, x) bool in ALIGNED coordinates: the particles of the frame before; they do not vote, unless the rest
              shows too little (`vote`)
    dt      : frames' time since the frame before (1 = the usual interval)
    returns : the next state (the old one stays valid) and the estimate
    raises  : BadImage for a frame of another shape or without a finite pixel
    """
    grid, o = state.grid, state.options
    if tuple(pixels.shape) != grid.frame:
        raise BadImage(f"the frame is {tuple(pixels.shape)}, the series is {grid.frame}", "one series has one shape")
    if array_namespace(pixels) is not grid.xp:
        raise BadImage(f"the frame is a {type(pixels).__module__} array, the state lives on {grid.xp.__name__}")
    cleaner, x, dose = clean(state.cleaner, pixels, grid, find=o.defects)
    cleaner, blank = is_blank(cleaner, dose, o.dose_low, o.dose_high)
    state = replace(state, cleaner=cleaner, frame=state.frame + 1, seen=None)
    if state.canvas.count == 0:
        return _first(state, contrast(x, dose, grid.xp), dose, Status(0))
    state = replace(state, track=predict(state.track, o.drift_noise_px, dt))
    if blank or float(x.max()) == float(x.min()):
        return _predicted(state, Status.BLANK, dose)
    return _measured(state, contrast(x, dose, grid.xp), dose, exclude)


def placed(state: DriftState, shift: tuple[float, float], anchor: int) -> DriftState:
    """The state after one frame, whose place on an older anchor is known: a run goes on whose state was lost.

    shift  : (dy, dx) px of that frame on its anchor
    anchor : number of that anchor
    """
    return replace(state, base=(state.base[0] - shift[0], state.base[1] - shift[1]), anchor=anchor)


def contrast(x: Array, dose: float, xp: Any) -> Array:
    """Counts relative to their mean, so that the beam's brightness does not matter."""
    scale = dose if dose > 0 else 0.0
    if scale < 0.02 * float(abs(x).max()):
        scale = float(x.std())
    return (x - xp.float32(dose)) * xp.float32(1 / scale if scale > 0 else 1)


def _first(state: DriftState, x: Array, dose: float, status: Status) -> tuple[DriftState, Estimate]:
    """A frame that nothing came before: it is the anchor."""
    grid = state.grid
    windowed = x * grid.window
    transformed = w.transform(windowed, grid)
    spectrum = w.from_one(abs(transformed) ** 2, grid.area, grid)
    state = replace(
        state,
        canvas=admit(blank_canvas(grid), (0, 0), windowed, grid.window, grid, state.options.memory),
        track=start_track(state.options.jitter_px),
        scale=make_scale(spectrum, 1.0, grid),
        missed=0,
        level=(0.0, 0.0),
        base=(0.0, 0.0),
        seen=Seen(transformed, grid.window, np.full((2, 2), np.inf)),
        witness=Witness(),
        doubt=0.0,
    )
    return state, _estimate(state, np.zeros(2), 1.0, status, 0.0, 0.0, np.zeros(2), dose)


def _predicted(state: DriftState, why: Status, dose: float, found: Found | None = None) -> tuple[DriftState, Estimate]:
    """A frame that is not believed: the prediction stands, the reference stays as it is."""
    mean, cov = expected(state.track)
    sigma = math.sqrt(float(np.trace(cov)) / 2 + state.settling + state.witness.strain)
    sure = trusted(state.witness, state.canvas.count, 0.5 * confidence(sigma, 0.0, 1.0))
    z, measured = (found.z, found.shift) if found else (0.0, mean)
    return state, _estimate(state, mean, sure, why | Status.REJECTED, sigma, z, measured, dose)


def _measured(state: DriftState, x: Array, dose: float, exclude: Array | None) -> tuple[DriftState, Estimate]:
    grid, o = state.grid, state.options
    mask = (
        None
        if exclude is None
        else frame_mask(exclude, expected(state.track)[0] - np.array(state.base), o.dilate_px, grid)
    )
    state, found = _looked(state, x, mask)
    if mask is not None and (level := _followed(state.level, True, found.z))[1] < WEAK:
        whole, other = _looked(state, x, None)
        state = replace(state, doubt=doubted(state.doubt, found, other, grid))
        if believed(state.doubt, found, other):
            state, found, mask = replace(whole, level=level, doubt=state.doubt), other, None
    assert state.seen is not None
    moving, window = state.seen.spectrum, state.seen.window
    usual = state.level[mask is not None]  # the film alone is seen less clearly than particles are
    far_off = surprise(state.track, found.shift, found.noise)
    if found.z < max(0.8 * found.limit, FADED * usual) or (far_off >= BEYOND and found.z < 1.6 * found.limit):
        return _missed(state, x, dose, found)
    status = Status(0)
    leapt = far_off >= BEYOND
    if leapt:
        jump = unheard_of(state.track, found.shift, found.noise)
        status = Status.JUMP if jump else Status(0)
        best, cov = found.shift, found.noise
        track = leap(state.track, found.shift, found.noise, learn=not jump)
    else:
        track, best, cov = take(state.track, found.shift, found.noise)
    joined = float(np.trace(cov)) / 2
    sigma = math.sqrt(joined + state.settling + state.witness.strain)
    state = replace(
        state,
        track=track,
        settling=state.settling
        + (LEAPT if leapt else EARLY if state.canvas.count < 3 else 1)
        * joined
        / (state.canvas.count + 1) ** 2,  # it drags the mean along
        canvas=_admit(state, moving, window, best),
        missed=0,
        level=_followed(state.level, mask is not None, found.z),
    )
    state = _refreshed(state, best, window)
    if state.witness.due(state.canvas.count) and state.scale is not None:
        witness = attend(state.witness, state.canvas, _cell(best, grid), state.scale.spectrum, grid)
        state = replace(state, witness=witness)
    sure = trusted(state.witness, state.canvas.count, confidence(sigma, found.z, found.limit))
    link = None
    if _cover(state, best) < o.least_cover:  # the sample has left: this frame is the next anchor, its link is known
        link = (float(best[0] - state.base[0]), float(best[1] - state.base[1]))
        state = replace(state, anchor=state.anchor + 1, base=(float(best[0]), float(best[1])))
        status |= Status.LOST_LOCK
    return state, replace(_estimate(state, best, sure, status, sigma, found.z, found.shift, dose), link=link)


def _looked(state: DriftState, x: Array, mask: Array | None) -> tuple[DriftState, Found]:
    """Where a frame lies by what may vote; the state with what was compared."""
    grid = state.grid
    window = grid.window if mask is None else grid.window * mask
    centred = (x - (x * window).sum() / grid.xp.maximum(window.sum(), 1e-6)) * window
    moving = w.transform(centred, grid)
    assert state.scale is not None
    usual = state.level[mask is not None]
    canvas, scale, found = find(state.canvas, state.scale, state.track, usual, moving, window, grid)
    return replace(state, canvas=canvas, scale=scale, seen=Seen(moving, window, found.noise, mask is None)), found


def _followed(level: tuple[float, float], masked: bool, z: float) -> tuple[float, float]:
    """The running heights, that of frames like this one moved towards its own."""
    now = z if level[masked] == 0 else 0.9 * level[masked] + 0.1 * z
    return (level[0], now) if masked else (now, level[1])


def _cover(state: DriftState, shift: np.ndarray) -> float:
    """Share of the anchor frame that a frame at `shift` (2,) covers."""
    parts = [max(0.0, 1 - abs(s - b) / n) for s, b, n in zip(shift, state.base, state.grid.frame)]
    return parts[0] * parts[1]


def _missed(state: DriftState, x: Array, dose: float, found: Found) -> tuple[DriftState, Estimate]:
    """Not believed; after `give_up` such frames in a row, a new anchor begins here."""
    state = replace(state, missed=state.missed + 1)
    seen = state.scale is not None and max(state.level) > 1.5 * found.limit
    if seen and state.missed >= state.options.give_up:
        return _first(replace(state, anchor=state.anchor + 1), x, dose, Status.LOST_LOCK)
    return _predicted(state, Status(0), dose, found)


def _admit(state: DriftState, moving: Array, window: Array, shift: np.ndarray) -> Canvas:
    """The frame, moved by the rest of its shift in Fourier space, joins the reference."""
    grid = state.grid
    cells = shift / grid.bin
    at = (math.floor(cells[0] + 0.5), math.floor(cells[1] + 0.5))
    ry, rx = float(cells[0] - at[0]), float(cells[1] - at[1])
    xp = grid.xp
    moved = moving * ramp(grid.fy, -ry, xp)[:, None] * ramp(grid.fx, -rx, xp)
    image = fft_namespace(xp).irfft2(moved, s=grid.shape)
    return admit(state.canvas, at, image, window, grid, state.options.memory)


def _refreshed(state: DriftState, shift: np.ndarray, window: Array) -> DriftState:
    """The spectrum measured again at 2-6, 8, 10 … 16 frames, then every 8."""
    n, grid = state.canvas.count, state.grid
    if not (n <= 6 or (n <= 16 and n % 2 == 0) or n % 8 == 0) or state.scale is None:
        return state
    at = _cell(shift, grid)
    a, b, frames, area = half_spectra(state.canvas, at, window, grid)
    spectrum = w.from_halves(a, b, frames, area, grid, state.scale.spectrum)
    return replace(state, scale=make_scale(spectrum, sum(frames), grid))


def _cell(shift: np.ndarray, grid: Grid) -> tuple[int, int]:
    """The cell of the canvas next to a shift (2,) px."""
    return math.floor(shift[0] / grid.bin + 0.5), math.floor(shift[1] / grid.bin + 0.5)


def _estimate(
    state: DriftState,
    shift: np.ndarray,
    sure: float,
    status: Status,
    sigma: float,
    z: float,
    measured: np.ndarray,
    dose: float,
) -> Estimate:
    if state.witness.suspect:
        status |= Status.SUSPECT
    return Estimate(
        shift=(float(shift[0]) - state.base[0], float(shift[1]) - state.base[1]),
        confidence=float(sure),
        anchor=state.anchor,
        status=int(status | Status.ALIGNED),
        sigma_px=float(sigma),
        z=float(z),
        measured=(float(measured[0]) - state.base[0], float(measured[1]) - state.base[1]),
        dose=float(dose),
        defects=0 if state.cleaner.defects is None else int(state.cleaner.defects.pixels.size),
    )
