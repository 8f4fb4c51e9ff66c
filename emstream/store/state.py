"""Arrays that the next life goes on from (the drift's state, the tracks), beside the ledger and replaced whole."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from emstream.store.chunks import replace
from emstream.store.ledger import Ledger


def write_state(ledger: Ledger, run: str, name: str, arrays: Mapping[str, np.ndarray], fsync: bool) -> None:
    """Keep arrays of a run under a name; older ones of that name are replaced whole."""
    folder = ledger.folder / "state"
    folder.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    named: dict[str, Any] = {k: np.asarray(v) for k, v in arrays.items()}
    np.savez(buffer, **named)
    replace(folder / f"{run}.{name}.npz", buffer.getvalue(), fsync)


def read_state(ledger: Ledger, run: str, name: str) -> dict[str, np.ndarray] | None:
    """What `write_state` kept of a run; None when there is none."""
    path = ledger.folder / "state" / f"{run}.{name}.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        return {k: stored[k] for k in stored.files}
