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
from emstream.pipeline.average import Seen, reach
from emstream.pipeline.steps import Steps, look, looked_at
from emstream.segment import SegmentOptions, load
from emstream.simulate import Movie


@dataclass(frozen=True, slots=True)
class Shown:
    """A frame, its labels, and the true ones moved as the frame was; nothing is true where the frame covers nothing."""

    aligned: Aligned
    labelled: Labelled
    truth: np.ndarray  # (y, x) int32


def through(m: Movie, options: SegmentOptions, *, threads: int = 0) -> Iterator[Shown]:
    """Every frame in turn. options.model = truth: the true labels take the place of the network's."""
    average = options.average_frames
    segmenter = None if options.model == "truth" else load(options, threads=threads)
    steps = Steps(align=AlignOptions(), measure=MeasureOptions(), segmenter=segmenter, average=average)
    seen: deque[Seen] = deque(maxlen=reach(average) + 1)
    drift, exclude = align.start(m.shape, m.dtype, AlignOptions()), None
    for i in range(len(m)):
        pixels = m.frame(i)
        drift, e = align.follow(drift, pixels, exclude=exclude)
        shift = (float(e.shift[0]), float(e.shift[1]))
        moved, valid = align.move(pixels, shift)
        truth, _ = align.move(m.labels(i), shift)
        frame = Frame("sim", Origin("", i, 0, 0, 0), pixels, float(m.time_s[i]), m.pixel_size_nm)
        aligned = Aligned(frame, moved, shift, float(e.confidence), int(e.anchor), int(e.status), valid)
        if segmenter is None:
            labelled = Labelled(truth, "truth", "")
        else:
            seen.append(Seen(aligned, moved))
            labelled = look(steps, looked_at(steps, list(seen)))()
        exclude = labelled.labels > 0
        yield Shown(aligned, labelled, truth)
