"""Tier 0, without training: blur at the particles' own scale, Otsu, label; calm from frame to frame.

The scale loop (sigma = d / 15, three times) follows the particles' size. A threshold is believed only where the image
is steeper along its contours than elsewhere: for a Gaussian random field, whatever its correlation, level and slope are
independent, so noise and granular film become no particles. Where no threshold is believed, `faint` looks for peaks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from emstream.arrays import array_namespace, to_host
from emstream.errors import BadImage
from emstream.messages import Array, Labelled, PixelSize, Rect
from emstream.segment import Polarity, SegmentOptions
from emstream.segment.bases import AtOnce
from emstream.segment.faint import Faint, blur, labels_of, search
from emstream.segment.instances import components, drop_small, fill_holes, renumber, smallest_area
from emstream.segment.scale import enlarge, reduce, working_shape

BINS = 64  # of the levels that are tried
STEEP = 2.0  # slope along a contour relative to the median slope off it; noise gives 1.3 to 1.7, as pixels sample it,
SMOOTH, STEEP_SMOOTH = 1.5, 1.75  # and from a blur of so many px on 1.55 at most: less is enough there. Crowds need it
LONG_SIDE = 1024  # px; larger frames are reduced to it, and the blurred frame is enlarged before the threshold
TOO_FAR = 2.0  # times the blur that fits: what is only seen then is blurred beyond its size
EVERY = 4  # once settled, scale and threshold are estimated anew each so many frames
FOLLOW = 0.1  # share of the new frame's estimate once the state has settled


@dataclass(frozen=True, slots=True)
class ClassicalState:
    """What is known from the frames so far; `frames` = 0 knows nothing."""

    seen: int = 0  # frames
    frames: int = 0  # frames with particles that were used
    cut: int = 0  # those among them that a threshold parted
    sigma: float = 1.0  # blur, px
    level: float = 0.5  # threshold, 0 = 1st, 1 = 99th percentile of the blurred frame
    dark: float = 0.5  # share of evidence for dark particles, 0..1
    weak: float = 0.0  # share of evidence that particles are too faint for a threshold, 0..1
    faint: Faint | None = None  # how they are cut out then
    before: np.ndarray | None = field(default=None, compare=False)  # (y, x) bool, faint particles of the frame before


class Classical(AtOnce):
    """The classical method as a Segmenter; its state is one value."""

    name = "classical"
    sha256 = ""

    def __init__(self, options: SegmentOptions) -> None:
        self.options = options
        self.reset()

    def __call__(self, pixels: Array, *, valid: Rect | None = None, pixel_size_nm: PixelSize | None = None) -> Labelled:
        state, used = self.memory
        labels, state = segment(to_host(pixels), state, used, valid, pixel_size_nm)
        self.memory = state, used
        return Labelled(array_namespace(pixels).asarray(labels), self.name, self.sha256)

    def warm_up(self, shape: tuple[int, int], dtype: str = "uint16") -> None:
        segment(np.zeros(shape, dtype), ClassicalState(), self.options)

    def reset(self, polarity: Polarity = "auto") -> None:
        self.memory = ClassicalState(), with_polarity(self.options, polarity)


def with_polarity(options: SegmentOptions, polarity: Polarity) -> SegmentOptions:
    """The options with the polarity of a series, unless the user set one."""
    return options if options.polarity != "auto" else replace(options, polarity=polarity)


def segment(
    pixels: np.ndarray,
    state: ClassicalState,
    options: SegmentOptions,
    valid: Rect | None = None,
    pixel_size_nm: PixelSize | None = None,
) -> tuple[np.ndarray, ClassicalState]:
    """Labels (y, x) int32 of one frame, and the state after it.

    raises : BadImage
    """
    if pixels.ndim != 2 or min(pixels.shape) < 8:
        raise BadImage(f"a frame is (y, x) with at least 8 px a side, not {pixels.shape}")
    if valid is not None and valid != (0, pixels.shape[0], 0, pixels.shape[1]):
        y0, y1, x0, x1 = valid
        labels = np.zeros(pixels.shape, np.int32)
        if min(y1 - y0, x1 - x0) >= 8:
            before = None if state.before is None or state.before.shape != labels.shape else state.before[y0:y1, x0:x1]
            state = replace(state, before=before)
            labels[y0:y1, x0:x1], state = segment(pixels[y0:y1, x0:x1], state, options, None, pixel_size_nm)
            if state.before is not None:
                state = replace(state, before=labels > 0)
        return labels, state
    shape = (int(pixels.shape[0]), int(pixels.shape[1]))
    small = working_shape(shape, LONG_SIDE)
    ratio = small[0] * small[1] / (shape[0] * shape[1])
    image = stretched(reduce(pixels, small))
    smallest = smallest_area(options, pixel_size_nm)
    if state.seen < options.settle_frames or state.frames == 0 or state.seen % EVERY == 0:
        found = estimate(image, options, smallest * ratio, state)
        if found is not None:
            state = follow(state, found, options.settle_frames)
    state = replace(state, seen=state.seen + 1)
    if state.frames == 0:
        return np.zeros(shape, np.int32), state
    if state.weak > 0.5 and state.faint is not None:
        before = state.before if state.before is not None and state.before.shape == shape else None
        labels = drop_small(labels_of(image, shape, state.faint, before), smallest)
        return labels, replace(state, before=labels > 0)
    dark = state.dark > 0.5 if options.polarity == "auto" else options.polarity == "dark"
    blurred = blur(image, state.sigma)
    level, steep = percent(blurred, state.level), slope(blurred)
    if steepness(blurred, steep, level) < enough(state.sigma):
        return np.zeros(shape, np.int32), state  # a blank frame, or one that shows nothing any more
    mask = above(enlarge(blurred, shape), level, dark)
    labels = components(fill_holes(mask, _hole(state.sigma) / ratio))
    return drop_small(believable(labels, enlarge(steep, shape), 0.8 * enough(state.sigma)), smallest), state


def follow(state: ClassicalState, found: ClassicalState, settle: int) -> ClassicalState:
    """Running mean over the first `settle` frames, then an exponential one: nothing jumps from frame to frame."""

    def share_of(n: int) -> float:
        return max(FOLLOW, 1 / (n + 1)) if n < max(settle, 1) else FOLLOW

    share = share_of(state.frames)
    weak = state.weak + share * (found.weak - state.weak)
    if found.faint is not None:
        faint = found.faint if state.faint is None else state.faint.towards(found.faint, share)
        return replace(state, frames=state.frames + 1, weak=weak, faint=faint)
    share = share_of(state.cut)  # particles that become clear late are cut as they are, not as the first guess was
    return replace(
        state,
        frames=state.frames + 1,
        cut=state.cut + 1,
        weak=weak,
        sigma=state.sigma + share * (found.sigma - state.sigma),
        level=state.level + share * (found.level - state.level),
        dark=state.dark + share * (found.dark - state.dark),
    )


def estimate(
    image: np.ndarray, options: SegmentOptions, smallest: float, known: ClassicalState
) -> ClassicalState | None:
    """Scale, threshold and polarity of one stretched frame; None where nothing stands out of the noise."""
    found, fitting = by_threshold(image, options, smallest)
    if found is not None and found.sigma <= TOO_FAR * fitting:
        return found
    faint = search(image, options.polarity, known.faint if known.weak > 0.5 else None)
    return found if faint is None else ClassicalState(weak=1.0, faint=faint)


def by_threshold(image: np.ndarray, options: SegmentOptions, smallest: float) -> tuple[ClassicalState | None, float]:
    """The same for particles that a threshold parts from the rest; and the blur (px) that would fit what was found."""
    sigma, found = 0.0, None
    for start in (1.0, 2.0, 4.0):  # the finest blur at which anything is seen
        if level_of(blur(image, start), start) is not None:
            sigma = start
            break
    for _ in range(3 if sigma else 0):
        blurred = blur(image, sigma)
        level = level_of(blurred, sigma)
        if level is None:
            break
        dark = polarity(blurred, level) if options.polarity == "auto" else options.polarity == "dark"
        low, high = np.percentile(thinned(blurred), (1, 99))
        found = ClassicalState(sigma=sigma, level=float((level - low) / max(high - low, 1e-9)), dark=float(dark))
        labels = components(fill_holes(above(blurred, level, dark), _hole(sigma)))
        area = np.bincount(labels.ravel())[1:].astype(float)
        area = area[area >= smallest]
        if len(area) == 0:
            break
        sigma = float(np.clip(np.sum(area * np.sqrt(4 / np.pi * area)) / area.sum() / 15, 0.5, 8))
    return found, sigma


def enough(sigma: float) -> float:
    """How steep a contour must be to be believed after a blur of `sigma` px."""
    return STEEP if sigma < SMOOTH else STEEP_SMOOTH


def level_of(blurred: np.ndarray, sigma: float) -> float | None:
    """Otsu's level, or else the steepest one, if the image is steep enough along its contour; else None."""
    steep = slope(blurred)
    level = otsu(blurred)
    if steepness(blurred, steep, level) >= enough(sigma):
        return halfway(blurred, level)
    level = steepest(blurred, steep)
    return halfway(blurred, level) if steepness(blurred, steep, level) >= 2 * STEEP else None


