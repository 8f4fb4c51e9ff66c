"""Read-ahead: bounded in bytes, in order, honest about errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from emstream.messages import Frame, Origin
from emstream.source.ahead import ReadAhead


def frame(i: int, series: str = "a", side: int = 10) -> Frame:
    return Frame(series, Origin(f"{i}.tif", 0, 1, 1, i), np.full((side, side), i, np.uint8), float(i))


def drain(ahead: ReadAhead, most: int = 4) -> list[list[int]]:
    batches = []
    while not ahead.ended:
        if batch := ahead.take(most, 5.0):
            batches.append([int(f.pixels[0, 0]) for f in batch])
    return batches


def test_hands_on_every_frame_in_order() -> None:
    ahead = ReadAhead(iter([frame(i) for i in range(50)]), 10**6)
    assert [i for batch in drain(ahead) for i in batch] == list(range(50))
    assert ahead.queued_bytes == 0


def test_a_batch_never_mixes_two_series() -> None:
    ahead = ReadAhead(iter([frame(0), frame(1), frame(2, "b"), frame(3, "b"), frame(4)]), 10**6)
    ahead.join()
    assert drain(ahead, most=10) == [[0, 1], [2, 3], [4]]


def test_never_holds_more_bytes_than_its_limit() -> None:
    read = []
    full = threading.Event()

    def source() -> Iterator[Frame]:
        for i in range(20):
            read.append(i)
            if i == 3:
                full.set()
            yield frame(i)

    ahead = ReadAhead(source(), 300)  # three frames of 100 bytes
    assert full.wait(5)
    assert ahead.waiting == 3
    assert ahead.queued_bytes == 300
    assert len(read) == 4  # the fourth is in the reader's hand, blocked
    assert [i for batch in drain(ahead) for i in batch] == list(range(20))


def test_a_frame_larger_than_the_limit_passes_alone() -> None:
    ahead = ReadAhead(iter([frame(0, side=100), frame(1, side=100)]), 300)
    assert drain(ahead) == [[0], [1]]


def test_an_error_of_the_source_reaches_the_loop_after_the_frames_before_it() -> None:
    def source() -> Iterator[Frame]:
        yield frame(0)
        raise OSError("the mount is gone")

    ahead = ReadAhead(source(), 10**6)
    assert len(ahead.take(4, 5.0)) == 1
    with pytest.raises(OSError, match="mount is gone"):
        ahead.take(4, 5.0)


def test_idle_ticks_of_the_source_are_not_frames() -> None:
    ahead = ReadAhead(iter([None, frame(0), None, frame(1), None]), 10**6)
    assert [i for batch in drain(ahead) for i in batch] == [0, 1]


def test_stop_ends_an_endless_source_and_keeps_what_was_read() -> None:
    stop = threading.Event()
    started = threading.Event()

    def source() -> Iterator[Frame | None]:
        yield frame(0)
        started.set()
        while not stop.is_set():
            yield None

    ahead = ReadAhead(source(), 10**6, stop.set)
    assert started.wait(5)
    ahead.stop()
    ahead.join()
    assert drain(ahead) == [[0]]
