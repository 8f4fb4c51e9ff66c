"""Before a model goes live: does it do on known frames what it did when it was activated, and does it see particles?"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emstream.arrays import to_host
from emstream.errors import ModelBroken
from emstream.messages import Array, PixelSize, Rect
from emstream.segment import Segmenter

RECORD = "golden.npz"  # beside the weights: the golden frames and the masks that the model gave when it was activated
SAME = 0.98  # IoU with the recorded masks; bf16, another device or another library give .99 and more
SEES = 0.3  # IoU with planted particles, or with what is at work now, that a model must reach on one of the frames
SIDE, DIAMETER = 288, 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Live:
    """The newest frame that was segmented, and what the model at work made of it."""

    pixels: Array
    valid: Rect | None
    pixel_size_nm: PixelSize | None
    mask: np.ndarray  # (y, x) bool


def golden_frames() -> tuple[np.ndarray, np.ndarray]:
    """(2, y, x) uint16 counts with 25 dark and 25 bright particles at 40 e/px, and (2, y, x) bool, where they are."""
    rng = np.random.default_rng(7)
    frames, truth = np.empty((2, SIDE, SIDE), np.uint16), np.zeros((2, SIDE, SIDE), bool)
    yy, xx = np.mgrid[0:SIDE, 0:SIDE]
    q = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    for k, contrast in enumerate((-0.4, 0.6)):
        film = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) * np.exp(-((6 * q) ** 2)), s=(SIDE, SIDE))
        base = 1 + 0.03 * film / film.std()
        for i in range(25):
            cy, cx = (34 + 55 * n + rng.uniform(-8, 8) for n in divmod(i, 5))
            d = np.hypot(yy - cy, xx - cx)
            base *= 1 + contrast / (1 + np.exp((d - DIAMETER / 2) / 0.8))
            truth[k] |= d < DIAMETER / 2
        frames[k] = rng.poisson(40 * np.clip(base, 0, None))
    return frames, truth


def record(segmenter: Segmenter, anyway: bool = False) -> bytes:
    """The file RECORD: golden frames and the masks that this model gives now.

    anyway : somebody wants the model although it finds no golden particles: its own look quite different, perhaps
    """
    frames, _ = golden_frames()
    masks = np.stack([_labels(segmenter, f) > 0 for f in frames])
    data = io.BytesIO()
    np.savez_compressed(data, frames=frames, masks=np.packbits(masks, axis=-1), anyway=np.bool_(anyway))
    return data.getvalue()


def self_test(
    segmenter: Segmenter, folder: Path | None = None, live: Live | None = None, anyway: bool = False
) -> dict[str, float]:
    """Try a model aside, on golden frames and on the newest live one, before it segments anything that counts.

    folder  : of the model; the masks recorded there must come out again
    live    : the newest frame; its labels must be possible, and may speak for a model that knows no golden particles
    returns : IoU with the planted particles (dark, bright), with the record, with the model at work
    raises  : ModelBroken, with what was wrong
    """
    frames, truth = golden_frames()
    masks = [_labels(segmenter, f) > 0 for f in frames]
    found = {f"planted {kind}": iou(m, t) for kind, m, t in zip(("dark", "bright"), masks, truth, strict=True)}
    if folder is not None and (folder / RECORD).is_file():
        frames, recorded, wanted = _read(folder / RECORD)
        anyway = anyway or wanted
        found["record"] = min(iou(_labels(segmenter, f) > 0, m) for f, m in zip(frames, recorded, strict=True))
        if found["record"] < SAME:
            raise ModelBroken(
                f"on its golden frames {segmenter.name} gives other masks than when it was activated: "
                f"IoU {found['record']:.3f} instead of {SAME}",
                "activate it again on this machine",
            )
    if live is not None:
        mask = _labels(segmenter, live.pixels, live.valid, live.pixel_size_nm) > 0
        if mask.any() or live.mask.any():
            found["now"] = iou(mask, live.mask)
    if not anyway and max(v for k, v in found.items() if k != "record") < SEES:
        raise ModelBroken(
            f"{segmenter.name} finds nothing of what is there: {', '.join(f'{k} {v:.2f}' for k, v in found.items())} "
            f"(IoU; {SEES} is the least)",
            "emstream models evaluate shows what it does; activate --anyway, if its particles look quite different",
        )
    return {k: round(v, 4) for k, v in found.items()}


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two masks, 0..1; both empty = 1."""
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else 1.0


def _labels(
    segmenter: Segmenter, pixels: Array, valid: Rect | None = None, pixel_size_nm: PixelSize | None = None
) -> np.ndarray:
    """Labels of one frame on the host, checked for what no model may give. raises : ModelBroken"""
    segmenter.reset()
    numbers: Callable[[Array], bool] | None = getattr(segmenter, "finite", None)
    if numbers is not None and not numbers(pixels):
        raise ModelBroken(f"{segmenter.name} gives numbers that are not finite")
    labels: Any = to_host(segmenter(pixels, valid=valid, pixel_size_nm=pixel_size_nm).labels)
    if labels.shape != tuple(pixels.shape):
        raise ModelBroken(f"{segmenter.name} gives labels of {labels.shape} for a frame of {tuple(pixels.shape)}")
    if labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        raise ModelBroken(f"{segmenter.name} gives labels of type {labels.dtype}, from {labels.min(initial=0)}")
    segmenter.reset()
    return np.asarray(labels)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, bool]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            frames = stored["frames"]
            masks = np.unpackbits(stored["masks"], axis=-1, count=frames.shape[-1]).astype(bool)
            return frames, masks, bool(stored["anyway"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as problem:
        raise ModelBroken(f"{path} cannot be read: {problem}", "activate the model again") from problem
