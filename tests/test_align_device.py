"""The same lines on a device's arrays: every shift within a thousandth of a pixel of the host's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device_stand_in import device  # noqa: F401

from emstream import align, simulate


@pytest.mark.parametrize(
    "settings",
    [
        {"dose": 4.0, "hot": 1e-4},
        {"dose": 1.0, "flow": (0.5, 0.38)},
        {"dose": 20.0, "flow": (0.5, 0.38), "particles": 12},
        {"dose": 8.0, "jump": (9, (40.0, -20.0)), "blank": (6,)},
    ],
)
def test_host_and_device_agree_on_every_shift(device: Any, settings: dict[str, Any]) -> None:  # noqa: F811
    movie = simulate.movie(18, (192, 192), seed=71, **settings)
    on_host = align.start(movie.shape, movie.dtype)
    on_device = align.start(movie.shape, movie.dtype, align.AlignOptions(grid=256), xp=device)
    for i, frame in enumerate(movie):
        there = device.asarray(frame)
        left_out = movie.labels(i) > 0 if settings.get("particles") and i else None
        on_host, a = align.follow(on_host, frame, exclude=left_out)
        left_out = None if left_out is None else device.asarray(left_out)
        on_device, b = align.follow(on_device, there, exclude=left_out)
        np.testing.assert_allclose(a.shift, b.shift, atol=1e-3, err_msg=f"frame {i}")
        assert (a.status, a.defects) == (b.status, b.defects)
        assert abs(a.confidence - b.confidence) < 1e-2
    again = align.load(align.dump(on_device), align.AlignOptions(grid=256), xp=device)
    np.testing.assert_allclose(align.follow(again, there)[1].shift, align.follow(on_host, frame)[1].shift, atol=1e-3)


def test_host_and_device_agree_on_a_pair(device: Any) -> None:  # noqa: F811
    movie = simulate.movie(2, (192, 192), dose=50.0, trajectory=np.array([(0, 0), (7.3, -4.6)]), seed=72)
    a, b = movie.frame(0), movie.frame(1)
    here, sure = align.register(a, b)
    there, sure2 = align.register(device.asarray(a), device.asarray(b))
    np.testing.assert_allclose(here, there, atol=1e-3)
    assert abs(sure - sure2) < 1e-2
