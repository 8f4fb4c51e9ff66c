"""A ledger that was lost is made anew from the runs; the camera's frames then come neither twice nor not at all."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from emstream.errors import StoreDamaged
from emstream.messages import Origin
from emstream.store import FrameRecord, LabelRecord, Ledger, Run, RunWriter, StoreOptions
from emstream.store.check import check

SHAPE = (300, 40)
OPTIONS = StoreOptions(low_water_mb=0, publish_every_s=0, keep_raw=True, compressor="zstd", fsync=False)


def pixels(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(1, 900, SHAPE).astype(np.uint16)


def origin(i: int) -> Origin:
    """Files of four frames; the second one was overwritten later."""
    return Origin(f"lab/{i // 4}.mrc", i % 4, 4000, 100 + i // 4, 7 + i // 4)


def writer_of(ledger: Ledger, series: str = "lab") -> RunWriter:
    row = ledger.run_for(series, "Au", SHAPE, "uint16", (0.5, 0.25), {"started": "2026-01-02", "camera": "K3"})
    return RunWriter(ledger.out, row, ledger, OPTIONS)


def write(out: Path, count: int, close: bool, series: str = "lab") -> list[int | None]:
    """What a daemon does with the first `count` frames of the camera; the slots that were new."""
    with Ledger(out) as ledger:
        writer = writer_of(ledger, series)
        if writer.row.state in ("closed", "recovered"):
            writer.reopen()
        slots = writer.reserve([origin(i) for i in range(count)])
        for i, slot in enumerate(slots):
            if slot is not None:
                writer.write_frames([FrameRecord(pixels(i), origin(i), 1e9 + i, (i / 4, 1 - i / 2), 0.5)], [slot])
                writer.flush()
                if i % 2 == 0:
                    labels = np.full(SHAPE, i % 3, np.int32)
                    writer.write_labels([LabelRecord(slot, labels, i % 3, 0.25 * (i % 3), "planted@")])
        writer.flush()
        if close:
            writer.close()
    return slots


def ledger_of(out: Path) -> tuple[list[object], list[dict[str, object]]]:
    with Ledger(out) as ledger:
        row = ledger.run("Au")
        frames = ledger.frames(row.id)
    told = [
        row.name,
        row.series,
        row.shape,
        row.dtype,
        row.pixel_size_nm,
        row.n,
        row.attrs["layout"],
        row.attrs["camera"],
    ]
    unknown = ("run", "at", "model", "labels_crc32c")
    return told, [{k: v for k, v in frame.items() if k not in unknown} for frame in frames]


@pytest.mark.parametrize("close", [True, False])
def test_the_new_ledger_says_what_the_lost_one_said(tmp_path: Path, close: bool) -> None:
    write(tmp_path, 10, close)
    row, frames = ledger_of(tmp_path)
    window = Ledger(tmp_path)
    grey = window.run("Au").attrs["window"]
    window.close()
    shutil.rmtree(tmp_path / ".emstream")
    with Ledger(tmp_path) as ledger:
        assert ledger.recovery.rebuilt == ("Au",)
        assert ledger.run("Au").state == "recovered"
        assert ledger.run("Au").attrs["window"] == grey
    assert Run(tmp_path / "Au.zarr").state == "recovered"
    again, anew = ledger_of(tmp_path)
    assert again == row
    assert anew == frames
    report = check(tmp_path / "Au.zarr")
    assert (report.problems, report.checksums) == ((), "ledger")
    with Ledger(tmp_path) as ledger:
        assert ledger.recovery.rebuilt == ()


def test_nothing_is_doubled_or_lost_when_the_camera_goes_on(tmp_path: Path) -> None:
    write(tmp_path, 7, close=False)
    shutil.rmtree(tmp_path / ".emstream")
    with Ledger(tmp_path) as ledger:
        assert [ledger.known_frames(f"lab/{k}.mrc", 4000, 100 + k, 7 + k) for k in range(3)] == [4, 3, 0]
    assert write(tmp_path, 12, close=True) == [None] * 7 + [7, 8, 9, 10, 11]
    run = Run(tmp_path / "Au.zarr")
    assert run.state == "closed"
    assert np.array_equal(run.frames.compute(), [pixels(i) for i in range(12)])
    assert np.array_equal(run.column("time_s"), 1e9 + np.arange(12))
    assert np.array_equal(run.column("status") & 2, [2 * (i % 2 == 0) for i in range(12)])
    assert check(run.path).problems == ()


def test_frames_that_nobody_could_see_yet_are_read_again(tmp_path: Path) -> None:
    write(tmp_path, 8, close=False)
    metadata = tmp_path / "Au.zarr" / "0" / "zarr.json"
    metadata.write_text(metadata.read_text().replace("  8,", "  5,"))
    assert Run(tmp_path / "Au.zarr").n == 5
    shutil.rmtree(tmp_path / ".emstream")
    assert write(tmp_path, 8, close=True) == [None] * 5 + [5, 6, 7]
    assert np.array_equal(Run(tmp_path / "Au.zarr").frames.compute(), [pixels(i) for i in range(8)])
    assert check(tmp_path / "Au.zarr").problems == ()


def test_a_frame_whose_origin_is_gone_too_stays_in_the_run(tmp_path: Path) -> None:
    write(tmp_path, 6, close=True)
    journal = tmp_path / "Au.zarr" / "tables" / "origins.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    shutil.rmtree(tmp_path / ".emstream")
    with Ledger(tmp_path) as ledger:
        (row,) = ledger.runs()
        assert row.n == 6
        assert [f["path"] for f in ledger.frames(row.id)][-2:] == ["lab/1.mrc", "?Au"]
    assert check(tmp_path / "Au.zarr").problems == ()


def test_a_copy_of_a_run_and_what_is_no_run_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, 4, close=True)
    shutil.copytree(tmp_path / "Au.zarr", tmp_path / "Au-copy.zarr")
    (tmp_path / "notes.zarr").mkdir()
    shutil.rmtree(tmp_path / ".emstream")
    with Ledger(tmp_path) as ledger:
        assert ledger.recovery.rebuilt == ("Au",)
        assert [r.name for r in ledger.runs()] == ["Au"]
    assert Run(tmp_path / "Au-copy.zarr").state == "closed"


def test_several_runs_of_a_series_keep_their_order(tmp_path: Path) -> None:
    write(tmp_path, 3, close=True)
    with Ledger(tmp_path) as ledger:
        row = ledger.run_for("lab", "Au", (4, 5), "uint16", (0.5, 0.25), {"started": "2026-01-03"})
        writer = RunWriter(tmp_path, row, ledger, OPTIONS)
        writer.write_frames([FrameRecord(np.ones((4, 5), np.uint16), Origin("lab/9.mrc", 0, 1, 1, 1), 0.0, (0.0, 0.0))])
        writer.close()
    shutil.rmtree(tmp_path / ".emstream")
    with Ledger(tmp_path) as ledger:
        assert [(r.name, r.series, r.n) for r in ledger.runs()] == [("Au", "lab", 3), ("Au-2", "lab", 1)]


def test_a_damaged_ledger_is_told_and_says_what_to_do(tmp_path: Path) -> None:
    write(tmp_path, 3, close=True)
    ledger = tmp_path / ".emstream" / "ledger.sqlite"
    ledger.write_bytes(b"no database at all" * 300)
    with pytest.raises(StoreDamaged, match="built anew from the runs"):
        Ledger(tmp_path)
    ledger.unlink()
    with Ledger(tmp_path) as anew:
        assert anew.recovery.rebuilt == ("Au",)
    with sqlite3.connect(ledger) as db:
        assert db.execute("SELECT count(*) FROM frames").fetchone() == (3,)
