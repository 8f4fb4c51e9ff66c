"""The aligned frames as one TIFF stack, counts untouched: cropped to what every frame covers, or on a canvas for all."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from emstream.align.resample import place, union
from emstream.errors import BadSettings, EmstreamError
from emstream.export.crop import common
from emstream.store.run import Run

log = logging.getLogger("emstream.export")


def tif(run: Run, out: Path, canvas: Literal["common", "expand"] = "common") -> None:
    """ImageJ-readable where it fits in 4 GB, BigTIFF beyond; pixel size in the resolution tags.

    canvas : common = the region that every frame covers; expand = every pixel of every frame, 0 where a frame covers
             nothing, and OUT.covered.csv with the rectangle that each frame covers. That needs the frames as the
             camera wrote them (store.keep_raw), as a run's aligned frames have lost what drifted out of the picture;
             whole-pixel shifts, frames of the anchor that most frames lie on
    raises : BadSettings, EmstreamError
    """
    if canvas == "common":
        crop = common(run)
        y0, y1, x0, x1 = crop.rect
        frames = (run.frame(i)[y0:y1, x0:x1] for i in crop.frames.tolist())
        _write(run, out, frames, len(crop.frames), (y1 - y0, x1 - x0))
    elif canvas == "expand":
        _expanded(run, out)
    else:
        raise BadSettings(f"canvas {canvas!r}", "use common or expand")


def _expanded(run: Run, out: Path) -> None:
    raw = run.raw
    if raw is None:
        raise EmstreamError(
            f"the run {run.name} does not keep the frames as the camera wrote them",
            "record with --set store.keep_raw=true, or reprocess the camera's files so",
        )
    shifts, anchors = run.column("shift"), run.column("anchor")
    known = np.isfinite(shifts).all(axis=1)
    if not known.any():
        raise EmstreamError(f"the run {run.name} has no frame with a shift")
    anchor = int(np.bincount(anchors[known]).argmax())
    chosen = np.flatnonzero(known & (anchors == anchor))
    if len(chosen) < len(shifts):
        log.warning("frames on other anchors are left out", extra={"frames": len(shifts) - len(chosen)})
    size, corner = union(run.shape, shifts[chosen])
    lines = ["frame,y0,y1,x0,x1"]

    def laid() -> Iterable[np.ndarray]:
        for i in chosen.tolist():
            image, rect = place(np.asarray(raw[i]), (float(shifts[i, 0]), float(shifts[i, 1])), size, corner)
            lines.append(",".join(map(str, (i, *rect))))
            yield image

    _write(run, out, laid(), len(chosen), size)
    out.with_name(f"{out.stem}.covered.csv").write_text("\n".join(lines) + "\n", encoding="utf8")


def _write(run: Run, out: Path, frames: Iterable[np.ndarray], n: int, shape: tuple[int, int]) -> None:
    import tifffile

    nbytes = n * shape[0] * shape[1] * run.dtype.itemsize
    size = run.pixel_size_nm
    extra: dict[str, Any] = (
        {} if size is None else {"resolution": (1e7 / size[1], 1e7 / size[0]), "resolutionunit": "CENTIMETER"}
    )
    with tifffile.TiffWriter(out, bigtiff=nbytes > 3 << 30) as writer:
        for image in frames:
            writer.write(image, photometric="minisblack", contiguous=True, **extra)
