"""What codecs raise becomes UnreadableFile; a grey picture that is stored as colour becomes one channel."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from emstream.errors import EmstreamError, UnreadableFile

# imagecodecs raises RuntimeError and its subclasses; tifffile ValueError, and whatever damaged tables lead to
CODEC_ERRORS = (
    ValueError,
    RuntimeError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    EOFError,
    OSError,
    MemoryError,
    struct.error,
)


@contextmanager
def decoding(path: Path, what: str) -> Iterator[None]:
    """Within it a codec's error becomes UnreadableFile(corrupt); our own errors pass."""
    try:
        yield
    except EmstreamError:
        raise
    except CODEC_ERRORS as err:
        raise UnreadableFile(f"{what} of {path} cannot be decoded: {type(err).__name__}: {err}"[:500]) from err


def one_channel(pixels: np.ndarray, path: Path) -> np.ndarray:
    """(y, x) of (y, x), (y, x, 1), grey + alpha, or colours that are all equal; alpha is ignored.

    raises : UnreadableFile (colour)
    """
    if pixels.ndim == 2:
        return pixels
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4:
        raise UnreadableFile(f"{path} is no picture of one channel but an array of {pixels.shape}", reason="colour")
    colours = pixels.shape[2] if pixels.shape[2] in (1, 3) else pixels.shape[2] - 1
    first = pixels[..., 0]
    if any(not np.array_equal(first, pixels[..., c]) for c in range(1, colours)):
        raise UnreadableFile(f"{path} is a colour picture", "save it as greyscale counts", reason="colour")
    return np.ascontiguousarray(first)
