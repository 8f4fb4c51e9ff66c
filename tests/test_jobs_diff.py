"""Two results of one movie compared: what was planted between them is what is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from emstream import align
from emstream.cli import app
from emstream.errors import BadSettings, NotARun, StoreDamaged
from emstream.jobs import diff as job
from emstream.measure.agreement import agree
from emstream.messages import Origin
from emstream.store import FrameRecord, LabelRecord, Ledger, RunWriter, StoreOptions

N, SHAPE = 20, (48, 64)


def scene(dy: int = 0, dx: int = 0) -> np.ndarray:
    """Four discs on the canvas, moved by whole pixels; what leaves is cut."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    labels = np.zeros(SHAPE, np.int32)
    for k, (cy, cx) in enumerate([(12, 14), (14, 44), (34, 16), (36, 48)], 1):
        labels[(y - cy - dy) ** 2 + (x - cx - dx) ** 2 <= 36] = k
    return labels


def run(
    folder: Path,
    labels: list[np.ndarray | None],
    shifts: np.ndarray,
    *,
    times: np.ndarray | None = None,
    anchors: np.ndarray | None = None,
    attrs: dict[str, Any] | None = None,
    tables: dict[str, Any] | None = None,
) -> Path:
    n = len(labels)
    times = 1e9 + np.arange(n) / 4 if times is None else times
    with Ledger(folder, fsync=False) as ledger:
        row = ledger.run_for(
            "s", "cam", SHAPE if n == 0 or labels[0] is None else labels[0].shape, "uint8", (0.5, 0.5), attrs or {}
        )
        writer = RunWriter(folder, row, ledger, StoreOptions(fsync=False, low_water_mb=0))
        writer.write_frames(
            [
                FrameRecord(
                    pixels=np.full(row.shape, i + 1, np.uint8),
                    origin=Origin(f"f{i}", 0, 1, 1, i + 1),
                    time_s=float(times[i]),
                    shift=tuple(shifts[i]),
                    anchor=0 if anchors is None else int(anchors[i]),
                )
                for i in range(n)
            ]
        )
        writer.flush()
        told = [
            LabelRecord(i, x, int(x.max()), float((x > 0).mean()), "m@1") for i, x in enumerate(labels) if x is not None
        ]
        writer.write_labels(told)
        writer.close(tables)
        return Path(writer.path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {
        "settings": {"align": {"memory": 200}, "segment": {"model": "default"}},
        "models": [{"name": "default", "sha256": "a" * 64}],
    }
    particles = {"frame": np.repeat(np.arange(N), 4), "diameter_nm": np.full(4 * N, 6.0)}
    events = {"frame": np.array([3, 5]), "kind": np.array(["nucleation", "dissolution"])}
    kinetics = {"frame": np.arange(4), "density_per_nm2": np.full(4, 0.5), "mean_radius_nm": np.full(4, 3.0)}
    return run(
        tmp_path_factory.mktemp("a"),
        [scene()] * N,
        np.zeros((N, 2)),
        attrs=settings,
        tables={"particles": particles, "events": events, "kinetics": kinetics},
    )


def test_a_run_does_not_differ_from_itself(base: Path) -> None:
    told = job.diff(base, base)
    assert told["shifts"]["largest_px"] == 0
    assert told["shifts"]["worst"] == told["labels"]["worst"] == told["settings"] == told["models"] == []
    assert told["labels"]["identical_frames"] == told["frames"]["compared"] == N
    assert (told["labels"]["iou"], told["labels"]["dice_mean"], told["labels"]["particles"]) == (
        1.0,
        1.0,
        [4 * N, 4 * N],
    )


def test_planted_changes_of_shifts_are_found_beyond_another_origin(base: Path, tmp_path: Path) -> None:
    shifts = np.tile([3.25, -7.0], (N, 1))  # another anchor: no error
    shifts[11] += (0.6, -0.8)
    other = run(tmp_path, [None] * N, shifts)
    told = job.diff(base, other)
    assert told["shifts"]["offset_px"] == pytest.approx([3.25, -7.0])
    assert told["shifts"]["worst"] == [{"frame": 11, "dy": pytest.approx(0.6), "dx": pytest.approx(-0.8)}]
    assert told["shifts"]["rms_px"] == pytest.approx(1 / np.sqrt(N))
    assert told["labels"]["compared"] == 0
    assert told["labels"]["segmented_in_one_only"] == N


def test_an_origin_that_moves_with_the_anchor_is_no_error(base: Path, tmp_path: Path) -> None:
    anchors = np.repeat([0, 1], N // 2)
    shifts = np.where(anchors[:, None] == 1, [40.0, 8.0], [0.0, 0.0])
    told = job.diff(base, run(tmp_path, [None] * N, shifts, anchors=anchors))
    assert told["shifts"]["largest_px"] == pytest.approx(0)
    assert told["shifts"]["anchors"] == [1, 2]


def test_particles_that_vanish_and_appear_are_counted_where_the_camera_saw_them(base: Path, tmp_path: Path) -> None:
    """The second run moved its frames by other whole pixels; its labels moved with them."""
    labels: list[np.ndarray | None] = [scene(4, -6) for _ in range(N)]
    lost, more, thinner = (np.array(labels[k]) for k in (2, 5, 7))
    lost[lost == 2] = 0
    more[30:36, 28:34] = 9
    thinner[:, ::2] = 0
    labels[2], labels[5], labels[7] = lost, more, thinner
    told = job.diff(base, run(tmp_path, labels, np.tile([4.0, -6.0], (N, 1))))
    frames = told["per_frame"]
    assert [(frames["vanished"][k], frames["appeared"][k]) for k in (1, 2, 5)] == [(0, 0), (1, 0), (0, 1)]
    assert frames["iou"][1] == 1
    assert frames["iou"][2] == pytest.approx(3 / 4)
    assert frames["dice"][2] == pytest.approx(6 / 7)
    area = int((scene() == 1).sum())
    assert frames["iou"][5] == pytest.approx(4 * area / (4 * area + 36))
    assert frames["iou"][7] == pytest.approx((thinner > 0).sum() / (4 * area))
    assert told["labels"]["worst"][0]["frame"] == 7
    assert {w["frame"] for w in told["labels"]["worst"]} == {2, 5, 7}
    assert told["labels"]["identical_frames"] == N - 3


def test_half_pixels_are_rounded_as_frames_are_moved(base: Path, tmp_path: Path) -> None:
    labels: list[np.ndarray | None] = [scene(*align.whole((-3.5, 2.5)))] * N
    told = job.diff(base, run(tmp_path, labels, np.tile([-3.5, 2.5], (N, 1))))
    assert told["labels"]["identical_frames"] == N


def test_agreement_counts_only_what_both_cover() -> None:
    a = np.zeros((10, 10), np.int32)
    a[8:, 8:] = 1  # outside of the second one's view
    a[2:4, 2:4] = 2
    b = np.zeros((10, 10), np.int32)
    b[0:2, 0:2] = 5
    found = agree(a, b, (2, 2))
    assert (found.old, found.new, found.paired, found.iou) == (2, 1, 1, 4 / 8)
    assert agree(a, b, (-2, -2)).paired == 0
    assert agree(a, b, (40, 0)).iou == 1.0
    assert agree(a * 0, b * 0).dice == 1.0
    with pytest.raises(ValueError, match="10, 10"):
        agree(a, b[:5])


def test_agreement_equals_what_scikit_image_finds() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(1)
    for _ in range(5):
        a, b = (np.kron(rng.integers(0, 6, (6, 6)), np.ones((5, 5))).astype(np.int32) for _ in range(2))
        found, table = agree(a, b), metrics.contingency_table(a, b).toarray()
        assert found.both == table[1:, 1:].sum()
        assert found.either == table.sum() - table[0, 0]
        size = table.sum(1)[1:, None] + table.sum(0)[None, 1:] - table[1:, 1:]
        assert found.paired == (table[1:, 1:] > 0.5 * size).sum()


def test_frames_left_out_of_one_run_are_found_by_their_time(base: Path, tmp_path: Path) -> None:
    kept = np.delete(np.arange(N), [4, 9])
    told = job.diff(base, run(tmp_path / "t", [scene()] * len(kept), np.zeros((len(kept), 2)), times=1e9 + kept / 4))
    assert told["frames"] == {"first": N, "second": N - 2, "compared": N - 2, "by": "time"}
    assert told["per_frame"]["frame"] == kept.tolist()
    assert told["labels"]["identical_frames"] == N - 2
    other_clock = run(tmp_path / "n", [scene()] * 7, np.zeros((7, 2)), times=5e8 + np.arange(7))
    assert job.diff(base, other_clock)["frames"] == {"first": N, "second": 7, "compared": 7, "by": "number"}


def test_tables_settings_and_models_are_compared(base: Path, tmp_path: Path) -> None:
    attrs = {
        "settings": {"align": {"memory": 50}, "segment": {"model": "classical"}, "view": {"history": 4096}},
        "models": [{"name": "classical", "sha256": ""}],
    }
    particles = {"frame": np.arange(40), "diameter_nm": np.full(40, 7.5)}
    events = {"frame": np.array([3, 5, 6]), "kind": np.array(["nucleation", "nucleation", "split"])}
    radius = np.array([4.0, np.nan, 3.0, 5.0])  # of a frame without particles nothing is known
    kinetics = {"frame": np.arange(4), "density_per_nm2": np.full(4, 0.75), "mean_radius_nm": radius}
    tables = {"particles": particles, "events": events, "kinetics": kinetics}
    other = run(tmp_path, [scene()] * N, np.zeros((N, 2)), attrs=attrs, tables=tables)
    told = job.diff(base, other)
    assert told["tables"]["particles"] == {"rows": [80, 40], "mean_diameter_nm": [6.0, 7.5]}
    assert told["tables"]["events"] == {
        "rows": [2, 3],
        "nucleation": [1, 2],
        "dissolution": [1, None],
        "split": [None, 1],
    }
    assert told["tables"]["kinetics"] == {
        "rows": [4, 4],
        "mean_density_per_nm2": [0.5, 0.75],
        "mean_radius_nm": [3.0, 4.0],
    }
    assert told["settings"] == [
        {"setting": "align.memory", "first": 200, "second": 50},
        {"setting": "segment.model", "first": "default", "second": "classical"},
        {"setting": "view.history", "first": None, "second": 4096, "only_in": "second"},
    ]
    assert told["models"] == [{"first": "default aaaaaaaaaaaa", "second": "classical"}]


def test_what_cannot_be_compared_is_refused_with_the_reason(base: Path, tmp_path: Path) -> None:
    small = run(tmp_path / "s", [np.ones((16, 16), np.int32)], np.zeros((1, 2)))
    with pytest.raises(BadSettings, match=r"48 x 64 px.*16 x 16"):
        job.diff(base, small)
    with pytest.raises(NotARun):
        job.diff(base, tmp_path)
    with pytest.raises(BadSettings, match=r"no labels .again.*particles"):
        job.diff(base, base, labels=["particles", "again"])
    with pytest.raises(BadSettings, match="--every 0"):
        job.diff(base, base, every=0)
    hurt = run(tmp_path / "h", [scene()] * N, np.zeros((N, 2)))
    chunk = hurt / "labels" / "particles" / "0" / "c.3.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(StoreDamaged, match=r"frame 3 of .*emstream check"):
        job.diff(base, hurt)
    assert job.diff(base, base, every=5)["labels"]["compared"] == N // 5


def test_the_verb_tells_people_and_programs(base: Path, tmp_path: Path) -> None:
    labels: list[np.ndarray | None] = [scene() for _ in range(N)]
    lost = np.array(labels[6])
    lost[lost == 3] = 0
    labels[6] = lost
    other = run(tmp_path, labels, np.zeros((N, 2)))
    shown = CliRunner().invoke(app, ["diff", str(base), str(other)])
    assert shown.exit_code == 0
    assert "0 appeared, 1 vanished" in shown.stdout
    assert "19 of 20 frames identical" in shown.stdout
    told = json.loads(CliRunner().invoke(app, ["diff", str(base), str(other), "--json"]).stdout)
    assert told["labels"]["vanished"] == 1
    assert told["per_frame"]["vanished"][6] == 1
