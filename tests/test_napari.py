"""napari: the manifest is valid, a run opens as three layers, a growing one is followed; no display needed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from emstream import measure
from emstream.messages import Origin
from emstream.napari import reader
from emstream.napari.follow import Follower
from emstream.store import FrameRecord, LabelRecord, Ledger, RunWriter, StoreOptions

MANIFEST = Path(reader.__file__).with_name("napari.yaml")
SIZE = (0.5, 0.25)


def square(i: int) -> np.ndarray:
    labels = np.zeros((64, 96), np.int32)
    labels[20 + i : 30 + i, 40:52] = 1
    return labels


class Growing:
    """A run of one square that wanders, written frame by frame."""

    def __init__(self, out: Path) -> None:
        self.ledger = Ledger(out)
        entry = self.ledger.run_for("cam", "cam", (64, 96), "uint16", SIZE)
        self.writer = RunWriter(out, entry, self.ledger, StoreOptions(), {})
        self.state, self.path, self.n = measure.start_tracks(), out / "cam.zarr", 0

    def grow(self, frames: int) -> None:
        for i in range(self.n, self.n + frames):
            self._frame(i)
            self._label(i)
        self.n += frames
        self._publish()

    def late(self, frames: int) -> None:
        """Frames without labels."""
        for i in range(self.n, self.n + frames):
            self._frame(i)
        self.n += frames
        self._publish()

    def label(self, i: int) -> None:
        """The labels of a frame that is stored."""
        self._label(i)
        self._publish()

    def _frame(self, i: int) -> None:
        pixels = (100 + 50 * square(i)).astype(np.uint16)
        self.writer.write_frames([FrameRecord(pixels, Origin(f"{i}", 0, 1, 1, i), float(i), (0.0, 0.0), 0.9)])

    def _label(self, i: int) -> None:
        labels = square(i)
        columns = measure.particles(labels, 100 + 50 * labels)
        self.state, tracks, _ = measure.link(self.state, labels, columns, i, float(i))
        rows = measure.rows("particles", {**columns, "track": tracks, "frame": i, "time_s": i}, SIZE)
        self.writer.table("particles", measure.schema("particles", True)).append(rows)
        self.writer.write_labels([LabelRecord(i, labels, 1, 0.1, "truth")])

    def _publish(self) -> None:
        self.writer.flush()
        self.writer.flush_tables()
        self.writer.publish()


@pytest.fixture
def growing(tmp_path: Path) -> Any:
    run = Growing(tmp_path)
    yield run
    run.writer.close()
    run.ledger.close()


class Viewer:
    """What a follower asks of napari's viewer."""

    def __init__(self) -> None:
        self.layers: dict[str, Any] = {}
        self.at = -1
        self.scale_bar = SimpleNamespace(visible=False)
        self.dims = SimpleNamespace(set_point=lambda axis, value: setattr(self, "at", value))

    def _add(self, data: Any, **keywords: Any) -> None:
        self.layers[keywords["name"]] = SimpleNamespace(data=data, **keywords)

    add_image = add_labels = add_tracks = _add


