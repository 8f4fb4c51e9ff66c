"""The write-behind queue: one thread, first in first out, bounded in bytes; a full disk makes it wait, not lose."""

from __future__ import annotations

import errno
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Protocol, TypeVar

log = logging.getLogger("emstream.store")
T = TypeVar("T")
GROUP = 64  # pieces of work written together: each may hold some files open until all are synced
WAITING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN)  # may pass by themselves


class Sink(Protocol):
    """What the work writes to: a RunWriter, or several as one."""

    def flush(self) -> None: ...
    def discard(self) -> None: ...
    def idle(self) -> None: ...


class WriteBehind:
    """Runs work in its own thread, in order; what has gathered is one group and is flushed once.

    sink        : flushed after each group
    limit_bytes : `put` waits while more than this is queued; a single larger item is let in alone
    group_bytes : a group is no larger than this (it is held twice while it is compressed), and GROUP pieces at most
    tell        : called with the reason when writing pauses, with None when it goes on; by the thread that writes

    When the disk is full or gone, the group is discarded and written anew after a pause of 1, 2, 4 … 60 s, until it
    succeeds; `problem` tells meanwhile. So work must be repeatable. Any other error ends the thread and is raised in
    the next call of the caller.
    """

    def __init__(
        self,
        sink: Sink,
        limit_bytes: int,
        group_bytes: int = 64 << 20,
        first_pause_s: float = 1.0,
        tell: Callable[[OSError | None], object] = lambda problem: None,
    ) -> None:
        self._sink = sink
        self._tell = tell
        self._limit = limit_bytes
        self._group_bytes = group_bytes
        self._pause = first_pause_s
        self._queue: deque[tuple[Callable[[], object], int]] = deque()
        self._bytes = 0
        self._busy = False
        self._closing = False
        self._abandoned = False
        self._changed = threading.Condition()
        self.problem: OSError | None = None  # why nothing is written at the moment
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write-behind")
        self._life: Future[None] = self._pool.submit(self._run)
        self._life.add_done_callback(lambda _: self._wake())

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait, the group under way included."""
        return self._bytes

    def put(self, work: Callable[[], object], nbytes: int, timeout: float | None = None) -> bool:
        """Queue work; waits while the queue is full.

        timeout : seconds to wait; None waits as long as it takes
        returns : False when there was no room in time and the work was not queued
        raises  : what the thread died of
        """
        with self._changed:
            fits = self._changed.wait_for(lambda: self._life.done() or not self._queue_full(nbytes), timeout)
            self._raise()
            if not fits:
                return False
            self._queue.append((work, nbytes))
            self._bytes += nbytes
            self._changed.notify_all()
        return True

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until everything that was queued is flushed; False when it took longer than `timeout` seconds."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._life.done() or not (self._queue or self._busy), timeout)
            self._raise()
        return done

    def close(self, timeout: float | None = None) -> bool:
        """Drain and end the thread; what is left after `timeout` seconds stays unwritten (its sources are still there).

        returns : whether everything was written
        raises  : what the thread died of
        """
        self._closing = True
        self._wake()
        wait([self._life], timeout)
        written = self._life.done() and not self._queue
        self._abandoned = True
        self._wake()
        self._pool.shutdown()
        self._life.result()
        return written

    def _queue_full(self, nbytes: int) -> bool:
        return self._bytes > 0 and self._bytes + nbytes > self._limit

    def _raise(self) -> None:
        if self._life.done():
            self._life.result()
            raise RuntimeError("the write-behind queue is closed")

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            if not self._queue:
                self._patiently(self._sink.idle)
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing or self._abandoned, 0.1)
                group = self._take()
                if not group and (self._closing or self._abandoned):
                    return
            if group:
                self._patiently(partial(self._write, [work for work, _ in group]))
                with self._changed:
                    self._bytes -= sum(nbytes for _, nbytes in group)
                    self._busy = False
                    self._changed.notify_all()

    def _take(self) -> list[tuple[Callable[[], object], int]]:
        group: list[tuple[Callable[[], object], int]] = []
        size = 0
        while self._queue and not self._abandoned and len(group) < GROUP:
            if group and size + self._queue[0][1] > self._group_bytes:
                break
            group.append(self._queue.popleft())
            size += group[-1][1]
        self._busy = bool(group)
        return group

    def _write(self, works: Sequence[Callable[[], object]]) -> None:
        for work in works:
            work()
        self._sink.flush()

    def patiently(self, act: Callable[[], T]) -> T:
        """Do it in the caller's thread, again and again while the disk is full or gone; what it returns.

        act    : may be repeated
        raises : what it raises, when that does not pass by itself or the queue is closed
        """
        return self._repeat(act, lambda: None)

    def _patiently(self, act: Callable[[], object]) -> None:
        """The same for the queue's own work: what was begun is discarded first, and given up when the queue is."""
        try:
            self._repeat(act, self._sink.discard)
        except OSError as error:
            if error.errno not in WAITING:
                raise

    def _repeat(self, act: Callable[[], T], undo: Callable[[], object]) -> T:
        pause, told = self._pause, False
        while True:
            try:
                done = act()
                break
            except OSError as error:
                undo()
                if error.errno not in WAITING:
                    raise
                self.problem = error
                if not told:
                    told = True
                    self._tell(error)
                    log.warning("writing pauses, frames wait in the camera's files", extra={"reason": str(error)})
                with self._changed:
                    if self._changed.wait_for(lambda: self._abandoned, pause):
                        raise
                pause = min(2 * pause, 60.0)
        if told:
            self.problem = None
            self._tell(None)
            log.info("writing goes on")
        return done
