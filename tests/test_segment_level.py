"""Noisy frames of large particles are outlined at one level; all other frames keep the network's outlines."""

from __future__ import annotations

import cv2
import numpy as np

from emstream.segment.level import at_one_level
from emstream.segment.listed import listed


def scene(noise: float, second: float = 1.0, radius: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Two discs of brightness 1 and `second` on 0 with noise that has a grain of some px; their labels."""
    yy, xx = np.mgrid[0:256, 0:256]
    truth = np.zeros((256, 256), np.int32)
    truth[np.hypot(yy - 70, xx - 70) < radius] = 1
    truth[np.hypot(yy - 180, xx - 180) < radius] = 2
    grain = cv2.GaussianBlur(np.random.default_rng(0).standard_normal(truth.shape), (0, 0), 1.5)
    image = np.array([0, 1, second])[truth] + noise * grain / grain.std()
    return image.astype(np.float32), truth


def widened(truth: np.ndarray, px: int = 3) -> np.ndarray:
    square = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * px + 1,) * 2)
    return cv2.dilate(truth.astype(np.float32), square).astype(np.int32)


def outlined(image: np.ndarray, labels: np.ndarray, **more: tuple[int, int, int, int]) -> np.ndarray:
    particles, foreground = at_one_level(listed(labels), (labels > 0).astype(np.float32), image, 0.6, **more)
    found = particles.picture()
    assert np.array_equal(found > 0, foreground > 0.6)
    return found


def test_outlines_that_lie_too_far_out_move_to_the_level_in_a_noisy_frame() -> None:
    image, truth = scene(0.4)
    labels = outlined(image, widened(truth))
    assert (labels == truth).mean() > 0.99
    assert (widened(truth) == truth).mean() < 0.98


def test_a_clear_frame_and_one_without_a_single_level_keep_their_outlines() -> None:
    for image, truth in (scene(0.02), scene(0.4, second=0.4)):
        assert np.array_equal(outlined(image, widened(truth)), widened(truth))


def test_small_particles_keep_their_outlines() -> None:
    image, truth = scene(0.4, radius=12)
    assert np.array_equal(outlined(image, widened(truth)), widened(truth))


def test_nothing_is_outlined_where_the_frame_covers_nothing() -> None:
    image, truth = scene(0.4)
    image[:60], truth[:60] = 0, 0
    labels = outlined(image, np.where(np.arange(256)[:, None] < 60, 0, widened(truth)), valid=(60, 256, 0, 256))
    assert not labels[:60].any()
    assert labels.max() == 2
