"""What particles do: nucleate, grow, exchange material, wander, coalesce, dissolve; all of it recorded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.spatial import cKDTree

from emstream.errors import BadSettings

SMALLEST = 1.0  # px; a particle of smaller radius is gone
RELAX = 8  # frames in which two coalesced particles become round
DISSOLVE_IN = 25  # frames from whole to gone

TABLE = np.dtype(
    {
        "names": ["frame", "particle", "y", "x", "radius", "lobe_y", "lobe_x", "lobe_radius"],
        "formats": [np.int32] * 2 + [np.float64] * 6,
    }
)
EVENTS = np.dtype(
    {
        "names": ["frame", "kind", "particle", "other", "y", "x"],
        "formats": [np.int32, "U12", np.int32, np.int32, np.float64, np.float64],
    }
)
COLUMNS = ("ids", "y", "x", "volume", "target", "fading", "merged", "lobes")  # of a population


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """How the particles live; lengths px, times frames. All zero: nothing happens."""

    nucleate: float = 0.0  # new particles per frame in one field of view
    grow: float = 0.0  # px of radius per frame
    coarsen: float = 0.0  # K of dR/dt = K / R^(n-1) (R/R* - 1), px^n per frame; conserves the volume
    exponent: float = 3.0  # n: 3 = diffusion (LSW), 2 = interfaces (Wagner), 4 = diffusion on the support (Chakraverty)
    dissolve: float = 0.0  # probability per particle and frame to begin to dissolve
    wander: float = 0.0  # px rms per axis and frame, a random walk
    flow: tuple[float, float] = (0.0, 0.0)  # (y, x) px per frame, all particles alike
    coalesce: bool = False  # particles that touch become one

    @property
    def still(self) -> bool:
        """Nothing ever changes."""
        return replace(self, exponent=3.0) == Life()


@dataclass(eq=False, slots=True)
class Population:
    """The particles that are there now, in scene coordinates; all arrays (n,) but `lobes` (n, 2, 3)."""

    ids: np.ndarray
    y: np.ndarray
    x: np.ndarray
    volume: np.ndarray  # radius³, px³
    target: np.ndarray  # radius that a nucleus grows to, px
    fading: np.ndarray  # volume lost per frame once dissolving, px³
    merged: np.ndarray  # frame of the last coalescence, far in the past when none
    lobes: np.ndarray  # at that moment: (dy, dx, radius / final radius) of the two partners
    events: list[tuple[int, str, int, int, float, float]] = field(default_factory=list)

    @property
    def radius(self) -> np.ndarray:
        return np.cbrt(self.volume)

    def keep(self, which: np.ndarray) -> None:
        for name in COLUMNS:
            setattr(self, name, getattr(self, name)[which])


def sizes(n: int, diameter: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """n radii, px: log-normal, 95 % of the diameters inside the given range, none outside."""
    low, high = np.log(diameter[0]), np.log(diameter[1])
    drawn = np.exp(rng.normal((low + high) / 2, max((high - low) / 4, 1e-12), n))
    return np.clip(drawn, *diameter) / 2


def ripe(n: int, largest: float, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """n radii, px, spread as ripening leaves them for good: with them the coarsening law holds from the first frame.

    The distribution of u = R/R* that keeps its shape while R*^n grows in proportion to time (Lifshitz and Slyozov, J
    Phys Chem Solids 19:35, 1961; Wagner, Z Elektrochem 65:581, 1961; here for any n):
    f(u) = exp(-3c/n ∫ du/w) / w, w = c u/n - u^(1-n) (u - 1), c the least for which w >= 0; it ends at u = n/(n-1).

    largest : px, diameter where the distribution ends · exponent : n > 1
    """
    end = exponent / (exponent - 1.0)
    c = exponent * end**-exponent * (end - 1.0)
    u = np.linspace(0.0, end, 20_001)[1:-1]
    w = np.maximum(c * u / exponent - u ** (1.0 - exponent) * (u - 1.0), 1e-12)
    step = u[1] - u[0]
    density = np.exp(-3.0 * c / exponent * np.cumsum(step / w)) / w
    share = np.cumsum(density)
    drawn = np.interp((np.arange(n) + 0.5) / max(n, 1), share / share[-1], u)  # evenly, so that few stand for many
    return rng.permutation(drawn / end * largest / 2)


def settle(n: int, radii: np.ndarray, box: tuple[float, float, float, float], rng: np.random.Generator) -> np.ndarray:
    """Places for n particles that do not touch: (n, 2) y, x in the box (y0, y1, x0, x1). raises : BadSettings"""
    places = np.full((n, 2), np.inf)
    for k in np.argsort(-radii):  # the large first: the small fit between them
        for _ in range(500):
            spot = rng.uniform((box[0], box[2]), (box[1], box[3]))
            if (np.hypot(*(places - spot).T) > radii + radii[k] + 3.0).all():
                break
        else:
            raise BadSettings(f"{n} particles do not fit without touching", "take fewer or smaller ones")
        places[k] = spot
    return places


def begin(radii: np.ndarray, places: np.ndarray) -> Population:
    """A population at rest."""
    n = len(radii)
    y, x = places.T.copy()
    never = np.full(n, -(10**6))
    return Population(np.arange(n), y, x, radii**3, radii.copy(), np.zeros(n), never, np.zeros((n, 2, 3)))


def step(
    p: Population,
    life: Life,
    frame: int,
    box: tuple[float, float, float, float],
    fresh: np.ndarray,
    next_id: int,
    rng: np.random.Generator,
) -> int:
    """One frame later, in place.

    fresh   : (k,) radii that the particles nucleating now grow to
    returns : the next free particle number
    """
    n = len(p.ids)
    p.y += life.flow[0] + life.wander * rng.standard_normal(n)
    p.x += life.flow[1] + life.wander * rng.standard_normal(n)
    radius = p.radius
    awake = p.fading == 0
    young = awake & (radius < 0.98 * p.target)
    radius = radius + np.where(young, 0.12 * (p.target - radius), 0.0) + np.where(awake & ~young, life.grow, 0.0)
    p.target[awake & ~young] = 0.0
    p.volume = np.maximum(radius, 0.0) ** 3
    starts = awake & (rng.random(n) < life.dissolve)
    p.fading[starts] = p.volume[starts] / DISSOLVE_IN
    p.volume -= p.fading
    _exchange(p, life.coarsen, life.exponent)
    _vanish(p, frame)
    if life.coalesce:
        _coalesce(p, frame)
    return _nucleate(p, frame, box, fresh, next_id, rng)


def record(p: Population, frame: int) -> np.ndarray:
    """This frame's rows of `TABLE`, scene coordinates; two lobes while a coalesced particle is not round yet."""
    rows = np.zeros(len(p.ids), TABLE)
    rows["frame"], rows["particle"] = frame, p.ids
    rest = np.clip(1.0 - (frame - p.merged) / RELAX, 0.0, 1.0)
    radius = p.radius
    first, second = p.lobes[:, 0], p.lobes[:, 1]
    split = rest > 0
    rows["y"] = p.y + rest * first[:, 0]
    rows["x"] = p.x + rest * first[:, 1]
    rows["radius"] = radius * np.where(split, rest * first[:, 2] + 1 - rest, 1.0)
    rows["lobe_y"] = p.y + rest * second[:, 0]
    rows["lobe_x"] = p.x + rest * second[:, 1]
    rows["lobe_radius"] = np.where(split, radius * (rest * second[:, 2] + 1 - rest), 0.0)
    return rows


