"""Walking the page directories of a TIFF or BigTIFF that may still grow: O(new pages), nothing trusted."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emstream.errors import NotComplete, UnreadableFile
from emstream.source.formats.files import ByteFile

TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "s", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I"}
TYPES |= {16: "Q", 17: "q", 18: "Q"}
MAX_TAGS = 4096
MAX_EAGER = 1 << 12  # values of one tag that are read at once; longer ones (strip tables) when asked for


@dataclass(frozen=True, slots=True)
class Flavour:
    """Byte order and word sizes."""

    order: str  # < or >
    big: bool

    @property
    def offset(self) -> str:
        """struct code of a file offset."""
        return self.order + ("Q" if self.big else "I")


@dataclass(frozen=True, slots=True)
class Tag:
    """Where a tag's values are."""

    kind: int
    count: int
    at: int  # byte of the first value
    nbytes: int


@dataclass(frozen=True, slots=True)
class Page:
    """One page directory whose values all lie in the file."""

    at: int  # byte of the directory
    tags: Mapping[int, Tag]
    next_at: int  # byte of the place that points to the next directory


def flavour(head: bytes, path: Path) -> Flavour:
    """Of the first 16 bytes. Raises UnreadableFile."""
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    magic = struct.unpack_from((order or "<") + "H", head, 2)[0]
    if order is None or magic not in (42, 43):
        raise UnreadableFile(f"{path} is no TIFF", reason="unknown_format")
    return Flavour(order, magic == 43)


def first_pointer(kind: Flavour) -> int:
    """Byte of the place that points to the first directory."""
    return 8 if kind.big else 4


def read_pointer(file: ByteFile, kind: Flavour, at: int) -> int:
    """The offset stored at `at`; 0 = none (yet)."""
    return int(struct.unpack(kind.offset, file.read_at(at, 8 if kind.big else 4))[0])


def read_page(file: ByteFile, kind: Flavour, at: int) -> Page:
    """The directory at `at`. Raises NotComplete while a part of it is beyond the end, UnreadableFile."""
    head, entry, inline = (8, 20, 8) if kind.big else (2, 12, 4)
    (n,) = struct.unpack(kind.order + ("Q" if kind.big else "H"), file.read_at(at, head))
    if not 0 < n <= MAX_TAGS:
        if n == 0:
            raise NotComplete(f"{file.path} has an empty page directory at byte {at}")
        raise UnreadableFile(f"{file.path} has a page directory of {n} tags at byte {at}")
    block = file.read_at(at + head, n * entry + inline)
    size, tags = file.size(), {}
    for k in range(n):
        code, what, count = struct.unpack_from(kind.order + ("HHQ" if kind.big else "HHI"), block, k * entry)
        width = struct.calcsize("<" + TYPES[what]) if what in TYPES else {10: 8}.get(what, 1)
        nbytes = count * width
        value_at = k * entry + entry - inline
        where = at + head + value_at if nbytes <= inline else struct.unpack_from(kind.offset, block, value_at)[0]
        if where + nbytes > size:
            raise NotComplete(f"{file.path} ends before the values of tag {code}")
        tags[code] = Tag(what, count, where, nbytes)
    return Page(at, tags, at + head + n * entry)


def numbers(file: ByteFile, kind: Flavour, page: Page, code: int, limit: int = MAX_EAGER) -> tuple[Any, ...]:
    """Values of a numeric tag, () when it is absent; a rational is two values. Raises UnreadableFile."""
    tag = page.tags.get(code)
    if tag is None or tag.kind not in TYPES or TYPES[tag.kind] == "s":
        return ()
    if tag.count > limit:
        raise UnreadableFile(f"{file.path} has {tag.count} values in tag {code}")
    data = file.read_at(tag.at, tag.nbytes)
    return struct.unpack(kind.order + TYPES[tag.kind] * tag.count, data)


def number(file: ByteFile, kind: Flavour, page: Page, code: int, default: Any = None) -> Any:
    """The first value of a numeric tag; a rational as its quotient."""
    values = numbers(file, kind, page, code)
    if not values:
        return default
    if page.tags[code].kind in (5, 10):
        return values[0] / values[1] if values[1] else default
    return values[0]


def text(file: ByteFile, page: Page, code: int, limit: int = 1 << 20) -> str:
    """A text or byte tag as text; "" when it is absent."""
    tag = page.tags.get(code)
    if tag is None or tag.kind not in (1, 2, 7):
        return ""
    return file.read_at(tag.at, min(tag.nbytes, limit)).split(b"\0")[0].decode("utf-8", "replace")
