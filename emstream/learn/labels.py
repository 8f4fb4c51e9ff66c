"""Labels that people drew or other programs made: a run's label store, pictures, COCO, a painted stack from napari."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from emstream.errors import SourceMissing, UnreadableFile
from emstream.learn.data import SUFFIXES
from emstream.learn.material import Material
from emstream.source.formats import open_movie


@dataclass(frozen=True, slots=True)
class Labels:
    """Where labels are. A frame without any drawn pixel counts as not labelled: nobody paints all of a movie."""

    kind: Literal["none", "store", "pictures", "stack", "coco"] = "none"
    where: str = ""

    @property
    def pictures(self) -> bool:
        """Labels come as a folder of pictures, so the images do, too."""
        return self.kind in ("pictures", "coco")

    @classmethod
    def of(cls, labels: str) -> Labels:
        """What `--labels` means: none; a folder of label pictures; a COCO .json; a stack (tif, npy, zarr); or the name of
        a label group inside each run (`particles`, or one that napari wrote beside it).

        raises : SourceMissing
        """
        if labels in ("none", ""):
            return cls()
        path = Path(labels)
        if path.suffix.lower() == ".json" and path.is_file():
            return cls("coco", str(path))
        if path.is_dir() and not _is_zarr(path):
            return cls("pictures", str(path))
        if path.exists():
            return cls("stack", str(path))
        if "/" in labels or path.suffix:
            raise SourceMissing(f"no labels at {labels}", "a folder, a file, or the name of a run's labels")
        return cls("store", labels)

    def frames(self, material: Material) -> tuple[int, ...]:
        """Frames of an input that are labelled. raises : SourceMissing, UnreadableFile"""
        if self.kind == "none":
            return ()
        if self.kind == "pictures":
            return _labelled_pictures(material, Path(self.where))
        if self.kind == "coco":
            known = _coco(self.where)
            return tuple(i for i in material.frames if _stem(material, i) in known)
        return _painted(str(self._stack(material)), material.frames)

    def read(self, material: Material, frame: int) -> np.ndarray | None:
        """(y, x) int32 of one frame, -1 = not known; None when it is not labelled."""
        if self.kind == "none" or frame not in self.frames(material):
            return None
        if self.kind == "pictures":
            return instances(picture(_of_picture(material, frame, Path(self.where))))
        if self.kind == "coco":
            return _filled(_coco(self.where)[_stem(material, frame)])
        with open_movie(self._stack(material)) as stack:
            return instances(np.asarray(stack[frame]))

    def _stack(self, material: Material) -> Path:
        if self.kind == "stack":
            return Path(self.where)
        inside = Path(material.path) / "labels" / self.where
        if not inside.is_dir():
            there = sorted(p.name for p in (Path(material.path) / "labels").glob("*/"))
            raise SourceMissing(
                f"{material.path} has no labels {self.where!r}", f"there are {', '.join(there) or 'none'}"
            )
        return inside


def instances(labels: np.ndarray) -> np.ndarray:
    """Instances int32: a mask of one value (0 and 255, or 0 and 1) is taken apart into its components."""
    labels = labels if labels.ndim == 2 else labels[..., 0]
    if labels.dtype.kind not in "iub":
        if not np.array_equal(labels, np.rint(labels)):
            raise UnreadableFile("labels are whole numbers, these are not", "save them as an integer image")
        labels = labels.astype(np.int64)
    if len(np.unique(labels[labels > 0])) <= 1:
        one = cv2.connectedComponents((labels > 0).view(np.uint8), connectivity=8)[1]
        return np.where(labels < 0, -1, one).astype(np.int32)
    return labels.astype(np.int32)


def picture(path: Path) -> np.ndarray:
    """A label picture as it was saved. raises : UnreadableFile"""
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if labels is None:  # cv2 reads no 32-bit TIFF
        with open_movie(path) as one:
            return np.asarray(one[0])
    return labels


def _is_zarr(path: Path) -> bool:
    return any((path / mark).exists() for mark in ("zarr.json", ".zarray", ".zgroup"))


def _stem(material: Material, frame: int) -> str:
    return Path(material.names[frame]).stem if material.names else str(frame)


def _of_picture(material: Material, frame: int, folder: Path) -> Path:
    stem = _stem(material, frame)
    names = [
        f"{s}{end}"
        for s in (stem, stem.replace("image", "label"), f"{stem}_mask", f"{stem}_labels")
        for end in SUFFIXES
    ]
    if not material.names:  # a movie: 12.png or anything_0012.png
        names += [p.name for p in folder.iterdir() if _number(p.stem) == frame and p.suffix.lower() in SUFFIXES]
    there = [folder / n for n in names if (folder / n).is_file()]
    if not there:
        raise SourceMissing(f"no label picture for {material.frame_name(frame)} in {folder}", f"expected {names[0]}")
    return there[0]


def _number(stem: str) -> int:
    digits = "".join(c if c.isdigit() else " " for c in stem).split()
    return int(digits[-1]) if digits else -1


def _labelled_pictures(material: Material, folder: Path) -> tuple[int, ...]:
    found = []
    for i in material.frames:
        try:
            _of_picture(material, i, folder)
        except SourceMissing:
            continue
        found.append(i)
    if not found:
        raise SourceMissing(
            f"no label picture in {folder} belongs to {material.path}", "the same names as the pictures"
        )
    return tuple(found)


@lru_cache(maxsize=16)
def _painted(path: str, frames: tuple[int, ...]) -> tuple[int, ...]:
    with open_movie(path) as stack:
        n = len(stack)
        return tuple(i for i in frames if i < n and np.asarray(stack[i]).any())


@lru_cache(maxsize=4)
def _coco(path: str) -> Mapping[str, Mapping[str, Any]]:
    """Image stem -> its size and its polygons or run-length masks (Lin et al. 2014). raises : UnreadableFile"""
    try:
        told = json.loads(Path(path).read_text(encoding="utf8"))
        images = {im["id"]: im for im in told["images"]}
        out: dict[str, dict[str, Any]] = {}
        for im in images.values():
            out[Path(im["file_name"]).stem] = {"shape": (int(im["height"]), int(im["width"])), "parts": []}
        for a in told["annotations"]:
            out[Path(images[a["image_id"]]["file_name"]).stem]["parts"].append(a["segmentation"])
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UnreadableFile(
            f"{path} is no COCO file: {problem!r}", "images and annotations with segmentation"
        ) from None
    return out


def _filled(image: Mapping[str, Any]) -> np.ndarray:
    labels = np.zeros(image["shape"], np.int32)
    for number, part in enumerate(image["parts"], start=1):
        if isinstance(part, dict):
            labels[_run_length(part)] = number
        else:
            for polygon in part:
                points = np.rint(np.array(polygon, np.float64).reshape(-1, 2)).astype(np.int32)
                cv2.fillPoly(labels, [points], number)
    return labels


def _run_length(part: Mapping[str, Any]) -> np.ndarray:
    """COCO's uncompressed run lengths, column by column, beginning with background."""
    if isinstance(part["counts"], str):
        raise UnreadableFile(
            "COCO masks with compressed run lengths are not read", "export polygons, or uncompressed RLE"
        )
    height, width = part["size"]
    runs = np.array(part["counts"], np.int64)
    flat = np.repeat(np.arange(len(runs)) % 2, runs).astype(bool)
    return flat.reshape(width, height).T
