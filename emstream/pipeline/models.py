"""The model at work in a daemon: taken up when somebody activates another, told of, and doubted when it does not fit."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from emstream import arrays
from emstream.errors import ModelBroken
from emstream.metrics import Metrics
from emstream.pipeline.result import Result
from emstream.pipeline.steps import Steps
from emstream.pipeline.whole import Rooms, make_steps, segmenter_of
from emstream.segment import Segmenter, SegmentOptions
from emstream.segment.exchange import Exchange, Swap, Swapper
from emstream.segment.fallback import OrCpu
from emstream.segment.golden import self_test
from emstream.segment.registry import Registry

log = logging.getLogger("emstream.models")
JUDGED = 24  # frames over which the agreement is averaged, or so many as three judgements take
DOUBT, BELIEVE = 0.4, 0.5  # mean agreement below which a model is said not to fit, and above which it is again
ADVICE = "emstream train makes one that fits, emstream models evaluate compares"

Announce = Callable[[str, int, float, str], None]  # run, frame, time_s, text


class ModelsInUse:
    """Which model makes the labels of a daemon's frames, and how far it is to be trusted.

    out      : the folder of the runs; what is activated there is taken up between two frames
    given    : whether the user named a model; else the one that was activated last is taken at the start
    announce : another model makes the labels from this frame on
    raises   : ModelBroken, BadSettings, SourceMissing
    """

    def __init__(self, out: Path, rooms: Rooms, given: bool, metrics: Metrics, announce: Announce) -> None:
        self.registry, self.metrics, self._announce = Registry(out), metrics, announce
        self._rooms = rooms
        self._agreement: deque[float] = deque(maxlen=max(JUDGED, 3 * rooms.segment.judge_every))
        self.fits = True
        self.refused = ""  # what was activated and is not used, and why
        self.steps = self._first(given)
        self._swapper: Swapper | None = None
        self._exchange: Exchange | None = None
        self._told = ("", "")
        if self.steps.segmenter is not None:
            self._behind_gpu(self.steps.segmenter)
            self._exchange = Exchange(self.steps.segmenter)
            self.steps = replace(self.steps, segmenter=self._exchange)
            self._told = (self._exchange.name, self._exchange.sha256)
            metrics.model(*self._told)
            self._swapper = Swapper(self.registry, self._exchange, self._make, self._swapped)
            self._answer()

    # ---- life --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look for activations from now on."""
        if self._swapper is not None:
            self._swapper.start()

    def stop(self) -> None:
        if self._swapper is not None:
            self._swapper.stop()

    def _first(self, given: bool) -> Steps:
        """The steps with the model to begin with. A broken one that was activated earlier does not keep a daemon down."""
        active = None if given or not self._rooms.segment.enabled else self.registry.active()
        if active is None:
            return make_steps(self._rooms)
        try:
            model = self.registry.find(active.model)
            model.check(active.sha256)
            steps = make_steps(self._rooms, self._with(model.setting))
            assert steps.segmenter is not None
            self_test(steps.segmenter, model.path)
            log.info("the model that was activated last", extra={"model": active.model, "by": active.by})
            return steps
        except ModelBroken as problem:
            self.refused = f"{active.model}: {problem}"
            log.warning("activated model not used", extra={"model": active.model, "because": str(problem)})
            return make_steps(self._rooms)

    def _with(self, model: str) -> SegmentOptions:
        return replace(self._rooms.segment, model=model)

    def _make(self, model: str) -> Segmenter:
        device = arrays.pick_device(self._rooms.compute.device)
        threads = arrays.network_threads(self._rooms.compute.threads)
        made = segmenter_of(self._with(model), device, threads)
        self._behind_gpu(made)
        return made

    def _behind_gpu(self, segmenter: Segmenter) -> None:
        """Count it when the CPU takes over."""
        if isinstance(segmenter, OrCpu):
            segmenter.tell = lambda: self.metrics.gpu_fallback("oom")

    # ---- while it runs -----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._exchange.name if self._exchange else "off"

    @property
    def sha256(self) -> str:
        return self._exchange.sha256 if self._exchange else ""

    @property
    def agreement(self) -> float:
        """Mean over the last frames, 0..1; NaN when nothing was judged."""
        seen = list(self._agreement)
        return sum(seen) / len(seen) if seen else float("nan")

    def note(self, result: Result) -> None:
        """A frame's labels are stored (write-behind's thread): is their model a new one, and does it fit?"""
        labelled = result.labelled
        if labelled is None or not labelled.model:
            return
        key = (labelled.model, labelled.sha256)
        if key != self._told and key == (self.name, self.sha256):
            text = f"{self._told[0]} → {_called(*key)}"
            log.info("another model makes the labels", extra={"run": result.run, "frame": result.frame, "model": text})
            self._told = key
            self._agreement.clear()
            self.fits = True
            self.refused = ""
            self.metrics.model(*key)
            self._announce(result.run, result.frame, result.aligned.frame.time_s, text)
        if key == self._told and labelled.agreement == labelled.agreement:
            self._agreement.append(labelled.agreement)
            self._judge(result)

    def warnings(self) -> Iterator[str]:
        """What people should know."""
        if self.refused:
            yield f"a model that was activated is not used, {self.name} stays: {self.refused}"
        if not self.fits:
            yield f"the model {self.name} does not seem to fit these frames (agreement {self.agreement:.2f}); {ADVICE}"

    def _judge(self, result: Result) -> None:
        mean = self.agreement
        self.metrics.agreement.set(mean)
        if self.fits and len(self._agreement) == self._agreement.maxlen and mean < DOUBT:
            self.fits = False
            told = {"run": result.run, "frame": result.frame, "model": self.name, "agreement": round(mean, 3)}
            log.warning(f"the model does not seem to fit these frames; {ADVICE}", extra=told)
        elif not self.fits and mean > BELIEVE:
            self.fits = True
            log.info("the model fits again", extra={"run": result.run, "frame": result.frame, "model": self.name})
        self.metrics.model_fits.set(self.fits)

    def _swapped(self, swap: Swap) -> None:
        """In the swapper's thread."""
        self.refused = f"{swap.model}: {swap.problem}" if swap.problem else ""
        if swap.problem:
            told = {"model": swap.model, "stays": swap.before, "because": swap.problem}
            log.warning("activated model not used", extra=told)
        self.metrics.swapped("refused" if swap.problem else "taken")
        self._answer()

    def _answer(self) -> None:
        self.registry.answer(in_use=self.name, sha256=self.sha256, refused=self.refused)


def _called(name: str, sha256: str) -> str:
    return f"{name} ({sha256[:8]})" if sha256 else name
