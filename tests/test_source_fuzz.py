"""Damaged files by the thousand: no reader harms the daemon; and the judge of that sees harm when there is some."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_readers import FILES

COUNT = int(os.environ.get("EMSTREAM_FUZZ", "10000"))  # files for each reader: half a minute of processor time in all
TIFFS = [name for name in FILES if name.endswith(".tif")]
ZARRS = [name for name in FILES if name.endswith(".zarr")]
HDF5 = [name for name in FILES if name.endswith(".h5")]
REST = [name for name in FILES if name not in TIFFS + HDF5 + ZARRS]


def program(*args: object) -> subprocess.CompletedProcess[str]:
    where = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    where["OPENBLAS_NUM_THREADS"] = where["MALLOC_ARENA_MAX"] = (
        "1"  # more of either reserve addresses, which are limited
    )
    return subprocess.run([sys.executable, *map(str, args)], env=where, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("names", "count"), [(REST, COUNT), (TIFFS, COUNT // len(TIFFS)), (HDF5, COUNT),
                                               (ZARRS, COUNT // len(ZARRS))],
                         ids=["plain formats", "tiff", "hdf5", "zarr"])  # fmt: skip
def test_ten_thousand_damaged_files_for_each_reader_do_no_harm(names: list[str], count: int) -> None:
    if names == HDF5:
        pytest.importorskip("h5py")
    answer = program("-m", "fuzz_readers", count, 0, *names)
    told = [json.loads(line) for line in answer.stdout.splitlines()]
    assert answer.returncode == 0, (told[-1:], answer.stderr[-2000:])
    assert [(t["name"], t["files"]) for t in told] == [(name, count) for name in names]


HARM = """
import json, sys
import numpy as np
import fuzz_readers as f
def spin(path, cap):
    while True: pass
def swallow(path, cap):
    np.ones(3 * cap, np.uint8)
def escape(path, cap):
    raise KeyError("a dictionary of the decoder")
def harmless(path, cap):
    np.ones(cap, np.uint8)
for harm in (harmless, escape, swallow, spin):
    f.open_and_read = lambda path, cap: harm(path, cap) if calls.pop() == 0 else None
    calls = [1] * 20 + [0] + [1] * 21
    print(json.dumps(f.fuzz("m.npy", 21, 0)))
"""


def test_the_judge_sees_what_escapes_what_is_too_large_and_what_is_too_slow() -> None:
    answer = program("-c", HARM)
    assert answer.returncode == 0, answer.stderr
    told = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [t["ok"] for t in told] == [True, False, False, False]
    for found, word in zip(told[1:], ("KeyError", "MemoryError", "TooSlow")):
        assert word in found["error"]
