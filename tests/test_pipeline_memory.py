"""A GPU whose memory is full: what nobody uses is freed, fewer frames are taken, then the CPU goes on; nothing is lost.

A stand-in: `cuda:0` on which arrays are numpy arrays, and whose memory runs out where a test says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_pipeline import Rig, Threshold, frames_of, movie

from emstream import align, arrays, simulate
from emstream.messages import Labelled, Status
from emstream.metrics import Metrics
from emstream.pipeline import lane
from emstream.segment import SegmentOptions
from emstream.segment.fallback import OrCpu

__all__ = ["movie"]  # the fixture


class OutOfMemoryError(RuntimeError):
    """As torch and cupy call theirs."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[Rig, set[int]], None]:
    """Make a rig's device `cuda:0`, whose memory is full at these calls of the aligner."""
    follow = align.follow

    def make(rig: Rig, full_at: set[int]) -> None:
        monkeypatch.setattr(arrays, "to_device", lambda a, device: a)
        rig.steps = replace(rig.steps, device="cuda:0")
        calls = [0]

        def scarce(state: Any, pixels: np.ndarray, **more: Any) -> Any:
            calls[0] += 1
            if calls[0] in full_at:
                raise OutOfMemoryError("CUDA out of memory")
            return follow(state, pixels, **more)

        monkeypatch.setattr(lane.align, "follow", scarce)

    return make


def value(metrics: Metrics, name: str) -> float:
    line = next(row for row in metrics.exposition().decode().splitlines() if row.startswith(name))
    return float(line.rpartition(" ")[2])


def shifts(rig: Rig) -> np.ndarray:
    from emstream.store import Run

    run = Run(next(rig.out.glob("*.zarr")))
    assert np.all(run.column("status") & Status.SEGMENTED)
    return run.column("shift")


def test_once_full_it_is_tried_again_and_stays_on_the_gpu(
    tmp_path: Path, movie: simulate.Movie, gpu: Callable[..., None]
) -> None:
    plain, rig = Rig(tmp_path / "plain"), Rig(tmp_path / "gpu")
    plain.process(frames_of(movie, stop=16))
    gpu(rig, {7})
    rig.process(frames_of(movie, stop=16))
    assert value(rig.metrics, 'emstream_gpu_fallback_total{reason="oom"}') == 0
    assert np.array_equal(shifts(rig), shifts(plain))


def test_full_twice_the_cpu_goes_on_where_the_gpu_was(
    tmp_path: Path, movie: simulate.Movie, gpu: Callable[..., None]
) -> None:
    plain, rig = Rig(tmp_path / "plain"), Rig(tmp_path / "gpu")
    plain.process(frames_of(movie, stop=16))
    gpu(rig, {7, 8})
    rig.process(frames_of(movie, stop=16))
    assert value(rig.metrics, 'emstream_gpu_fallback_total{reason="oom"}') == 1
    assert value(rig.metrics, "emstream_gpu_up") == 0
    assert np.allclose(shifts(rig), shifts(plain), atol=0.02)


def test_the_loop_takes_fewer_frames_at_once_afterwards() -> None:
    from emstream.pipeline.loop import Loop

    class Short:
        short_of_memory = True

        def keep(self, frames: object) -> None:
            pass

    loop = Loop(ahead=None, open_lane=lambda frame: None, batch=16)  # type: ignore[arg-type, return-value]
    short = Short()
    loop._lane = lambda frame: short  # type: ignore[method-assign, assignment, return-value]
    loop._keep([object()])  # type: ignore[list-item]
    assert loop.batch == 8
    assert not short.short_of_memory
    loop._keep([object()])  # type: ignore[list-item]
    assert loop.batch == 8


class Scarce(Threshold):
    """A network on a GPU whose memory is full for so many calls."""

    name = "scarce"

    def __init__(self, full: int) -> None:
        self.full = full

    def look(self, pixels: np.ndarray, **told: Any) -> Callable[[], Labelled]:
        if self.full > 0:
            self.full -= 1
            raise OutOfMemoryError("CUDA out of memory")
        return super().look(pixels, **told)


@pytest.mark.parametrize(("full", "falls"), [(0, 0), (1, 0), (2, 1), (9, 1)])
def test_a_network_that_finds_no_memory_is_tried_again_then_the_cpu_has_it(full: int, falls: int) -> None:
    told: list[int] = []
    segment = OrCpu(Scarce(full), Threshold, lambda: told.append(1))
    frame = np.random.default_rng(0).poisson(50, (64, 64)).astype(np.uint16)
    frame[20:40, 20:40] = 10
    for _ in range(3):
        labelled = segment.look(frame, valid=(0, 64, 0, 64))()
        assert labelled.labels.max() >= 1
    assert len(told) == falls
    assert segment.name == ("threshold" if falls else "scarce")


def test_other_errors_are_not_taken_for_a_full_memory() -> None:
    class Wrong(Threshold):
        def look(self, pixels: np.ndarray, **told: Any) -> Callable[[], Labelled]:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        OrCpu(Wrong(), Threshold).look(np.zeros((8, 8)))
    assert arrays.out_of_memory(MemoryError())
    assert not arrays.out_of_memory(ValueError())
    assert SegmentOptions().backend == "auto"
