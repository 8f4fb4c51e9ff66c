"""Several processes train one network: gradients are averaged, the first process writes. torch.distributed underneath."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

TIMEOUT_S = 60.0  # after which a process that hears nothing of the others gives up; the group starts again


class Ranks:
    """This process's place in a group; see `fit.Group`. As a context: joined on entering, left on leaving."""

    def __init__(self, rank: int, size: int, host: str, port: int, timeout_s: float = TIMEOUT_S) -> None:
        self.rank, self.size, self.first = rank, size, rank == 0
        self.where, self.timeout = f"tcp://{host}:{port}", timedelta(seconds=timeout_s)

    def __enter__(self) -> Ranks:
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(
            backend, init_method=self.where, rank=self.rank, world_size=self.size, timeout=self.timeout
        )
        return self

    def __exit__(self, *problem: object) -> None:
        dist.destroy_process_group()

    def average(self, net: nn.Module) -> None:
        """Gradients become their mean over all processes: one message of them all."""
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat /= self.size
        for g, mean in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
            g.copy_(mean.view_as(g))

    def agree(self, share: float) -> float:
        """The largest share of the training done."""
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        value = torch.tensor([share], dtype=torch.float64, device=device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return float(value)
