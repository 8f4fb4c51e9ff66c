"""Tables that are read while they grow: whole at every instant, each row once, cheap however long the run."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from emstream.store import chunks
from emstream.store.failpoints import arm
from emstream.store.tables import FLUSHES_PER_PART, ROWS_PER_PART, TableWriter, write_table

SCHEMA = {"frame": "int64", "y_nm": "float64", "kind": "str"}


def rows(first: int, count: int = 3) -> dict[str, object]:
    frame = np.arange(first, first + count)
    return {"frame": frame, "y_nm": frame / 2, "kind": ["split"] * count, "more": frame}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.parquet"


def test_an_empty_table_has_its_columns(path: Path) -> None:
    TableWriter(path, SCHEMA)
    table = pd.read_parquet(path)
    assert list(table) == list(SCHEMA)
    assert len(table) == 0
    assert table["y_nm"].dtype == np.float64
    assert table["frame"].dtype == np.int64


def test_a_row_without_one_of_the_columns_is_refused(path: Path) -> None:
    table = TableWriter(path, SCHEMA)
    with pytest.raises(ValueError, match=r"events\.parquet: rows without y_nm"):
        table.append({"frame": [1], "kind": ["split"]})
    table.flush()
    assert len(pd.read_parquet(path)) == 0


def test_a_reader_beside_the_writer_finds_every_row_once_at_every_instant(path: Path) -> None:
    table = TableWriter(path, SCHEMA, flush_s=0)
    done, seen, wrong = threading.Event(), [], []

    def read() -> None:
        while not done.is_set():
            frame = pd.read_parquet(path)["frame"].to_numpy()
            seen.append(len(frame))
            if not np.array_equal(frame, np.arange(len(frame))):
                wrong.append(frame)

    reader = threading.Thread(target=read)
    reader.start()
    for k in range(200):
        table.append(rows(3 * k))
    done.set()
    reader.join()
    assert not wrong
    assert seen == sorted(seen)
    assert len(set(seen)) > 3
    assert np.array_equal(pd.read_parquet(path)["frame"], np.arange(600))


def test_rows_wait_no_longer_than_asked(path: Path) -> None:
    patient, table = TableWriter(path, SCHEMA, flush_s=1e9), TableWriter(path.with_name("p.parquet"), SCHEMA, flush_s=0)
    for t in (patient, table):
        t.append(rows(0))
    assert len(pd.read_parquet(path)) == 0
    assert len(pd.read_parquet(table.path)) == 3
    patient.flush()
    assert len(pd.read_parquet(path)) == 3


def test_many_rows_are_written_without_waiting(path: Path) -> None:
    table = TableWriter(path, SCHEMA, flush_s=1e9)
    table.append(rows(0, ROWS_PER_PART))
    assert len(pd.read_parquet(path)) == ROWS_PER_PART
    table.append(rows(ROWS_PER_PART, 5))
    table.flush()
    sizes = [len(pd.read_parquet(p)) for p in sorted(path.iterdir())]
    assert sizes == [0, ROWS_PER_PART, 5]


def test_the_bytes_written_stay_in_proportion_over_two_thousand_flushes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def counted(part: Path, data: memoryview, fsync: bool = False) -> None:
        nonlocal written
        written += pq.read_metadata(io.BytesIO(data)).num_rows
        chunks.replace(part, data, fsync)

    monkeypatch.setattr("emstream.store.tables.replace", counted)
    table, flushes = TableWriter(path, {"frame": "int64"}, flush_s=0), 2000
    for k in range(flushes):
        table.append({"frame": [2 * k, 2 * k + 1]})
    assert written < 9 * 2 * flushes
    assert len(list(path.iterdir())) <= flushes / FLUSHES_PER_PART + 2
    assert np.array_equal(pd.read_parquet(path)["frame"], np.arange(2 * flushes))


def test_a_table_goes_on_after_a_restart(path: Path) -> None:
    for life in range(3):
        table = TableWriter(path, SCHEMA)
        table.append(rows(3 * life))
        table.flush()
    assert np.array_equal(pd.read_parquet(path)["frame"], np.arange(9))


def test_rows_of_an_earlier_life_are_dropped_and_written_anew(path: Path) -> None:
    before = TableWriter(path, SCHEMA, flush_s=0)
    for k in range(40):
        before.append(rows(3 * k))
    after = TableWriter(path, SCHEMA)
    after.drop("frame", from_value=60, values=[1, 7])
    kept = [i for i in range(60) if i not in (1, 7)]
    assert np.array_equal(pd.read_parquet(path)["frame"], kept)
    after.append(rows(60))
    after.flush()
    after.drop("frame", from_value=61)
    after.append(rows(61))
    after.flush()
    assert np.array_equal(pd.read_parquet(path)["frame"], [*kept, 60, 61, 62, 63])


def test_a_table_of_which_all_is_dropped_keeps_its_columns(path: Path) -> None:
    table = TableWriter(path, SCHEMA, flush_s=0)
    table.append(rows(0))
    table.drop("frame", from_value=0)
    assert list(pd.read_parquet(path)) == list(SCHEMA)
    assert len(pd.read_parquet(path)) == 0


def test_a_full_disk_neither_loses_nor_doubles_rows(path: Path) -> None:
    table = TableWriter(path, SCHEMA, flush_s=0)
    table.append(rows(0))
    arm("file.written:1:enospc")
    try:
        with pytest.raises(OSError, match="No space left"):
            table.append(rows(3))
    finally:
        arm("")
    assert len(pd.read_parquet(path)) == 3
    table.append(rows(3))  # as the write-behind queue does
    assert np.array_equal(pd.read_parquet(path)["frame"], np.arange(6))
    assert not [p for p in path.iterdir() if p.suffix == chunks.PARTIAL]


def test_what_a_kill_left_half_written_is_no_obstacle(path: Path) -> None:
    table = TableWriter(path, SCHEMA, flush_s=0)
    table.append(rows(0))
    leftover = path / f".part-00000002.parquet.0123abcd{chunks.PARTIAL}"
    leftover.write_bytes(b"PAR1 half")
    assert len(pd.read_parquet(path)) == 3
    TableWriter(path, SCHEMA)
    assert not leftover.exists()


def test_a_table_written_whole_replaces_the_earlier_one(path: Path) -> None:
    write_table(path, {"frame": np.arange(5), "time_s": np.arange(5.0)})
    write_table(path, {"frame": np.arange(7), "time_s": np.arange(7.0)})
    assert np.array_equal(pd.read_parquet(path)["frame"], np.arange(7))
