"""How fast this machine is: the loop of `live` over simulated frames, stage by stage, beside its peers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from emstream import simulate
from emstream.config import Settings
from emstream.errors import MissingExtra
from emstream.messages import Frame, Origin
from emstream.metrics import STAGES, Metrics
from emstream.pipeline import make_steps, through
from emstream.source.formats import open_movie

Row = dict[str, Any]


def table(sizes: list[int], frames: int, settings: Settings, *, peers: bool = False) -> list[Row]:
    """One row per size and stage: ms and MB a frame takes, frames/s; `end to end` is the wall clock of the whole loop.

    sizes  : side of the square uint16 frames, px
    frames : how many of each
    peers  : add scikit-image, scipy and zarr on the same frames, one after the other
    raises : MissingExtra when a peer is not installed
    """
    rows: list[Row] = []
    for side in sizes:
        movie = simulate.movie(frames, (side, side), particles=60, diameter=(side / 64, side / 16), seed=side)
        with tempfile.TemporaryDirectory(prefix="emstream-bench-") as folder:
            path = Path(folder) / "movie.tif"
            _write(movie, path)
            rows += _loop(side, path, Path(folder), settings)
            if peers:
                rows += _peers(side, path, Path(folder))
    return rows


def _write(movie: simulate.Movie, path: Path) -> None:
    import tifffile

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for frame in movie:
            writer.write(frame, contiguous=True)


def _loop(side: int, path: Path, out: Path, settings: Settings) -> list[Row]:
    """The loop over the movie, everything as in `live` but the watching; timed after the first frame."""
    metrics, steps = Metrics(), make_steps(settings)
    if steps.segmenter is not None:
        steps.segmenter.warm_up((side, side), "uint16")
    n = len(open_movie(path))
    began = time.perf_counter()
    through(_frames(path, metrics), out, settings, steps, metrics, name=f"bench-{side}")
    seconds = time.perf_counter() - began
    rows = [_row(side, stage, total / n, side) for stage in STAGES if (total := _spent(metrics, stage))]
    return [*rows, _row(side, "end to end", seconds / n, side)]


def _frames(path: Path, metrics: Metrics) -> Iterator[Frame]:
    movie = open_movie(path)
    for i in range(len(movie)):
        with metrics.timed("read"):
            pixels = movie[i]
        yield Frame("bench", Origin(path.name, i, 0, 0, 0), pixels, float(i))


def _spent(metrics: Metrics, stage: str) -> float:
    return metrics.registry.get_sample_value("emstream_stage_seconds_sum", {"stage": stage}) or 0.0


def _row(side: int, stage: str, seconds: float, px: int) -> Row:
    return {
        "size": f"{side}²",
        "stage": stage,
        "ms/frame": round(1e3 * seconds, 2),
        "frames/s": round(1 / seconds, 1),
        "MB/s": round(px * px * 2 / seconds / 1e6, 1),
    }


def _peers(side: int, path: Path, out: Path) -> list[Row]:
    """What people use today, on the same frames: register to the first frame, shift, threshold, measure, append."""
    try:
        from skimage.filters import threshold_otsu
        from skimage.measure import label, regionprops_table
        from skimage.registration import phase_cross_correlation
    except ImportError:
        raise MissingExtra("--peers needs scikit-image", 'pip install "emstream[dev]"') from None
    from scipy import ndimage

    from emstream.store.peer import Appender

    movie = open_movie(path)
    reference, spent = movie[0], dict.fromkeys(_PEERS, 0.0)
    appender = Appender(out / "peer.zarr", reference.shape, reference.dtype)

    def timed(name: str, work: Callable[..., Any], *given: Any) -> Any:
        begin = time.perf_counter()
        result = work(*given)
        spent[name] += time.perf_counter() - begin
        return result

    for frame in movie:
        shift = timed(_PEERS[0], lambda f: phase_cross_correlation(reference, f, upsample_factor=20)[0], frame)
        moved = timed(_PEERS[1], lambda f, s: ndimage.shift(f, s, order=1), frame, shift)
        timed(_PEERS[2], appender.append, moved)
        smooth = timed(_PEERS[3], lambda f: ndimage.gaussian_filter(f.astype(np.float32), 2), moved)
        labels = timed(_PEERS[3], lambda f: label(f < threshold_otsu(f)), smooth)
        timed(_PEERS[4], lambda k, f: regionprops_table(k, f, properties=_PROPERTIES), labels, moved)
    rows = [_row(side, name, total / len(movie), side) for name, total in spent.items()]
    return [*rows, _row(side, "peers, end to end", sum(spent.values()) / len(movie), side)]


_PROPERTIES = ("area", "centroid", "mean_intensity")
_PEERS = (
    "peer: scikit-image phase_cross_correlation",
    "peer: scipy.ndimage.shift",
    "peer: zarr append",
    "peer: scipy Gaussian + Otsu + label",
    "peer: scikit-image regionprops_table",
)
