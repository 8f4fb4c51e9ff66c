"""Power cuts, replayed: the system calls of a real writer, and what a disk may hold after each when nothing unsynced is sure.

After T. S. Pillai et al., All File Systems Are Not Created Equal, OSDI 2014: a file's bytes are sure once it was synced, a
name once its folder was. Of what is not sure a cut may leave everything, nothing, names without bytes, bytes without names,
or any mixture in blocks; changes of one folder reach the disk in order.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODES = ("everything", "nothing", "names", "zeros", "bytes", "mixture")
BLOCK = 512
CALLS = (
    "openat,open,creat,close,write,pwrite64,ftruncate,truncate,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,"
    "mkdirat,fsync,fdatasync,syncfs,sync,writev,pwritev,fallocate,link,linkat,symlink,dup,dup2,dup3"
)
_LINE = re.compile(r"^(\w+)\((.*)\)\s+= (-?\d+)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_CODE = """
import os, sys
from pathlib import Path
from crash import planted_source, writer_process
planted_source.FRAMES = int(sys.argv[3])
fd = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
writer_process.emstream(Path(sys.argv[1]), lambda n: os.write(fd, b"%d " % n), fsync=sys.argv[4] == "sync")
"""

Op = tuple[Any, ...]


def record(folder: Path, frames: int, fsync: bool) -> list[Op]:
    """What a writer of so many frames does to its output folder, from the first call to the last."""
    out, acks, log = folder / "out", folder / "acks", folder / "calls"
    out.mkdir()
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OPENBLAS_NUM_THREADS": "1"}
    command = ["strace", "-o", str(log), "-xx", "-s", "100000000", "-e", f"trace={CALLS}", sys.executable, "-c", _CODE,
               str(out), str(acks), str(frames), "sync" if fsync else "no"]  # fmt: skip
    subprocess.run(command, env=where, check=True, capture_output=True)
    ops = list(parse(log, str(out), str(acks)))
    log.unlink()
    shutil.rmtree(out)
    return ops


def parse(log: Path, root: str, acks: str) -> Iterator[Op]:
    """The calls below `root` as operations on numbered files; an `ack` is a write to the file `acks`."""
    names: dict[str, int] = {root: 0}
    handles: dict[int, tuple[int, bool, list[int]]] = {}  # fd -> (file, append, [position])
    told: set[int] = set()
    count = 0

    def place(path: str) -> tuple[int, str]:
        folder, _, name = path.rpartition("/")
        return names[folder], name

    for line in log.open():
        match = _LINE.match(line)
        if match is None or int(match[3]) < 0:
            continue
        call, args, result = match[1], match[2], int(match[3])
        texts = [bytes.fromhex(t.replace("\\x", "")) for t in _TEXT.findall(args)]
        paths = [t.decode(errors="replace") for t in texts]
        if call in ("write", "pwrite64", "fsync", "fdatasync", "syncfs", "ftruncate", "close"):
            fd = int(args.split(",")[0])
            if fd in told and call == "write":
                yield ("ack", int(texts[0]))
            if call == "close":
                told.discard(fd)
                handles.pop(fd, None)
            if fd not in handles:
                continue
            file, append, at = handles[fd]
            if call == "write":
                yield ("write", file, None if append else at[0], texts[0][:result])
                at[0] += result
            elif call == "pwrite64":
                yield ("write", file, int(args.rsplit(",", 1)[1]), texts[0][:result])
            elif call == "ftruncate":
                yield ("truncate", file, int(args.split(",")[1]))
            else:
                yield ("sync", None if call == "syncfs" else file)
            continue
        if not paths or not all(p.startswith(root) or p == acks for p in paths):
            continue
        if call in ("open", "openat"):
            handles.pop(result, None)
            if paths[0] == acks:
                told.add(result)
                continue
            if paths[0] not in names:
                count += 1
                names[paths[0]] = count
                yield ("create", *place(paths[0]), count)
            elif "O_TRUNC" in args:
                yield ("truncate", names[paths[0]], 0)
            handles[result] = (names[paths[0]], "O_APPEND" in args, [0])
        elif call in ("mkdir", "mkdirat"):
            count += 1
            yield ("mkdir", *place(paths[0]), count)
            names[paths[0]] = count
        elif call.startswith("rename"):
            (folder, old), (target, new) = place(paths[0]), place(paths[1])
            assert folder == target, "a rename between folders has no place in this model"
            names[paths[1]] = names.pop(paths[0])
            yield ("rename", folder, old, new)
        elif call in ("unlink", "unlinkat", "rmdir"):
            yield ("remove", *place(paths[0]))
            del names[paths[0]]
        else:
            raise AssertionError(f"{call} is not modelled")


@dataclass
class _File:
    """Bytes as a process reads them, and as they were when they were last synced."""

    now: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


@dataclass
class _Folder:
    """Names that are sure, and changes that are not, in order."""

    sure: dict[str, int] = field(default_factory=dict)
    changes: list[Op] = field(default_factory=list)

    def names(self, count: int) -> dict[str, int]:
        """After so many of the changes."""
        found = dict(self.sure)
        for what, name, value in self.changes[:count]:
            if what == "set":
                found[name] = value
            elif what == "remove":
                found.pop(name, None)
            else:
                found[value] = found.pop(name)
        return found


class Disk:
    """A disk that loses its power."""

    def __init__(self) -> None:
        self.things: dict[int, _File | _Folder] = {0: _Folder()}

    def apply(self, op: Op) -> None:
        """One operation."""
        what, number, *rest = op
        if what == "sync" and number is None:
            for k in self.things:
                self.apply(("sync", k))
            return
        thing = self.things[number]
        if isinstance(thing, _File):
            if what == "write":
                at = len(thing.now) if rest[0] is None else rest[0]
                thing.now.extend(bytes(max(0, at - len(thing.now))))
                thing.now[at : at + len(rest[1])] = rest[1]
            elif what == "truncate":
                thing.now.extend(bytes(max(0, rest[0] - len(thing.now))))
                del thing.now[rest[0] :]
            else:
                thing.synced = bytes(thing.now)
        elif what == "sync":
            thing.sure, thing.changes = thing.names(len(thing.changes)), []
        elif what in ("create", "mkdir"):
            self.things[rest[1]] = _File() if what == "create" else _Folder()
            thing.changes.append(("set", rest[0], rest[1]))
        elif what == "rename":
            thing.changes.append(("rename", rest[0], rest[1]))
        else:
            thing.changes.append(("remove", rest[0], None))

    def after_cut(self, mode: str, rng: random.Random) -> dict[str, bytes | None]:
        """What is there when the power is back: path -> bytes, None for a folder."""
        found: dict[str, bytes | None] = {}
        todo = [("", 0)]
        while todo:
            path, number = todo.pop()
            folder = self.things[number]
            assert isinstance(folder, _Folder)
            count = len(folder.changes)
            kept = {"nothing": 0, "bytes": 0, "mixture": rng.randint(0, count)}.get(mode, count)
            for name, inside in folder.names(kept).items():
                thing = self.things[inside]
                if isinstance(thing, _File):
                    found[f"{path}{name}"] = _content(thing, mode, rng)
                else:
                    found[f"{path}{name}"] = None
                    todo.append((f"{path}{name}/", inside))
        return found


def _content(file: _File, mode: str, rng: random.Random) -> bytes:
    now, synced = bytes(file.now), file.synced
    if mode in ("everything", "bytes"):
        return now
    if mode in ("nothing", "names") or now == synced:
        return synced
    if mode == "zeros":  # the new length is known, the bytes are not there
        return synced.ljust(len(now), b"\0") if len(now) > len(synced) else synced
    mixed = bytearray(rng.choice((now, synced)))
    for at in range(0, len(mixed), BLOCK):
        mixed[at : at + BLOCK] = rng.choice((now, synced))[at : at + BLOCK].ljust(len(mixed[at : at + BLOCK]), b"\0")
    return bytes(mixed)


def states(
    ops: list[Op], modes: tuple[str, ...] = MODES, seed: int = 0
) -> Iterator[tuple[str, int, dict[str, bytes | None]]]:
    """(where, frames acknowledged by then, what the disk holds) for a cut after each operation, each different one once."""
    disk, acked, seen = Disk(), 0, set()
    for k, op in enumerate(ops):
        if op[0] == "ack":
            acked = op[1]
            continue
        disk.apply(op)
        for mode in modes:
            state = disk.after_cut(mode, random.Random(f"{seed}/{k}/{mode}"))
            key = (acked, hash(frozenset(state.items())))
            if key not in seen:
                seen.add(key)
                yield f"cut after operation {k} ({op[0]}), {mode} kept of what was not synced", acked, state


def write_state(state: dict[str, bytes | None], out: Path) -> None:
    """Make a folder hold exactly this."""
    out.mkdir(parents=True)
    for name in sorted(state):
        data = state[name]
        if data is None:
            (out / name).mkdir()
        else:
            (out / name).write_bytes(data)
