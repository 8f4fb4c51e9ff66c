"""What a folder lies on, and what an entry in it is."""

from __future__ import annotations

import os
import re
import stat
from enum import Enum
from pathlib import Path

REMOTE = re.compile(
    r"nfs|cifs|smb|9p|afs|ceph|lustre|gpfs|beegfs|gluster|ocfs|gfs2|pvfs|orangefs|virtiofs|vboxsf|vmhgfs|drvfs|fuse|davfs|mhddfs"
)
MOUNTS = Path("/proc/self/mountinfo")


def mount_kind(folder: Path, mounts: Path = MOUNTS) -> str:
    """The kind of file system that a folder lies on, as Linux calls it (ext4, nfs4, fuse.sshfs …); "" when unknown."""
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
