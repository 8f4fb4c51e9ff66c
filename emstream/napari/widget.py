"""napari's window on a growing run: a path, a button, and a clock. The one file of this room that needs Qt."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QCheckBox, QFileDialog, QFormLayout, QLabel, QLineEdit, QPushButton, QWidget

from emstream.errors import EmstreamError
from emstream.napari.follow import Follower
from emstream.napari.reader import path_of

EVERY_MS = 500


class Follow(QWidget):  # type: ignore[misc]
    """Give the path of a run (or open one first), press Follow: new frames appear as they are published.

    A class, since napari hands its viewer to classes in all its ways of opening a widget, to functions only in one.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._follower: Follower | None = None
        opened = [p for layer in napari_viewer.layers if (p := path_of(layer)) is not None]
        self.path, browse = QLineEdit(str(opened[0]) if opened else ""), QPushButton("Choose…")
        self.go, self.newest = QPushButton("Follow"), QCheckBox("Go to the newest frame")
        self.told = QLabel("NAME.zarr of a run that is being written")
        self.go.setCheckable(True)
        self.newest.setChecked(True)
        self.told.setWordWrap(True)
        form = QFormLayout(self)
        form.addRow("Run", self.path)
        for part in (browse, self.newest, self.go, self.told):
            form.addRow(part)
        self._clock = QTimer(self)
        browse.clicked.connect(self._choose)
        self.go.toggled.connect(self._start)
        self._clock.timeout.connect(self._tick)

    def _choose(self) -> None:
        found = QFileDialog.getExistingDirectory(self, "A run: NAME.zarr", self.path.text())
        if found:
            self.path.setText(found)

    def _start(self, on: bool) -> None:
        self._clock.stop()
        self.go.setText("Stop following" if on else "Follow")
        if not on:
            return
        try:
            self._follower = Follower(self.path.text().strip(), self._viewer)
        except EmstreamError as error:
            self.told.setText(str(error))
            self.go.setChecked(False)
            return
        self._tick()
        self._clock.start(EVERY_MS)

    def _tick(self) -> None:
        assert self._follower is not None
        try:
            self._follower.update(newest=self.newest.isChecked())
            self.told.setText(self._follower.told)
        except (EmstreamError, OSError) as error:  # being written, or on a mount that went: it may come back
            self.told.setText(f"waiting: {error}")
