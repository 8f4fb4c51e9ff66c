"""Where frames come from: camera files and folders, watched while they grow, or archived runs replayed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from emstream.errors import BadSettings

Group = Literal["auto", "folder", "file", "all"]

# Names that writers use for what is not finished yet, and what systems leave lying about.
IGNORED_NAMES = (
    ".*",
    "*~",
    "~*",
    "*.tmp",
    "*.part",
    "*.partial",
    "*.filepart",
    "*.crdownload",
    "*downloading",
    "*.lock",
    "Thumbs.db",
    "desktop.ini",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How camera files are found, recognised and read."""

    settle_s: float = 1.0  # a file that did not change for this long is taken as quiet: its last frame is whole
    stuck_s: float = 60.0  # a file that stays incomplete for this long is quarantined as truncated
    reorder_s: float = 1.0  # how long a later frame waits for an earlier one that is not there yet
    format: str = "auto"  # auto, or the short name of one reader: tiff, mrc, dm4, seq, …
    gain: str = ""  # path of the gain reference: corrected = (raw - dark) * gain; used to align, never stored
    dark: str = ""  # path of the dark reference
    defects: str = ""  # path of a defect map (1 = bad) or of a text of rectangles `x y w h`
    pixel_size_nm: float | tuple[float, float] | None = None  # nm per px, (y, x) or both; overrides the file
    select: str = ""  # of Zarr stacks: where axes beside t, y, x are held, c=0,z=3; t=z: z counts the frames
    group: Group = "auto"  # what makes one run
    watch: Literal["auto", "scan"] = "auto"  # scan: do not ask the system for file events
    max_frame_bytes: int = 2 << 30  # a frame that claims more is refused before anything is allocated
    read_ahead_mb: int = 256  # decoded frames that may wait for the loop
    cache: str = ""  # where camera files from URLs are kept; empty: emstream/ in the user's cache folder
    eer_frames: int = 1  # raw EER frames summed into one frame
    ignore: tuple[str, ...] = IGNORED_NAMES  # names (fnmatch) that are never frames

    def __post_init__(self) -> None:
        size = size_given(self)
        if size is not None and not (len(size) == 2 and all(0 < s < float("inf") for s in size)):
            raise BadSettings(f"source.pixel_size_nm = {self.pixel_size_nm}", "nm per px, above 0: one number, or y,x")


def size_given(options: SourceOptions) -> tuple[float, float] | None:
    """(y, x) nm per px that the settings give, one number meaning both; None when they leave it to the file."""
    size = options.pixel_size_nm
    if size is None:
        return None
    return (float(size), float(size)) if isinstance(size, (int, float)) else (float(size[0]), float(size[1]))
