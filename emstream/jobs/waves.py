"""Tasks on a dask cluster that may lose its workers, or its scheduler, at any time: what is lost is asked again.

That is safe because a task's result does not depend on who does it or how often, and cheap because what it wrote is
verified and not done again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol, TypeVar

from emstream.errors import EmstreamError, JobFailed

log = logging.getLogger("emstream.jobs")
T = TypeVar("T")
PATIENCE_S = 120.0  # for which a scheduler that went away is waited for, and for which nothing may come to an end badly
AGAIN = 20  # times that a task may take its worker down with it


class Hands(Protocol):
    """Who does the tasks."""

    def count(self) -> int: ...

    def run(
        self, task: Callable[..., T], calls: Sequence[tuple[Any, ...]], told: Callable[[T], None] = ...
    ) -> list[T]: ...


class Here:
    """The same tasks in this process, one after the other."""

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def count(self) -> int:
        """How many there are."""
        return 1

    def run(
        self, task: Callable[..., T], calls: Sequence[tuple[Any, ...]], told: Callable[[T], None] = lambda result: None
    ) -> list[T]:
        """Every call's result, in their order; `told` of each as it comes."""
        results = []
        for call in calls:
            results.append(task(*call))
            told(results[-1])
        return results


class Workers:
    """A cluster, opened when it is first needed, and again when it is lost. Use as a context.

    connect : gives a context with a dask client
    """

    def __init__(self, connect: Callable[[], AbstractContextManager[Any]]) -> None:
        self._connect = connect
        self._stack: ExitStack | None = None
        self._client: Any = None
        self._never = True  # whether it could be reached so far
        self._count = 1  # workers that there were when they were last counted

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.lost()

    def count(self) -> int:
        """How many workers there are, or were before the cluster was lost. raises : what connecting does at first"""
        lost: tuple[type[Exception], ...] = (EmstreamError, *_losses())
        try:
            self._count = len(self._connected().scheduler_info(n_workers=-1)["workers"]) or self._count
        except lost as err:
            if self._never:
                raise
            log.debug("counting workers", extra={"reason": _short(err)})
            self.lost()
        return self._count

    def run(
        self, task: Callable[..., T], calls: Sequence[tuple[Any, ...]], told: Callable[[T], None] = lambda result: None
    ) -> list[T]:
        """Every call's result, in their order.

        told   : called with each result as it comes
        raises : what a task raises on purpose (EmstreamError); JobFailed when the cluster stays away
        """
        results: dict[int, T] = {}
        failing_since, taken_down = 0.0, 0
        while len(results) < len(calls):
            before = len(results)
            try:
                self._some(task, calls, results, told)
            except EmstreamError as err:
                if self._client is not None or self._never:  # a task's own; or there never was a cluster
                    raise
                cause: BaseException = err
            except _losses() as err:
                cause = err
            else:
                break
            now = time.monotonic()
            failing_since = now if len(results) > before or not failing_since else failing_since
            taken_down = 0 if len(results) > before else taken_down + 1
            self.lost()
            if now - failing_since > PATIENCE_S or taken_down > AGAIN:
                raise JobFailed(
                    f"the dask cluster was lost and stays away: {cause}",
                    "what is done is kept: run the same command again",
                ) from cause
            log.warning("the cluster was lost; going on", extra={"reason": _short(cause), "done": len(results)})
            time.sleep(1.0)
        return [results[i] for i in range(len(calls))]

    def lost(self) -> None:
        """Let go of the cluster."""
        stack, self._stack, self._client = self._stack, None, None
        if stack is not None:
            try:
                stack.close()
            except (OSError, TimeoutError, RuntimeError, EmstreamError) as err:  # it is gone already
                log.debug("closing the cluster", extra={"reason": _short(err)})

    def _some(
        self, task: Callable[..., T], calls: Sequence[tuple[Any, ...]], results: dict[int, T], told: Callable[[T], None]
    ) -> None:
        from distributed import as_completed

        client = self._connected()
        left = [i for i in range(len(calls)) if i not in results]
        futures = client.map(task, *zip(*(calls[i] for i in left)), pure=False)  # in one message
        number = dict(zip(futures, left))
        with ExitStack() as undo:  # whatever ends this early: what is not done is not wanted any more
            for future in futures:
                undo.callback(future.cancel)
            for batch in as_completed(futures).batches():
                for future, result in zip(batch, client.gather(batch)):
                    results[number[future]] = result
                    told(result)
                    future.release()
            undo.pop_all()

    def _connected(self) -> Any:
        if self._client is None:
            stack = ExitStack()
            self._client = stack.enter_context(self._connect())
            self._stack, self._never = stack, False
        return self._client


def _losses() -> tuple[type[Exception], ...]:
    """What tells that the cluster, or a worker of it, was lost, rather than that a task is wrong."""
    from distributed import CancelledError, KilledWorker
    from distributed.client import FutureCancelledError

    return CancelledError, FutureCancelledError, KilledWorker, TimeoutError, OSError


def _short(err: BaseException) -> str:
    return (str(err) or type(err).__name__).splitlines()[0][:200]
