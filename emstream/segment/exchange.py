"""The segmenter at work, which another one can replace between two frames, and the thread that makes the other ready."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emstream.arrays import to_host
from emstream.errors import EmstreamError
from emstream.messages import Array, Labelled, PixelSize, Rect
from emstream.segment import Polarity, Segmenter
from emstream.segment.bases import HandsOn
from emstream.segment.golden import Live, self_test
from emstream.segment.registry import Registry

log = logging.getLogger("emstream.segment")
LOOK_EVERY_S = 1.0
WARM = (1024, 1024)


class Exchange(HandsOn):
    """A Segmenter that hands everything to another one. `offer` may be called from any thread."""

    def __init__(self, now: Segmenter) -> None:
        super().__init__(now)
        self._next: tuple[Segmenter, Callable[[], None]] | None = None
        self._lock = threading.Lock()
        self._live: tuple[Array, Rect | None, PixelSize | None, Labelled] | None = None

    @property
    def now(self) -> Segmenter:
        """The one at work."""
        return self._now

    def offer(self, other: Segmenter, taken: Callable[[], None] = lambda: None) -> None:
        """From the next frame on, `other` is at work; `taken` is called then, by the loop's thread."""
        with self._lock:
            self._next = other, taken

    @property
    def live(self) -> Live | None:
        """The newest frame that was segmented; None before the first."""
        seen = self._live
        if seen is None:
            return None
        pixels, valid, pixel_size_nm, labelled = seen
        return Live(pixels, valid, pixel_size_nm, to_host(labelled.labels) > 0)

    def look(
        self, pixels: Array, *, valid: Rect | None = None, pixel_size_nm: PixelSize | None = None
    ) -> Callable[[], Labelled]:
        self._change()
        particles = self._now.look(pixels, valid=valid, pixel_size_nm=pixel_size_nm)

        def finish() -> Labelled:
            labelled = particles()
            self._live = pixels, valid, pixel_size_nm, labelled
            return labelled

        return finish

    def reset(self, polarity: Polarity = "auto") -> None:
        super().reset(polarity)
        self._live = None

    def _change(self) -> None:
        if self._next is None:  # read without the lock: an offer that comes now is taken with the next frame
            return
        with self._lock:
            offered, self._next = self._next, None
        if offered is not None:
            self._now = offered[0]
            self._now.reset(self._polarity)
            offered[1]()


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """What became of an activated model."""

    model: str  # as it was activated
    sha256: str = ""
    before: str = ""  # the model that was at work
    problem: str = ""  # why the old one stays; "" = the new one is at work


class Swapper:
    """Watches a registry: what is activated there is loaded aside, tried, warmed up, and offered to the exchange.

    make : the setting `segment.model` → a segmenter. raises : EmstreamError
    tell : called with each outcome, from the swapper's thread
    """

    def __init__(
        self, registry: Registry, exchange: Exchange, make: Callable[[str], Segmenter], tell: Callable[[Swap], None]
    ) -> None:
        self.registry, self.exchange, self._make, self._tell = registry, exchange, make, tell
        self._stop = threading.Event()
        self._seen = registry.stamp()  # what was activated before has been taken at the start, or overruled
        self._taken: list[Swap] = []
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Leave; a model that is being loaded is left where it is."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            while self._taken:
                self._tell(self._taken.pop(0))
            self.look()

    def look(self) -> None:
        """Take what was activated since the last look, if anything was."""
        stamp = self.registry.stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        wanted = self.registry.active()
        if wanted is None:
            return self._refuse("?", "", "what was activated cannot be read")
        try:
            model = self.registry.find(wanted.model)
            model.check(wanted.sha256)
            new = self._make(model.setting)
            numbers = tried(new, model.path, self.exchange.live)
        except (EmstreamError, RuntimeError, ValueError, TypeError, LookupError, OSError, MemoryError) as problem:
            return self._refuse(wanted.model, wanted.sha256, f"{problem}" or type(problem).__name__)
        log.info("model is ready", extra={"model": wanted.model, "iou": numbers})
        done = Swap(model=wanted.model, sha256=new.sha256, before=self.exchange.name)
        return self.exchange.offer(new, lambda: self._taken.append(done))  # told here: the loop waits for no disk

    def _refuse(self, model: str, sha256: str, problem: str) -> None:
        self._tell(Swap(model=model, sha256=sha256, before=self.exchange.name, problem=problem))


def tried(new: Segmenter, folder: Path | None, live: Live | None) -> dict[str, float]:
    """Self-test and warm-up of a model that is not at work yet. raises : ModelBroken"""
    numbers = self_test(new, folder, live)
    new.warm_up(WARM if live is None else (int(live.pixels.shape[0]), int(live.pixels.shape[1])))
    new.reset()
    return numbers
