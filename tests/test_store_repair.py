"""`check --repair` brings back exactly what was stored, from wherever that can still be had, and names what it cannot."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emstream import align
from emstream.errors import StoreBusy
from emstream.messages import Origin
from emstream.source.again import repair
from emstream.store import FrameRecord, LabelRecord, Ledger, RunWriter, StoreOptions
from emstream.store.check import check

N, SHAPE = 5, (300, 280)
ARRAYS = ("0", "1", "raw/0", "labels/particles/0", "labels/particles/1")
SHIFTS = [(0.3 - 1.7 * i, 2.4 * i) for i in range(N)]


def write_run(root: Path, mode: str = "integer", keep_raw: bool = True) -> Path:
    """root/camera with a movie and a single frame, root/runs with their run."""
    rng = np.random.default_rng(3)
    frames = rng.integers(100, 900, (N, *SHAPE)).astype(np.uint16)
    camera = root / "camera" / "cam"
    camera.mkdir(parents=True)
    np.save(camera / "movie.npy", frames[: N - 1])
    np.save(camera / "last.npy", frames[N - 1])
    attrs = {"source": str(camera), "settings": {"align": {"resample": mode}, "source": {"ignore": ["*.tmp"]}}}
    with Ledger(root / "runs") as ledger:
        row = ledger.run_for("cam", "cam", SHAPE, "uint16", (0.5, 0.5))
        options = StoreOptions(low_water_mb=0, keep_raw=keep_raw, fsync=False)
        writer = RunWriter(root / "runs", row, ledger, options, attrs)
        for i, raw in enumerate(frames):
            origin = Origin("cam/last.npy", 0, 9, 9, 9) if i == N - 1 else Origin("cam/movie.npy", i, 9, 9, 8)
            pixels, _ = align.move(raw, SHIFTS[i], mode=mode)  # type: ignore[arg-type]
            kept = raw if keep_raw else None
            writer.write_frames([FrameRecord(pixels, origin, float(i), SHIFTS[i], raw=kept)])
            labels = np.zeros(SHAPE, np.int32)
            labels[20:40, 10 * i : 10 * i + 9] = 1
            writer.write_labels([LabelRecord(i, labels, 1, 0.1, "planted@")])
            writer.flush()
        writer.close()
    return writer.path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("whole")).parent.parent


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy that knows the copied camera."""
    shutil.copytree(whole, tmp_path / "w")
    path = tmp_path / "w" / "runs" / "cam.zarr"
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["emstream"]["source"] = str(tmp_path / "w" / "camera" / "cam")
    (path / "zarr.json").write_text(json.dumps(document))
    return path


def files(run: Path) -> dict[str, bytes]:
    """Everything that is in the run but its own metadata, which a repair may write in another layout."""
    return {str(f.relative_to(run)): f.read_bytes() for f in run.rglob("*") if f.is_file() and f.name != "zarr.json"}


