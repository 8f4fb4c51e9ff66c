"""Particles as closed outlines: drawn into an image and into labels at any real-valued position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """A closed curve around the origin with the area of the unit disc, grown by a radius R when drawn.

    facets    : 0 = round … 1 = a polygon
    normals   : (k,) complex, unit vectors x + iy across the polygon's sides
    roughness : (5,) complex, amplitude and phase of the outline's harmonics 2…6; 0 and 1 would change
                size and place
    scale     : makes the area that of the unit disc
    extent    : distance of its farthest point, about 1
    """

    facets: float
    normals: np.ndarray
    roughness: np.ndarray
    scale: float = 1.0
    extent: float = 1.0

    def reach(self, z: np.ndarray) -> np.ndarray:
        """By how much the unit outline must grow to pass through z = x + iy; same shape as z, float."""
        r = np.abs(z)
        out = r
        if self.facets:
            side = z.real * self.normals[0].real + z.imag * self.normals[0].imag
            for n in self.normals[1:]:
                np.maximum(side, z.real * n.real + z.imag * n.imag, out=side)
            out = (1.0 - self.facets) * r + self.facets * side
        if self.roughness.any():
            unit = z / np.maximum(r, np.float32(1e-6))
            turn, wave = unit, np.ones_like(r)
            for a in self.roughness:
                turn = turn * unit
                wave += turn.real * a.real - turn.imag * a.imag
            out = out / wave
        return out * r.dtype.type(self.scale)


def draw_outline(facets: float, roughness: float, rng: np.random.Generator) -> Outline:
    """A random outline; `roughness` is the rms deviation from the smooth shape in units of the radius."""
    sides = int(rng.integers(5, 9))
    normals = np.exp(1j * (rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(sides) / sides))
    waves = rng.standard_normal(5) + 1j * rng.standard_normal(5)
    waves *= roughness / np.sqrt(5.0)
    plain = Outline(facets, normals, waves)
    angle = np.exp(1j * np.linspace(0, 2 * np.pi, 720, endpoint=False))
    area = 0.5 * np.mean(plain.reach(angle) ** -2.0) * 2 * np.pi
    scale = float(np.sqrt(area / np.pi))
    return Outline(facets, normals, waves, scale, float(1.0 / plain.reach(angle).min()) / scale + 0.01)


@dataclass(frozen=True, slots=True)
class Disc:
    """One lobe to draw: a particle is one, or two while it is coalescing. Pixels, frame coordinates."""

    particle: int
    y: float
    x: float
    radius: float


def grid_around(disc: Disc, shape: tuple[int, int], reach: float) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """The pixels near a lobe, and where they are from its centre as x + iy; None when all lie outside."""
    y0, y1 = max(0, int(disc.y - reach)), min(shape[0], int(disc.y + reach) + 2)
    x0, x1 = max(0, int(disc.x - reach)), min(shape[1], int(disc.x + reach) + 2)
    if y0 >= y1 or x0 >= x1:
        return None
    z = np.empty((y1 - y0, x1 - x0), np.complex64)
    z.real = np.arange(x0, x1) - disc.x
    z.imag = (np.arange(y0, y1) - disc.y)[:, None]
    return (slice(y0, y1), slice(x0, x1)), z


def draw(
    image: np.ndarray, discs: list[Disc], outlines: list[Outline], contrast: np.ndarray, edge_px: float, dome: float
) -> None:
    """Multiply each particle into the image, in place.

    image    : (y, x) float32, relative intensity
    contrast : (particles,) relative change inside, negative = dark
    edge_px  : width of the soft rim (logistic)
    dome     : 0 = flat inside, 1 = as thick as a sphere
    """
    for group in _lobes_together(discs):
        spots = [_coverage(d, outlines[d.particle], image.shape, edge_px, dome) for d in group]
        _multiply(image, [s for s in spots if s is not None], float(contrast[group[0].particle]))


def draw_labels(shape: tuple[int, int], discs: list[Disc], outlines: list[Outline]) -> np.ndarray:
    """(y, x) int32: particle + 1 inside its outline, 0 outside; where two overlap, the one whose rim is farther."""
    labels = np.zeros(shape, np.int32)
    nearest = np.ones(shape, np.float32)
    for d in discs:
        outline = outlines[d.particle]
        here = grid_around(d, shape, outline.extent * d.radius + 1)
        if here is None:
            continue
        box, z = here
        depth = outline.reach(z) / d.radius
        inside = depth < nearest[box]
        nearest[box][inside] = depth[inside]
        labels[box][inside] = d.particle + 1
    return labels


def _lobes_together(discs: list[Disc]) -> list[list[Disc]]:
    groups: dict[int, list[Disc]] = {}
    for d in discs:
        groups.setdefault(d.particle, []).append(d)
    return list(groups.values())


def _coverage(
    d: Disc, outline: Outline, shape: tuple[int, ...], edge_px: float, dome: float
) -> tuple[tuple[slice, slice], np.ndarray] | None:
    here = grid_around(d, (shape[0], shape[1]), outline.extent * d.radius + 7 * edge_px)
    if here is None:
        return None
    box, z = here
    reach = outline.reach(z)
    cover = np.float32(1.0) / (1.0 + np.exp(np.clip((reach - d.radius) / edge_px, -30, 30)))
    if dome:
        cover *= 1.0 - dome + dome * np.sqrt(np.clip(1.0 - (reach / (d.radius + 2 * edge_px)) ** 2, 0.0, 1.0))
    return box, cover


def _multiply(image: np.ndarray, spots: list[tuple[tuple[slice, slice], np.ndarray]], contrast: float) -> None:
    """One lobe multiplies; of two lobes of one particle the stronger counts at each pixel, as for one body."""
    if len(spots) == 1:
        box, cover = spots[0]
        image[box] *= 1.0 + contrast * cover
        return
    if not spots:
        return
    y0 = min(b[0].start for b, _ in spots)
    x0 = min(b[1].start for b, _ in spots)
    y1 = max(b[0].stop for b, _ in spots)
    x1 = max(b[1].stop for b, _ in spots)
    body = np.zeros((y1 - y0, x1 - x0), np.float32)
    for (ys, xs), cover in spots:
        part = body[ys.start - y0 : ys.stop - y0, xs.start - x0 : xs.stop - x0]
        np.maximum(part, cover, out=part)
    image[y0:y1, x0:x1] *= 1.0 + contrast * body
