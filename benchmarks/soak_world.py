"""What surrounds the daemon of bench_soak.py: a camera with planted frames, a disk that fills, a folder that goes away."""

from __future__ import annotations

import contextlib
import multiprocessing
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

AHEAD = 4000  # frames that the camera is ahead of the daemon
HEADER = 1024


class Scene:
    """The planted frames: (side, side) uint16, every one with its number in it."""

    def __init__(self, side: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:side, :side] / side
        disc = 300 * (np.hypot(y - 0.5, x - 0.45) < 0.16)
        self.side = side
        self._few = rng.poisson(400 + disc, (64, side, side)).astype(np.uint16)

    def frame(self, i: int) -> np.ndarray:
        image = self._few[i % 64].copy()
        image[0, :2] = i >> 16, i & 0xFFFF
        return image

    def checksum(self, i: int) -> int:
        return int(google_crc32c.value(self.frame(i).tobytes()))


@dataclass(frozen=True, slots=True)
class Places:
    """Movies and, between them, folders of single files."""

    movie: int  # frames
    singles: int  # files

    def of(self, i: int) -> tuple[str, int]:
        """The file of a planted frame, relative to the watched folder, and its index in it."""
        block, k = divmod(i, self.movie + self.singles)
        return (
            (f"{block:04d}_movie.mrc", k) if k < self.movie else (f"{block:04d}_single/f_{k - self.movie:05d}.npy", 0)
        )


class Camera:
    """A process that writes the frames, never more than AHEAD before the daemon; movies grow, single files are renamed into place."""

    def __init__(self, scene: Scene, places: Places, folder: Path, frames: int) -> None:
        self.scene, self.places, self.folder, self.frames = scene, places, folder, frames
        ways = multiprocessing.get_context("fork")
        self._written, self._stored, self._stop = ways.Value("q", 0), ways.Value("q", 0), ways.Event()
        self._process = ways.Process(target=self._run, name="camera", daemon=True)

    def start(self) -> None:
        self._process.start()

    @property
    def written(self) -> int:
        return int(self._written.value)

    def stored(self, frames: int) -> None:
        """So many are in the store."""
        self._stored.value = frames

    def stop(self) -> int:
        """Write no more; the frames that there are."""
        self._stop.set()
        if self._process.pid is not None:
            self._process.join()
        return self.written

    def _run(self) -> None:
        movie = None
        for i in range(self.frames):
            while i >= self._stored.value + AHEAD and not self._stop.is_set():
                time.sleep(0.02)
            if self._stop.is_set():
                break
            name, k = self.places.of(i)
            path = self.folder / name
            pixels = self.scene.frame(i)
            if name.endswith(".mrc"):
                if k == 0:
                    movie = path.open("wb")
                    movie.write(mrc_header(pixels.shape))
                assert movie is not None
                movie.write(pixels.tobytes())
                if k % 50 == 49 or i == self.frames - 1 or k == self.places.movie - 1:
                    movie.flush()
            else:
                path.parent.mkdir(exist_ok=True)
                np.save(path.with_name(f".{path.name}"), pixels)
                path.with_name(f".{path.name}").rename(path)
            self._written.value = i + 1
        if movie is not None:
            movie.close()


def mrc_header(shape: tuple[int, ...]) -> bytes:
    """A header of a movie whose length its writer does not know yet."""
    head = np.zeros(HEADER // 4, "<i4")
    head[:4] = shape[1], shape[0], 0, 6
    head[7:10] = shape[1], shape[0], 1
    head[10:13] = np.array([5.0 * shape[1], 5.0 * shape[0], 5.0], "<f4").view("<i4")
    head[16:19] = 1, 2, 3
    head[52] = int.from_bytes(b"MAP ", "little")
    head[53] = 0x00004144
    return head.tobytes()


class Disk:
    """The store's file system, small and in memory where it can be mounted; `fill` takes what is free."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        folder.mkdir()
        self.mounted = _mount("-t", "tmpfs", "-o", f"size={megabytes}m,nr_inodes=0", "none", str(folder))

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.folder / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))

    def empty(self) -> None:
        (self.folder / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=False)


class Mount:
    """The watched folder, which can go away and come back: a bind mount, or a folder that is renamed."""

    def __init__(self, real: Path, seen: Path) -> None:
        self.real, self.seen = real, seen
        real.mkdir()
        seen.mkdir()
        self.bound = _mount("--bind", str(real), str(seen))
        if not self.bound:
            seen.rmdir()
            seen.symlink_to(real)

    def away(self) -> None:
        if self.bound:
            subprocess.run(["umount", "-l", str(self.seen)], check=True, capture_output=True)
        else:
            self.seen.unlink()

    def back(self) -> None:
        if self.bound:
            _mount("--bind", str(self.real), str(self.seen))
        else:
            self.seen.symlink_to(self.real)

    def close(self) -> None:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            self.away()


def _mount(*args: str) -> bool:
    try:
        return subprocess.run(["mount", *args], capture_output=True, check=False).returncode == 0
    except OSError:
        return False
