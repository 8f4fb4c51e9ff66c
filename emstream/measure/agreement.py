"""How far two label images of one canvas agree: overlap of what is labelled, particle by particle; pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emstream.measure.match import overlaps

SAME_IOU = 0.5  # above it a particle has at most one counterpart


@dataclass(frozen=True, slots=True)
class Agreement:
    """Counts of one frame, in px and particles."""

    both: int  # px labelled in both
    either: int  # px labelled in one at least
    old: int  # particles in the first image
    new: int  # … in the second
    paired: int  # particles of both whose IoU is above SAME_IOU

    @property
    def iou(self) -> float:
        """Of the labelled px, 0..1; both empty = 1."""
        return self.both / self.either if self.either else 1.0

    @property
    def dice(self) -> float:
        """2 both / (sum of both), 0..1; both empty = 1."""
        return 2 * self.both / (self.both + self.either) if self.either else 1.0

    @property
    def vanished(self) -> int:
        """Particles of the first image without a counterpart."""
        return self.old - self.paired

    @property
    def appeared(self) -> int:
        """Particles of the second image without a counterpart."""
        return self.new - self.paired


def agree(before: np.ndarray, after: np.ndarray, delta: tuple[int, int] = (0, 0)) -> Agreement:
    """What two label images have in common.

    before, after : (y, x) integer labels, 0 = background, of one shape
    delta         : (dy, dx) px: what lies at `p` in `before` lies at `p - delta` in `after`; only what both cover counts
    raises        : ValueError (shapes differ)
    """
    if before.shape != after.shape:
        raise ValueError(f"label images of {before.shape} and {after.shape} px")
    a, b = _common(before, delta), _common(after, (-delta[0], -delta[1]))
    if not a.size:
        return Agreement(0, 0, 0, 0, 0)
    area_a, area_b = np.bincount(a.ravel()), np.bincount(b.ravel())
    old, new = (np.flatnonzero(area[1:]) + 1 for area in (area_a, area_b))
    shared = overlaps(a, b, old, new)
    either = area_a[old][shared.old] + area_b[new][shared.new] - shared.pixels
    both = int(shared.pixels.sum())
    labelled = int(area_a[1:].sum() + area_b[1:].sum())
    return Agreement(both, labelled - both, len(old), len(new), int((shared.pixels > SAME_IOU * either).sum()))


def _common(image: np.ndarray, delta: tuple[int, int]) -> np.ndarray:
    """The part of an image that the other one, which lies `delta` away, covers too."""
    return image[tuple(slice(max(0, d), n + min(0, d)) for d, n in zip(delta, image.shape, strict=True))]
