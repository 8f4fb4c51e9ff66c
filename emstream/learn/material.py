"""What is trained on: runs, movies and folders of pictures, all as frames that know their neighbours in time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from emstream import align
from emstream.errors import NotARun, SourceMissing, UnreadableFile
from emstream.learn.data import SUFFIXES, read_grey
from emstream.messages import Aligned, Frame, Origin, PixelSize, Rect, Status
from emstream.segment import SegmentOptions
from emstream.segment.average import Seen, added, common, reach, together
from emstream.source.formats import open_movie
from emstream.store import Run

# median and lower quartile of the shifts' confidence: frames with less of both are taken for unrelated pictures, of which some
# always seem to fit (.06 at most in a quarter of them; dim movies that are placed to a third of a pixel have .17 and more)
LOCKED, DIM = 0.5, 0.1
ALIKE = 0.99  # correlation of two frames, noise and all, from which the second one is left out
BAD = Status.BLANK | Status.SUSPECT | Status.REJECTED


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """One input: small, and the same on every worker; pixels are read when they are needed."""

    path: str
    kind: Literal["run", "movie", "pictures"]
    frames: tuple[int, ...]  # those that may be used, in order of time
    names: tuple[str, ...] = ()  # of the pictures
    at: np.ndarray | None = (
        None  # (t, 2) px: what still lays each frame's stored pixels on its anchor; None = unrelated
    )
    moved: np.ndarray | None = None  # (t, 2) px: the whole shift that the stored pixels were moved by
    anchor: np.ndarray | None = None  # (t,) frames of different anchors do not see the same canvas
    pixel_size_nm: PixelSize | None = None

    @property
    def name(self) -> str:
        return Path(self.path).name

    def frame_name(self, i: int) -> str:
        """How a frame is called in data sets and reports."""
        return self.names[i] if self.names else f"{self.name}:{i}"

    def valid(self, i: int, shape: tuple[int, int]) -> Rect:
        """The pixels of the stored frame that the camera saw: drift has moved the rest out of the canvas."""
        if self.moved is None:
            return (0, shape[0], 0, shape[1])
        return align.covered(shape, (float(self.moved[i, 0]), float(self.moved[i, 1])))


def survey(path: Path, pictures: bool = False) -> Material:
    """What is at a path; a movie is aligned, a run brings its shifts.

    pictures : a folder is one of unrelated pictures, not the frames of a movie
    raises   : SourceMissing, UnreadableFile
    """
    if not path.exists():
        raise SourceMissing(f"nothing at {path}", "a run, a movie, or a folder of pictures")
    try:
        return _run(Run(path))
    except NotARun:
        pass
    if path.is_dir() and not list(path.glob("*.json")) and not (path / ".zarray").exists():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        if files and (pictures or len({_shape(p) for p in files}) > 1):
            return Material(str(path), "pictures", tuple(range(len(files))), tuple(p.name for p in files))
        if not files and pictures:
            raise SourceMissing(f"no pictures in {path}", "a folder of png, tif or jpg files")
    return _movie(path)


def _shape(path: Path) -> tuple[int, ...]:
    image = cv2.imread(str(path), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    if image is None:
        raise UnreadableFile(f"{path} is no picture that can be read")
    return image.shape


def _run(run: Run) -> Material:
    shift, status = run.column("shift"), run.column("status")
    final = shift
    try:
        known = run.column("final_shift")
        final = np.where(np.isfinite(known), known, shift)
    except KeyError:
        pass  # runs that older versions wrote
    moved = np.rint(np.nan_to_num(shift))
    good = [i for i in range(run.n) if not status[i] & int(BAD) and np.isfinite(shift[i]).all()]
    return Material(
        str(run.path), "run", tuple(good), (), np.nan_to_num(final) - moved, moved, run.column("anchor"),
        run.pixel_size_nm,
    )  # fmt: skip


def _movie(path: Path) -> Material:
    with open_movie(path) as movie:
        n = len(movie)
        _, final, found = align.solve_series((movie[i] for i in range(n)), align.AlignOptions())
        size = movie.pixel_size_nm
    sure = [e.confidence for e in found[1:]]
    locked = n > 2 and (float(np.median(sure)) >= LOCKED or float(np.quantile(sure, 0.25)) >= DIM)
    good = tuple(i for i in range(n) if not found[i].status & int(Status.BLANK))
    if not locked:
        return Material(str(path), "movie", good, pixel_size_nm=size)
    anchors = np.array([e.anchor for e in found])
    return Material(str(path), "movie", good, (), final, None, anchors, size)


Reader = Callable[[int], np.ndarray]  # frame -> (y, x), the stored pixels


@contextmanager
def opened(material: Material) -> Iterator[Reader]:
    """Read frames of a material: i -> (y, x), the camera's dtype, or float32 for pictures."""
    path = Path(material.path)
    if material.kind == "run":
        yield Run(path).frame
    elif material.kind == "pictures":
        yield lambda i: read_grey(path / material.names[i])
    else:
        with open_movie(path) as movie:
            yield movie.__getitem__