def halfway(image: np.ndarray, level: float) -> float:
    """The level between the medians of both classes off the contour: half the height of a typical particle's edge.

    Otsu's own level lies between the means, which tails of either class pull.
    """
    bright, off = image >= level, ~on_contour(image >= level)
    high, low = image[bright & off], image[~bright & off]
    return float(np.median(high) + np.median(low)) / 2 if len(high) > 16 and len(low) > 16 else level


def stretched(image: np.ndarray) -> np.ndarray:
    """(y, x) float32, its percentiles .5 and 99.5 at 0 and 1, clipped; all 0 when there is nothing to see."""
    low, high = (np.float32(p) for p in np.percentile(thinned(image), (0.5, 99.5)))
    if high <= low:
        return np.zeros_like(image)
    return np.clip((image - low) / (high - low), 0, 1)


def thinned(image: np.ndarray) -> np.ndarray:
    """Every n-th pixel, some 30,000 of them: enough for a percentile."""
    step = max(1, int(np.sqrt(image.size / 30_000)))
    return image[::step, ::step]


def slope(image: np.ndarray) -> np.ndarray:
    """Length of the gradient, per px."""
    dx = cv2.Sobel(image, cv2.CV_32F, 1, 0, scale=1 / 8)
    return cv2.magnitude(dx, cv2.Sobel(image, cv2.CV_32F, 0, 1, scale=1 / 8))


