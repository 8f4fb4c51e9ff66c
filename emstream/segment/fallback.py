"""A segmenter on a GPU that goes on without it: out of memory, it frees what it can, then the CPU takes over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from emstream import arrays
from emstream.messages import Array, Labelled, PixelSize, Rect
from emstream.segment import Segmenter
from emstream.segment.bases import HandsOn

log = logging.getLogger("emstream.segment")
T = TypeVar("T")


class OrCpu(HandsOn):
    """The segmenter of a GPU, or after its memory ran out twice for one frame, the same on the CPU.

    on_cpu : makes it; called when it is needed
    tell   : called once, when the CPU takes over
    """

    def __init__(
        self, on_gpu: Segmenter, on_cpu: Callable[[], Segmenter], tell: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(on_gpu)
        self._on_cpu, self.tell = on_cpu, tell
        self.fell = False

    def look(
        self, pixels: Array, *, valid: Rect | None = None, pixel_size_nm: PixelSize | None = None
    ) -> Callable[[], Labelled]:
        first = self._patiently(lambda: self._now.look(pixels, valid=valid, pixel_size_nm=pixel_size_nm))

        def finish() -> Labelled:
            try:
                return first()
            except (RuntimeError, MemoryError) as problem:
                if not arrays.out_of_memory(problem):
                    raise
                return self._patiently(lambda: self._now(pixels, valid=valid, pixel_size_nm=pixel_size_nm))

        return finish

    def warm_up(self, shape: tuple[int, int], dtype: str = "uint16") -> None:
        self._patiently(lambda: self._now.warm_up(shape, dtype))

    def finite(self, pixels: Array) -> bool:
        """Whether the network gives numbers for a frame."""
        numbers = getattr(self._now, "finite", None)
        return True if numbers is None else bool(numbers(pixels))

    def _patiently(self, work: Callable[[], T]) -> T:
        """Again with all memory freed that nobody uses, then on the CPU."""
        for again in (True, False):
            try:
                return work()
            except (RuntimeError, MemoryError) as problem:
                if self.fell or not arrays.out_of_memory(problem):
                    raise
                arrays.free_unused()
                if not again:
                    log.warning("GPU out of memory: the network goes on, on the CPU", extra={"error": str(problem)})
        self.fell = True
        self._now = self._on_cpu()
        self._now.reset(self._polarity)
        self.tell()
        return work()
