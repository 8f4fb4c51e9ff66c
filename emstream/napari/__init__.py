"""emstream in napari: runs open as image, labels and tracks, and a growing one is followed. Needs `emstream[napari]`."""

from __future__ import annotations
