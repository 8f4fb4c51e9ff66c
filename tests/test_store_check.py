"""`check` names each fault of a run, and finds none where there is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from emstream.messages import Origin
from emstream.store import FrameRecord, LabelRecord, Ledger, RunWriter, StoreOptions
from emstream.store.check import Problem, check

N, SHAPE = 6, (300, 280)


def write_run(out: Path, close: bool = True) -> Path:
    rng = np.random.default_rng(3)
    with Ledger(out) as ledger:
        row = ledger.run_for("cam", "cam", SHAPE, "uint16", (0.5, 0.5))
        writer = RunWriter(
            out, row, ledger, StoreOptions(low_water_mb=0, publish_every_s=0, keep_raw=True, fsync=False)
        )
        for i in range(N):
            pixels = rng.integers(100, 900, SHAPE).astype(np.uint16)
            writer.write_frames([FrameRecord(pixels, Origin(f"{i}.tif", 0, 1, i, i), float(i), (0.0, 0.0))])
            writer.flush()
            labels = np.zeros(SHAPE, np.int32)
            labels[20:40, 10 * i : 10 * i + 9] = 1
            writer.write_labels([LabelRecord(i, labels, 1, 0.1, "planted@")])
            writer.flush()
        writer.table("particles", {"frame": "int64"}).append({"frame": np.arange(N)})
        if close:
            writer.close()
    return writer.path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("whole")).parent


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "out")
    return tmp_path / "out" / "cam.zarr"


def test_a_sound_run_is_clean(run: Path) -> None:
    report = check(run)
    assert report.problems == ()
    assert (report.frames, report.segmented, report.checksums) == (N, N, "ledger")
    assert report.chunks == N * (2 + 2 + 1)
    assert report.as_dict()["ok"] is True


def test_a_run_without_its_ledger_is_checked_by_its_own_journal(run: Path) -> None:
    shutil.rmtree(run.parent / ".emstream")
    report = check(run)
    assert (report.problems, report.checksums) == ((), "origins.jsonl")


def test_a_live_run_is_clean(tmp_path: Path) -> None:
    report = check(write_run(tmp_path, close=False))
    assert (report.problems, report.frames) == ((), N)


@pytest.mark.parametrize("array", ["0", "1", "labels/particles/0", "labels/particles/1", "raw/0"])
def test_a_flipped_bit_is_found(run: Path, array: str) -> None:
    chunk = run / array / "c.3.0.0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(data)
    (problem,) = check(run).problems
    assert (problem.array, problem.frame) == (array, 3)
    assert "damaged" in problem.what


def test_other_pixels_with_a_sound_checksum_of_their_own_are_found(run: Path) -> None:
    shutil.copy(run / "0" / "c.1.0.0", run / "0" / "c.4.0.0")
    (problem,) = check(run).problems
    assert (problem.array, problem.frame) == ("0", 4)
    assert "not the ones that were stored" in problem.what


@pytest.mark.parametrize("array", ["0", "1", "labels/particles/0", "raw/0"])
def test_a_missing_chunk_is_found(run: Path, array: str) -> None:
    (run / array / "c.2.0.0").unlink()
    assert check(run).problems == (Problem(array, 2, "chunk is missing"),)


@pytest.mark.parametrize("size", [0, 3, 100])
def test_a_truncated_file_is_found(run: Path, size: int) -> None:
    chunk = run / "0" / "c.5.0.0"
    chunk.write_bytes(chunk.read_bytes()[:size])
    (problem,) = check(run).problems
    assert (problem.array, problem.frame) == ("0", 5)
    assert "damaged" in problem.what


def test_a_column_that_is_too_short_is_found(run: Path) -> None:
    metadata = run / "frames" / "confidence" / "zarr.json"
    document = json.loads(metadata.read_bytes())
    document["shape"][0] = N - 1
    metadata.write_text(json.dumps(document))
    assert Problem("frames/confidence", None, f"says {N - 1} frames, level 0 says {N}") in check(run).problems


def test_a_column_that_says_something_else_is_found(run: Path) -> None:
    chunk = run / "frames" / "time_s" / "c.0"
    from emstream.store.chunks import encode, little

    rows = np.frombuffer(chunk.read_bytes()[:-4]).copy()
    rows[2] = 77.0
    chunk.write_bytes(b"".join(encode(little(rows, "float64"), "none")))
    assert check(run).problems == (Problem("frames/time_s", 2, "is 77.0, the ledger says 2.0"),)


def test_a_level_of_labels_that_is_missing_is_found(run: Path) -> None:
    shutil.rmtree(run / "labels" / "particles" / "1")
    assert "labels/particles/1" in {p.array for p in check(run).problems}


def test_a_broken_table_is_found(run: Path) -> None:
    part = sorted((run / "tables" / "particles.parquet").iterdir())[-1]
    part.write_bytes(part.read_bytes()[:-6])
    (problem,) = check(run).problems
    assert problem.array == "tables/particles.parquet"
    assert "cannot be read" in problem.what


def test_what_was_left_half_written_is_found(run: Path) -> None:
    (run / "0" / "c.9.0.0.0a1b2c3d.partial").write_bytes(b"x")
    (problem,) = check(run).problems
    assert problem.what == "left half written: c.9.0.0.0a1b2c3d.partial"
