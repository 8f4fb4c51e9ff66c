"""A frame as people publish it: grey levels that do not flicker, outlines by track, scale bar, time."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import find_objects

from emstream.messages import Rect
from emstream.store.run import Run

# Okabe & Ito's colours, told apart by everybody; RGB
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
SAMPLE = 16  # frames that decide black and white


@dataclass(frozen=True, slots=True, eq=False)
class Artist:
    """Draws frames of one run, all with the same grey levels, crop and scale."""

    run: Run
    rect: Rect
    window: tuple[float, float]
    scale: float  # px of the picture per px of the frame
    tracks: dict[int, dict[int, int]]  # frame → label → track
    start_s: float

    @classmethod
    def of(cls, run: Run, rect: Rect, longest: int = 1024, enlarge: bool = False) -> Artist:
        """For pictures whose longer side is at most `longest` px; small frames are made larger only with `enlarge`."""
        y0, y1, x0, x1 = rect
        some = np.unique(np.linspace(0, run.n - 1, min(SAMPLE, run.n)).astype(int))
        values = np.concatenate([run.frame(int(i))[y0:y1:4, x0:x1:4].ravel() for i in some]).astype(np.float64)
        low, high = np.percentile(values[np.isfinite(values)], (0.3, 99.7)) if values.size else (0.0, 1.0)
        times = run.column("time_s")
        scale = longest / max(y1 - y0, x1 - x0)
        scale = max(1.0, float(int(scale))) if enlarge and scale > 1 else min(1.0, scale)
        return cls(run, rect, (float(low), float(max(high, low + 1e-9))), scale, _tracks(run), float(times[0]))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) px of the picture; even, as video wants it."""
        y0, y1, x0, x1 = self.rect
        return max(2, int((y1 - y0) * self.scale) // 2 * 2), max(2, int((x1 - x0) * self.scale) // 2 * 2)

    def draw(self, i: int, *, outlines: bool = True, legend: bool = True) -> np.ndarray:
        """Frame i as (height, width, 3) uint8 RGB."""
        y0, y1, x0, x1 = self.rect
        height, width = self.size
        grey = self.run.frame(i)[y0:y1, x0:x1].astype(np.float32)
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA if self.scale <= 1 else cv2.INTER_CUBIC)
        low, high = self.window
        grey = np.clip(np.nan_to_num((grey - low) / (high - low)), 0, 1) * 255
        image = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        if outlines:
            self.outline(image, i)
        if legend:
            self.legend(image, i)
        return image

    def outline(
        self, image: np.ndarray, i: int, *, colour: tuple[int, int, int] | None = None, only: set[int] | None = None
    ) -> None:
        """Draw the rims of frame i's particles, in place; colour : None = by track · only : these tracks, None = all."""
        y0, y1, x0, x1 = self.rect
        labels = self.run.label(i)[y0:y1, x0:x1].astype(np.int32)
        labels = cv2.resize(labels.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(int)
        tracks = self.tracks.get(i, {})
        for label, box in enumerate(find_objects(labels), 1):
            if box is None or (only is not None and tracks.get(label, -1) not in only):
                continue
            mask = (labels[box] == label).astype(np.uint8)
            contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            moved = [c + np.array([box[1].start, box[0].start]) for c in contours]
            ink = colour or COLOURS[tracks.get(label, label) % len(COLOURS)]
            cv2.polylines(image, moved, True, ink, max(1, round(max(image.shape) / 700)), cv2.LINE_AA)

    def legend(self, image: np.ndarray, i: int, stamp: bool = True) -> None:
        """Scale bar with its length below left, time below right, in place."""
        height, width = image.shape[:2]
        per_px = self.run.pixel_size_nm
        nm = (per_px[0] * per_px[1]) ** 0.5 / self.scale if per_px else 1 / self.scale
        length = nice(0.25 * width * nm)
        pixels, unit = round(length / nm), "nm" if per_px else "px"
        size = max(0.35, width / 1100)
        margin, thick = round(0.03 * width), max(2, round(0.008 * height))
        y = height - margin
        text = f"{length:g} {unit}" if length < 1000 or unit == "px" else f"{length / 1000:g} um"
        time_s = float(self.run.column("time_s")[i]) - self.start_s
        _write(image, text, (margin, y - 2 * thick), size)
        cv2.rectangle(image, (margin - 1, y - thick - 1), (margin + pixels + 1, y + 1), (0, 0, 0), -1)
        cv2.rectangle(image, (margin, y - thick), (margin + pixels, y), (255, 255, 255), -1)
        if stamp:
            when = f"{time_s:.2f} s"
            (wide, _), _ = cv2.getTextSize(when, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
            _write(image, when, (width - margin - wide, y), size)


def nice(value: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is not above `value`."""
    power = 10.0 ** np.floor(np.log10(max(value, 1e-12)))
    return float(max(k * power for k in (1, 2, 5) if k * power <= value * (1 + 1e-9)))


def _write(image: np.ndarray, text: str, at: tuple[int, int], size: float) -> None:
    weight = max(1, round(2 * size))
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), weight + 2, cv2.LINE_AA)
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), weight, cv2.LINE_AA)


def _tracks(run: Run) -> dict[int, dict[int, int]]:
    try:
        table = run.table("particles")
    except KeyError:
        return {}
    out: dict[int, dict[int, int]] = {}
    for frame, label, track in zip(table["frame"].tolist(), table["label"].tolist(), table["track"].tolist()):
        out.setdefault(frame, {})[label] = track
    return out
