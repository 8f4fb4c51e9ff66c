"""Movies with known drift, labels and tracks: the one builder for tests, benchmarks and the demo. No files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from emstream.errors import BadSettings, FrameOutOfRange
from emstream.messages import PixelSize
from emstream.simulate.detector import blur, fixed_pattern, hot_pixels, poisson
from emstream.simulate.film import granular_film, shifted_crop
from emstream.simulate.life import EVENTS, Life, begin, record, settle, sizes, step
from emstream.simulate.life import ripe as ripe_sizes
from emstream.simulate.shapes import Disc, Outline, draw, draw_labels, draw_outline

__all__ = ["TRACKS", "Movie", "movie"]

TRACKS = np.dtype(
    {
        "names": ["frame", "particle", "y", "x", "diameter", "inside"],
        "formats": [np.int32, np.int32, np.float64, np.float64, np.float64, np.bool_],
    }
)
LARGEST_FILM = 4096  # px; a drift beyond it sees the same film again


@dataclass(frozen=True, eq=False)
class Movie:
    """A simulated in-situ movie: frames made one by one, always the same, and the truth about them.

    drift    : (t, 2) px, (dy, dx): by how much frame i's content is displaced, drift[0] = 0;
               frame i at x shows the scene at x - drift[i], so the true shift of frame i is -drift[i]
    gain     : (y, x) float32, the detector's sensitivity; counts = gain · electrons, mean 1
    hot      : (y, x) float32, extra counts per frame; hot > 0 marks the defects
    """

    shape: tuple[int, int]
    dtype: np.dtype
    drift: np.ndarray
    dose: float
    time_s: np.ndarray  # (t,) seconds from the first frame
    pixel_size_nm: PixelSize | None
    gain: np.ndarray
    hot: np.ndarray
    blank: frozenset[int]  # frames without beam
    seed: int
    events: np.ndarray  # life.EVENTS: frame, kind, particle, other (-1 = none), y, x (frame coordinates)
    film: np.ndarray  # (Y, X) float32, periodic, relative intensity - 1
    table: np.ndarray  # life.TABLE, scene coordinates, sorted by frame
    starts: np.ndarray  # (t + 1,) first row of each frame in `table`
    outlines: list[Outline]  # of each particle
    contrast: np.ndarray  # (particles,) relative change of intensity, negative = dark
    edge_px: float
    dome: float
    mtf: float | None  # at Nyquist

    def __len__(self) -> int:
        return len(self.drift)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.frame(i)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.frame(i) for i in range(len(self)))

    @property
    def frames(self) -> np.ndarray:
        """All frames at once, (t, y, x)."""
        return np.stack(list(self))

    @property
    def shift(self) -> np.ndarray:
        """(t, 2) px: what an aligner should find, so that scipy.ndimage.shift(frame, shift) lies on frame 0."""
        return self.drift[0] - self.drift

    def frame(self, i: int) -> np.ndarray:
        """Frame i as the camera writes it: (y, x), counts in `dtype`, clipped to its range."""
        rng = np.random.Generator(np.random.SFC64((self.seed, 1, self._known(i))))
        if i in self.blank:
            expected = self.hot
        else:
            expected = self.clean(i)
            expected *= np.float32(self.dose)
            expected *= self.gain
            expected += self.hot
        counts = poisson(expected, rng)
        if np.issubdtype(self.dtype, np.integer):
            np.minimum(counts, np.float32(min(np.iinfo(self.dtype).max, 2**24)), out=counts)
        return counts.astype(self.dtype)

    def clean(self, i: int) -> np.ndarray:
        """The scene that frame i looks at, without noise and detector: (y, x) float32, 1 = bare film."""
        dy, dx = self.drift[self._known(i)]
        image = shifted_crop(self.film, (-dy, -dx), self.shape)
        image += 1.0
        np.maximum(image, np.float32(0.05), out=image)
        draw(image, self._discs(i), self.outlines, self.contrast, self.edge_px, self.dome)
        if self.mtf is not None:
            image = blur(image, self.mtf)
        return image

    def labels(self, i: int) -> np.ndarray:
        """Instance labels in frame coordinates: (y, x) int32, the particle's number + 1, 0 = film."""
        return draw_labels(self.shape, self._discs(i), self.outlines)

    @property
    def tracks(self) -> np.ndarray:
        """TRACKS, one row per particle and frame that shows any of it: centroid and equivalent diameter in px.

        Positions are in frame coordinates and may lie outside; `inside` says that the whole particle is in the frame.
        """
        t = self.table
        out = np.zeros(len(t), TRACKS)
        out["frame"], out["particle"] = t["frame"], t["particle"]
        area, out["y"], out["x"] = _union(t)
        out["diameter"] = 2.0 * np.sqrt(area / np.pi)
        out["y"] += self.drift[t["frame"], 0]
        out["x"] += self.drift[t["frame"], 1]
        half = out["diameter"] / 2 * 1.1
        beyond = np.zeros(len(t), bool)
        out["inside"] = True
        for axis, n in zip("yx", self.shape):
            beyond |= (out[axis] + half < 0) | (out[axis] - half > n - 1)
            out["inside"] &= (out[axis] - half >= 0) & (out[axis] + half <= n - 1)
        return out[~beyond]

    def _known(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise FrameOutOfRange(f"the movie has {len(self)} frames, no frame {i}")
        return i

    def _discs(self, i: int) -> list[Disc]:
        rows = self.table[self.starts[i] : self.starts[i + 1]]
        dy, dx = self.drift[i]
        far = 1.6 * np.maximum(rows["radius"], rows["lobe_radius"]) + 8 * self.edge_px
        near = (rows["y"] + dy > -far) & (rows["y"] + dy < self.shape[0] + far)
        near &= (rows["x"] + dx > -far) & (rows["x"] + dx < self.shape[1] + far)
        discs = []
        for r in rows[near].tolist():
            _, particle, y, x, radius, lobe_y, lobe_x, lobe_radius = r
            discs.append(Disc(particle, y + dy, x + dx, radius))
            if lobe_radius:
                discs.append(Disc(particle, lobe_y + dy, lobe_x + dx, lobe_radius))
        return discs


def movie(
    t: int = 64,
    shape: tuple[int, int] = (512, 512),
    *,
    dose: float = 20.0,
    dtype: str = "uint16",
    drift_per_frame: tuple[float, float] = (0.3, -0.2),
    jitter: float = 0.3,
    jump: tuple[int, tuple[float, float]] | None = None,
    trajectory: np.ndarray | None = None,
    particles: int | None = None,
    diameter: tuple[float, float] = (8.0, 40.0),
    contrast: tuple[float, float] = (0.08, 0.35),
    polarity: Literal["dark", "bright", "both"] = "dark",
    edge_px: float = 0.5,
    dome: float = 0.3,
    facets: float = 0.0,
    roughness: float = 0.0,
    film: float = 0.04,
    grain_px: float = 3.0,
    nucleate: float = 0.0,
    grow: float = 0.0,
    coarsen: float = 0.0,
    exponent: float = 3.0,
    ripe: bool = False,
    coalesce: bool = False,
    dissolve: float = 0.0,
    wander: float = 0.0,
    flow: tuple[float, float] = (0.0, 0.0),
    hot: float = 0.0,
    gain_rms: float = 0.0,
    mtf: float | None = None,
    blank: Sequence[int] = (),
    fps: float = 10.0,
    pixel_size_nm: PixelSize | None = (0.5, 0.5),
    seed: int = 0,
) -> Movie:
    """A movie of supported particles whose drift, labels, tracks and events are known.

    t, shape        : number of frames, (y, x) px
    dose            : electrons per pixel and frame; one electron is one count
    drift_per_frame : (y, x) px per frame; `jitter` px rms per axis on top;
                      `jump` (frame, (dy, dx) px) moves the stage once
    trajectory      : (t, 2) px, taken instead of the three above, made to begin at 0
    particles       : how many are in one field of view on average, None = 40 on 512 × 512 px and as dense
                      on others; they cover all that the drift ever shows
    diameter        : (smallest, largest) px; log-normal between; with `ripe` spread as ripening of that exponent leaves
                      them, up to the largest (the smallest plays no part); `contrast` (weakest, strongest) relative, 0..1
    edge_px, dome   : width of the soft rim; 0 = flat inside … 1 = as thick as a sphere
    facets          : 0 round … 1 polygons; `roughness` rms of the outline in units of the radius
    film, grain_px  : rms of the film's granularity relative to its brightness; its finest grain, px
    nucleate … flow : see `life.Life`
    hot, gain_rms   : fraction of hot pixels; rms of the detector's fixed pattern
    mtf             : the detector's MTF at Nyquist, 0..1 (Gaussian); None = perfect
    blank           : frames without beam
    raises          : BadSettings
    """
    life = Life(
        nucleate=nucleate, grow=grow, coarsen=coarsen, exponent=exponent, dissolve=dissolve, wander=wander, flow=flow,
        coalesce=coalesce,
    )  # fmt: skip
    if not exponent > 1:
        raise BadSettings(f"a coarsening exponent of {exponent}", "it is larger than 1: 2, 3 or 4")
    if t < 1 or min(shape) < 16:
        raise BadSettings(f"a movie of {t} frames of {shape[0]} × {shape[1]} px", "at least 1 frame of 16 × 16 px")
    drift = _drift(t, drift_per_frame, jitter, jump, trajectory, seed)
    low, high = -drift.max(axis=0), np.array(shape) - drift.min(axis=0)
    box = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
    if particles is None:
        particles = round(40 * shape[0] * shape[1] / 512**2)
    density = (high - low).prod() / (shape[0] * shape[1])
    table, starts, happened = _live(t, life, round(particles * density), nucleate * density, diameter, ripe, box, seed)
    count = int(table["particle"].max(initial=-1)) + 1
    rng = np.random.default_rng((seed, 2))
    events = np.array(happened, EVENTS) if happened else np.zeros(0, EVENTS)
    for k, axis in enumerate("yx"):
        events[axis] += drift[events["frame"], k]
    canvas = [min(int(np.ceil(h - a)) + 32, max(LARGEST_FILM, n + 32)) for a, h, n in zip(low, high, shape)]
    return Movie(
        shape=(shape[0], shape[1]),
        dtype=np.dtype(dtype),
        drift=drift,
        dose=dose,
        time_s=np.arange(t) / fps,
        pixel_size_nm=pixel_size_nm,
        gain=fixed_pattern(shape, gain_rms, np.random.default_rng((seed, 6))),
        hot=hot_pixels(shape, hot, dose, np.random.default_rng((seed, 7))),
        blank=frozenset(blank),
        seed=seed,
        events=events,
        film=granular_film((canvas[0], canvas[1]), grain_px, np.random.default_rng((seed, 4))) * np.float32(film),
        table=table,
        starts=starts,
        outlines=[draw_outline(facets, roughness, rng) for _ in range(count)],
        contrast=_contrast(count, contrast, polarity, rng),
        edge_px=edge_px,
        dome=dome,
        mtf=mtf,
    )


def _drift(
    t: int,
    per_frame: tuple[float, float],
    jitter: float,
    jump: tuple[int, tuple[float, float]] | None,
    trajectory: np.ndarray | None,
    seed: int,
) -> np.ndarray:
    if trajectory is not None:
        path = np.array(trajectory, np.float64)
        if path.shape != (t, 2):
            raise BadSettings(f"a trajectory of shape {path.shape} for {t} frames", f"make it ({t}, 2)")
        return path - path[0]
    rng = np.random.default_rng((seed, 5))
    path = np.arange(t)[:, None] * np.array(per_frame) + jitter * rng.standard_normal((t, 2))
    if jump is not None:
        path[jump[0] :] += jump[1]
    return path - path[0]


def _live(
    t: int,
    life: Life,
    n: int,
    births: float,
    diameter: tuple[float, float],
    evolved: bool,
    box: tuple[float, float, float, float],
    seed: int,
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str, int, int, float, float]]]:
    """Every particle in every frame (TABLE), the first row of each frame (t + 1,), and the events."""
    rng = np.random.default_rng((seed, 3))
    radii = ripe_sizes(n, diameter[1], life.exponent, rng) if evolved else sizes(n, diameter, rng)
    population = begin(radii, settle(n, radii, box, rng))
    first = record(population, 0)
    if life.still:
        table = np.tile(first, t)
        table["frame"] = np.repeat(np.arange(t), n)
        return table, np.arange(t + 1) * n, []
    rows, next_id = [first], n
    for frame in range(1, t):
        fresh = sizes(int(rng.poisson(births)), diameter, rng)
        next_id = step(population, life, frame, box, fresh, next_id, rng)
        rows.append(record(population, frame))
    return np.concatenate(rows), np.cumsum([0, *map(len, rows)]), population.events


