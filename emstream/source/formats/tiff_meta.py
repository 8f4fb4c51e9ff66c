"""What a TIFF's tags tell: pixel size, exposure, how many frames are announced."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from emstream.errors import NotComplete, UnreadableFile
from emstream.messages import PixelSize
from emstream.source.formats import ifd
from emstream.source.formats.files import ByteFile
from emstream.source.formats.units import length_nm, pixel_size

DESCRIPTION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, SOFTWARE, MODEL = 270, 282, 283, 296, 305, 272
DM_X_UNIT, DM_Y_UNIT, DM_X_SCALE, DM_Y_SCALE = 65003, 65004, 65009, 65010
FEI_SFEG, FEI_HELIOS, TVIPS = 34680, 34682, 37706
EER = 65001
LARGEST_NM = 5e3  # coarser resolutions are a screen's or a printer's dots per inch


@dataclass(frozen=True, slots=True)
class TiffMeta:
    """What is known of all pages."""

    pixel_size_nm: PixelSize | None = None
    frames: int | None = None  # announced; a hint
    stacked: int = 0  # frames announced to lie behind one directory (ImageJ, tifffile); 0 = not announced
    meta: Mapping[str, Any] = field(default_factory=dict)


def read_meta(file: ByteFile, kind: ifd.Flavour, page: ifd.Page) -> TiffMeta:
    """Of the first page; damaged tags are passed over, they are not worth a frame."""
    try:
        return _read(file, kind, page)
    except (NotComplete, UnreadableFile):
        return TiffMeta()


def _read(file: ByteFile, kind: ifd.Flavour, page: ifd.Page) -> TiffMeta:
    words = ifd.text(file, page, DESCRIPTION)
    stacked = _stacked(words)
    meta: dict[str, Any] = {}
    for code, name in ((SOFTWARE, "software"), (MODEL, "camera")):
        if value := ifd.text(file, page, code, 1000).strip():
            meta[name] = value
    fei = ifd.text(file, page, FEI_SFEG) or ifd.text(file, page, FEI_HELIOS)
    size = (
        _digital_micrograph(file, kind, page)
        or _tvips(file, kind, page)
        or _fei(fei)
        or _eer(ifd.text(file, page, EER))
        or _ome(words)
        or _image_j(file, kind, page, words)
        or _plain(file, kind, page)
    )
    for pattern, name in ((r"(?im)^finterval=([\d.eE+-]+)", "frame_s"), (r"(?im)^fps=([\d.eE+-]+)", "fps")):
        if (found := re.search(pattern, words)) and (number := _float(found[1])):
            meta[name] = number
    return TiffMeta(size, stacked or None, stacked, meta)


def _stacked(words: str) -> int:
    """Frames announced by ImageJ (`images=`) or tifffile (`{"shape": [n, y, x]}`)."""
    if words.startswith("ImageJ="):
        found = re.search(r"(?m)^images=(\d{1,9})\s*$", words)
        return int(found[1]) if found else 0
    if words.startswith('{"shape":'):
        try:
            shape = json.loads(words).get("shape", [])
        except (ValueError, AttributeError, RecursionError):
            return 0
        if isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and 0 < n < 1 << 40 for n in shape):
            return int(shape[0])
    return 0


def _eer(words: str) -> PixelSize | None:
    """Thermo Fisher's electron event files: `<item name="sensorPixelSize.width" unit="m">5.0E-11</item>`."""
    sizes = []
    for axis in ("height", "width"):
        found = re.search(rf'name="sensorPixelSize\.{axis}"\s+unit="(\w+)"\s*>([^<]+)<', words)
        sizes.append(length_nm(found[2], found[1]) if found else None)
    return pixel_size(*sizes)


def _digital_micrograph(file: ByteFile, kind: ifd.Flavour, page: ifd.Page) -> PixelSize | None:
    if DM_X_SCALE not in page.tags or DM_Y_SCALE not in page.tags:
        return None
    x, y = (ifd.number(file, kind, page, code) for code in (DM_X_SCALE, DM_Y_SCALE))
    unit_x, unit_y = (_latin(file, page, code) for code in (DM_X_UNIT, DM_Y_UNIT))
    return pixel_size(length_nm(y, unit_y), length_nm(x, unit_x))


def _latin(file: ByteFile, page: ifd.Page, code: int) -> str:
    """A short text tag; DigitalMicrograph writes the micro sign in Latin-1."""
    tag = page.tags.get(code)
    if tag is None or tag.nbytes > 64:
        return ""
    raw = file.read_at(tag.at, tag.nbytes).split(b"\0")[0]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _tvips(file: ByteFile, kind: ifd.Flavour, page: ifd.Page) -> PixelSize | None:
    """TVIPS's block, version 2: two float32 pixel sizes in nm, present when the magic says so."""
    if TVIPS not in page.tags:
        return None
    import io
    import struct

    import tifffile

    tag = page.tags[TVIPS]
    data = io.BytesIO(file.read_at(tag.at, tag.nbytes))
    try:
        head = tifffile.tifffile.read_tvips_header(data, kind.order, 7, tag.nbytes, 1)
        return pixel_size(length_nm(head["PixelSizeY"], "nm"), length_nm(head["PixelSizeX"], "nm"))
    except (KeyError, ValueError, TypeError, IndexError, struct.error):
        return None


def _fei(words: str) -> PixelSize | None:
    """PixelWidth and PixelHeight in metres, of Thermo Fisher's settings text."""
    found = {key: re.search(rf"(?im)^Pixel{key}\s*=\s*([\d.eE+-]+)", words) for key in ("Width", "Height")}
    x, y = (_float(m[1]) if m else None for m in (found["Width"], found["Height"]))
    return pixel_size(length_nm(y, "m"), length_nm(x, "m"))


def _ome(words: str) -> PixelSize | None:
    """PhysicalSizeX and -Y of OME-XML; micrometres unless it says otherwise."""
    if "PhysicalSizeX" not in words:
        return None
    sizes = []
    for axis in "YX":
        size = re.search(rf'PhysicalSize{axis}="([^"]+)"', words)
        unit = re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', words)
        sizes.append(length_nm(size[1], unit[1] if unit else "um") if size else None)
    return pixel_size(sizes[0], sizes[1])


def _image_j(file: ByteFile, kind: ifd.Flavour, page: ifd.Page, words: str) -> PixelSize | None:
    """ImageJ writes pixels per unit into the resolution tags and the unit into the description."""
    unit = re.search(r"(?m)^unit=(.+?)\s*$", words) if words.startswith("ImageJ=") else None
    if unit is None:
        return None
    unit_y = re.search(r"(?m)^yunit=(.+?)\s*$", words)
    x, y = (ifd.number(file, kind, page, code) for code in (X_RESOLUTION, Y_RESOLUTION))
    if not x or not y:
        return None
    return pixel_size(length_nm(1 / y, (unit_y or unit)[1]), length_nm(1 / x, unit[1]))


def _plain(file: ByteFile, kind: ifd.Flavour, page: ifd.Page) -> PixelSize | None:
    """Resolution per cm or inch; a screen's or printer's resolution is none of the specimen."""
    x, y = (ifd.number(file, kind, page, code) for code in (X_RESOLUTION, Y_RESOLUTION))
    unit = {2: "inch", 3: "cm"}.get(ifd.number(file, kind, page, RESOLUTION_UNIT, 2))
    if not x or not y or unit is None:
        return None
    size = pixel_size(length_nm(1 / y, unit), length_nm(1 / x, unit))
    return size if size and max(size) < LARGEST_NM else None


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
