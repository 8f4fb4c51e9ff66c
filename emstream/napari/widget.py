"""napari's window on a growing run: a path, a button, and a clock."""

from __future__ import annotations

from typing import Any

from emstream.errors import EmstreamError
from emstream.napari.follow import Follower

EVERY_MS = 500


def follow(napari_viewer: Any) -> Any:
    """The widget: give the path of a run (or open one first), press Follow; new frames appear as they are published."""
    from qtpy.QtCore import QTimer
    from qtpy.QtWidgets import QCheckBox, QFileDialog, QFormLayout, QLabel, QLineEdit, QPushButton, QWidget

    from emstream.napari.reader import path_of

    widget = QWidget()
    opened = [p for layer in napari_viewer.layers if (p := path_of(layer)) is not None]
    path, browse, go = QLineEdit(str(opened[0]) if opened else ""), QPushButton("Choose…"), QPushButton("Follow")
    go.setCheckable(True)
    newest, told = QCheckBox("Go to the newest frame"), QLabel("NAME.zarr of a run that is being written")
    newest.setChecked(True)
    told.setWordWrap(True)
    form = QFormLayout(widget)
    form.addRow("Run", path)
    for part in (browse, newest, go, told):
        form.addRow(part)
    clock = QTimer(widget)
    followers: list[Follower] = []  # the one in use

    def choose() -> None:
        found = QFileDialog.getExistingDirectory(widget, "A run: NAME.zarr", path.text())
        if found:
            path.setText(found)

    def start(on: bool) -> None:
        clock.stop()
        if not on:
            return
        try:
            followers[:] = [Follower(path.text().strip(), napari_viewer)]
        except EmstreamError as error:
            told.setText(str(error))
            go.setChecked(False)
            return
        tick()
        clock.start(EVERY_MS)

    def tick() -> None:
        try:
            followers[0].update(newest=newest.isChecked())
            told.setText(followers[0].told)
        except (EmstreamError, OSError) as error:  # being written, or on a mount that went: it may come back
            told.setText(f"waiting: {error}")

    browse.clicked.connect(choose)
    go.toggled.connect(start)
    clock.timeout.connect(tick)
    return widget