def otsu(image: np.ndarray) -> float:
    """Otsu's threshold (IEEE Trans. SMC 9, 62, 1979) of an image in 0..1."""
    eight_bit = cv2.convertScaleAbs(image, alpha=255.0)
    return (float(cv2.threshold(eight_bit, 0, 255, cv2.THRESH_OTSU)[0]) + 0.5) / 255


def steepness(image: np.ndarray, steep: np.ndarray, level: float) -> float:
    """Median slope along the contour at `level`, relative to the median slope off it."""
    edge = on_contour(image >= level)
    at, off = steep[edge], thinned(steep)[~thinned(edge)]
    if len(at) < 16 or len(off) < 16:
        return 0.0
    return float(np.median(at) / max(float(np.median(off)), 1e-9))


def steepest(image: np.ndarray, steep: np.ndarray) -> float:
    """The level at which the image is steepest on average; levels of few pixels do not count."""
    bins = np.minimum(image * (BINS), BINS - 1).astype(np.uint8).ravel()
    count = np.bincount(bins, minlength=BINS)
    mean = np.bincount(bins, steep.ravel(), minlength=BINS) / np.maximum(count, 1)
    mean[count < max(32, image.size * 5e-4)] = 0
    return (float(np.argmax(mean)) + 0.5) / (BINS)


def on_contour(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask with a neighbour outside it, and their neighbours."""
    return cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).view(bool)


def polarity(image: np.ndarray, level: float) -> bool:
    """True when the dark class holds the particles: the class with the smaller share of the border."""
    bright = image >= level
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    return bool(border.mean() > 0.5)


def above(image: np.ndarray, level: float, dark: bool) -> np.ndarray:
    """Particle pixels: below `level` for dark particles, else at or above it."""
    return image < level if dark else image >= level


def percent(image: np.ndarray, level: float) -> float:
    """The level that lies at `level` between the 1st and the 99th percentile."""
    low, high = np.percentile(thinned(image), (1, 99))
    return float(low + level * (high - low))


def believable(labels: np.ndarray, steep: np.ndarray, least: float) -> np.ndarray:
    """Labels without those whose outline is not `least` times as steep as the frame elsewhere."""
    edge = cv2.erode((labels > 0).view(np.uint8), np.ones((3, 3), np.uint8)).view(bool) ^ (labels > 0)
    usual = float(np.median(thinned(steep)))
    at = labels[edge]
    length = np.bincount(at, minlength=int(labels.max()) + 1)
    mean = np.bincount(at, steep[edge], minlength=len(length)) / np.maximum(length, 1)
    return renumber(labels, mean >= least * usual)


def _hole(sigma: float) -> float:
    """px²: the largest hole that is filled, of about the particles' own size (d = 15 sigma)."""
    return float(np.pi / 4 * (15 * sigma) ** 2)
