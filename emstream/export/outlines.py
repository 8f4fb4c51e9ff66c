"""Outlines through time: where each particle's rim was, early to late, over one picture; as published figures show it."""

from __future__ import annotations

import base64

import cv2
import numpy as np

from emstream.export.crop import common
from emstream.export.draw import Artist
from emstream.store.run import Run

STEPS, PARTICLES, LONGEST = 9, 200, 1100


def through_time(run: Run, tracks: object) -> str:
    """A figure for the report: the first frame, and the outlines at some times from dark (early) to bright (late)."""
    import imagecodecs

    crop = common(run)
    artist = Artist.of(run, crop.rect, LONGEST, enlarge=True)
    frames = crop.frames[np.unique(np.linspace(0, len(crop.frames) - 1, STEPS).astype(int))]
    longest = tracks.sort_values("frames", ascending=False)["track"].head(PARTICLES)  # type: ignore[attr-defined]
    image, colours = artist.draw(int(frames[0]), outlines=False, legend=False), colours_of(len(frames))
    image = (image // 3 * 2).astype(np.uint8)  # darker, so that the lines are seen
    for i, colour in zip(frames.tolist(), colours):
        artist.outline(image, i, colour=colour, only=set(longest.tolist()))
    artist.legend(image, int(frames[0]), stamp=False)
    t = run.column("time_s")[frames] - run.column("time_s")[0]
    key = "".join(f'<span style="color:rgb{c}">■</span> {s:.4g} s ' for c, s in zip(colours, t.tolist()))
    data = base64.b64encode(imagecodecs.png_encode(np.ascontiguousarray(image))).decode()
    return (
        f'<h2>Outlines through time</h2><figure><img src="data:image/png;base64,{data}">'
        f"<figcaption>frame {frames[0]}; outlines at {key}</figcaption></figure>"
    )


def colours_of(n: int) -> list[tuple[int, int, int]]:
    """n colours from dark blue to yellow, told apart also in print; RGB."""
    ramp = np.linspace(40, 255, n).astype(np.uint8)[:, None]
    found = cv2.applyColorMap(ramp, cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]
    return [(int(r), int(g), int(b)) for r, g, b in found]
