"""A reader beside the writer: what is published is there, whole and right, at every instant."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import zarr

from emstream.messages import Origin
from emstream.store import FrameRecord, LabelRecord, Ledger, Run, RunWriter, StoreOptions

N, SHAPE = 200, (24, 300)


def pixels(i: int) -> np.ndarray:
    """No pixel is 0, no two frames are alike."""
    return np.random.default_rng(i).integers(1, 60000, SHAPE).astype(np.uint16)


class Reader(threading.Thread):
    """Looks at the run until it is told to stop: emstream's reader and plain zarr, anew each time."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.stop = path, threading.Event()
        self.lengths: list[int] = []
        self.faults: list[str] = []
        self.error: Exception | None = None
        self.finished = False

    def run(self) -> None:
        while not self.stop.is_set():
            if (self.path / "zarr.json").exists():
                try:
                    self.look()
                except (OSError, ValueError, KeyError, RuntimeError, IndexError) as error:
                    self.error = error
                    return
        self.finished = True

    def look(self) -> None:
        group = zarr.open_group(self.path, mode="r")
        n = group["0"].shape[0]
        self.lengths.append(n)
        for i in {0, n // 2, n - 1}:
            if not np.array_equal(group["0"][i], pixels(i)):
                self.faults.append(f"frame {i} of {n} in level 0")
            if not group["1"][i].all():
                self.faults.append(f"frame {i} of {n} has zeros in level 1")
        shapes = {name: group[name].shape[0] for name in ("1", "labels/particles/0", "frames/shift", "frames/status")}
        if min(shapes.values()) < n:
            self.faults.append(f"{shapes}, level 0 has {n}")
        run = Run(self.path)
        m = run.n
        times = run.column("time_s")[:m]
        if not np.array_equal(times, np.arange(m)):
            self.faults.append(f"times of {m} frames: {times}")
        if not np.array_equal(run.frames[-1].compute(), pixels(len(run.frames) - 1)) and run.n == m:
            self.faults.append(f"last frame of {m} by dask")


def test_a_polling_reader_never_sees_zeros_a_shrinking_shape_or_an_error(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        row = ledger.run_for("cam", "cam", SHAPE, "uint16", (0.5, 0.5))
        writer = RunWriter(tmp_path, row, ledger, StoreOptions(low_water_mb=0, publish_every_s=0, fsync=False))
        reader = Reader(writer.path)
        reader.start()
        try:
            for i in range(N):
                writer.write_frames([FrameRecord(pixels(i), Origin(f"{i}.tif", 0, 1, i, i), float(i), (0.0, 0.0))])
                writer.flush()
                if i % 3 == 0:
                    writer.write_labels([LabelRecord(i, np.ones(SHAPE, np.int32), 1, 1.0, "planted@")])
                    writer.flush()
            writer.close()
        finally:
            reader.stop.set()
            reader.join()
    assert reader.error is None
    assert reader.finished
    assert reader.faults == []
    assert reader.lengths == sorted(reader.lengths)
    assert len(set(reader.lengths)) >= 5  # it did look while the run grew
    assert np.array_equal(Run(writer.path).frames.compute(), np.stack([pixels(i) for i in range(N)]))


def test_a_run_shows_only_what_was_published(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        row = ledger.run_for("cam", "cam", SHAPE, "uint16", (0.5, 0.5))
        writer = RunWriter(tmp_path, row, ledger, StoreOptions(low_water_mb=0, publish_every_s=1e9, fsync=False))
        for i in range(4):
            writer.write_frames([FrameRecord(pixels(i), Origin(f"{i}.tif", 0, 1, i, i), float(i), (0.0, 0.0))])
            writer.flush()
            if i == 0:
                writer.publish()
        run = Run(writer.path)
        assert (len(run), run.frames.shape[0], len(run.column("shift"))) == (1, 1, 1)
        writer.publish()
        assert (len(run), run.frames.shape[0], len(run.column("shift"))) == (4, 4, 4)
        assert run.state == "live"
        writer.close()
        assert run.state == "closed"
