"""Export: movies without black borders, tables with units, a report that needs no network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from emstream import measure, simulate
from emstream.align import covered, move
from emstream.errors import BadSettings, NotARun
from emstream.export import export
from emstream.export.crop import common
from emstream.export.draw import nice
from emstream.export.kinetics import told
from emstream.messages import Origin
from emstream.store import FrameRecord, LabelRecord, Ledger, Run, RunWriter, StoreOptions

FILLED = 1000  # counts are far above zero, so that a black border would show


def make_run(out: Path, *, calibrated: bool = True, frames: int = 12, jump: float = 0.0) -> Run:
    """A run of bright frames with known shifts, written by the store itself, with particles at known places."""
    movie = simulate.movie(
        frames, (160, 200), drift_per_frame=(1.2, -0.8), jitter=0, particles=6, diameter=(16, 30), dose=FILLED, seed=2
    )
    size = (0.5, 0.5) if calibrated else None
    with Ledger(out) as ledger:
        writer = RunWriter(out, ledger.run_for("cam", "cam", movie.shape, "uint16", size), ledger, StoreOptions(), {})
        state = measure.start_tracks()
        for i in range(frames):
            shift = (movie.shift[i][0] + jump * (i == frames - 1), movie.shift[i][1])
            pixels, valid = move(movie.frame(i), shift)
            origin = Origin(f"{i}.tif", 0, 1, 1, i)
            writer.write_frames([FrameRecord(pixels, origin, 100.0 + i, shift, 0.9)])
            labels, _ = ndimage.label(move(movie.labels(i) > 0, shift)[0])
            columns = measure.particles(labels, pixels, valid=valid)
            state, tracks, _ = measure.link(state, labels, columns, i, 100.0 + i, valid=valid)
            when = {"frame": i, "time_s": 100.0 + i}
            rows = measure.rows("particles", {**columns, "track": tracks, **when}, size)
            kinetics = measure.rows("kinetics", {**(state.kinetics or {}), **when}, size)
            writer.table("kinetics", measure.schema("kinetics", calibrated)).append(kinetics)
            writer.table("particles", measure.schema("particles", calibrated)).append(rows)
            writer.write_labels([LabelRecord(i, labels, len(tracks), 0.1, "truth")])
            writer.flush()
        ended = measure.rows("tracks", measure.finish(state), size)
        writer.table("tracks", measure.schema("tracks", calibrated)).append(ended)
        writer.close()
    return Run(out / "cam.zarr")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"))


def test_the_crop_is_what_every_frame_covers_and_no_smaller(run: Run) -> None:
    y0, y1, x0, x1 = common(run).rect
    rects = np.array([covered(run.shape, tuple(s)) for s in run.column("shift")])
    assert (y0, y1, x0, x1) == (rects[:, 0].max(), rects[:, 1].min(), rects[:, 2].max(), rects[:, 3].min())


def test_a_frame_that_drifted_away_is_left_out_rather_than_shrinking_the_picture(tmp_path: Path) -> None:
    crop = common(make_run(tmp_path, jump=150.0))
    assert crop.left_out == 1
    assert len(crop.frames) == 11


def test_the_stack_has_no_uncovered_pixel_and_keeps_the_counts(run: Run, tmp_path: Path) -> None:
    export(run.path, tmp_path / "x.tif")
    stack = tifffile.imread(tmp_path / "x.tif")
    y0, y1, x0, x1 = common(run).rect
    assert stack.min() > 0
    assert np.array_equal(stack[5], run.frame(5)[y0:y1, x0:x1])


def test_the_movie_plays_with_all_frames_and_without_black_borders(run: Run, tmp_path: Path) -> None:
    import imageio_ffmpeg

    export(run.path, tmp_path / "x.mp4")
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "x.mp4"))
    about = next(reader)
    frames = [np.frombuffer(f, np.uint8).reshape(about["size"][1], about["size"][0], 3) for f in reader]
    assert len(frames) == run.n
    for frame in frames:
        edge = np.concatenate([frame[0], frame[:, 0], frame[:, -1]])
        assert edge.mean(axis=0).min() > 40  # film, not black


def test_the_animation_moves(run: Run, tmp_path: Path) -> None:
    export(run.path, tmp_path / "x.gif")
    with Image.open(tmp_path / "x.gif") as picture:
        assert picture.n_frames == run.n


def test_tables_carry_units_in_their_names_and_a_dictionary_beside_them(run: Run, tmp_path: Path) -> None:
    export(run.path, tmp_path / "x.csv")
    table = pd.read_csv(tmp_path / "x.csv")
    assert {"y_nm", "x_nm", "area_nm2", "diameter_nm", "track"} <= set(table.columns)
    words = json.loads((tmp_path / "x.columns.json").read_text())
    assert set(words) == set(table.columns)
    assert words["area_nm2"]["unit"] == "nm²"
    export(run.path, tmp_path / "x.parquet")
    assert len(pd.read_parquet(tmp_path / "x.parquet")) == len(table)


def test_every_table_can_leave_with_units_in_the_parquet_and_a_dictionary_to_print(run: Run, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    export(run.path, tmp_path / "k.parquet", table="kinetics")
    field = pq.read_schema(tmp_path / "k.parquet").field("density_per_nm2")
    assert field.metadata[b"unit"] == "nm⁻²".encode()
    assert len(pd.read_parquet(tmp_path / "k.parquet")) == run.n
    export(run.path, tmp_path / "words.md")
    text = (tmp_path / "words.md").read_text()
    assert all(f"`{c}`" in text for c in (*run.table("particles").columns, *run.table("tracks").columns))
    with pytest.raises(BadSettings, match="table 'moods'"):
        export(run.path, tmp_path / "x.csv", table="moods")
    with pytest.raises(BadSettings, match=r"only \.csv, \.parquet"):
        export(run.path, tmp_path / "x.html", table="tracks")


def test_what_was_measured_comes_with_its_error(run: Run) -> None:
    rows = {row["quantity"]: row for row in told(run.path)}
    assert rows["mean radius, last frames"]["error"] > 0
    assert rows["mean radius, last frames"]["unit"] == "nm"
    assert rows["coarsening exponent, from single particles"]["value"] is None  # twelve frames tell no law
    json.dumps(list(rows.values()), allow_nan=False)


def test_an_uncalibrated_run_says_pixels(tmp_path: Path) -> None:
    run = make_run(tmp_path, calibrated=False, frames=3)
    export(run.path, tmp_path / "x.csv")
    assert "diameter_px" in pd.read_csv(tmp_path / "x.csv").columns
    export(run.path, tmp_path / "x.html")
    assert "unknown: lengths are in pixels" in (tmp_path / "x.html").read_text()


def test_the_report_stands_alone(run: Run, tmp_path: Path) -> None:
    export(run.path, tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert "Plotly.newPlot" in text
    for title in (
        "Drift", "Particles", "Mean and critical radius", "Size distribution", "Size distribution through time",
        "Single particles", "Outlines through time", "Kinetics",
    ):  # fmt: skip
        assert title in text
    assert "<script src=" not in text
    assert text.count('<img src="data:image/png;base64,') == 5  # four frames, and the outlines


def test_nothing_is_written_among_the_cameras_files_or_into_the_run(tmp_path: Path) -> None:
    run, camera = make_run(tmp_path, frames=2), tmp_path / "camera"
    camera.mkdir()
    (camera / "movie.tif").write_bytes(b"the only copy")
    for source, out in (
        (camera, camera / "movie.tif"),
        (camera, camera / "new" / "x.csv"),
        (camera / "movie.tif",) * 2,
    ):
        group = json.loads((run.path / "zarr.json").read_text())
        group["attributes"]["emstream"]["source"] = str(source)
        (run.path / "zarr.json").write_text(json.dumps(group))
        with pytest.raises(BadSettings, match="among the camera's files"):
            export(run.path, out)
    assert (camera / "movie.tif").read_bytes() == b"the only copy"
    with pytest.raises(BadSettings, match="in the run itself"):
        export(run.path, run.path / "tables" / "x.csv")
    assert export(run.path, tmp_path / "x.csv").is_file()


def test_an_unknown_suffix_and_a_path_that_is_no_run_are_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"\.xyz"):
        export(run.path, tmp_path / "a.xyz")
    with pytest.raises(NotARun):
        export(tmp_path, tmp_path / "a.mp4")


@pytest.mark.parametrize(("value", "length"), [(3.7, 2), (99, 50), (100, 100), (0.6, 0.5)])
def test_scale_bars_have_round_lengths(value: float, length: float) -> None:
    assert nice(value) == pytest.approx(length)