def harm(chunk: Path, how: str) -> None:
    if how == "missing":
        chunk.unlink()
        return
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(data if how == "flipped bit" else data[: len(data) // 3])


@pytest.mark.parametrize("how", ["flipped bit", "missing", "torn"])
@pytest.mark.parametrize("array", [a for a in ARRAYS if a != "labels/particles/0"])
def test_a_damaged_chunk_is_written_again_byte_for_byte(run: Path, array: str, how: str) -> None:
    before = files(run)
    harm(run / array / "c.3.0.0", how)
    harm(run / array / f"c.{N - 1}.0.0", how)
    report = repair(run)
    assert report.problems == ()
    assert [(p.array, p.frame) for p in report.repaired] == [(array, 3), (array, N - 1)]
    assert files(run) == before
    assert check(run).problems == ()


def test_everything_that_a_frame_has_is_made_again_from_its_source(run: Path) -> None:
    before = files(run)
    for array in ("0", "1", "raw/0"):
        harm(run / array / "c.2.0.0", "missing")
    assert repair(run).problems == ()
    assert files(run) == before


def test_without_the_camera_a_frame_comes_from_raw(run: Path) -> None:
    before = files(run)
    shutil.rmtree(run.parents[1] / "camera")
    harm(run / "0" / "c.3.0.0", "torn")
    assert repair(run).problems == ()
    assert files(run) == before


def test_without_any_source_it_is_named_and_left(run: Path) -> None:
    shutil.rmtree(run.parents[1] / "camera")
    for array in ("0", "raw/0"):
        harm(run / array / "c.3.0.0", "torn")
    harm(run / "1" / "c.1.0.0", "torn")
    left = files(run)
    report = repair(run)
    assert [(p.array, p.frame) for p in report.problems] == [("0", 3), ("raw/0", 3)]
    assert all("not repaired: its source cam/movie.npy is not below" in p.what for p in report.problems)
    assert [(p.array, p.frame) for p in report.repaired] == [("1", 1)]
    assert {k: v for k, v in files(run).items() if "c.3" in k} == {k: v for k, v in left.items() if "c.3" in k}


def test_a_source_that_was_overwritten_is_not_believed(run: Path) -> None:
    np.save(run.parents[1] / "camera" / "cam" / "movie.npy", np.full((N, *SHAPE), 7, np.uint16))
    for array in ("0", "raw/0"):
        harm(run / array / "c.3.0.0", "missing")
    report = repair(run)
    assert [(p.array, p.frame) for p in report.problems] == [("0", 3), ("raw/0", 3)]
    assert all("other pixels than the ones that were stored" in p.what for p in report.problems)


def test_labels_are_not_guessed(run: Path) -> None:
    for level in (0, 1):
        harm(run / "labels" / "particles" / str(level) / "c.1.0.0", "torn")
    report = repair(run)
    assert [p.array for p in report.problems] == ["labels/particles/0", "labels/particles/1"]
    assert all("emstream reprocess makes new ones" in p.what for p in report.problems)


def test_metadata_and_columns_come_back_from_the_ledger(run: Path) -> None:
    before = files(run)
    for name in ("zarr.json", "0/zarr.json", "frames/shift/zarr.json", "labels/particles/1/zarr.json"):
        (run / name).write_text("{")
    (run / "frames" / "time_s" / "c.0").write_bytes(b"")
    assert "metadata cannot be read" in check(run).problems[0].what
    report = repair(run)
    assert report.problems == ()
    assert report.repaired
    assert files(run) == before


@pytest.mark.parametrize("mode", ["bilinear", "cubic", "fourier"])
def test_frames_that_were_interpolated_are_interpolated_again(tmp_path: Path, mode: str) -> None:
    run = write_run(tmp_path, mode, keep_raw=False)
    before = files(run)
    for i in range(N):
        harm(run / "0" / f"c.{i}.0.0", "missing")
    assert repair(run).problems == ()
    assert files(run) == before


def test_a_run_without_its_ledger_is_repaired_from_what_it_carries(run: Path) -> None:
    before = files(run)
    shutil.rmtree(run.parent / ".emstream")
    harm(run / "0" / "c.3.0.0", "torn")
    harm(run / "raw/0" / "c.3.0.0", "torn")
    report = repair(run)
    assert (report.problems, report.checksums) == ((), "origins.jsonl")
    assert files(run) == before
    assert not (run.parent / ".emstream").exists()


def test_a_run_is_not_repaired_under_a_daemon(run: Path) -> None:
    with Ledger(run.parent), pytest.raises(StoreBusy):
        repair(run)


def test_the_verb_tells_what_was_repaired_and_what_was_not_by_its_exit_code(run: Path) -> None:
    def emstream(*args: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "emstream", "check", str(run), "--json", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    moved = run.parents[1] / "elsewhere"
    (run.parents[1] / "camera").rename(moved)
    harm(run / "raw/0" / "c.3.0.0", "torn")
    assert emstream().returncode == 1
    refused = emstream("--repair")
    assert refused.returncode == 1
    assert "--source names the folder when it moved" in json.loads(refused.stdout)["problems"][0]["what"]
    done = emstream("--repair", "--source", moved)
    assert (done.returncode, json.loads(done.stdout)["problems"]) == (0, [])
    assert [(p["array"], p["frame"]) for p in json.loads(done.stdout)["repaired"]] == [("raw/0", 3)]
    assert emstream().returncode == 0
