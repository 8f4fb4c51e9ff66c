"""One rank of a training on each worker: submitted together, pinned, begun again together from the last checkpoint."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

from emstream.errors import JobFailed

log = logging.getLogger("emstream.jobs")
ATTEMPTS = 3
LOOK_S = 5.0  # how often it is asked whether the workers are still there: a rank is pinned, and would wait for ever
MEET_S = 120.0  # as long as a rank of a group that failed may take to notice it, and to make room


def together(
    client: Any,
    function: Callable[..., Any],
    arguments: Sequence[Any],
    workers: Sequence[str],
    attempts: int = ATTEMPTS,
) -> Any:
    """function(*arguments, group=…) on every worker at once; what the first rank returns.

    A rank that fails or vanishes takes the group down, within a minute; the group then begins again, on the workers
    that are left, `attempts` times at most. The function goes on from its own checkpoint.

    raises : JobFailed
    """
    problem: BaseException | None = None
    for turn in range(attempts):
        there = [w for w in workers if w in client.scheduler_info(n_workers=-1)["workers"]]
        if not there:
            break
        host, port = client.submit(_meeting_place, workers=[there[0]], pure=False).result(timeout=MEET_S)
        ranks = [
            client.submit(
                _rank, function, arguments, rank, len(there), host, port, workers=[w], allow_other_workers=False,
                pure=False, retries=0,
            )
            for rank, w in enumerate(there)
        ]  # fmt: skip
        problem = _ended(client, ranks, there)
        if problem is None:
            return ranks[0].result()
        if isinstance(problem, KeyboardInterrupt):
            raise problem
        client.cancel(ranks, force=True)
        log.warning("training group begins again", extra={"attempt": turn + 1, "problem": repr(problem)})
    raise JobFailed(f"no training group of {len(workers)} lived to its end: {problem!r}", "see the workers' logs")


def _ended(client: Any, ranks: Sequence[Any], workers: Sequence[str]) -> BaseException | None:
    """Wait until every rank has ended well (None), or one has not: what it raised, or that its worker is gone."""
    from distributed import wait

    while True:
        failed = [f for f in ranks if f.status not in ("pending", "finished")]
        if failed:
            return failed[0].exception() if failed[0].status == "error" else JobFailed(f"a rank was {failed[0].status}")
        if all(f.status == "finished" for f in ranks):
            return None
        gone = set(workers) - set(client.scheduler_info(n_workers=-1)["workers"])
        if gone:
            return JobFailed(f"workers are gone: {', '.join(sorted(gone))}")
        with contextlib.suppress(TimeoutError):
            wait([f for f in ranks if f.status == "pending"], timeout=LOOK_S, return_when="FIRST_COMPLETED")


def _meeting_place() -> tuple[str, int]:
    """The first rank's host as the others reach it, and a free port there."""
    from distributed import get_worker

    host = get_worker().address.split("://")[-1].rpartition(":")[0].strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
        s.bind((host, 0))
        return host, int(s.getsockname()[1])


def _rank(function: Callable[..., Any], arguments: Sequence[Any], rank: int, size: int, host: str, port: int) -> Any:
    from emstream.learn.ranks import Ranks

    with Ranks(rank, size, host, port) as group:
        return function(*arguments, group=group)
