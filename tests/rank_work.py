"""What the ranks of a test's training group do: in a file of its own, because their processes must be able to import it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np


def trained_together(marker: str, group: Any = None) -> tuple[int, float, list[float], float]:
    """Thirty steps of y = 3 x on data of its own; the second rank fails at its first try."""
    import torch

    if group.rank == 1 and not Path(marker).exists():
        Path(marker).touch()
        raise OSError("the card fell off the bus")
    torch.manual_seed(0)
    net = torch.nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    rng = np.random.default_rng(group.rank)
    for _ in range(30):
        x = torch.from_numpy(rng.normal(size=(16, 1)).astype(np.float32))
        optimizer.zero_grad()
        torch.autograd.backward(((net(x) - 3 * x) ** 2).mean())
        group.average(net)
        optimizer.step()
    return group.size, float(net.weight.detach()), [group.agree(group.rank / 2)], float(group.first)


def vanishes_once(marker: str, group: Any = None) -> int:
    if group.rank == 1 and not Path(marker).exists():
        Path(marker).touch()
        os._exit(9)
    return int(group.size)
