"""A simulated movie through the steps of the daemon's loop: aligned, added up by the dose, segmented; beside its truth."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from emstream import align
from emstream.align import AlignOptions
from emstream.measure import MeasureOptions
from emstream.messages import Aligned, Frame, Labelled, Origin
from emstream.pipeline.steps import Steps, look, looked_at
from emstream.segment import SegmentOptions, load
from emstream.segment.average import Seen, reach
from emstream.simulate import Movie


@dataclass(frozen=True, slots=True)
class Shown:
    """A frame, its labels, and the true ones moved as the frame was; nothing is true where the frame covers nothing."""

    aligned: Aligned
    labelled: Labelled
    truth: np.ndarray  # (y, x) int32


class Branch:
    """The daemon's segmentation of aligned frames that come one after the other."""

    def __init__(self, options: SegmentOptions, threads: int = 0) -> None:
        average = options.average_frames
        segmenter = load(options, threads=threads)
        self._steps = Steps(align=AlignOptions(), measure=MeasureOptions(), segmenter=segmenter, average=average)
        self._seen: deque[Seen] = deque(maxlen=reach(average) + 1)

    def __call__(self, aligned: Aligned) -> Labelled:
        self._seen.append(Seen(aligned, aligned.pixels))
        return look(self._steps, looked_at(self._steps, list(self._seen)))()


def through(m: Movie, options: SegmentOptions, *, threads: int = 0) -> Iterator[Shown]:
    """Every frame in turn. options.model = truth: the true labels take the place of the network's."""
    branch = None if options.model == "truth" else Branch(options, threads)
    drift, exclude = align.start(m.shape, m.dtype, AlignOptions()), None
    for i in range(len(m)):
        pixels = m.frame(i)
        drift, e = align.follow(drift, pixels, exclude=exclude)
        shift = (float(e.shift[0]), float(e.shift[1]))
        moved, valid = align.move(pixels, shift)
        truth, _ = align.move(m.labels(i), shift)
        frame = Frame("sim", Origin("", i, 0, 0, 0), pixels, float(m.time_s[i]), m.pixel_size_nm)
        aligned = Aligned(frame, moved, shift, float(e.confidence), int(e.anchor), int(e.status), valid)
        labelled = Labelled(truth, "truth", "") if branch is None else branch(aligned)
        exclude = labelled.labels > 0
        yield Shown(aligned, labelled, truth)
