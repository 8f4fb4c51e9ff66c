"""The aligned movie as MP4 or GIF, cropped to what every frame covers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from emstream.export.crop import common
from emstream.export.draw import Artist
from emstream.store.run import Run

log = logging.getLogger("emstream.export")
GIF_FRAMES, GIF_PX = 200, 480


def mp4(run: Run, out: Path, fps: float | None = None) -> None:
    """H.264 that every browser plays. fps : frames a second; None = what lasts about 20 s, 5 to 30."""
    import imageio_ffmpeg

    artist, frames = _prepare(run, 1024, enlarge=True)
    height, width = artist.size
    rate = fps or float(np.clip(len(frames) / 20, 5, 30))
    writer = imageio_ffmpeg.write_frames(
        str(out), (width, height), fps=rate, codec="libx264", pix_fmt_out="yuv420p", macro_block_size=2, quality=8,
        output_params=["-movflags", "+faststart"],
    )  # fmt: skip
    writer.send(None)
    try:
        for image in _images(artist, frames):
            writer.send(np.ascontiguousarray(image))
    finally:
        writer.close()


def gif(run: Run, out: Path, fps: float | None = None) -> None:
    """A small animation for slides: at most 200 frames of at most 480 px."""
    from PIL import Image

    artist, frames = _prepare(run, GIF_PX)
    frames = frames[:: max(1, -(-len(frames) // GIF_FRAMES))]
    rate = fps or float(np.clip(len(frames) / 15, 5, 20))
    pictures = (Image.fromarray(image).quantize(128) for image in _images(artist, frames))
    first = next(pictures)
    first.save(out, save_all=True, append_images=pictures, duration=round(1000 / rate), loop=0)


def _prepare(run: Run, longest: int, enlarge: bool = False) -> tuple[Artist, np.ndarray]:
    crop = common(run)
    if crop.left_out:
        log.warning(
            "frames left out: they drifted too far to share a picture with the others",
            extra={"left_out": crop.left_out, "kept": len(crop.frames)},
        )
    return Artist.of(run, crop.rect, longest, enlarge), crop.frames


def _images(artist: Artist, frames: np.ndarray) -> Iterator[np.ndarray]:
    for i in frames.tolist():
        yield artist.draw(i)
