"""Remote file systems are known by what statfs says and by the table of mounts: there no hints come, and folders are swept."""

from __future__ import annotations

from pathlib import Path

import pytest

from emstream.source import hints
from emstream.source.filesystem import FUSE, REMOTE_MAGIC, is_remote, mount_kind, statfs_type

EXT, XFS, TMPFS, OVERLAY, ZFS = 0xEF53, 0x58465342, 0x01021994, 0x794C7630, 0x2FC12FC1
TABLE = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 22 0:50 / /mnt/facility rw,relatime shared:1 - nfs4 server:/export rw
41 22 0:51 / /mnt/with\\040blank rw - fuse.sshfs user@host: rw
42 22 0:52 / /mnt/local rw - xfs /dev/vdb rw
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "mountinfo").write_text(TABLE)
    return tmp_path / "mountinfo"


@pytest.mark.parametrize(
    "number", [0x6969, 0xFF534D42, 0xFE534D42, 0x517B, 0x01021997, 0x00C36400, 0x0BD00BD0, 0x47504653]
)
def test_the_kernels_word_for_a_remote_file_system_counts_whatever_the_table_says(number: int, table: Path) -> None:
    for said in (table, table.with_name("hidden")):
        assert is_remote(mount_kind(Path("/data/camera"), said, lambda _: number))


@pytest.mark.parametrize("number", [EXT, XFS, TMPFS, OVERLAY, ZFS, None])
def test_a_local_file_system_is_watched(number: int | None, table: Path) -> None:
    assert mount_kind(Path("/mnt/local/camera"), table, lambda _: number) == "xfs"
    assert not is_remote(mount_kind(Path("/data"), table.with_name("hidden"), lambda _: number))


@pytest.mark.parametrize(
    ("folder", "number", "kind"),
    [
        ("/mnt/facility/camera", 0x6969, "nfs4"),  # the table knows which one
        ("/mnt/facility", None, "nfs4"),  # a system without statfs
        ("/mnt/with blank/day", FUSE, "fuse.sshfs"),
        ("/mnt/local", FUSE, "fuse"),  # mounted over what the table names
    ],
)
def test_the_table_of_mounts_has_the_names(folder: str, number: int | None, kind: str, table: Path) -> None:
    assert mount_kind(Path(folder), table, lambda _: number) == kind
    assert is_remote(kind)


def test_statfs_is_asked_in_truth() -> None:
    assert statfs_type(Path("/proc")) == 0x9FA0
    assert statfs_type(Path("/no/such/folder")) is None
    assert all(is_remote(kind) for kind in REMOTE_MAGIC.values())


def test_a_remote_folder_is_swept_without_hints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "mount_kind", lambda folder: "nfs4")
    assert not hints.Hints(tmp_path).start()
    monkeypatch.setattr(hints, "mount_kind", lambda folder: "ext4")
    listening = hints.Hints(tmp_path)
    assert listening.start()
    listening.stop()
