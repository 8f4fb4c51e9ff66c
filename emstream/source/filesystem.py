"""What a folder lies on, and what an entry in it is."""

from __future__ import annotations

import ctypes
import os
import re
import stat
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path

REMOTE = re.compile(
    r"nfs|cifs|smb|9p|afs|ceph|lustre|gpfs|beegfs|gluster|ocfs|gfs2|pvfs|orangefs|virtiofs|vboxsf|vmhgfs|drvfs|fuse|davfs|mhddfs|coda|panfs|ibrix"
)
MOUNTS = Path("/proc/self/mountinfo")


# statfs(2) and linux/magic.h: what the kernel calls the file systems that other machines can write to
REMOTE_MAGIC = {
    0x6969: "nfs", 0xFF534D42: "cifs", 0xFE534D42: "smb2", 0x517B: "smb", 0x01021997: "9p", 0x00C36400: "ceph",
    0x0BD00BD0: "lustre", 0x47504653: "gpfs", 0x19830326: "beegfs", 0x5346414F: "afs", 0x6B414653: "afs",
    0x73757245: "coda", 0x7461636F: "ocfs2", 0x01161970: "gfs2", 0xAAD7AAEA: "panfs", 0x20030528: "pvfs2",
    0x786F4256: "vboxsf", 0xBACBACBC: "vmhgfs", 0x013111A8: "ibrix",
}  # fmt: skip
FUSE = 0x65735546


def mount_kind(folder: Path, mounts: Path = MOUNTS, magic: Callable[[Path], int | None] | None = None) -> str:
    """The kind of file system that a folder lies on, as Linux calls it (ext4, nfs4, fuse.sshfs …); "" when unknown.

    The table of mounts has the name, and tells what is behind FUSE. But it may be hidden, or not name what lies under
    this very folder (mounts over mounts, automatic ones): the kernel's own word (statfs) counts when it says remote.

    mounts : the table of mounts · magic : statfs' f_type of a folder
    """
    number = (magic or statfs_type)(folder)
    told = _mounted(folder, mounts)
    if number in REMOTE_MAGIC and not is_remote(told):
        return REMOTE_MAGIC[number]
    return "fuse" if number == FUSE and not is_remote(told) else told


def statfs_type(folder: Path) -> int | None:
    """f_type of statfs(2), which os.statvfs leaves out; None where it cannot be had."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        statfs = ctypes.CDLL(None, use_errno=True).statfs
    except (OSError, AttributeError):
        return None
    buffer = (ctypes.c_long * 64)()  # struct statfs begins with f_type, a long, and is far smaller
    if statfs(os.fsencode(folder), buffer) != 0:
        return None
    return int(buffer[0]) & 0xFFFFFFFF


def _mounted(folder: Path, mounts: Path) -> str:
    """What the table of mounts says of a folder; "" when it cannot be read."""
    try:
        text = mounts.read_text(encoding="utf-8", errors="surrogateescape")
        place = os.path.realpath(folder)
    except OSError:
        return ""
    best, kind = "", ""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        point = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), fields[4])
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def is_remote(kind: str) -> bool:
    """Whether other machines may write there without this one being told: no file events then."""
    return bool(REMOTE.search(kind))


def identity(folder: Path) -> tuple[int, int] | None:
    """(device, inode) of a folder that can be listed; None when it is away (unmounted, stale, deleted)."""
    try:
        st = os.stat(folder)
    except OSError:
        return None
    return (st.st_dev, st.st_ino) if stat.S_ISDIR(st.st_mode) else None


class Kind(Enum):
    """What an entry of a folder is to a watcher."""

    FILE = "file"
    FOLDER = "folder"
    ALIAS = "alias"  # a link to something that is inside the watched folder and is found there
    FOREIGN = "foreign"  # a link that leads out of the watched folder, or nowhere
    SPECIAL = "special"  # pipe, socket, device
    GONE = "gone"


def kind_of(entry: os.DirEntry[str], root: str) -> Kind:
    """Of an entry that scandir gave; `root` is the real path of the watched folder."""
    try:
        if entry.is_symlink():
            return _link(entry.path, root)
        if entry.is_file(follow_symlinks=False):
            return Kind.FILE
        if entry.is_dir(follow_symlinks=False):
            return Kind.FOLDER
        return Kind.SPECIAL
    except OSError:
        return Kind.GONE


def _link(path: str, root: str) -> Kind:
    target = os.path.realpath(path)
    inside = target == root or target.startswith(root.rstrip("/") + "/")
    return Kind.ALIAS if inside and os.path.exists(target) else Kind.FOREIGN


def printable(path: str) -> str:
    """The path as valid text: bytes that are no UTF-8 become \\xNN."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
