"""Archives at a URL: what is missing, out of reach for now, or needs a package is told apart; hiccups are waited out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

from emstream.errors import MissingExtra, SourceMissing, UnreadableFile
from emstream.source.formats.place import Place, Url

PAUSES_S = (0.2, 1.0, 3.0)  # between attempts; a store that is busy says so for a moment
_CLIENTS = (  # whose errors are no OSError
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)
LOST = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "HTTPClientError",
}  # of these: never got through
T = TypeVar("T")


def patiently(place: Place, call: Callable[[], T]) -> T:
    """`call()`, again after a pause where the network failed; what lies on a disk is asked once.

    raises : SourceMissing (out of reach: nothing is known about the data), and what `call` raises
    """
    if not isinstance(place, Url):
        return call()
    for pause in (*PAUSES_S, None):
        try:
            return call()
        except clients(OSError) as err:
            if not _network(err):
                raise
            if pause is None:
                raise SourceMissing(
                    f"{place} cannot be reached: {_said(err)}", "check the address and the network"
                ) from None
            time.sleep(pause)
    raise AssertionError


def reached(place: Place, call: Callable[[], T]) -> T:
    """`call()` that opens a place.

    raises : SourceMissing (nothing there, or out of reach), UnreadableFile (refused), MissingExtra, and what `call` raises
    """
    try:
        return patiently(place, call)
    except FileNotFoundError as err:
        if isinstance(err, SourceMissing):
            raise
        raise SourceMissing(
            f"nothing at {place}", "check the address: it ends in the name of the file or the store"
        ) from None
    except PermissionError as err:
        raise UnreadableFile(f"{place} may not be read: {err}", "check the credentials") from None
    except ImportError as err:
        raise MissingExtra(f"{place} needs another package: {err}", 'pip install "emstream[remote]"') from None
    except ValueError as err:
        if isinstance(place, Url) and "rotocol not known" in str(err):
            raise SourceMissing(f"{place}: {err}", "s3://, gs://, http:// and https:// are known") from None
        raise
    except clients() as err:
        raise UnreadableFile(f"{place} may not be read: {_said(err)}", "check the credentials") from None


def clients(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """The errors of those client packages that are in use, and others."""
    loaded = [(sys.modules.get(module), name) for module, name in _CLIENTS]
    return *others, *(getattr(module, name) for module, name in loaded if hasattr(module, name))


def _network(err: BaseException) -> bool:
    """The way to the data failed, not the data: connections, time-outs, a server that is busy."""
    if isinstance(err, (FileNotFoundError, PermissionError)):
        return False
    if isinstance(err, (ConnectionError, TimeoutError)):
        return True
    status = getattr(err, "status", None)  # aiohttp's ClientResponseError
    if isinstance(status, int):
        return status == 429 or status >= 500
    return isinstance(err, clients()) and bool({k.__name__ for k in type(err).__mro__} & LOST)


def _said(err: BaseException) -> str:
    return f"{type(err).__name__}: {err}"[:300]
