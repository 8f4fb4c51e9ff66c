"""Where a model is made, and where it goes: a folder appears whole or not at all, and none that is no model is ever replaced."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emstream.errors import BadSettings
from emstream.learn import LearnOptions

SHEET = "sheet.png"  # of the crops, in OUT.part
KEY = "key"  # in OUT.part: which training it is of
NOT_DELIVERED = "checkpoint.safetensors"  # eight times the weights, and of no use to anybody once they are made


def check_out(out: Path) -> None:
    """Before anything is done: what lies at OUT, OUT.refused or OUT.part is a model, a training, or nothing.

    raises : BadSettings
    """
    _check(out, "a model", _is_model)
    _check(refused(out), "a model", _is_model)
    _check(part(out), "a training that was cut off", lambda folder: (folder / KEY).is_file())


def _check(path: Path, what: str, is_it: Callable[[Path], bool]) -> None:
    if path.exists() and not (path.is_dir() and (is_it(path) or not any(path.iterdir()))):
        raise BadSettings(f"{path} is there, is not {what}, and would be replaced", "give --out another name")


def _is_model(folder: Path) -> bool:
    return (folder / "model.json").is_file() and not any(p.is_dir() for p in folder.iterdir())


def part(out: Path) -> Path:
    """OUT.part, where everything is made."""
    return out.with_name(out.name + ".part")


def refused(out: Path) -> Path:
    """OUT.refused, where a student lies that the gate refused."""
    return out.with_name(out.name + ".refused")


def workplace(out: Path, options: LearnOptions, inputs: Sequence[Path], labels: str) -> Path:
    """OUT.part; what an earlier training of the same inputs and settings left there is gone on with, else thrown away.

    raises : BadSettings, when something else than a model or a training would be replaced
    """
    check_out(out)
    work = part(out)
    same = {k: v for k, v in asdict(options).items() if k not in ("epochs", "minutes", "threads")}
    text = json.dumps([same, [str(p) for p in inputs], labels], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    if work.exists() and (not (work / KEY).is_file() or (work / KEY).read_text() != key):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    (work / KEY).write_text(key)
    return work


def deliver(candidate: Path, work: Path, out: Path, about: Mapping[str, Any]) -> None:
    """The model's folder, whole or not at all: built in `work`, then moved to its place; the model there is replaced.

    about  : goes into model.json
    raises : BadSettings, when something came there in the meantime that is no model
    """
    new, old = work / "new", work / "old"
    for rest in (new, old):
        shutil.rmtree(rest, ignore_errors=True)
    shutil.copytree(candidate, new, ignore=shutil.ignore_patterns(NOT_DELIVERED))
    told = json.loads((new / "model.json").read_text(encoding="utf8"))
    (new / "model.json").write_text(json.dumps({**told, **about}, indent=1, default=str) + "\n", encoding="utf8")
    if (work / SHEET).exists():
        shutil.copy(work / SHEET, new / SHEET)
    _check(out, "a model", _is_model)
    if out.exists():
        os.replace(out, old)
    os.replace(new, out)
    shutil.rmtree(old, ignore_errors=True)
