"""Whether anything in a frame stands out of its film: where nothing does, what was taken for particles is the film's grain.

Film and noise have their hills and valleys at every size, and a network that sees a small or a dim frame takes some of them
for large faint particles. Where noise hides what is film, the frame is blurred until a particle of the size that was found
stands out best, without its surroundings (a matched filter, as in `faint`). A particle is higher then than what else the
frame has; a hill of the film is not.
"""

from __future__ import annotations

import cv2
import numpy as np

from emstream.messages import Rect
from emstream.segment.faint import banded, octave, pixel_noise, robust
from emstream.segment.instances import cover
from emstream.segment.listed import Listed

SURE = 4.2  # robust deviations that at least one particle of a frame must reach somewhere
SHAPE = 3.5  # diameter over the blur at which a disc stands out best
FULL = 0.25  # of the covered pixels: where particles are more, their surroundings are not film
TRIED = 12  # particles, those first that differ most from what is around
STEP = 2**0.25  # ratio of sizes that are looked at with one blur
FEWEST = 64  # pixels of film that tell its deviation
THIN = 5  # px between those that film and noise are measured on
EVIDENT = 40.0  # deviations of white noise alone: no hill of a film is so clear, and there is no need to look closer
CLEAR = 1.0  # pixel noise, of a particle's contrast: in clearer frames the network sees what is film


def stands_out(labels: Listed, image: np.ndarray, valid: Rect | None = None) -> bool:
    """True where a particle does, and where the frame has too little film to tell.

    image : (y, x) float32, in any unit; all finite
    valid : the covered pixels
    """
    covered = cover(np.ones(labels.shape, bool), valid)
    if not len(labels) or len(labels.at) > FULL * np.count_nonzero(covered):
        return True
    inside = np.zeros(labels.shape, np.uint8)
    inside.ravel()[labels.at] = 1
    beside = cv2.dilate(np.ascontiguousarray(inside[::THIN, ::THIN]), np.ones((3, 3), np.uint8)) == 0
    film, some = beside & covered[::THIN, ::THIN], image[::THIN, ::THIN]
    if film.sum() < FEWEST:
        return True
    contrast = np.abs(labels.mean(image) - np.median(some[film]))
    noise = pixel_noise(image, THIN, film)
    evidence = contrast * np.sqrt(labels.area)
    evidence[0] = -1
    if noise < CLEAR * contrast[np.argmax(evidence)] or evidence.max() > EVIDENT * noise:
        return True
    seen: dict[float, np.ndarray] = {}
    for k in np.argsort(-evidence, kind="stable")[: min(TRIED, len(labels))].tolist():
        sigma = blur_for(float(labels.area[k]))
        if sigma not in seen:
            seen[sigma] = heights(image, sigma, covered)
        z, step = seen[sigma], octave(sigma)
        y, x = np.divmod(labels.at[labels.label == k], labels.shape[1])
        of = z[np.minimum(y // step, z.shape[0] - 1), np.minimum(x // step, z.shape[1] - 1)]
        if float(np.max(np.sign(of.mean()) * of)) >= SURE:
            return True
    return False


def blur_for(area: float) -> float:
    """px, from a few steps: the blur at which a particle of so many px stands out best."""
    return float(STEP ** round(np.log(np.sqrt(4 / np.pi * area) / SHAPE) / np.log(STEP)))


def heights(image: np.ndarray, sigma: float, covered: np.ndarray) -> np.ndarray:
    """The band-passed image in robust deviations, on a grid of every `octave(sigma)` px.

    They are of all covered pixels: those that were taken for particles may be the film's hills, which it would lack.
    """
    z = banded(image, sigma)
    on = cv2.resize(covered.view(np.uint8), z.shape[::-1], interpolation=cv2.INTER_NEAREST).view(bool)
    middle, deviation = robust(z[on])
    return (z - np.float32(middle)) / np.float32(max(deviation, 1e-9))
