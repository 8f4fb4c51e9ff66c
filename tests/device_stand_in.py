"""A stand-in for cupy on the CPU: arrays that numpy cannot touch unasked, behind the modules' own names.

As with cupy, mixing with a host array raises, `numpy.asarray` raises, and only `.get()` brings values to the host.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """A device array."""

    __module__ = "cupy"

    def __init__(self, host: np.ndarray) -> None:
        self._host = host

    def get(self) -> np.ndarray:
        return self._host.copy()

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("implicit conversion to a host array: use .get()")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(isinstance(i, np.ndarray) and i.ndim for i in inputs):
            raise TypeError("a device array met a host array")
        return wrapped(getattr(ufunc, method))(*inputs, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._host, name)
        return wrapped(value) if callable(value) else to_device(value)

    def __getitem__(self, key: Any) -> Any:
        return to_device(self._host[bare(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[bare(key)] = bare(value)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __float__(self) -> float:
        return float(self._host)

    def __int__(self) -> int:
        return int(self._host)

    def __bool__(self) -> bool:
        return bool(self._host)


def bare(a: Any) -> Any:
    """What is inside device arrays, also inside tuples, lists and dicts."""
    if isinstance(a, ndarray):
        return a._host
    if isinstance(a, tuple | list):
        return type(a)(bare(i) for i in a)
    return {k: bare(v) for k, v in a.items()} if isinstance(a, dict) else a


def to_device(a: Any) -> Any:
    """Arrays and numpy scalars become device arrays, as cupy's reductions do."""
    if isinstance(a, np.ndarray | np.generic) and not isinstance(a, np.dtype):
        return ndarray(np.asarray(a))
    return tuple(to_device(i) for i in a) if isinstance(a, tuple) and any(isinstance(i, np.ndarray) for i in a) else a


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: to_device(function(*bare(args), **bare(kwargs)))


class Namespace(types.ModuleType):
    """A module of numpy's or scipy's functions for device arrays; types and constants pass as they are."""

    def __init__(self, name: str, host: Any) -> None:
        super().__init__(name)
        self._of = host

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._of, name)
        if isinstance(value, type) or not callable(value) or name in ("issubdtype", "s_", "dtype"):
            return value
        return wrapped(value)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in as `cupy`, with cupyx.scipy's fft and ndimage."""
    cupy = Namespace("cupy", np)
    cupy.ndarray = ndarray  # type: ignore[attr-defined]
    modules = {
        "cupy": cupy,
        "cupyx": types.ModuleType("cupyx"),
        "cupyx.scipy": types.ModuleType("cupyx.scipy"),
        "cupyx.scipy.fft": Namespace("cupyx.scipy.fft", scipy.fft),
        "cupyx.scipy.ndimage": Namespace("cupyx.scipy.ndimage", scipy.ndimage),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
        if "." in name:
            parent, _, child = name.rpartition(".")
            setattr(modules[parent], child, module)
    return cupy
