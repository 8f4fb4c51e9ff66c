"""A simulated camera: writes a movie with known truth into a folder; `run` puts the daemon and the page behind it."""

from __future__ import annotations

import logging
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emstream import simulate as scenes
from emstream.config import Settings
from emstream.live import Daemon, signals

log = logging.getLogger("emstream.demo")
STAY_S = 15.0  # how long the page stays when nobody is at the terminal to end it


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What the simulated camera records, and how it writes it."""

    frames: int = 200  # 0 = until stopped
    fps: float | None = 20.0  # None = as fast as possible
    shape: tuple[int, int] = (1024, 1024)
    dtype: str = "uint16"
    dose: float = 20.0
    drift: tuple[float, ...] = (0.3, -0.2)
    jitter: float = 0.3
    particles: int = 60
    coarsen: bool = True
    fmt: str = "tiff"
    pixel_size_nm: float = 0.5
    seed: int = 0


ENDLESS = 100_000


def movie(asked: Simulation) -> scenes.Movie:
    """The movie that was asked for."""
    side = min(asked.shape)
    return scenes.movie(
        asked.frames or ENDLESS,
        asked.shape,
        dose=asked.dose,
        dtype=asked.dtype,
        drift_per_frame=(asked.drift[0], asked.drift[-1]),
        jitter=asked.jitter,
        particles=asked.particles,
        diameter=(max(6.0, side / 80), max(16.0, side / 18)),
        contrast=(0.18, 0.38),
        facets=0.3,
        roughness=0.03,
        coarsen=_pace(side, asked.frames or 3000) if asked.coarsen else 0.0,
        coalesce=asked.coarsen,
        wander=0.1 if asked.coarsen else 0.0,
        nucleate=0.05 if asked.coarsen else 0.0,
        fps=asked.fps or 20.0,
        pixel_size_nm=(asked.pixel_size_nm, asked.pixel_size_nm),
        seed=asked.seed,
    )


def _pace(side: int, frames: int) -> float:
    """K, px³ a frame, by which about two of three particles have gone at the end, whatever size and length."""
    return 40 * (side / 1024) ** 3 * 200 / frames


def simulate(dest: Path, asked: Simulation, truth: Path | None = None) -> dict[str, Any]:
    """Write the movie into `dest` at its speed, then the truth beside it.

    truth   : DEST/../truth.zarr when None; never inside DEST
    returns : {"frames", "folder", "truth", "seconds"}
    """
    from emstream.source.play import check_truth, play, write_truth

    made = movie(asked)
    where = truth or dest.resolve().parent / "truth.zarr"
    check_truth(where)
    began = time.monotonic()
    with signals(threading.Event().set):
        written = sum(1 for _ in play(made, dest, fmt=asked.fmt, fps=asked.fps))
    write_truth(made, where)
    took = round(time.monotonic() - began, 2)
    log.info("written", extra={"frames": written, "folder": str(dest), "truth": str(where)})
    return {"frames": written, "folder": str(dest), "truth": str(where), "seconds": took}


def run(settings: Settings, asked: Simulation, until_idle: float | None = None) -> None:
    """Camera, daemon and page in a temporary folder; prints the page's address.

    On a terminal it stays until Ctrl-C; elsewhere, or with `until_idle`, it leaves by itself after the last frame.
    """
    from emstream.source.play import play

    stay = until_idle if until_idle is not None else None if sys.stdin.isatty() else STAY_S
    with tempfile.TemporaryDirectory(prefix="emstream-demo-") as folder:
        camera, out = Path(folder) / "camera", Path(folder) / "runs"
        camera.mkdir()
        with Daemon(camera, out, settings, until_idle=stay) as daemon:
            print(f"\n  the page: {daemon.url}\n", flush=True)  # noqa: T201
            stop = threading.Event()

            def record() -> None:
                for _ in play(movie(asked), camera, fmt=asked.fmt, fps=asked.fps):
                    if stop.is_set():
                        return

            recorder = threading.Thread(target=record, name="camera", daemon=True)
            recorder.start()

            def end() -> None:
                stop.set()
                daemon.stop()

            with signals(end):
                daemon.loop()
            stop.set()
            recorder.join(10)
        log.info("demo over", extra=daemon.summary())
