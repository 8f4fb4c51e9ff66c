"""The zarr.json files of a growing run: what readers see of it, each replaced whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emstream.messages import PixelSize
from emstream.store import layout
from emstream.store.chunks import replace
from emstream.store.failpoints import failpoint
from emstream.store.layout import Layout
from emstream.store.versions import versions


class Metadata:
    """Those of one run."""

    def __init__(self, path: Path, of: Layout, name: str, pixel_size_nm: PixelSize | None) -> None:
        self.path, self.layout, self.name, self.pixel_size_nm = path, of, name, pixel_size_nm

    def grow(self, n: int, attrs: Mapping[str, Any] | None = None) -> None:
        """All arrays have n frames; the finest level last, for its length is the run's.

        attrs : of a run that nobody saw before: its groups but the root come before that level
        """
        for name in layout.COLUMNS:
            self._put(f"frames/{name}", self.layout.array(f"frames/{name}", n))
        *others, last = self.layout.images()
        for path in others:
            self._put(path, self.layout.array(path, n))
            failpoint("publish.level")
        if attrs is not None:
            self.put_groups(attrs, but_root=True)
        self._put(last, self.layout.array(last, n))
        failpoint("publish.shape")

    def put_groups(self, attrs: Mapping[str, Any], but_root: bool = False) -> None:
        """What is told of the run as a whole, with its window of grey levels; `attributes.emstream` has the rest."""
        window = attrs["window"]
        told = {
            "format": layout.FORMAT,
            "state": attrs.get("state", "live"),
            "pixel_size_nm": self.pixel_size_nm,
            "time_sampling": "variable; see frames/time_s",
            "models": [],
            "anchors": [],
        }
        told |= {k: v for k, v in attrs.items() if k not in ("window", "layout")}
        if self.pixel_size_nm is None:
            told["note"] = "the pixel size is unknown: lengths are in pixels, whatever the axes' unit says"
        told = json.loads(json.dumps(told, default=str))
        groups = self.layout.groups(self.name, self.pixel_size_nm, told, (window[0], window[1]), versions(self.path))
        for path, document in groups.items():
            if path or not but_root:
                self._put(path, document)

    def _put(self, path: str, document: Mapping[str, Any]) -> None:
        replace(self.path / path / "zarr.json", layout.dumps(document))
