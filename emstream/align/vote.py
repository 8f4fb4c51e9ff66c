"""Whether particles vote: not as a rule, for they may move; but where the film alone shows too little they are asked.

The film, when it shows anything, says whether they may be believed: of a sample that moves as a whole the film fits
about as well where all that is seen says it lies as where the film itself says. How much worse it fits there, in nats, is
added up over the frames beyond what chance costs (a cumulative sum, Page 1954, doi:10.1093/biomet/41.1-2.100); particles
that flow over the film make it grow.
"""

from __future__ import annotations

import numpy as np

from emstream.align import peak
from emstream.align.grid import Grid
from emstream.align.search import Found

WEAK = 15.0  # running height of z below which the film alone shows too little
CHANCE = 2.5  # nats a frame that a film which moves with its particles may lose; one that noise hides loses 1
MOST = 3.5  # nats that one frame may add beyond: a chance peak is no proof
DOUBT = 8.0  # nats beyond which particles are not believed
LASTING = 30.0  # at most: so that particles which come to rest are believed again


def doubted(doubt: float, film: Found, whole: Found, grid: Grid) -> float:
    """The nats against particles after one more frame, seen without them and with them; as before if the film is mute."""
    if film.z < film.limit:
        return doubt
    lag = np.array(film.view.at) - whole.shift / grid.bin
    there = float(peak.moments(film.view.cross, (float(lag[0]), float(lag[1])), grid)[0, 0].real)
    lost = film.z * film.view.noise - there
    return min(max(doubt + min(lost - CHANCE, MOST), 0.0), LASTING)


def believed(doubt: float, film: Found, whole: Found) -> bool:
    """Whether the place that everything says is taken, particles too: it stands out more and the film is not against it."""
    return whole.z > film.z and doubt < DOUBT
