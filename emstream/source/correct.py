"""Dark, gain and defects of a camera: used to align and to segment, never applied to what is stored."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emstream.errors import BadSettings, EmstreamError
from emstream.source import SourceOptions
from emstream.source.formats import open_movie

log = logging.getLogger("emstream.source")


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """corrected = (counts - dark) * gain, pixels in `defects` are bad.

    dark, gain : (y, x) float32 or None
    defects    : (y, x) bool or None; rectangles : (n, 4) x, y, w, h px, or None
    """

    dark: np.ndarray | None = None
    gain: np.ndarray | None = None
    defects: np.ndarray | None = None
    rectangles: np.ndarray | None = None

    def maps(self, shape: tuple[int, int]) -> dict[str, np.ndarray]:
        """What fits frames of this shape, by name: dark, gain, defects. What does not fit is left out, and told."""
        out = {}
        for name in ("dark", "gain", "defects"):
            found = getattr(self, name)
            if found is None:
                continue
            if found.shape == shape:
                out[name] = found
            else:
                log.warning(
                    "reference does not fit the frames and is not used",
                    extra={"setting": f"source.{name}", "reference": found.shape, "frames": shape},
                )
        if self.rectangles is not None:
            bad = out.setdefault("defects", np.zeros(shape, bool)).copy()
            for x, y, w, h in self.rectangles:
                bad[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)] = True
            out["defects"] = bad
        return out


def load_correction(options: SourceOptions) -> Correction | None:
    """The references that the settings name; None when they name none.

    raises : BadSettings, naming the setting and the file
    """
    if not (options.dark or options.gain or options.defects):
        return None
    dark, gain = (_reference(options, name) for name in ("dark", "gain"))
    defects = rectangles = None
    if options.defects:
        if Path(options.defects).suffix.lower() in (".txt", ".csv", ".dat", ""):
            rectangles = _rectangles(Path(options.defects))
        else:
            found = _reference(options, "defects")
            defects = None if found is None else found != 0
    return Correction(dark, gain, defects, rectangles)


def _reference(options: SourceOptions, name: str) -> np.ndarray | None:
    """A reference image: the mean of all frames of its file."""
    path = getattr(options, name)
    if not path:
        return None
    try:
        with open_movie(path) as movie:
            image = np.mean([movie[i].astype(np.float64) for i in range(len(movie))], axis=0).astype(np.float32)
    except EmstreamError as err:
        raise BadSettings(f"source.{name} = {path!r}: {err}") from None
    if not np.isfinite(image).all():
        raise BadSettings(f"source.{name} = {path!r} holds NaN or infinite values")
    return image


def _rectangles(path: Path) -> np.ndarray:
    """Lines `x y w h`, px; # begins a comment."""
    rows = []
    try:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            text = line.partition("#")[0].replace(",", " ").split()
            if not text:
                continue
            if len(text) != 4:
                raise BadSettings(f"source.defects = {str(path)!r}, line {number}: not of the form x y w h")
            rows.append([int(v) for v in text])
    except (OSError, ValueError) as err:
        if isinstance(err, BadSettings):
            raise
        raise BadSettings(f"source.defects = {str(path)!r}: {err}") from None
    return np.array(rows, np.int64).reshape(-1, 4)
