"""Where an archive lies: a path on this machine, or a URL that fsspec reaches (s3://, https://, memory:// …)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Url:
    """A place that is no path of this machine; it has a name, as a Path has."""

    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def name(self) -> str:
        """The last part, without a query."""
        return unquote(urlsplit(self.text).path or self.text).rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """With its dot, as of a file."""
        return Path(self.name).suffix

    def __truediv__(self, part: str) -> Url:
        head, question, query = self.text.partition("?")
        return Url(f"{head.rstrip('/')}/{part}{question}{query}")


Place: TypeAlias = Path | Url


def place(text: str | Path | Url) -> Place:
    """A Path for what lies on this machine (also file://), a Url for the rest."""
    if isinstance(text, (Path, Url)):
        return text
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    return Url(text) if "://" in text else Path(text)
