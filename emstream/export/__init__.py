"""A run leaves the house: a movie cropped to what every frame covers, tables, a report with plots, a stack."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from emstream.errors import BadSettings, EmstreamError

KINDS = {  # suffix → room, function
    ".mp4": ("movie", "mp4"),
    ".gif": ("movie", "gif"),
    ".csv": ("tables", "csv"),
    ".parquet": ("tables", "parquet"),
    ".md": ("tables", "words"),
    ".html": ("report", "html"),
    ".htm": ("report", "html"),
    ".tif": ("stack", "tif"),
    ".tiff": ("stack", "tif"),
}

OPTIONS = {"fps": (".mp4", ".gif"), "canvas": (".tif", ".tiff"), "table": (".csv", ".parquet")}


def export(run_path: str | Path, out_path: str | Path, **options: Any) -> Path:
    """Write a run as what the suffix of `out_path` says: mp4, gif, csv, parquet, md (the data dictionary), html or tif.

    options : fps (movies): frames a second; canvas (tif): common or expand, see `stack.tif`; table (csv, parquet):
              particles, tracks, events or kinetics
    returns : the file that was written
    raises  : NotARun, BadSettings (unknown suffix; a place in the camera's folder or in the run), EmstreamError (the run
              has no frame, or the place cannot be written)
    """
    from emstream.store.run import Run

    out = Path(out_path)
    if out.suffix.lower() not in KINDS:
        raise BadSettings(f"export cannot write {out.suffix or 'a file without suffix'}", f"use {', '.join(KINDS)}")
    for option, suffixes in OPTIONS.items():
        if option in options and out.suffix.lower() not in suffixes:
            raise BadSettings(f"--{option} for {out.suffix}", f"only {', '.join(suffixes)} have one")
    run = Run(run_path)
    if run.n == 0:
        raise EmstreamError(f"{run_path} holds no frame yet")
    source = Path(str(run.attrs.get("source") or "/nowhere"))
    if out.resolve() == source or (source.is_dir() and out.resolve().is_relative_to(source)):
        raise BadSettings(
            f"{out} would lie among the camera's files, or replace one", "they are only read; another place"
        )
    if out.resolve().is_relative_to(run.path.resolve()):
        raise BadSettings(f"{out} would lie in the run itself", "another place")
    room, function = KINDS[out.suffix.lower()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        getattr(import_module(f"emstream.export.{room}"), function)(run, out, **options)
    except OSError as err:
        raise EmstreamError(f"{out} cannot be written: {err.strerror or err}", "choose another place") from None
    return out
