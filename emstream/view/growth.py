"""How fast each particle grows now: a straight line through its radius over the last seconds."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

WINDOW_S = 30.0
POINTS = 32  # frames that the line goes through, and up to twice as many: a fast camera's are thinned, the more the longer it runs
LEAST_FRAMES = 8  # a slow camera's reach further back than the window, until there are this many
LEAST = 4  # frames in which a particle must have been measured


@dataclass(frozen=True, slots=True)
class Pace:
    """Mean dR/dt over the particles and its standard error over them, px/s, and how many they are."""

    rate: float = math.nan
    error: float = math.nan
    particles: int = 0


UNKNOWN = Pace()


class Growth:
    """Radii of the last `window_s` seconds, in at most 2 · POINTS frames of them.

    A particle's rate is the slope of its equivalent radius against time by ordinary least squares, its error the
    slope's standard error, sqrt(sum of squares left / (n - 2) / sum (t - mean t)²): `measure.kinetics.growth_rate`
    for all tracks at once.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self.window_s = window_s
        self._pace: Pace | None = UNKNOWN  # None = the line is to be drawn anew
        self._step_s = 0.0  # a frame that is nearer to the one before is left out
        self._frames: deque[tuple[float, np.ndarray, np.ndarray]] = deque()  # time, tracks, radii px
        self._tracks = np.empty(0, np.int64)
        self._rate = self._error = np.empty(0)

    def add(self, time_s: float, tracks: np.ndarray, diameters: np.ndarray, whole: np.ndarray | None = None) -> None:
        """The next frame: (n,) track of each particle (-1 = none), (n,) equivalent diameter px.

        whole : (n,) bool, only these are measured (others are cut by the border); None = all
        """
        if not math.isfinite(time_s):
            return
        if self._frames and time_s < self._frames[-1][0]:
            self.forget()  # another recording
        if self._frames and time_s - self._frames[-1][0] < self._step_s * 0.999:
            return
        good = tracks >= 0 if whole is None else (tracks >= 0) & whole
        self._frames.append((time_s, tracks[good], diameters[good].astype(np.float64) / 2))
        while len(self._frames) > LEAST_FRAMES and time_s - self._frames[0][0] > self.window_s:
            self._frames.popleft()
        if len(self._frames) > 2 * POINTS:
            self._frames = deque(list(self._frames)[::2])  # the newest stays: their number is odd
            self._step_s = (time_s - self._frames[0][0]) / POINTS
        self._pace = None

    def forget(self) -> None:
        """What comes next does not follow what came before."""
        self._frames.clear()
        self._step_s = 0.0
        self._pace, self._tracks = UNKNOWN, np.empty(0, np.int64)

    @property
    def pace(self) -> Pace:
        """The mean over the tracks of the newest frame that was taken."""
        return self._pace or self._fit()

    def of(self, tracks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) dR/dt and its standard error of each track, px/s; NaN for one that is not known well enough."""
        if self._pace is None:
            self._fit()
        if not len(self._tracks):
            return np.full(len(tracks), np.nan), np.full(len(tracks), np.nan)
        at = np.minimum(np.searchsorted(self._tracks, tracks), len(self._tracks) - 1)
        known = self._tracks[at] == tracks
        return np.where(known, self._rate[at], np.nan), np.where(known, self._error[at], np.nan)

    def _fit(self) -> Pace:
        newest = self._frames[-1]
        times = np.repeat([f[0] - newest[0] for f in self._frames], [len(f[1]) for f in self._frames])
        names, own = np.unique(np.concatenate([f[1] for f in self._frames]), return_inverse=True)
        radii = np.concatenate([f[2] for f in self._frames])
        n = np.bincount(own, minlength=len(names))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_t, mean_r = (np.bincount(own, v, len(names)) / n for v in (times, radii))
            t, r = times - mean_t[own], radii - mean_r[own]
            spread = np.bincount(own, t * t, len(names))
            slope = np.bincount(own, t * r, len(names)) / spread
            left = np.bincount(own, (r - slope[own] * t) ** 2, len(names))
            errors = np.sqrt(left / (n - 2) / spread)
        enough = (n >= LEAST) & (spread > 0)
        self._tracks, self._rate, self._error = names[enough], slope[enough], errors[enough]
        here = self._rate[np.isin(self._tracks, newest[1])]
        error = float(here.std(ddof=1) / math.sqrt(len(here))) if len(here) > 1 else math.nan
        self._pace = pace = Pace(float(here.mean()) if len(here) else math.nan, error, len(here))
        return pace
