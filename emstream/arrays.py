"""The only file that knows cupy: where arrays live, and how they get there."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from emstream.errors import BadSettings
from emstream.messages import Array

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_ARRAY, KEPT_IN_ALL = 32 << 20, 256 << 20  # bytes; 32 MiB is the most that glibc allows


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeOptions:
    """Where the work is done."""

    device: str = "auto"  # auto | cpu | cuda:N
    batch: int = 16  # most frames taken at once when behind
    threads: int = 0  # CPU threads of the network; 0 = half of the cores: the other half aligns, measures and writes


def array_namespace(*arrays: Array) -> Any:
    """numpy or cupy, whichever the arrays belong to; one cupy array makes it cupy."""
    for a in arrays:
        if type(a).__module__.partition(".")[0] == "cupy":
            import cupy

            return cupy
    return np


def fft_namespace(xp: Any) -> Any:
    """scipy.fft for numpy arrays (keeps float32), cupyx.scipy.fft for cupy arrays."""
    if xp is np:
        import scipy.fft

        return scipy.fft
    import cupyx.scipy.fft

    return cupyx.scipy.fft


def ndimage_namespace(xp: Any) -> Any:
    """scipy.ndimage for numpy arrays, cupyx.scipy.ndimage for cupy arrays."""
    if xp is np:
        import scipy.ndimage

        return scipy.ndimage
    import cupyx.scipy.ndimage

    return cupyx.scipy.ndimage


@lru_cache(maxsize=1)
def cuda_devices() -> int:
    """How many CUDA devices cupy can really use; 0 without cupy or driver."""
    if importlib.util.find_spec("cupy") is None:
        return 0
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount())
    except (ImportError, RuntimeError, OSError):  # no driver, no device, broken install: all mean "no GPU"
        return 0


def pick_device(wanted: str) -> str:
    """`auto` becomes `cuda:0` or `cpu`; a device that is not there is an error.

    raises : BadSettings
    """
    if wanted == "auto":
        return "cuda:0" if cuda_devices() else "cpu"
    if wanted == "cpu":
        return "cpu"
    kind, _, number = wanted.partition(":")
    if kind != "cuda" or not (number or "0").isdigit():
        raise BadSettings(f"compute.device = {wanted!r} is not auto, cpu or cuda:N")
    n = int(number or 0)
    if n >= cuda_devices():
        raise BadSettings(
            f"compute.device = {wanted!r}, but {cuda_devices()} CUDA devices are usable", "emstream doctor"
        )
    return f"cuda:{n}"


def keep_freed_memory() -> None:
    """From now on large arrays take memory that the process freed before, not new pages of the kernel, which must be zeroed.

    At 1024² and 20 frames/s that is 7 of 87 ms of processor time a frame. Only with glibc; elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, KEPT_ARRAY)
    mallopt(M_TRIM_THRESHOLD, KEPT_IN_ALL)


def network_threads(wanted: int) -> int:
    """CPU threads for the network: as wanted, or half of the cores."""
    return wanted or max(1, (os.cpu_count() or 1) // 2)


def namespace_of(device: str) -> Any:
    """numpy for `cpu`, cupy for `cuda:N`."""
    if device == "cpu":
        return np
    import cupy

    return cupy


def to_device(a: np.ndarray, device: str) -> Array:
    """A host array on `device`; the integers travel as they are."""
    if device == "cpu":
        return a
    import cupy

    with cupy.cuda.Device(int(device.partition(":")[2])):
        return cupy.asarray(a)


def to_host(a: Array) -> np.ndarray:
    """The array as numpy; no copy when it is one already."""
    return a if isinstance(a, np.ndarray) else np.asarray(a.get())


def as_torch(a: Array) -> Any:
    """The same memory as a torch tensor (DLPack on a device); a copy only where torch lacks the dtype or writability."""
    import torch

    if isinstance(a, np.ndarray):
        if a.dtype.byteorder == ">":
            a = a.astype(a.dtype.newbyteorder("="))
        return torch.from_numpy(a if a.flags.writeable else a.copy())
    return torch.utils.dlpack.from_dlpack(a)


def from_torch(t: Any) -> Array:
    """The same memory as a numpy array (CPU) or a cupy array (CUDA)."""
    if t.device.type == "cpu":
        return t.numpy()
    import cupy

    return cupy.from_dlpack(t)


def sync(*arrays: Array) -> None:
    """Wait until the device has finished; nothing to do for numpy."""
    xp = array_namespace(*arrays)
    if xp is not np:
        xp.cuda.get_current_stream().synchronize()


def free_memory(kind: Literal["free", "used"], device: str) -> int:
    """Bytes of device memory that are free or used; 0 on the CPU."""
    if device == "cpu":
        return 0
    import cupy

    with cupy.cuda.Device(int(device.partition(":")[2])):
        free, total = cupy.cuda.runtime.memGetInfo()
    return int(free if kind == "free" else total - free)


def out_of_memory(problem: BaseException) -> bool:
    """Whether an error of cupy or torch says that the device's memory is full."""
    return isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError"


def free_unused() -> None:
    """Give the device's memory back that cupy and torch keep for later; nothing to do without them."""
    modules = sys.modules
    if "cupy" in modules:
        modules["cupy"].get_default_memory_pool().free_all_blocks()
    if "torch" in modules and modules["torch"].cuda.is_available():
        modules["torch"].cuda.empty_cache()
