"""One level for a whole frame: where noise hides the outlines of large particles, their blurred brightness draws them.

A network that has not seen frames like these draws the outline a pixel or two beside it. When the frame's particles all
lie on one side of one level, and all else on the other, the contour at that level is the better one.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from emstream.messages import Rect
from emstream.segment.faint import blur
from emstream.segment.instances import cover
from emstream.segment.listed import Listed, listed
from emstream.segment.scales import typical

LARGE = 50.0  # px, typical diameter from which it is tried
FINE = 15.0  # the frame is blurred by the typical diameter over this
APART = 0.99  # share of the pixels off the outlines that lie on the right side
NOISY = 0.07  # what noise is left after the blur, of the contrast; in clearer frames the network sees more than a level
BAND = 0.1  # of the typical diameter: so far to either side an outline may move
ENOUGH = 64  # pixels of either class


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """A frame in units of its contrast: 0 around the particles, 1 in them; and how well .5 parts them."""

    image: np.ndarray  # (y, x) float32
    apart: float  # share of pixels off the outlines on the right side of .5
    noise: float  # deviation of what is around the particles


def at_one_level(
    labels: Listed, foreground: np.ndarray, image: np.ndarray, threshold: float, valid: Rect | None = None
) -> tuple[Listed, np.ndarray]:
    """Labels and foreground, with their outlines at the frame's level when it has one; else as they are.

    labels     : particles
    foreground : (y, x) float32 0..1, above `threshold` where there are labels
    image      : (y, x) float32, in any unit
    valid      : the covered pixels
    """
    usual = typical(labels.area)
    if usual < LARGE:
        return labels, foreground
    before = labels.picture()
    inside = (before > 0).view(np.uint8)
    level = level_of(blur(image, usual / FINE), inside, round(usual / FINE), valid)
    if level is None or level.apart < APART or level.noise < NOISY:
        return labels, foreground
    reach = round(BAND * usual)
    square = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)
    near = before.astype(np.float32)
    near = np.where(before > 0, near, cv2.dilate(near, square)).astype(np.int32)
    band = cover((near > 0) & (cv2.erode(inside, square) == 0), valid)
    drawn = np.clip(threshold + level.image - 0.5, 0, 1)
    foreground = np.where(band, drawn, foreground).astype(np.float32)
    after = np.where(band, np.where(drawn > threshold, near, 0), before)
    return listed(after), foreground


def level_of(blurred: np.ndarray, inside: np.ndarray, off: int, valid: Rect | None = None) -> Level | None:
    """The blurred frame between the medians of both classes, `off` px away from their outlines; None without enough px."""
    square = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * off + 1,) * 2)
    core, rest = cv2.erode(inside, square).view(bool), cover(cv2.dilate(inside, square) == 0, valid)
    of_core, of_rest = blurred[core], blurred[rest]
    if min(len(of_core), len(of_rest)) < ENOUGH:
        return None
    high, low = float(np.median(of_core)), float(np.median(of_rest))
    if high == low:
        return None
    relative = (blurred - low) / (high - low)
    apart = float((relative[core] > 0.5).mean() + (relative[rest] < 0.5).mean()) / 2
    return Level(relative, apart, 1.4826 * float(np.median(np.abs(relative[rest]))))
