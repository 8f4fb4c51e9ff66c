"""What segmenters share: those that do everything at once, and those that hand everything on to another one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from emstream.messages import Array, Labelled, PixelSize, Rect
from emstream.segment import Polarity, Segmenter


class AtOnce(ABC):
    """A Segmenter without two parts: nothing is left to be done after the look."""

    memory: Any

    @abstractmethod
    def __call__(
        self, pixels: Array, *, valid: Rect | None = None, pixel_size_nm: PixelSize | None = None
    ) -> Labelled: ...

    def look(
        self, pixels: Array, *, valid: Rect | None = None, pixel_size_nm: PixelSize | None = None
    ) -> Callable[[], Labelled]:
        labelled = self(pixels, valid=valid, pixel_size_nm=pixel_size_nm)
        return lambda: labelled


class HandsOn(ABC):
    """A Segmenter that has another one at work, `_now`, and may put a new one in its place."""

    def __init__(self, now: Segmenter) -> None:
        self._now = now
        self._polarity: Polarity = "auto"  # of the series, for whoever comes next

    @property
    def name(self) -> str:
        return self._now.name

    @property
    def sha256(self) -> str:
        return self._now.sha256

    def __call__(self, pixels: Array, *, valid: Rect | None = None, pixel_size_nm: PixelSize | None = None) -> Labelled:
        return self.look(pixels, valid=valid, pixel_size_nm=pixel_size_nm)()

    @abstractmethod
    def look(
        self, pixels: Array, *, valid: Rect | None = None, pixel_size_nm: PixelSize | None = None
    ) -> Callable[[], Labelled]: ...

    def warm_up(self, shape: tuple[int, int], dtype: str = "uint16") -> None:
        self._now.warm_up(shape, dtype)

    def reset(self, polarity: Polarity = "auto") -> None:
        self._polarity = polarity
        self._now.reset(polarity)

    @property
    def memory(self) -> Any:
        return self._now, self._polarity, self._now.memory

    @memory.setter
    def memory(self, kept: Any) -> None:
        whose, self._polarity, memory = kept
        if whose is self._now:
            self._now.memory = memory
        else:  # another one is at work by now
            self._now.reset(self._polarity)
