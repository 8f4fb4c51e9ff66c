"""Read-ahead: the first of the two queues, bounded in bytes, between the source and the loop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from emstream.messages import Frame


class ReadAhead:
    """Runs a source in one thread and holds at most `limit_bytes` of frames; a full queue blocks the source.

    A frame larger than the limit still passes, alone. An error of the source is raised in `take`.
    """

    def __init__(
        self, frames: Iterator[Frame | None], limit_bytes: int, stop: Callable[[], None] = lambda: None
    ) -> None:
        self._frames = frames
        self._limit = limit_bytes
        self._stop_source = stop
        self._queue: deque[Frame] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._ended = False
        pool = ThreadPoolExecutor(1, thread_name_prefix="emstream-read")
        self._reading = pool.submit(self._run)  # the future carries the source's error to whoever takes
        pool.shutdown(wait=False)

    def take(self, most: int, timeout: float) -> list[Frame]:
        """Every frame that is ready, up to `most`, of one series; [] when none came within `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._ended, timeout)
            batch: list[Frame] = []
            while self._queue and len(batch) < most and (not batch or self._queue[0].series == batch[0].series):
                frame = self._queue.popleft()
                self._bytes -= frame.pixels.nbytes
                batch.append(frame)
            self._changed.notify_all()
            over = self._ended and not self._queue and not batch
        if over:
            self._reading.result()
        return batch

    @property
    def ended(self) -> bool:
        """The source has no more frames and all were taken."""
        with self._changed:
            return self._ended and not self._queue

    @property
    def waiting(self) -> int:
        """Frames that are read and not taken yet."""
        return len(self._queue)

    @property
    def queued_bytes(self) -> int:
        """Bytes of frames that are read and not taken yet."""
        return self._bytes

    def stop(self) -> None:
        """End the source; frames that are already read can still be taken."""
        self._stop_source()
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, timeout: float = 30.0) -> None:
        """Wait for the source to end; raises what it raised."""
        self._reading.result(timeout)

    def _run(self) -> None:
        try:
            for frame in self._frames:
                if frame is not None:
                    self._put(frame)
                if self._closing:
                    break
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, frame: Frame) -> None:
        size = frame.pixels.nbytes
        with self._changed:
            self._changed.wait_for(lambda: not self._queue or self._bytes + size <= self._limit or self._closing)
            if self._closing and self._queue and self._bytes + size > self._limit:
                return  # not reserved anywhere yet: the camera's file still has it
            self._queue.append(frame)
            self._bytes += size
            self._changed.notify_all()
