"""A camera file at a URL is fetched once into a folder of this machine, and read there as any other file.

The cache may be deleted at any time. A file that changed at its URL is fetched anew: by its size and what the server
tells of its version. What lies beside the file (a header, a second segment) is not fetched.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import time
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from emstream.errors import UnreadableFile
from emstream.source.formats.place import Url
from emstream.source.formats.remote import reached

log = logging.getLogger("emstream.source")
PIECE = 8 << 20  # bytes that are fetched at once
SPARE = 1 << 30  # bytes that a fetched file leaves free on the disk
TELL_EVERY_S = 10.0
_VERSION = ("ETag", "Last-Modified", "LastModified", "mtime", "modified", "created", "Content-MD5", "md5Hash")


def fetched(url: Url, cache: str = "") -> Path:
    """Where the file lies on this machine; its mtime is that of the original, or 0 where the server does not tell.

    cache  : folder; "" = emstream/ in the user's cache folder
    raises : SourceMissing, UnreadableFile (refused, no room, it came shorter than it was said to be), MissingExtra

    Several processes may ask at once: one fetches, the others wait.
    """
    fs, path = reached(url, lambda: _open(url))
    about: dict[str, Any] = reached(url, lambda: _about(fs, path))
    told = [str(about.get(name)) for name in ("size", *_VERSION)]
    key = hashlib.sha256("\n".join([str(url).partition("?")[0], *told]).encode()).hexdigest()[:16]
    folder = Path(cache).expanduser() if cache else _default()
    file = folder / key / url.name
    if file.is_file():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{key}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.is_file():
            _fetch(url, fs, path, about, file)
    return file


def _open(url: Url) -> tuple[Any, str]:
    import fsspec  # type: ignore[import-untyped]

    fs, path = fsspec.core.url_to_fs(str(url))
    return fs, path


def _about(fs: Any, path: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = fs.info(path)
    except FileNotFoundError as err:  # over http also what was refused, and what is out of reach
        if err.__cause__ is not None and getattr(err.__cause__, "status", 0) not in (404, 410):
            raise err.__cause__ from None
        raise
    if found.get("type") == "directory":
        raise UnreadableFile(f"{path} is a folder at a URL", "name the files, or copy the folder here", "not_a_file")
    return found


def _fetch(url: Url, fs: Any, path: str, about: dict[str, Any], file: Path) -> None:
    size = about.get("size")
    free = shutil.disk_usage(file.parent).free
    if size is not None and size + SPARE > free:
        raise UnreadableFile(
            f"{url}: {size >> 20} MB do not fit into {file.parent}, where {free >> 20} MB are free",
            "set source.cache to a larger disk, or mount the store",
        )
    log.info("fetching", extra={"url": str(url), "bytes": size, "to": str(file)})
    part = file.with_name(f".{file.name}.partial")
    came = reached(url, lambda: _copy(url, fs, path, part, size))
    if size is not None and came != size:
        part.unlink()
        raise UnreadableFile(f"{url}: {came} bytes came instead of {size}", "try again", "truncated")
    when = _modified(about)
    os.utime(part, (when, when))
    os.replace(part, file)


def _copy(url: Url, fs: Any, path: str, part: Path, size: int | None) -> int:
    """From its beginning, however often: few servers let one go on where one was."""
    told, done = time.monotonic(), 0
    with fs.open(path, "rb") as source, open(part, "wb") as out:
        while piece := source.read(PIECE):
            out.write(piece)
            done += len(piece)
            if time.monotonic() - told > TELL_EVERY_S:
                told = time.monotonic()
                log.info("fetching", extra={"url": str(url), "done": done, "of": size})
    return done


def _modified(about: dict[str, Any]) -> float:
    """Seconds since 1970; 0 when nobody tells: the same on every machine that fetches it."""
    for name in _VERSION:
        value = about.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)) and name == "mtime":
            return float(value)
        if isinstance(value, str) and name == "Last-Modified":
            with contextlib.suppress(ValueError):
                return parsedate_to_datetime(value).timestamp()
    return 0.0


def _default() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "emstream" / "fetched"
