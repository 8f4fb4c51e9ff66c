"""Bytes of a file that may still grow: positional reads, never past what the writer has written."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from emstream.errors import NotComplete, SourceMissing, UnreadableFile

HEADER_LIMIT = 64 << 20  # bytes; no header or tag that we read in one piece is larger
BLOCK = 4096


def regular_stat(path: Path) -> os.stat_result:
    """stat of a regular file. Raises SourceMissing, UnreadableFile (not_a_file), NotComplete (cannot be asked now)."""
    try:
        st = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as err:
        raise SourceMissing(f"{path} is not there") from err
    except (OSError, ValueError) as err:
        raise NotComplete(f"{path} cannot be looked at now: {err}") from err
    if not stat.S_ISREG(st.st_mode):
        kind = "a folder" if stat.S_ISDIR(st.st_mode) else "no regular file (pipe, device or socket)"
        raise UnreadableFile(f"{path} is {kind}", "name a file that a camera wrote", reason="not_a_file")
    return st


class ByteFile:
    """One file held open for positional reads; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        regular_stat(path)  # before opening: opening a pipe would wait for ever
        try:
            self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
        except FileNotFoundError as err:
            raise SourceMissing(f"{path} is not there") from err
        except OSError as err:
            raise NotComplete(f"{path} cannot be opened now: {err}", "check its permissions") from err
        self._frontier = 0  # everything below was seen to hold data

    def stat(self) -> os.stat_result:
        """Of the open file; of the name when the handle went stale. Raises NotComplete."""
        try:
            return os.fstat(self.fd)
        except OSError as err:
            raise NotComplete(f"{self.path} cannot be looked at now: {err}") from err

    def size(self) -> int:
        """Bytes in the file now."""
        return self.stat().st_size

    def replaced(self) -> bool:
        """True when the name now leads to another file than the one held open."""
        try:
            now = os.stat(self.path)
        except OSError:
            return False  # gone or out of reach: what is open stays readable
        st = self.stat()
        return (now.st_dev, now.st_ino) != (st.st_dev, st.st_ino)

    def read_at(self, offset: int, n: int) -> bytes:
        """n bytes (n <= HEADER_LIMIT) at `offset`. Raises NotComplete when they are not all there yet."""
        if n > HEADER_LIMIT or n < 0 or offset < 0:
            raise UnreadableFile(f"{self.path} announces a header of {n} bytes at {offset}", "the header is damaged")
        if offset + n > self.size():
            raise NotComplete(f"{self.path} ends before byte {offset + n}")
        out = bytearray(n)
        self.read_into(offset, memoryview(out))
        return bytes(out)

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill `out` (bytes, contiguous) from `offset`. Raises NotComplete when the file ends before."""
        done = 0
        while done < len(out):
            try:
                got = os.preadv(self.fd, [out[done:]], offset + done)
            except (OSError, OverflowError) as err:
                raise NotComplete(f"{self.path} cannot be read at byte {offset + done}: {err}") from err
            if got == 0:
                raise NotComplete(f"{self.path} ends at byte {offset + done}, before byte {offset + len(out)}")
            done += got

    def written_end(self) -> int:
        """Byte up to which the writer surely came: the size, less the hole that a preallocated file ends in.

        A block that is partly written ends in zeros before the hole; those count as not written.
        O(extents beyond the last answer). Where the file system knows no holes this is the size.
        """
        size = self.size()
        at = min(self._frontier, size)
        while at < size:
            try:
                hole = os.lseek(self.fd, at, os.SEEK_HOLE)
                if hole >= size:
                    break
                at = os.lseek(self.fd, hole, os.SEEK_DATA)
            except OSError as err:
                if err.errno != errno.ENXIO:  # holes are not known here
                    return size
                start = max(0, min(hole, size) - BLOCK)
                tail = self.read_at(start, min(hole, size) - start)
                self._frontier = start
                return start + len(tail.rstrip(b"\0"))
        self._frontier = max(0, size - BLOCK)
        return size

    def is_zero(self, start: int, end: int) -> bool:
        """True when the last (up to 4096) bytes of [start, end) are all zero: perhaps not written yet."""
        n = min(BLOCK, end - start)
        return not any(self.read_at(end - n, n))

    def close(self) -> None:
        """Give the handle back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close() if getattr(self, "fd", -1) >= 0 else None