def qt() -> Any:
    """A running Qt that needs no screen; None when none is installed."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    try:
        from qtpy.QtWidgets import QApplication
    except ImportError:
        return None
    return QApplication.instance() or QApplication([])


def test_the_manifest_is_valid_and_names_what_exists() -> None:
    npe2 = pytest.importorskip("npe2", reason="npe2 is not installed: pip install emstream[dev]")
    manifest = npe2.PluginManifest.from_file(MANIFEST)
    if qt() is not None:  # the widget's module needs it
        manifest.validate_imports()
    assert {c.id for c in manifest.contributions.commands} == {"emstream.read", "emstream.follow"}


def test_npe2_reads_a_run_through_the_manifest(growing: Growing) -> None:
    npe2 = pytest.importorskip("npe2", reason="npe2 is not installed: pip install emstream[dev]")
    growing.grow(4)
    manager = npe2.PluginManager()
    manager.register(npe2.PluginManifest.from_file(MANIFEST))
    readers = list(manager.iter_compatible_readers([str(growing.path)]))
    assert [r.command for r in readers] == ["emstream.read"]
    manager.activate("emstream")
    layers = manager.commands.execute("emstream.read", args=(str(growing.path),))(str(growing.path))
    assert [kind for _, _, kind in layers] == ["image", "labels", "tracks"]


def test_layers_show_what_the_run_holds_where_it_lies(growing: Growing) -> None:
    growing.grow(5)
    (image, how, _), (labels, *_), (vertices, shown, _) = reader.read(str(growing.path))
    assert image.shape == (5, 64, 96)
    assert how["scale"] == (1.0, 0.5, 0.25)
    assert how["contrast_limits"] == (100.0, 150.0)
    assert np.asarray(labels[4]).max() == 1
    assert vertices[:, 0].tolist() == [0] * 5
    assert vertices[:, 1].tolist() == [0, 1, 2, 3, 4]
    assert vertices[:, 2] == pytest.approx((24.5 + np.arange(5)) * 0.5)
    assert vertices[:, 3] == pytest.approx(45.5 * 0.25)
    assert len(shown["properties"]["diameter_nm"]) == 5
    assert shown["scale"] == (1.0, 1.0, 1.0)
    assert how["units"] == shown["units"] == ("pixel", "nm", "nm")
    assert how["axis_labels"] == ("frame", "y", "x")


def test_a_path_that_is_no_run_is_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "x.zarr").mkdir()
    assert reader.get_reader(str(tmp_path / "x.zarr")) is None
    assert reader.get_reader([str(tmp_path)]) is None


def test_a_growing_run_is_followed_to_its_newest_frame(growing: Growing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emstream.napari.follow.TABLES_EVERY_S", 0.0)
    viewer = Viewer()
    growing.grow(3)
    follower = Follower(growing.path, viewer)
    assert follower.update()
    assert set(viewer.layers) == {"cam", "cam particles", "cam tracks"}
    assert (viewer.layers["cam"].data.shape[0], viewer.at) == (3, 2)
    growing.grow(2)
    assert follower.update(newest=False)
    assert (viewer.layers["cam particles"].data.shape[0], viewer.at) == (5, 2)
    assert len(viewer.layers["cam tracks"].data) == len(viewer.layers["cam tracks"].properties["track"]) == 5
    assert viewer.scale_bar.visible
    assert not follower.update()
    assert follower.told == "cam: 5 frames, live"


def test_labels_that_come_after_the_last_frame_are_shown(growing: Growing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emstream.napari.follow.TABLES_EVERY_S", 0.0)
    viewer = Viewer()
    growing.grow(2)
    growing.late(1)
    follower = Follower(growing.path, viewer)
    follower.update()
    assert not np.asarray(viewer.layers["cam particles"].data[2]).any()
    shown = viewer.layers["cam particles"].data
    growing.label(2)
    assert follower.update()
    assert viewer.layers["cam particles"].data is not shown
    assert np.asarray(viewer.layers["cam particles"].data[2]).any()


def test_of_a_long_run_the_newest_tracks_are_shown(growing: Growing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MOST_ROWS", 4)
    monkeypatch.setattr("emstream.napari.follow.TABLES_EVERY_S", 0.0)
    viewer = Viewer()
    growing.grow(6)
    follower = Follower(growing.path, viewer)
    follower.update()
    assert viewer.layers["cam tracks"].data[:, 1].tolist() == [2, 3, 4, 5]
    growing.grow(1)
    follower.update()
    assert viewer.layers["cam tracks"].data[:, 1].tolist() == [3, 4, 5, 6]


def test_the_widget_follows_a_run_that_goes_away_and_comes_back(
    growing: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    napari = pytest.importorskip("napari", reason="napari is not installed: pip install emstream[napari]")
    app = qt()
    if app is None:
        pytest.skip("no Qt is installed: pip install PySide6")
    from emstream.napari import widget

    monkeypatch.setattr(widget, "EVERY_MS", 5)
    monkeypatch.setattr("emstream.napari.follow.TABLES_EVERY_S", 0.0)
    viewer = napari.components.ViewerModel()

    def until(true: Any) -> None:
        end = time.monotonic() + 10
        while not true() and time.monotonic() < end:
            app.processEvents()
        assert true()

    growing.grow(3)
    window = widget.Follow(napari_viewer=viewer)  # as napari calls it
    window.path.setText(str(growing.path.parent / "other.zarr"))
    window.go.click()
    assert "is no run of emstream" in window.told.text()
    assert not window.go.isChecked()
    window.path.setText(str(growing.path))
    window.go.click()
    assert window.told.text() == "cam: 3 frames, live"
    away = growing.path.rename(growing.path.with_name("away"))
    until(lambda: window.told.text().startswith("waiting"))
    away.rename(growing.path)
    growing.grow(2)
    until(lambda: window.told.text() == "cam: 5 frames, live")
    assert viewer.dims.point[0] == 4
    window.newest.setChecked(False)
    growing.grow(1)
    until(lambda: window.told.text() == "cam: 6 frames, live")
    assert viewer.dims.point[0] == 4
    window.close()


def test_napari_shows_the_layers(growing: Growing) -> None:
    napari = pytest.importorskip("napari", reason="napari is not installed: pip install emstream[napari]")
    growing.grow(4)
    model = napari.components.ViewerModel()
    for data, keywords, kind in reader.read(str(growing.path)):
        getattr(model, f"add_{kind}")(data, **keywords)
    assert [layer.name for layer in model.layers] == ["cam", "cam particles", "cam tracks"]
    follower = Follower(growing.path, model)
    growing.grow(3)
    assert follower.update()
    assert model.layers["cam"].data.shape[0] == 7
    assert model.dims.point[0] == 6
