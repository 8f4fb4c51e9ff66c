"""A model on disk: a folder with model.json (architecture, provenance) and weights.safetensors; never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch
from safetensors.torch import load, save
from torch import nn

from emstream.errors import ModelBroken
from emstream.segment import autoencoder, unet
from emstream.segment.autoencoder import Autoencoder
from emstream.segment.unet import UNet

FORMAT = 1
WEIGHTS = "weights.safetensors"
ABOUT = "model.json"
Net = TypeVar("Net", bound=nn.Module)


def read_about(folder: Path) -> dict[str, Any]:
    """What model.json says. raises : ModelBroken"""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise ModelBroken(f"{folder} holds no {ABOUT}", "a folder that `emstream train` wrote") from problem
    except (OSError, ValueError) as problem:
        raise ModelBroken(f"{folder / ABOUT} cannot be read: {problem}") from problem
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ModelBroken(f"{folder / ABOUT} is not of format {FORMAT}", "train it anew, or update emstream")
    return about


def kind(folder: Path) -> str:
    """unet or autoencoder, as model.json says. raises : ModelBroken"""
    architecture = read_about(folder).get("architecture")
    return str(architecture.get("kind")) if isinstance(architecture, dict) else "none"


def read_model(folder: Path) -> tuple[UNet, dict[str, Any], str]:
    """The network with its weights in float32, what model.json says, and the sha256 of the weights' file.

    raises : ModelBroken
    """
    return _read(folder, unet.build)


def read_autoencoder(folder: Path) -> tuple[Autoencoder, dict[str, Any], str]:
    """The same of an autoencoder. raises : ModelBroken"""
    return _read(folder, autoencoder.build)


def _read(folder: Path, build: Callable[[dict[str, Any]], Net]) -> tuple[Net, dict[str, Any], str]:
    about = read_about(folder)
    try:
        data = (folder / WEIGHTS).read_bytes()
    except OSError as problem:
        raise ModelBroken(f"{folder / WEIGHTS} cannot be read: {problem}") from problem
    digest = hashlib.sha256(data).hexdigest()
    if about.get("sha256", digest) != digest:
        raise ModelBroken(f"{folder / WEIGHTS} is not the file that {ABOUT} was written for", "copy the folder again")
    try:
        net = build(about["architecture"])
        weights = {k: v.float() for k, v in load(data).items()}
        net.load_state_dict(weights)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as problem:
        raise ModelBroken(f"{folder} does not hold a network that fits: {problem}") from problem
    if not all(bool(torch.isfinite(v).all()) for v in weights.values()):
        raise ModelBroken(f"{folder / WEIGHTS} holds numbers that are not finite")
    return net.eval(), about, digest


def write_model(folder: Path, net: UNet | Autoencoder, about: dict[str, Any]) -> str:
    """Write the folder, weights as float16, each file replaced atomically; the sha256 of the weights' file."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{WEIGHTS}.part"
    data = save({k: v.half().contiguous() for k, v in net.state_dict().items()})
    part.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    described = autoencoder.describe(net) if isinstance(net, Autoencoder) else unet.describe(net)
    text = json.dumps(
        {"format": FORMAT, "architecture": described, "sha256": digest, **about},
        indent=1,
    )
    (folder / f"{ABOUT}.part").write_text(text + "\n", encoding="utf-8")
    os.replace(part, folder / WEIGHTS)
    os.replace(folder / f"{ABOUT}.part", folder / ABOUT)
    return digest
