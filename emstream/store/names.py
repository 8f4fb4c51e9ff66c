"""Names that are safe as a folder's: a run is called after what the camera wrote, whatever that is."""

from __future__ import annotations

import re
from collections.abc import Collection


def safe_name(name: str) -> str:
    """The name with everything that a file system or a shell could trip over replaced; never empty, at most 100 characters."""
    return re.sub(r"[^\w.+=@-]+", "_", name).strip("._-")[:100] or "run"


def free_name(name: str, taken: Collection[str]) -> str:
    """NAME, or NAME-2, NAME-3 … when that is taken; letters that differ only in case count as equal."""
    name = safe_name(name)
    lower = {t.lower() for t in taken}
    candidate, k = name, 1
    while candidate.lower() in lower:
        k += 1
        candidate = f"{name}-{k}"
    return candidate
