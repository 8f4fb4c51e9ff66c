"""The training loop, on one page. A checkpoint is one safetensors file, replaced atomically; training goes on there."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from emstream.errors import ModelBroken
from emstream.learn import LearnOptions, Progress

KEEP = 0.998  # of the running mean of the weights, per step
CHECKPOINT = "checkpoint.safetensors"
WAY = 1.0  # weight of the way to the middle in the loss
Net = TypeVar("Net", bound=nn.Module)
Loss = Callable[[Tensor, Tensor], Tensor]


class Supply(Protocol):
    """An endless supply of batches: images (n, 1, y, x), and what the loss wants to know of them."""

    def batch(self) -> tuple[Tensor, Tensor]: ...


class Group(Protocol):
    """Several processes that train one network together, each on batches of its own."""

    first: bool  # this one writes the checkpoint and validates

    def average(self, net: nn.Module) -> None:
        """Gradients become their mean over all processes."""
        ...

    def agree(self, share: float) -> float:
        """The largest share of the training done, so that all leave the loop after the same step."""
        ...


def cosine(step: int, share: float) -> float:
    """Learning rate relative to the highest: rises over 100 steps, then falls to 0 as half a cosine."""
    return min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * share))


def fit(
    net: Net,
    crops: Callable[[int], Supply],
    options: LearnOptions,
    folder: Path,
    validate: Callable[[Net], dict[str, Any]],
    progress: Progress | None = None,
    *,
    criterion: Loss | None = None,
    schedule: Callable[[int, float], float] = cosine,
    group: Group | None = None,
) -> Net:
    """Train, and return the running mean of the weights; goes on from `folder`/checkpoint.safetensors if it is there.

    crops    : stream number -> batches; a restart takes another stream
    validate : called with the running mean after each tenth of the training and at its end; given to `progress`
    progress : called once an epoch, after the checkpoint; what it raises ends the training, which can go on later
    criterion: maps, wanted -> one number; `loss` when None
    schedule : step, share done -> learning rate relative to the highest
    group    : the other processes, when there are any
    raises   : ModelBroken (a checkpoint of another network)
    """
    torch.set_num_threads(max(1, options.threads))
    torch.manual_seed(options.seed)
    mean, device = copy.deepcopy(net), next(net.parameters()).device
    optimizer = torch.optim.AdamW(net.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    step, spent = resume(folder, net, mean, optimizer)
    supply, total = crops(step), options.epochs * options.steps_per_epoch
    _channels_last(net.train())
    began, seen, told = time.monotonic() - spent, math.nan, int(10 * done(step, total, spent, options))
    first = group is None or group.first
    while (share := done(step, total, time.monotonic() - began, options, group)) < 1:
        for part in optimizer.param_groups:
            part["lr"] = options.learning_rate * schedule(step, share)
        images, wanted = (x.to(device) for x in supply.batch())
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" or fast_bfloat16()):
            maps = net(images.contiguous(memory_format=torch.channels_last))
        value = (criterion or loss)(maps.float(), wanted)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        if group is not None:
            group.average(net)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        step += 1
        follow(mean, net, min(KEEP, (step + 1) / (step + 10)))
        now = float(value.detach())
        seen = now if math.isnan(seen) else seen + 0.02 * (now - seen)
        if step % options.steps_per_epoch == 0 and first:
            spent = time.monotonic() - began
            checkpoint(folder, net, mean, optimizer, step, spent)
            report: dict[str, Any] = {"step": step, "steps": total, "loss": seen, "seconds": spent}
            if int(10 * share) > told:
                told = int(10 * share)
                report["validation"] = validate(mean.eval())
            if progress is not None:
                progress(report)
    if first:
        checkpoint(folder, net, mean, optimizer, step, time.monotonic() - began)
    return mean.eval()


def loss(maps: Tensor, wanted: Tensor) -> Tensor:
    """maps (n, 4, y, x); wanted (n, 5, y, x), or (n, 3, y, x) where middles are not known; see `learn.targets`.

    The weighted cross-entropy of foreground and depth, Dice of the foreground, and how far beside the particle's middle
    the way to it ends; nothing where the weight is 0.
    """
    foreground, depth, weight = wanted[:, 0], wanted[:, 1], wanted[:, 2]
    entropy = F.binary_cross_entropy_with_logits(maps[:, 0], foreground, weight)
    ridge = F.binary_cross_entropy_with_logits(maps[:, 1], depth, weight)
    p, known = maps[:, 0].sigmoid() * weight.sign(), foreground * weight.sign()
    both, either = (p * known).sum((1, 2)), (p + known).sum((1, 2))
    total = entropy + ridge + (1 - (2 * both + 50) / (either + 50)).mean()
    if wanted.shape[1] < 5:
        return total
    beside = (maps[:, 2:] - wanted[:, 3:]).abs().sum(1) * known
    return total + WAY * (beside.sum((1, 2)) / (known.sum((1, 2)) + 50)).mean()


def _channels_last(net: nn.Module) -> None:
    for p in net.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)


def done(step: int, total: int, seconds: float, options: LearnOptions, group: Group | None = None) -> float:
    """How much of the training is behind, 0..1, by steps or by minutes, whichever is further."""
    share = max(step / max(total, 1), seconds / (60 * options.minutes) if options.minutes else 0.0)
    return share if group is None else group.agree(share)


def follow(mean: nn.Module, net: nn.Module, keep: float) -> None:
    """mean = keep * mean + (1 - keep) * net, weight by weight; what norms learned of the data is the net's."""
    with torch.no_grad():
        for a, b in zip(mean.parameters(), net.parameters(), strict=True):
            a.lerp_(b, 1 - keep)
        for mine, theirs in zip(mean.buffers(), net.buffers(), strict=True):
            mine.copy_(theirs)


def fast_bfloat16() -> bool:
    """True when this CPU multiplies bfloat16 in hardware; elsewhere it is slower than float32."""
    return (
        bool(torch.backends.cpu.get_cpu_capability().startswith("AVX512"))
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def checkpoint(
    folder: Path, net: nn.Module, mean: nn.Module, optimizer: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    """Replace `folder`/checkpoint.safetensors by the state of now."""
    tensors = {f"net.{k}": v.contiguous() for k, v in net.state_dict().items()}
    tensors |= {f"mean.{k}": v.contiguous() for k, v in mean.state_dict().items()}
    for i, kept in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": torch.as_tensor(v).contiguous() for k, v in kept.items()}
    about = {"step": str(step), "seconds": f"{seconds:.1f}"}
    new = folder / f"{CHECKPOINT}.part"
    save_file(tensors, new, metadata=about)
    os.replace(new, folder / CHECKPOINT)


def resume(folder: Path, net: nn.Module, mean: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Steps and seconds that are behind; fills the networks and the optimizer. raises : ModelBroken"""
    path = folder / CHECKPOINT
    if not path.is_file():
        return 0, 0.0
    try:
        with safetensors.safe_open(path, "pt") as f:
            about = f.metadata()
        tensors = load_file(path)
        step, seconds = int(about["step"]), float(about["seconds"])
        for prefix, module in (("net.", net), ("mean.", mean)):
            module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    except (safetensors.SafetensorError, KeyError, RuntimeError, TypeError) as problem:
        raise ModelBroken(f"{path} does not fit this training: {problem}", "start in another folder") from problem
    kept: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, i, name = key.split(".", 2)
            kept.setdefault(int(i), {})[name] = value
    state = optimizer.state_dict()
    optimizer.load_state_dict({"state": kept, "param_groups": state["param_groups"]})
    return step, seconds
