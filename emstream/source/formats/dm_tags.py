"""The tag tree of DigitalMicrograph's DM3 and DM4 files, walked once from end to end without reading the pixels."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emstream.errors import NotComplete, UnreadableFile
from emstream.source.formats.files import ByteFile

# encoded types of tag data: struct code; 15 is a struct, 18 a string, 20 an array
SIMPLE = {2: "h", 3: "i", 4: "H", 5: "I", 6: "f", 7: "d", 8: "B", 9: "b", 10: "B", 11: "q", 12: "Q"}
WIDTH = {code: struct.calcsize("<" + letter) for code, letter in SIMPLE.items()}
STRUCT, STRING, ARRAY = 15, 18, 20
GROUP, DATA = 20, 21
MAX_TAGS, MAX_DEPTH, MAX_INFO = 2_000_000, 64, 4096
WINDOW = 1 << 16


@dataclass(frozen=True, slots=True)
class Block:
    """An array in the file: `count` elements of encoded type `kind` (0 = structs of `width` bytes) at byte `at`."""

    at: int
    kind: int
    count: int
    width: int

    @property
    def nbytes(self) -> int:
        """Of the whole array."""
        return self.count * self.width


@dataclass(slots=True)
class Tags:
    """A walked tree. Keys are paths like `ImageList.1.ImageData.DataType`; unnamed tags are numbered from 0."""

    version: int
    order: str  # of the data: < or >
    values: dict[str, Any] = field(default_factory=dict)
    blocks: dict[str, Block] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)  # tags in each group
    end: int = 0  # byte after the last tag

    def text(self, file: ByteFile, path: str) -> str:
        """A text (an array of UTF-16 units); "" when absent."""
        if path in self.values:
            return str(self.values[path])
        block = self.blocks.get(path)
        if block is None or block.kind not in (4, 10) or block.nbytes > 1 << 16:
            return ""
        codec = "latin-1" if block.kind == 10 else ("utf-16-le" if self.order == "<" else "utf-16-be")
        return file.read_at(block.at, block.nbytes).decode(codec, "replace").strip("\0")


class _Cursor:
    """Sequential reads through a window."""

    def __init__(self, file: ByteFile, at: int) -> None:
        self.file, self.at = file, at
        self.size = file.written_end()
        self.window, self.start = b"", at

    def take(self, n: int) -> bytes:
        """The next n bytes. Raises NotComplete."""
        k = self.at - self.start
        if k < 0 or k + n > len(self.window):
            if self.at + n > self.size:
                raise NotComplete(f"{self.file.path} ends at byte {self.size}, within its tags")
            self.start, k = self.at, 0
            self.window = self.file.read_at(self.at, max(n, min(WINDOW, self.size - self.at)))
        self.at += n
        return self.window[k : k + n]

    def skip(self, n: int) -> None:
        """Pass over n bytes. Raises NotComplete when they are not all there."""
        if self.at + n > self.size:
            raise NotComplete(f"{self.file.path} ends at byte {self.size}, within the data of a tag")
        self.at += n


def walk(file: ByteFile) -> Tags:
    """All tags. Raises NotComplete when the file ends (or is still zeros) before the tree does, UnreadableFile."""
    head = file.read_at(0, 16)
    (version,) = struct.unpack_from(">I", head)
    if version not in (3, 4):
        raise UnreadableFile(f"{file.path} is no DM3 or DM4 file", reason="unknown_format")
    length, flag = struct.unpack_from(">QI" if version == 4 else ">II", head, 4) if version == 3 else (0, 0)
    if version == 4:
        (length,) = struct.unpack_from(">Q", head, 4)
        (flag,) = struct.unpack(">I", file.read_at(12, 4))
    if flag not in (0, 1):
        raise UnreadableFile(f"{file.path} has a damaged DM{version} header")
    if length + 16 > file.size():
        raise NotComplete(f"{file.path} has {file.size()} of {length + 16} bytes or more")
    tags = Tags(version, "<" if flag else ">")
    cursor = _Cursor(file, 16 if version == 4 else 12)
    _Walker(cursor, tags).run()
    tags.end = cursor.at
    return tags


class _Walker:
    """Depth first, with a stack of its own; every count is checked before it is believed."""

    def __init__(self, cursor: _Cursor, tags: Tags) -> None:
        self.cursor, self.tags = cursor, tags
        self.word, self.wide = (">Q", 8) if tags.version == 4 else (">I", 4)
        self.seen = 0

    def number(self) -> int:
        """One count or code."""
        return int(struct.unpack(self.word, self.cursor.take(self.wide))[0])

    def group(self, path: str) -> list[Any]:
        """Header of a group: [path, tags in it, tags read]."""
        self.cursor.take(2)  # sorted, open
        n = self.number()
        if n > MAX_TAGS:
            raise self.damaged(f"a group of {n} tags")
        self.tags.counts[path] = n
        return [path, n, 0]

    def run(self) -> None:
        """The whole tree."""
        stack = [self.group("")]
        while stack:
            top = stack[-1]
            if top[2] == top[1]:
                stack.pop()
                continue
            kind, n = struct.unpack(">BH", self.cursor.take(3))
            name = self.cursor.take(n).decode("latin-1") if n else str(top[2])
            top[2] += 1
            self.seen += 1
            if self.seen > MAX_TAGS or len(stack) > MAX_DEPTH:
                raise self.damaged("too many tags")
            path = f"{top[0]}.{name}" if top[0] else name
            if kind not in (GROUP, DATA):
                if kind == 0:
                    raise NotComplete(f"{self.cursor.file.path} holds zeros where tags should be")
                raise self.damaged(f"a tag of kind {kind}")
            if self.tags.version == 4:
                self.cursor.take(8)  # bytes of this tag
            if kind == GROUP:
                stack.append(self.group(path))
            else:
                self.data(path)

    def data(self, path: str) -> None:
        """One tag's data: simple values are kept, arrays noted, structs passed over."""
        mark = self.cursor.take(4)
        if mark != b"%%%%":
            if not any(mark):
                raise NotComplete(f"{self.cursor.file.path} holds zeros where a tag should be")
            raise self.damaged("a tag without its mark")
        n = self.number()
        if not 0 < n <= MAX_INFO:
            raise self.damaged(f"a tag of {n} codes")
        info = struct.unpack(f">{n}{self.word[1]}", self.cursor.take(n * self.wide))
        kind = info[0]
        if kind in SIMPLE and n == 1:
            raw = self.cursor.take(WIDTH[kind])
            self.tags.values[path] = struct.unpack(self.tags.order + SIMPLE[kind], raw)[0]
        elif kind == STRING and n == 2:
            self.block(path, 4, info[1] // 2, 2)
        elif kind == STRUCT:
            self.cursor.skip(self.struct_width(info[1:]))
        elif kind == ARRAY and n >= 3:
            element = info[1]
            width = self.struct_width(info[2:-1]) if element == STRUCT else WIDTH.get(element, 0)
            if width == 0:
                raise self.damaged(f"an array of type {element}")
            self.block(path, 0 if element == STRUCT else element, info[-1], width)
        else:
            raise self.damaged(f"a tag of type {kind}")

    def block(self, path: str, kind: int, count: int, width: int) -> None:
        """Note an array and pass over it."""
        self.tags.blocks[path] = Block(self.cursor.at, kind, count, width)
        self.cursor.skip(count * width)

    def struct_width(self, info: tuple[int, ...]) -> int:
        """Bytes of a struct: name length, number of fields, then (name length, type) of each."""
        if len(info) < 2 or len(info) < 2 + 2 * info[1]:
            raise self.damaged("a struct cut short")
        names = info[0] + sum(info[2 : 2 + 2 * info[1] : 2])
        kinds = info[3 : 3 + 2 * info[1] : 2]
        if any(k not in WIDTH for k in kinds) or names > MAX_INFO:
            raise self.damaged("a struct of unknown fields")
        return names + sum(WIDTH[k] for k in kinds)

    def damaged(self, what: str) -> UnreadableFile:
        """What is wrong, and where."""
        return UnreadableFile(f"{self.cursor.file.path} is damaged: {what} at byte {self.cursor.at}")


def array_dtype(order: str, kind: int) -> np.dtype[Any]:
    """numpy's dtype of an encoded simple type."""
    return np.dtype(order + SIMPLE[kind])
