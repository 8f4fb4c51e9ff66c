"""Which particle is which in the next frame: overlap settles nearly all, a gated assignment the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from emstream.arrays import array_namespace, to_host
from emstream.messages import Array

_TABLE_LIMIT = 4_000_000  # cells of the overlap table that are counted directly; beyond, by sorting
_CANDIDATES = 8  # nearest neighbours looked at for a leftover


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """Pairs of old and new particles that share pixels; arrays of equal length."""

    old: np.ndarray  # index of the old particle
    new: np.ndarray  # index of the new one
    pixels: np.ndarray  # how many they share


def overlaps(before: Array, after: Array, old: np.ndarray, new: np.ndarray) -> Overlaps:
    """The contingency table of two label images of one canvas.

    before, after : (y, x) integer labels, 0 = background
    old, new      : the labels that count, in the order of the indices that are returned
    """
    if not len(old) or not len(new):
        none = np.empty(0, np.int64)
        return Overlaps(none, none, none)
    xp = array_namespace(before, after)
    a, b = before.ravel(), after.ravel()
    both = xp.flatnonzero(xp.logical_and(a, b))
    width = int(new.max()) + 1
    inside = b[both] < width
    both = both[inside]
    key = a[both].astype(xp.int64) * width + b[both]
    if (int(old.max()) + 1) * width <= _TABLE_LIMIT:
        counts = xp.bincount(key)
        pairs = xp.flatnonzero(counts)
        found = to_host(pairs), to_host(counts[pairs])
    else:
        pairs, counts = xp.unique(key, return_counts=True)
        found = to_host(pairs), to_host(counts)
    i, j = _places(old, found[0] // width), _places(new, found[0] % width)
    known = (i >= 0) & (j >= 0)
    return Overlaps(i[known], j[known], found[1][known])


def _places(labels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index in `labels` of each wanted value, -1 where it is not there."""
    order = np.argsort(labels)
    at = np.minimum(np.searchsorted(labels, wanted, sorter=order), len(labels) - 1)
    index = order[at]
    return np.where(labels[index] == wanted, index, -1)


def by_overlap(shared: Overlaps, old_area: np.ndarray, new_area: np.ndarray, area_ratio: float) -> np.ndarray:
    """New particle of each old one, -1 = none: both are the other's largest overlap.

    Repeated among those left over, so that a chain of touching particles keeps its names.
    old_area, new_area : px²; a pair whose areas differ by more than area_ratio² is no pair
    """
    link, taken = np.full(len(old_area), -1), np.zeros(len(new_area), bool)
    ratio = np.abs(np.log(old_area[shared.old] / new_area[shared.new]))
    alive = ratio <= 2 * math.log(area_ratio)
    inside = 2 * shared.pixels >= old_area[shared.old]
    weight = np.where(inside, old_area[shared.old], shared.pixels)  # of those that became one the largest goes on
    by_old, by_new = np.argsort(shared.pixels, kind="stable"), np.argsort(weight, kind="stable")
    for _ in range(3):
        if not alive.any():
            break
        best_new, best_old = np.full(len(old_area), -1), np.full(len(new_area), -1)
        use = by_old[alive[by_old]]  # the last assignment to a place stands: the largest
        best_new[shared.old[use]] = shared.new[use]
        use = by_new[alive[by_new]]
        best_old[shared.new[use]] = shared.old[use]
        won = np.flatnonzero((best_new >= 0) & (best_old[best_new] == np.arange(len(old_area))))
        link[won], taken[best_new[won]] = best_new[won], True
        alive &= (link[shared.old] < 0) & ~taken[shared.new] & (ratio <= math.log(area_ratio))
    return link


def by_distance(
    old: np.ndarray, new: np.ndarray, gate: np.ndarray, old_area: np.ndarray, new_area: np.ndarray, area_ratio: float
) -> np.ndarray:
    """New particle of each old one, -1 = none: least sum of distance² / gate² + (log area ratio)².

    old, new : (n, 2), (m, 2) px · gate : (n,) px, farthest step of each old one
    The assignment is the linear sum (Jaqaman et al., Nature Methods 5:695, 2008), solved group by group.
    """
    link = np.full(len(old), -1)
    if not len(old) or not len(new):
        return link
    # late, as all of scipy that a start can do without: each part takes a tenth of a second
    from scipy.spatial import cKDTree

    k = min(_CANDIDATES, len(new))
    found = cKDTree(new).query(old, k=k, distance_upper_bound=float(gate.max()) * (1 + 1e-9))
    distance, near = np.reshape(found[0], (len(old), k)), np.reshape(found[1], (len(old), k))
    i, rank = np.nonzero(distance <= gate[:, None])
    j, d = near[i, rank], distance[i, rank]
    ratio = np.log(old_area[i] / new_area[j])
    fits = np.abs(ratio) <= math.log(area_ratio)
    return assigned(len(old), len(new), i[fits], j[fits], ((d / gate[i]) ** 2 + ratio**2)[fits])


def assigned(n: int, m: int, i: np.ndarray, j: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Of n old ones the new one (of m), -1 = none: as many of the possible pairs (i, j) as can be, at the least cost."""
    link = np.full(n, -1)
    if not len(i):
        return link
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(i)), (i, n + j)), shape=(n + m, n + m))
    group = connected_components(graph, directed=False)[1][i]
    single = np.bincount(group)[group] == 1
    link[i[single]] = j[single]
    for g in np.unique(group[~single]):
        own = np.flatnonzero(group == g)
        link_group(link, i[own], j[own], cost[own])
    return link


def link_group(link: np.ndarray, i: np.ndarray, j: np.ndarray, cost: np.ndarray) -> None:
    """Solves one group of possible pairs (i, j, cost) and writes the pairs into `link`."""
    from scipy.optimize import linear_sum_assignment

    rows, row = np.unique(i, return_inverse=True)
    cols, col = np.unique(j, return_inverse=True)
    never = 1e3 * (1 + float(cost.max()))
    table = np.full((len(rows), len(cols)), never)
    table[row, col] = cost
    for r, c in zip(*linear_sum_assignment(table)):
        if table[r, c] < never:
            link[rows[r]] = cols[c]
