"""Shape numbers that are too dear for every frame, on demand, by scikit-image. Needs `emstream[shapes]`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emstream.arrays import to_host
from emstream.errors import BadImage, BadSettings
from emstream.messages import Array, Rect

USUAL = ("solidity", "eccentricity", "area_convex", "feret_diameter_max", "euler_number", "intensity_std")


def shape_details(
    labels: Array, pixels: Array | None = None, properties: Sequence[str] = USUAL, *, valid: Rect | None = None
) -> dict[str, np.ndarray]:
    """More of every particle of a frame: whatever `skimage.measure.regionprops_table` knows; 100 times as slow.

    labels, pixels, valid : as for `particles`; from a GPU they are copied to the host
    properties : scikit-image's names; those of intensity are left out without pixels
    returns    : columns in rising order of label, lengths px, `label` first; vectors as name-0, name-1
    raises     : BadSettings for an unknown property or when scikit-image is not installed; BadImage
    """
    try:
        from skimage.measure import regionprops_table
    except ImportError:
        raise BadSettings("scikit-image is not installed", 'pip install "emstream[shapes]"') from None
    if labels.ndim != 2 or (pixels is not None and pixels.shape != labels.shape):
        raise BadImage(f"labels {labels.shape} and pixels {getattr(pixels, 'shape', None)} are not one (y, x) image")
    y0, y1, x0, x1 = valid or (0, labels.shape[0], 0, labels.shape[1])
    image = np.zeros(labels.shape, np.int32)
    image[y0:y1, x0:x1] = to_host(labels)[y0:y1, x0:x1]
    wanted = [p for p in properties if p != "label" and (pixels is not None or "intensity" not in p)]
    try:
        return dict(regionprops_table(image, None if pixels is None else to_host(pixels), ["label", *wanted]))
    except (AttributeError, KeyError) as error:
        raise BadSettings(f"scikit-image has no property {error}", "see skimage.measure.regionprops") from None
