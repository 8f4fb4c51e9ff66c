"""A model on disk: a folder with model.json (architecture, provenance) and weights.safetensors; never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load, save

from emstream.errors import ModelBroken
from emstream.segment.unet import UNet, build, describe

FORMAT = 1
WEIGHTS = "weights.safetensors"
ABOUT = "model.json"


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


def read_model(folder: Path) -> tuple[UNet, dict[str, Any], str]:
    """The network with its weights in float32, what model.json says, and the sha256 of the weights' file.

    raises : ModelBroken
    """
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


def write_model(folder: Path, net: UNet, about: dict[str, Any]) -> str:
    """Write the folder, weights as float16, each file replaced atomically; the sha256 of the weights' file."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{WEIGHTS}.part"
    data = save({k: v.half().contiguous() for k, v in net.state_dict().items()})
    part.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    text = json.dumps(
        {"format": FORMAT, "architecture": describe(net), "sha256": digest, **about},
        indent=1,
    )
    (folder / f"{ABOUT}.part").write_text(text + "\n", encoding="utf-8")
    os.replace(part, folder / WEIGHTS)
    os.replace(folder / f"{ABOUT}.part", folder / ABOUT)
    return digest