def others(material: Material, read: Reader, i: int, reach: int) -> np.ndarray | None:
    """Frame i as its neighbours in time show it: their mean on frame i's own pixels, without frame i.

    reach   : frames on either side
    returns : (y, x) float32; NaN where no neighbour covers; None when it has no neighbours
    """
    if material.at is None or reach < 1 or i not in material.frames:
        return None
    anchor = material.anchor
    k = material.frames.index(i)
    near = [j for j in material.frames[max(0, k - reach) : k + reach + 1] if j != i and abs(j - i) <= 2 * reach]
    near = [j for j in near if anchor is None or anchor[j] == anchor[i]]
    total: Any = None
    for j in near:
        pixels = read(j).astype(np.float32)
        if total is None:
            total, count = np.zeros_like(pixels), np.zeros_like(pixels)
        y0, y1, x0, x1 = material.valid(j, (pixels.shape[0], pixels.shape[1]))
        there = np.zeros_like(pixels)
        there[y0:y1, x0:x1] = 1
        by = material.at[j] - material.at[i]
        total += _moved(pixels * there, by)
        count += _moved(there, by)
    if total is None:
        return None
    return np.where(count > 0.5, total / np.maximum(count, 1e-3), np.nan).astype(np.float32)


def as_shown(material: Material, read: Reader, i: int) -> np.ndarray | None:
    """Frame i and those before it as the daemon's network is given them where electrons are few: added up.

    returns : (y, x) on frame i's own pixels; None where the daemon shows the frame alone
    """
    if material.at is None:
        return None
    anchor, options = material.anchor, SegmentOptions()
    near = [j for j in material.frames if i - reach(options.average_frames) <= j <= i]
    seen = []
    for j in near if anchor is None else [j for j in near if anchor[j] == anchor[i]]:
        pixels = read(j)
        dy, dx = (float(v) for v in np.rint(material.at[j] - material.at[i]))
        moved, covered = align.move(pixels, (dy, dx))
        y0, y1, x0, x1 = material.valid(j, (int(pixels.shape[0]), int(pixels.shape[1])))
        valid = common(covered, (y0 + int(dy), y1 + int(dy), x0 + int(dx), x1 + int(dx)))
        frame = Frame("", Origin("", j, 0, 0, 0), pixels, float(j), None)
        seen.append(Seen(Aligned(frame, moved, (dy, dx), 1.0, 0, 0, valid), moved))
    shown = together(seen, options.average_frames, options.long_side_px)
    return None if len(shown) < 2 else np.asarray(added(shown))


def _moved(image: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The image moved by (dy, dx) px, bilinear, 0 from outside."""
    matrix = np.array([[1, 0, by[1]], [0, 1, by[0]]], np.float64)
    return cv2.warpAffine(image, matrix, (image.shape[1], image.shape[0]), flags=cv2.INTER_LINEAR)


def spread_in_time(material: Material, read: Reader, most: int) -> tuple[int, ...]:
    """At most `most` frames, evenly spread, without those that repeat the one before, noise and all.

    A camera that is read faster than it exposes hands the same frame out twice; frames of the same scene with noise of
    their own are worth keeping.
    """
    frames = material.frames
    step = max(1.0, len(frames) / max(most, 1))
    wanted = [frames[int(k * step)] for k in range(min(len(frames), max(most, 1)))]
    if material.kind == "pictures":
        return tuple(wanted)
    kept: list[int] = []
    before: np.ndarray | None = None
    for i in wanted:
        now = read(i).astype(np.float32)
        fine = now - cv2.blur(now, (7, 7))
        if before is not None and _alike(before, fine):
            continue
        kept.append(i)
        before = fine
    return tuple(kept)


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    scale = float(np.sqrt((a**2).mean() * (b**2).mean()))
    return scale > 0 and float((a * b).mean()) / scale > ALIKE


def sealed(materials: Sequence[Material], chosen: Sequence[Sequence[int]], share: float) -> list[set[int]]:
    """For each input the frames that are kept for validation: whole pictures, whole runs, or a stretch of time.

    Five and more runs: whole runs, by the hash of their name. Fewer: the last `share` of each one's time, so that no crop
    of a frame that is trained on is ever judged, nor a frame between two that are.
    """
    many = sum(m.kind != "pictures" for m in materials) >= 5
    out = []
    for m, frames in zip(materials, chosen, strict=True):
        if m.kind == "pictures":
            out.append({i for i in frames if hashed(m.names[i]) < share})
        elif many:
            out.append(set(frames) if hashed(m.name) < share else set())
        else:
            n = round(share * len(frames)) if len(frames) > 2 else 0
            out.append(set(sorted(frames)[-max(n, 2 if share and len(frames) > 4 else 0) :] if share and n else ()))
    return out


def hashed(name: str) -> float:
    """A number 0..1 that depends on the name alone."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32
