"""A stored run, read: frames, shifts and labels as lazy dask arrays, columns and tables; live runs included."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emstream.errors import FrameOutOfRange, NotARun, StoreDamaged
from emstream.messages import PixelSize

if TYPE_CHECKING:
    import dask.array as da
    import pandas as pd
    import zarr

FRAMES_A_BLOCK = 16  # dask blocks of several chunks: three to four times faster than one task a frame


class Run:
    """The run at a path; it may be growing: every property looks anew.

    raises : NotARun
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            attributes = json.loads((self.path / "zarr.json").read_bytes())["attributes"]
            self._first = json.loads((self.path / "0" / "zarr.json").read_bytes())
        except (OSError, ValueError, KeyError) as error:
            raise NotARun(f"{self.path} is no run of emstream", "emstream info tells what it is") from error
        if "emstream" not in attributes:
            raise NotARun(f"{self.path} is a Zarr group, but no run of emstream", "emstream reprocess makes it one")

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"<Run {self.name}: {self.n} frames of {self.shape[0]} x {self.shape[1]} {self.dtype}, {self.state}>"

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(".zarr")

    @property
    def n(self) -> int:
        """Frames that are published."""
        return int(json.loads((self.path / "0" / "zarr.json").read_bytes())["shape"][0])

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) px of a frame."""
        return int(self._first["shape"][1]), int(self._first["shape"][2])

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self._first["data_type"])

    @property
    def attrs(self) -> Mapping[str, Any]:
        """attributes.emstream: state, settings, models, camera …"""
        attributes: dict[str, Any] = json.loads((self.path / "zarr.json").read_bytes())["attributes"]
        return attributes["emstream"]

    @property
    def state(self) -> str:
        """live, closed or recovered."""
        return str(self.attrs["state"])

    @property
    def pixel_size_nm(self) -> PixelSize | None:
        """(y, x) nm per px; None when unknown."""
        size = self.attrs.get("pixel_size_nm")
        return None if size is None else (float(size[0]), float(size[1]))

    @property
    def models(self) -> list[dict[str, str]]:
        """name and sha256 of the models that made the labels."""
        return list(self.attrs.get("models", []))

    @property
    def levels(self) -> int:
        """How many pyramid levels there are."""
        return sum(1 for p in self.path.iterdir() if p.name.isdigit())

    @property
    def frames(self) -> da.Array:
        """(t, y, x) aligned frames."""
        return self._lazy("0")

    @property
    def raw(self) -> da.Array | None:
        """(t, y, x) frames as the camera wrote them; None when they were not kept."""
        return self._lazy("raw/0") if (self.path / "raw" / "0" / "zarr.json").is_file() else None

    @property
    def labels(self) -> da.Array:
        """(t, y, x) uint32; 0 = background, and everywhere in a frame whose status lacks SEGMENTED."""
        return self._lazy("labels/particles/0")

    @property
    def label_names(self) -> list[str]:
        """The label images: particles, and versions that other models or people made."""
        try:
            told = json.loads((self.path / "labels" / "zarr.json").read_bytes())
        except (OSError, ValueError):
            return []
        return [str(n) for n in told["attributes"]["ome"]["labels"]]

    def labels_of(self, name: str = "particles", block: int = FRAMES_A_BLOCK) -> da.Array:
        """(t, y, x) uint32 of one label image, `block` frames in a chunk of the dask array.

        raises : KeyError
        """
        self._known(name)
        return self._lazy(f"labels/{name}/0", block)

    def about_labels(self, name: str) -> dict[str, Any]:
        """What made a label image: model, sha256, settings …; {} for `particles`, of which `models` tells.

        raises : KeyError
        """
        self._known(name)
        told = json.loads((self.path / "labels" / name / "zarr.json").read_bytes())
        return dict(told["attributes"].get("emstream", {}))

    def pyramid(self, labels: bool = False) -> list[da.Array]:
        """Every level of the frames or the labels, (t, y, x), finest first, all of the same number of frames."""
        n, levels = self.n, range(self.levels)
        return [self._lazy(f"labels/particles/{k}" if labels else str(k))[:n] for k in levels]

    @property
    def shifts(self) -> da.Array:
        """(t, 2) float64: (dy, dx) px."""
        return self._lazy("frames/shift")

    def column(self, name: str) -> np.ndarray:
        """A column of `frames/`, one row for each published frame.

        raises : KeyError
        """
        if not (self.path / "frames" / name / "zarr.json").is_file():
            raise KeyError(f"the run {self.name} has no column {name!r}")
        n = self.n
        return np.asarray(self._array(f"frames/{name}")[:n])

    def cells(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows begin..end of a column: only the pieces that hold them are read.

        raises : KeyError
        """
        if not (self.path / "frames" / name / "zarr.json").is_file():
            raise KeyError(f"the run {self.name} has no column {name!r}")
        return np.asarray(self._array(f"frames/{name}")[begin : min(end, self.n)])

    def table(self, name: str, labels: str = "particles", since: int = 0) -> pd.DataFrame:
        """A table: particles, tracks, events, frames; of another label image with its name.

        since  : of particles, events or frames only the rows of this frame and later ones; earlier parts are not read
        raises : KeyError
        """
        import pandas as pd

        self._known(labels)
        folder = self.path / "tables"
        path = (folder if labels == "particles" else folder / labels) / f"{name}.parquet"
        if not path.exists():
            raise KeyError(f"the run {self.name} has no table {name!r}")
        return pd.read_parquet(path, filters=[("frame", ">=", since)] if since else None)

    def frame(self, i: int, level: int = 0) -> np.ndarray:
        """(y, x) aligned pixels of frame i, at a pyramid level.

        raises : FrameOutOfRange, StoreDamaged
        """
        return self._one(str(level), i)

    def label(self, i: int, level: int = 0, name: str = "particles") -> np.ndarray:
        """(y, x) uint32 labels of frame i, of one label image.

        raises : FrameOutOfRange, StoreDamaged, KeyError
        """
        self._known(name)
        return self._one(f"labels/{name}/{level}", i)

    def _known(self, name: str) -> None:
        if name != "particles" and name not in self.label_names:
            raise KeyError(f"the run {self.name} has no labels {name!r}; it has {', '.join(self.label_names)}")

    def _one(self, array: str, i: int) -> np.ndarray:
        n = self.n
        if not -n <= i < n:
            raise FrameOutOfRange(f"frame {i} of {self.name}, which has {n}")
        try:
            return np.asarray(self._array(array)[i % n])
        except (RuntimeError, ValueError) as error:  # what the codecs raise for broken bytes
            raise StoreDamaged(f"frame {i % n} of {self.path}/{array}: {error}", "emstream check") from error

    def _array(self, path: str) -> zarr.Array:
        import zarr

        found = zarr.open_array(self.path / path, mode="r")
        assert isinstance(found, zarr.Array)
        return found

    def _lazy(self, path: str, block: int = FRAMES_A_BLOCK) -> da.Array:
        import dask.array as da

        n = self.n
        array = self._array(path)
        chunks = (block if array.ndim == 3 else -1, *array.shape[1:])
        return da.from_zarr(array, chunks=chunks)[:n]
