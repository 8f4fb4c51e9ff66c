"""The aligned frames as one TIFF stack, cropped to what every frame covers, counts untouched."""

from __future__ import annotations

from pathlib import Path

from emstream.export.crop import common
from emstream.store.run import Run


def tif(run: Run, out: Path) -> None:
    """ImageJ-readable where it fits in 4 GB, BigTIFF beyond; pixel size in the resolution tags."""
    import tifffile

    crop = common(run)
    y0, y1, x0, x1 = crop.rect
    nbytes = len(crop.frames) * (y1 - y0) * (x1 - x0) * run.dtype.itemsize
    size = run.pixel_size_nm
    extra = {} if size is None else {"resolution": (1e7 / size[1], 1e7 / size[0]), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(out, bigtiff=nbytes > 3 << 30) as writer:
        for i in crop.frames.tolist():
            writer.write(run.frame(i)[y0:y1, x0:x1], photometric="minisblack", contiguous=True, **extra)
