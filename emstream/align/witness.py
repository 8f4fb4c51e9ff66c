"""Does all that is seen move together? The last frames are compared with those before them, in parts.

Two blocks of frames, laid by the shifts that were found, should match without any rest. Where the weak features of the
rest of the image ask for another shift than the strong ones (particles that flow over a still support), or the coarse
features for another than the fine ones (a detector pattern held for the sample), the shift may follow the wrong thing.
The question is put as a likelihood ratio, so that noise alone does not answer it.

The blocks cost nothing to keep: the canvas is a sum, and the canvas of some frames ago is still known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from emstream.align import peak
from emstream.align import weight as w
from emstream.align.grid import Grid
from emstream.align.reference import EMPTY, Canvas
from emstream.align.weight import Spectrum
from emstream.arrays import ndimage_namespace
from emstream.messages import Array

BLOCK = 8  # frames in a block; the first blocks are of 2 and 4
STRONG = 3.0  # robust standard deviations by which strong features differ from what is usual
LEAST_STRONG, LEAST_REST = 0.005, 0.15  # shares of the window below which there is no group to ask
COARSE = 0.10  # cycles per cell: slower is coarse
CAMERA = 0.22  # cycles per cell: the rest is asked below this only; above, a detector's pattern would answer
REACH = 10  # cells
OFTEN = 64  # frames after which, with no doubt, only every other block is asked
ENOUGH = 2  # checks that agree before a shift may be called sure
SURE, LIKELY = 35.0, 15.0  # nats: one check is enough, or two in a row
LEAST_PX = 0.6  # a smaller disagreement is no matter


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """The canvas as it was after `count` frames."""

    count: int
    num: Array  # (my, mx) float32, both halves
    den: Array
    origin: tuple[int, int]
    gain: float


@dataclass(frozen=True, slots=True, eq=False)
class Witness:
    """What the checks have said so far."""

    marks: tuple[Mark, ...] = ()  # at most two
    suspect: bool = False
    doubts: int = 0  # checks in a row that found several motions
    agreed: int = 0  # checks in a row that found one
    strain: float = 0.0  # px² per axis: what blocks that disagreed may have left in the reference

    def due(self, count: int) -> bool:
        """Whether a check, or a mark, is due after `count` frames."""
        return count in (2, 4) or count % BLOCK == 0


@dataclass(frozen=True, slots=True)
class Answer:
    """How far two groups of features disagree between the blocks."""

    apart: float  # px
    nats: float  # how much likelier two shifts are than one
    told: bool  # whether both groups had something to say


def attend(t: Witness, canvas: Canvas, at: tuple[int, int], spectrum: Spectrum, grid: Grid) -> Witness:
    """After a frame joined the canvas at cell `at`: compare the last block with the one before when that is due."""
    if not t.due(canvas.count):
        return t
    mark = Mark(canvas.count, canvas.num[0] + canvas.num[1], canvas.den[0] + canvas.den[1], canvas.origin, canvas.gain)
    if any(m.origin != mark.origin or m.gain > mark.gain or m.count >= mark.count for m in t.marks):
        return replace(t, marks=(mark,))  # the canvas moved: a new pair of blocks begins
    if not t.marks or (len(t.marks) == 1 and canvas.count > 2 * BLOCK):
        return replace(t, marks=(*t.marks, mark))
    first = t.marks[0] if len(t.marks) == 2 else None  # None: the canvas was empty
    kept = replace(t, marks=(mark,) if canvas.count < 2 * BLOCK else (t.marks[-1], mark))
    if canvas.count > OFTEN and canvas.count % (2 * BLOCK) and not (t.suspect or t.doubts):
        return kept
    return _judged(kept, compare(first, t.marks[-1], mark, at, spectrum, grid), min(1.0, 2 * BLOCK / canvas.count))


def trusted(t: Witness, count: int, sure: float) -> float:
    """A confidence 0..1 that knows what was checked: low where parts disagree, below 0.9 until checks agreed."""
    if t.suspect:
        return min(sure, 0.3)
    return min(sure, 0.85) if t.doubts or (t.agreed < ENOUGH and count < 2 * BLOCK) else sure


def _judged(t: Witness, answers: list[Answer], part: float) -> Witness:
    """What the answers mean; `part` of the reference is what the blocks make up."""
    against = max((a.nats for a in answers if a.told and a.apart > LEAST_PX), default=0.0)
    if against > LIKELY:
        doubts = t.doubts + 1
        strain = t.strain + part * max(a.apart**2 for a in answers if a.told and a.nats > LIKELY) / 2
        return replace(t, doubts=doubts, agreed=0, strain=strain, suspect=t.suspect or doubts > 1 or against > SURE)
    if against > LIKELY / 2 or not any(a.told for a in answers):
        return t
    agreed = t.agreed + 1
    return replace(t, doubts=0, agreed=agreed, suspect=t.suspect and agreed < 3)


def compare(
    first: Mark | None, middle: Mark, last: Mark, at: tuple[int, int], spectrum: Spectrum, grid: Grid
) -> list[Answer]:
    """Strong features against the rest, coarse against fine ones, between the blocks first…middle and middle…last."""
    xp = grid.xp
    y, x = at[0] - last.origin[0], at[1] - last.origin[1]
    cut = np.s_[y : y + grid.shape[0], x : x + grid.shape[1]]
    num = [m.num[cut] for m in (middle, last)]
    den = [m.den[cut] for m in (middle, last)]
    begin = (0.0, 0.0) if first is None else (first.num[cut], first.den[cut])
    blocks = [(num[0] - begin[0], den[0] - begin[1]), (num[1] - num[0], den[1] - den[0])]
    least = EMPTY * last.gain
    frames = (last.count - (0 if first is None else first.count)) / 2
    often = (0.5 * frames * last.gain) * grid.window + least  # cells that were seen in most frames of both blocks
    own = grid.window * ((blocks[0][1] > often) & (blocks[1][1] > often))
    images = [n / xp.maximum(d, least) for n, d in blocks]
    del blocks, often
    stack = replace(spectrum, noise=spectrum.noise / np.float32(frames))
    weight = w.weight(stack, 1.0, grid)
    strong = _strong(num[1] / xp.maximum(den[1], least), own, grid)
    out, total = [], float(own.sum())
    share = 0.0 if strong is None else float((own * strong).sum()) / max(total, 1e-6)
    if strong is not None and LEAST_STRONG < share < 1 - LEAST_REST:
        a, b = (_transforms(images, own * part, grid) for part in (strong, 1 - strong))
        areas = [float(((own * part) ** 2).sum()) for part in (strong, 1 - strong)]
        slow = weight * (grid.q < CAMERA)
        out.append(
            _asked(_cross(a, weight, areas[0]), _cross(b, slow, areas[1]), _noise(b, slow, stack, areas[1], grid), grid)
        )
        whole = (a[0] + b[0], a[1] + b[1])
    else:
        whole = _transforms(images, own, grid)
    area = float((own * own).sum())
    coarse, fine = weight * (grid.q < COARSE), weight * (grid.q >= COARSE)
    out.append(
        _asked(_cross(whole, fine, area), _cross(whole, coarse, area), _noise(whole, coarse, stack, area, grid), grid)
    )
    return out


def _asked(leader: Array, other: Array, noise: float, grid: Grid) -> Answer:
    """Whether `other`, a log-likelihood spectrum, asks for another shift than `leader` does."""
    radius = min(REACH, min(grid.shape) // 2 - 1)
    one, height1 = peak.highest(leader, 3, grid)
    two, height2 = peak.highest(other, radius, grid)
    there = float(peak.moments(other, one, grid)[0, 0].real)
    limit = math.sqrt(2 * math.log((2 * radius + 1) ** 2)) + 1
    told = height1 > 5.0 and height2 > limit * noise
    return Answer(math.hypot(one[0] - two[0], one[1] - two[1]) * grid.bin, height2 - there, told)


def _transforms(images: list[Array], window: Array, grid: Grid) -> tuple[Array, Array]:
    norm = max(float(window.sum()), 1e-6)
    a, b = (w.transform((i - (i * window).sum() / norm) * window, grid) for i in images)
    return a, b


def _cross(pair: tuple[Array, Array], weight: Array, area: float) -> Array:
    return pair[0].conj() * pair[1] * (weight / np.float32(max(area, 1e-6)))


def _noise(pair: tuple[Array, Array], weight: Array, s: Spectrum, area: float, grid: Grid) -> float:
    """Standard deviation of the log-likelihood where nothing matches, nats."""
    power = pair[0].real ** 2 + pair[0].imag ** 2
    total = float((weight * weight * s.noise * power * grid.twice).sum()) / max(area, 1e-6)
    share = grid.shape[0] * grid.shape[1] / max(area, 1e-6)
    return math.sqrt(max(total * share, 1e-30))


def _strong(image: Array, own: Array, grid: Grid) -> Array | None:
    """Soft mask (gy, gx) float32 of what differs much from the usual, widened; None when nothing does."""
    xp = grid.xp
    image = _blur(image - (image * own).sum() / xp.maximum(own.sum(), 1e-6), 3, grid)
    sample = image[own > 0.5][::4]
    if sample.size < 64:
        return None
    middle = xp.median(sample)
    usual = 1.4826 * float(xp.median(abs(sample - middle)))
    hit = (abs(image - middle) > STRONG * usual).astype(xp.float32)
    if not bool(hit.any()):
        return None
    return _blur((_blur(hit, 7, grid) > 0.08).astype(xp.float32), 3, grid)


def _blur(a: Array, size: int, grid: Grid) -> Array:
    if grid.xp is np:
        return cv2.blur(a, (size, size))
    return ndimage_namespace(grid.xp).uniform_filter(a, size)