def _contrast(n: int, strength: tuple[float, float], polarity: str, rng: np.random.Generator) -> np.ndarray:
    size = rng.uniform(*strength, n)
    if polarity == "both":
        return size * rng.choice((-1.0, 1.0), n)
    return size if polarity == "bright" else -size


def _union(t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Area and centroid (y, x) of one disc or of two that overlap; rows of TABLE in, scene coordinates out."""
    r, s = t["radius"], t["lobe_radius"]
    gap = np.hypot(t["y"] - t["lobe_y"], t["x"] - t["lobe_x"])
    d = np.maximum(gap, 1e-9)
    small = np.maximum(s, 1e-9)
    a = np.arccos(np.clip((d**2 + r**2 - s**2) / (2 * d * r), -1, 1))
    b = np.arccos(np.clip((d**2 + s**2 - r**2) / (2 * d * small), -1, 1))
    second = s**2 * (b - np.sin(b) * np.cos(b))  # the second disc's part of the lens
    lens = r**2 * (a - np.sin(a) * np.cos(a)) + second
    moment = second * d  # of the lens about the first centre: what the two segments add to it cancels
    whole, lobe = np.pi * r**2, np.pi * s**2
    area = whole + lobe - lens
    along = (lobe * d - moment) / area
    y = t["y"] + along * (t["lobe_y"] - t["y"]) / d
    x = t["x"] + along * (t["lobe_x"] - t["x"]) / d
    return area, np.where(s > 0, y, t["y"]), np.where(s > 0, x, t["x"])
