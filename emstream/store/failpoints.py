"""Places where a test can kill the process or make a call fail; one dictionary look-up when unarmed."""

from __future__ import annotations

import errno
import os
import signal

_ERRORS = {"eio": errno.EIO, "enospc": errno.ENOSPC}


def _armed(text: str) -> dict[str, tuple[int, str]]:
    """`name:count[:kill|eio|enospc]`, comma separated, as {name: (count, action)}."""
    points = {}
    for item in filter(None, text.split(",")):
        name, _, rest = item.partition(":")
        count, _, action = rest.partition(":")
        points[name] = (int(count or 1), action or "kill")
    return points


_points = _armed(os.environ.get("EMSTREAM_FAILPOINTS", ""))


def arm(text: str) -> None:
    """Arm these failpoints instead of the ones from EMSTREAM_FAILPOINTS; "" disarms all."""
    global _points
    _points = _armed(text)


def failpoint(name: str) -> None:
    """Act when this point has been reached `count` times: SIGKILL to oneself, or an OSError.

    raises : OSError (EIO, ENOSPC) when armed so
    """
    if not _points or name not in _points:
        return
    count, action = _points[name]
    if count > 1:
        _points[name] = (count - 1, action)
        return
    del _points[name]
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(_ERRORS[action], f"{os.strerror(_ERRORS[action])} (failpoint {name})")
