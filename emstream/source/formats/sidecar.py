"""What lies beside a movie: Direct Electron's _info.txt and SerialEM's .mdoc."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emstream.source.formats.units import length_nm, pixel_size

LIMIT = 1 << 20  # bytes of a sidecar that are read


def de_info(path: Path) -> dict[str, Any]:
    """Direct Electron's `<dataset>_info.txt` beside a movie `<dataset>_0_movie.mrc`; {} when there is none.

    Keys, each only when known: frames, pixel_size_nm, fps (stored frames a second), exposure_s, camera, time_s.
    """
    parts = path.stem.split("_")
    for n in range(len(parts), 0, -1):
        text = _read(path.with_name("_".join(parts[:n]) + "_info.txt"))
        if text:
            return _parse_de(text)
    return {}


def _parse_de(text: str) -> dict[str, Any]:
    raw = dict(_pairs(text))
    out: dict[str, Any] = {}
    frames = _number(raw.get("Autosave Movie Frames Written"))
    if frames and frames > 0 and "progress" not in text.casefold():
        out["frames"] = int(frames)
    size = pixel_size(
        length_nm(raw.get("Specimen Pixel Size Y (nanometers)"), "nm"),
        length_nm(raw.get("Specimen Pixel Size X (nanometers)"), "nm"),
    )
    if size:
        out["pixel_size_nm"] = size
    fps, summed = _number(raw.get("Frames Per Second")), _number(raw.get("Autosave Movie Sum Count")) or 1.0
    if fps and fps > 0 and summed > 0:
        out["fps"] = fps / summed  # a stored frame lasts sum / fps
        out["exposure_s"] = summed / fps
    start = _number(raw.get("Timestamp (seconds since Epoch)"))
    if start and start > 0:
        out["time_s"] = start
    if raw.get("Camera Model"):
        out["camera"] = raw["Camera Model"]
    volts = _number(raw.get("Instrument Accelerating Voltage (V)"))
    if volts and volts > 0:
        out["voltage_kv"] = volts / 1000
    return out


def mdoc(path: Path) -> dict[str, Any]:
    """SerialEM's `<movie>.mdoc`: pixel_size_nm, frames, exposure_s, voltage_kv, magnification, each only when known."""
    text = _read(path.with_name(path.name + ".mdoc")) or _read(path.with_suffix(".mdoc"))
    if not text:
        return {}
    raw = dict(_pairs(text))
    out: dict[str, Any] = {}
    nm = length_nm(raw.get("PixelSpacing"), "A")
    if nm:
        out["pixel_size_nm"] = (nm, nm)
    for key, name, factor in (
        ("ExposureTime", "exposure_s", 1.0),
        ("Voltage", "voltage_kv", 1.0),
        ("Magnification", "magnification", 1.0),
        ("NumSubFrames", "frames", 1),
    ):
        value = _number(raw.get(key))
        if value and value > 0:
            out[name] = type(factor)(value * factor)
    return out


def _pairs(text: str) -> list[tuple[str, str]]:
    rows = (line.partition("=") for line in text.splitlines())
    return [(key.strip(), value.strip()) for key, sign, value in rows if sign]


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _read(path: Path) -> str:
    """The text, or "" when there is none (a sidecar is never worth failing for)."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as f:
            return f.read(LIMIT).decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""
