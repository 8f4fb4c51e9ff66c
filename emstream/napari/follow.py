"""A growing run kept up with: what changed since the layers were made, without a window."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from emstream.napari import reader
from emstream.store.run import Run

TABLES_EVERY_S = 2.0  # a run's tables grow about so often


class Follower:
    """Looks at a run and brings a viewer's layers up to date.

    viewer : napari's Viewer, or what has `layers` (by name), `add_image`, `add_labels`, `add_tracks`,
             `dims.set_point`, `scale_bar`
    """

    def __init__(self, path: str | Path, viewer: Any) -> None:
        self.run, self.viewer = Run(path), viewer
        self.frames, self.state = 0, ""
        self._tables_at = float("-inf")
        self._seen: tuple[int, float] = (0, -1.0)

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
            self._show(self.run.name, n, reader.image, reader.image_layer)
            self._labels(n)
        new_rows = due and self._tracks()
        if new_rows and not grew:  # labels follow when the network is behind, also after the last frame came
            self._labels(n)
        if not self.frames:
            self._scale_bar()
        self.frames, self.state = n, state
        if grew and newest:
            self.viewer.dims.set_point(0, n - 1)
        return grew or new_rows

    @property
    def told(self) -> str:
        """One line for people."""
        n = self.frames
        return f"{self.run.name}: {n} {'frame' if n == 1 else 'frames'}, {self.state or 'waiting'}"

    def _show(self, name: str, n: int, data: Callable[..., Any], layer: Callable[..., reader.LayerData]) -> None:
        """The first n frames: new data for the layer, or the layer."""
        if name in self.viewer.layers:
            self.viewer.layers[name].data = data(self.run, n)
        else:
            self._add(layer(self.run, n))

    def _scale_bar(self) -> None:
        """In nm where the layers are."""
        new = hasattr(self.viewer, "canvas")  # napari 0.9
        bar = self.viewer.canvas.overlays.scale_bar if new else self.viewer.scale_bar
        if not new:  # there the layers' own units do not count
            bar.unit = "pixel" if self.run.pixel_size_nm is None else "nm"
        bar.visible = True

    def _labels(self, n: int) -> None:
        self._show(f"{self.run.name} particles", n, partial(reader.image, labels=True), reader.labels_layer)

    def _tracks(self) -> bool:
        """Whether there were new rows."""
        self._tables_at = time.monotonic()
        vertices, properties = reader.tracks(self.run)
        seen = (len(vertices), vertices[:, 1].max(initial=-1))  # of a long run the number stays the same
        if seen == self._seen:
            return False
        self._seen = seen
        name = f"{self.run.name} tracks"
        if name not in self.viewer.layers:
            self._add(reader.tracks_layer(self.run, vertices, properties))
            return True
        layer = self.viewer.layers[name]
        layer.properties = {}  # as many as there were vertices: they would not fit the new ones
        layer.data = vertices
        layer.properties = properties
        return True

    def _add(self, made: reader.LayerData) -> None:
        data, keywords, kind = made
        getattr(self.viewer, f"add_{kind}")(data, **keywords)