def _exchange(p: Population, k: float, n: float) -> None:
    """Ostwald ripening: dV/dt = 3K R^(3-n) (R/R* - 1), V = R³, with the R* that makes Σ dV = 0 (n = 3: the mean R)."""
    if k and len(p.ids) > 1:
        radius = np.cbrt(np.maximum(p.volume, 0.0))
        weight = np.maximum(radius, SMALLEST / 2) ** (3.0 - n)
        critical = (weight * radius).sum() / weight.sum()
        p.volume = p.volume + 3.0 * k * weight * (radius / critical - 1.0)


def _vanish(p: Population, frame: int) -> None:
    """Particles below the smallest size are gone; what exchange took too much of or left goes to the others."""
    gone = p.volume < SMALLEST**3
    if not gone.any():
        return
    for i in np.flatnonzero(gone):
        p.events.append((frame, "dissolution", int(p.ids[i]), -1, float(p.y[i]), float(p.x[i])))
    left = float(p.volume[gone & (p.fading == 0)].sum())
    p.keep(~gone)
    if len(p.ids):
        p.volume = p.volume + left * p.radius / p.radius.sum()


def _coalesce(p: Population, frame: int) -> None:
    """Touching pairs become one particle of their joint volume at their centre of mass; the larger keeps its number."""
    while len(p.ids) > 1:
        radius = p.radius
        places = np.column_stack((p.y, p.x))
        pairs = cKDTree(places).query_pairs(2 * float(radius.max()), output_type="ndarray")
        apart = np.hypot(*(places[pairs[:, 0]] - places[pairs[:, 1]]).T)
        touching = pairs[apart < radius[pairs].sum(axis=1)]
        if not len(touching):
            return
        a, b = sorted(touching[0], key=lambda k: -p.volume[k])
        _merge(p, int(a), int(b), frame)


def _merge(p: Population, a: int, b: int, frame: int) -> None:
    ra, rb = p.radius[[a, b]]
    total = p.volume[a] + p.volume[b]
    share = p.volume[a] / total
    y = share * p.y[a] + (1 - share) * p.y[b]
    x = share * p.x[a] + (1 - share) * p.x[b]
    final = np.cbrt(total)
    p.lobes[a] = [[p.y[a] - y, p.x[a] - x, ra / final], [p.y[b] - y, p.x[b] - x, rb / final]]
    p.events.append((frame, "coalescence", int(p.ids[a]), int(p.ids[b]), float(y), float(x)))
    p.y[a], p.x[a], p.volume[a], p.merged[a] = y, x, total, frame
    p.target[a] = p.fading[a] = 0.0
    p.keep(np.arange(len(p.ids)) != b)


def _nucleate(
    p: Population,
    frame: int,
    box: tuple[float, float, float, float],
    fresh: np.ndarray,
    next_id: int,
    rng: np.random.Generator,
) -> int:
    for radius in fresh:
        for _ in range(50):
            y, x = rng.uniform((box[0], box[2]), (box[1], box[3]))
            if (np.hypot(p.y - y, p.x - x) > p.radius + radius + 3.0).all():
                break
        else:
            continue  # the film is full: nothing nucleates where there is no room
        born = begin(np.array([1.5 * SMALLEST]), np.array([[y, x]]))
        born.ids[0], born.target[0] = next_id, radius
        for name in COLUMNS:
            setattr(p, name, np.concatenate((getattr(p, name), getattr(born, name))))
        p.events.append((frame, "nucleation", next_id, -1, float(y), float(x)))
        next_id += 1
    return next_id
