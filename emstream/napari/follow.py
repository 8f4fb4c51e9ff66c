"""A growing run kept up with: what changed since the layers were made, without a window."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from emstream.napari import reader
from emstream.store.run import Run

TABLES_EVERY_S = 2.0  # a run's tables grow about so often


class Follower:
    """Looks at a run and brings a viewer's layers up to date.

    viewer : napari's Viewer, or what has `layers` (by name), `add_image`, `add_labels`, `add_tracks`, `dims.set_point`
    """

    def __init__(self, path: str | Path, viewer: Any) -> None:
        self.run, self.viewer = Run(path), viewer
        self.frames, self.state = 0, ""
        self._tables_at = float("-inf")

    def update(self, *, newest: bool = True) -> bool:
        """Show what the run has now; whether anything was new.

        newest : go to the newest frame when there is one; False: stay where the user looks
        """
        n, state = self.run.n, self.run.state
        grew, changed = n > self.frames, (n, state) != (self.frames, self.state)
        due = time.monotonic() - self._tables_at > TABLES_EVERY_S or state != self.state
        if not n or not (changed or due):
            return False
        if grew:
            self._show(reader.image(self.run), 0)
            self._show(reader.image(self.run, labels=True), 1)
        new_rows = due and self._tracks()
        self.frames, self.state = n, state
        if grew and newest:
            self.viewer.dims.set_point(0, n - 1)
        return grew or new_rows

    @property
    def told(self) -> str:
        """One line for people."""
        n = self.frames
        return f"{self.run.name}: {n} {'frame' if n == 1 else 'frames'}, {self.state or 'waiting'}"

    def _show(self, data: Any, which: int) -> None:
        """The image (0) or the labels (1): new data for the layer, or the layer."""
        name = self.run.name if which == 0 else f"{self.run.name} particles"
        if name in self.viewer.layers:
            self.viewer.layers[name].data = data
        else:
            self._add(which)

    def _tracks(self) -> bool:
        """Whether there were new rows."""
        self._tables_at = time.monotonic()
        vertices, properties = reader.tracks(self.run)
        if not len(vertices):
            return False
        name = f"{self.run.name} tracks"
        if name not in self.viewer.layers:
            self._add(2)
            return True
        layer = self.viewer.layers[name]
        if len(layer.data) == len(vertices):
            return False
        layer.properties = {}  # as many as there were vertices: they would not fit the new ones
        layer.data = vertices
        layer.properties = properties
        return True

    def _add(self, which: int) -> None:
        made = reader.layers(self.run)
        if which < len(made):
            data, keywords, kind = made[which]
            getattr(self.viewer, f"add_{kind}")(data, **keywords)
