"""What went wrong, and what to do about it: every error a user can meet."""

from __future__ import annotations

from typing import Any


class EmstreamError(Exception):
    """Base of all errors that emstream raises on purpose.

    what : what happened, and where (file, frame, setting)
    hint : what to do about it; shown after the message
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} ({self.hint})" if self.hint else self.what

    def __reduce__(self) -> tuple[type[EmstreamError], tuple[Any, ...]]:
        return type(self), (self.what, self.hint)


class BadSettings(EmstreamError, ValueError):
    """Settings that cannot be used; `problems` holds one line per mistake."""

    def __init__(self, what: str, hint: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(what, hint)
        self.problems = problems or (str(self),)

    def __reduce__(self) -> tuple[type[EmstreamError], tuple[Any, ...]]:
        return type(self), (self.what, self.hint, self.problems)


class BadRule(EmstreamError, ValueError):
    """A line that is no alarm."""


class SourceMissing(EmstreamError, FileNotFoundError):
    """The folder or file that was named is not there."""


class UnreadableFile(EmstreamError, ValueError):
    """A file that cannot become frames: quarantined with `reason`, a short word from a closed set."""

    def __init__(self, what: str, hint: str = "", reason: str = "corrupt") -> None:
        super().__init__(what, hint)
        self.reason = reason  # corrupt | truncated | unknown_format | oversize | colour | not_a_file | empty

    def __reduce__(self) -> tuple[type[EmstreamError], tuple[Any, ...]]:
        return type(self), (self.what, self.hint, self.reason)


class NotComplete(EmstreamError, BlockingIOError):
    """The frame is not wholly on disk yet; ask again later."""


class FrameOutOfRange(EmstreamError, IndexError):
    """The movie or run has no such frame."""


class BadImage(EmstreamError, ValueError):
    """Pixels that an algorithm cannot work on: wrong dimensions, shapes that differ, nothing finite."""


class MissingExtra(EmstreamError, ImportError):
    """An optional package is needed; the hint names the extra to install."""


class StoreBusy(EmstreamError, RuntimeError):
    """Another daemon holds this output folder."""


class StoreDamaged(EmstreamError, RuntimeError):
    """A run that is not what its metadata says."""


class NotARun(EmstreamError, ValueError):
    """The path is no emstream run."""


class ModelBroken(EmstreamError, ValueError):
    """A model that cannot be loaded or does not fit."""


class AddressRefused(EmstreamError, OSError):
    """The page's address cannot be bound, or may not be without protection."""


class JobFailed(EmstreamError, RuntimeError):
    """An offline job ended without its result."""
