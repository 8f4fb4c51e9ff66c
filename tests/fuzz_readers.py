"""Damaged files, many of them, for one reader: only our own errors escape, memory and time stay bounded. A program of its own.

    python -m fuzz_readers COUNT SEED [NAME…]        (in tests/)

The system's limits are the judges: an allocation beyond twice the largest allowed frame fails (RLIMIT_AS), a file that
takes a second of processor time is interrupted, and a crash of a decoder ends the process. Prints one JSON document a line.
"""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import imagecodecs
import numpy as np
from contracts import open_and_read
from test_source_formats import SMALL, VICTIMS, tif

CAP = 16 << 20  # bytes of the largest frame that is allowed
SLOWEST_S = 1.0
EXTREMES = [bytes([v]) * n for v in (0, 1, 0x7F, 0x80, 0xFF) for n in (1, 2, 4, 8)]


def hdf5() -> bytes:
    """A stack of two frames."""
    import h5py

    with tempfile.NamedTemporaryFile(suffix=".h5") as place:
        with h5py.File(place.name, "w") as file:
            file.create_dataset("entry/data/data", data=SMALL, chunks=(1, *SMALL.shape[1:]), compression="gzip")
        return Path(place.name).read_bytes()


def zarr_stack(path: Path) -> None:
    """Two frames as an array or, by its name, as an OME-Zarr image; the header is a text of its own."""
    import zarr

    place = path
    if path.name.startswith("ome"):
        axes = [
            {"name": "t", "type": "time", "unit": "second"},
            *({"name": n, "type": "space", "unit": "nanometer"} for n in "yx"),
        ]
        scales = [{"type": "scale", "scale": [0.1, 0.5, 0.5]}]
        image = {"name": "m", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scales}]}
        zarr.create_group(path, attributes={"ome": {"version": "0.5", "multiscales": [image]}})
        place = path / "0"
    zarr.create_array(place, shape=SMALL.shape, chunks=(1, *SMALL.shape[1:]), dtype=SMALL.dtype)[:] = SMALL


def zarr_header(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        zarr_stack(Path(place) / name)
        return (Path(place) / name / "zarr.json").read_bytes()


FILES: dict[str, Callable[[], tuple[bytes, int]]] = {  # the file, and how many bytes of it are its header (0: all)
    **{name: (lambda victim=victim: victim) for name, victim in VICTIMS.items()},
    "deflate.tif": lambda: (tif(SMALL, compression="deflate"), 0),
    "m.png": lambda: (imagecodecs.png_encode(SMALL[0]), 0),
    "m.jpg": lambda: (imagecodecs.jpeg_encode(SMALL[0].astype(np.uint8)), 0),
    "m.h5": lambda: (hdf5(), 0),
    "m.zarr": lambda: (zarr_header("m.zarr"), 0),
    "ome.zarr": lambda: (zarr_header("ome.zarr"), 0),
}


class TooSlow(BaseException):
    """No reader may catch this."""


def mutated(whole: bytes, header: int, rng: random.Random) -> bytes:
    """The file with some bytes changed, most of them in its header; sometimes cut, sometimes with a part doubled or gone."""
    raw = bytearray(whole)
    reach = header if header and rng.random() < 0.9 else len(whole)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(reach)
        kind = rng.random()
        if whole[:1] == b"{" and kind < 0.7:  # a text: other numbers in it leave it one that can be read
            at = rng.choice([i for i, c in enumerate(raw) if chr(c).isdigit()] or [at])
            value = rng.choice((b"0", b"9", b"-", b"9999999999", b"1e9", b"null", b"[]", b"0.5"))
        elif kind < 0.5:
            value = rng.choice(EXTREMES)
        elif kind < 0.8:
            value = rng.randbytes(rng.randint(1, 4))
        else:  # a number near one that is there
            value = ((int.from_bytes(raw[at : at + 4], "little") + rng.randint(-2, 2)) % 2**32).to_bytes(4, "little")
        raw[at : at + len(value)] = value[: len(raw) - at]
    shape = rng.random()
    if shape < 0.1:
        del raw[rng.randrange(len(raw)) :]
    elif shape < 0.15:
        at, n = rng.randrange(len(raw)), rng.randint(1, 64)
        raw[at:at] = raw[at : at + n]
    elif shape < 0.2:
        at = rng.randrange(len(raw))
        del raw[at : at + rng.randint(1, 64)]
    return bytes(raw)


def address_space() -> int:
    """Bytes that this process has mapped."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def fuzz(name: str, count: int, seed: int) -> dict[str, object]:
    """So many damaged files of one kind; what happened. Stops at the first one that does harm."""
    whole, header = FILES[name]()

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    signal.signal(signal.SIGPROF, stop)
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    slowest, limited = 0.0, 0
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        header_file = path = Path(folder) / name
        if name.endswith(".zarr"):
            zarr_stack(path)
            header_file = path / "zarr.json"
        for k in range(-20, count):  # the first ones load what a reader loads late
            data = whole if k == -20 else mutated(whole, header, random.Random(f"{seed}/{name}/{k}"))
            header_file.write_bytes(data)
            if k == 0:
                limited = address_space()
                resource.setrlimit(resource.RLIMIT_AS, (limited + 2 * CAP, resource.RLIM_INFINITY))
            began = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SLOWEST_S)
            try:
                open_and_read(path, CAP)
            except (Exception, TooSlow):  # noqa: BLE001  that is what is looked for
                return {"name": name, "ok": False, "case": k, "seed": seed, "error": traceback.format_exc()[-2000:]}
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            slowest = max(slowest, time.process_time() - began)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    grown = address_space() - limited
    return {
        "name": name,
        "ok": True,
        "files": count,
        "seed": seed,
        "slowest_s": round(slowest, 4),
        "grown_mb": grown >> 20,
    }


if __name__ == "__main__":
    logging.disable()  # tifffile has a word on each of them
    for victim in sys.argv[3:] or FILES:
        print(victim, file=sys.stderr, flush=True)  # noqa: T201  the last one, when a decoder takes the process down
        told = fuzz(victim, int(sys.argv[1]), int(sys.argv[2]))
        print(json.dumps(told), flush=True)  # noqa: T201
        if not told["ok"]:
            sys.exit(1)
