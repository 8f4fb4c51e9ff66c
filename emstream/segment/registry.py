"""Models by name: those shipped with the package and those of a folder, and which one is active. No torch here."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emstream.errors import ModelBroken
from emstream.segment import SHIPPED

WEIGHTS, ABOUT = "weights.safetensors", "model.json"  # what a model folder holds; `segment.model` reads them
ACTIVE, ANSWER = "active.json", "answer.json"  # what is wanted, and what the daemon made of it
FOLDER = Path(".emstream") / "models"  # of an output folder
COPIED = ("*.json", "*.safetensors", "*.npz", "*.png", "*.txt", "*.md", "LICENSE*")
CLASSICAL = "classical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that can be used."""

    name: str
    path: Path | None  # its folder; None for the classical method
    sha256: str = ""  # of the weights
    about: Mapping[str, Any] = field(default_factory=dict)  # model.json
    problem: str = ""  # why it cannot be used

    def check(self, sha256: str = "") -> None:
        """raises : ModelBroken when it cannot be used, or is not the one of that sha256."""
        if self.problem:
            raise ModelBroken(self.problem)
        if sha256 not in ("", self.sha256):
            raise ModelBroken(f"the weights of {self.name} are not those that were activated", "activate it again")

    @property
    def setting(self) -> str:
        """What `segment.model` is for this model."""
        return self.name if self.path is None or self.path.parent == SHIPPED else str(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """The model that somebody wants at work in an output folder."""

    model: str  # its name there
    sha256: str = ""
    at: str = ""  # UTC
    by: str = ""
    stamp: int = 0  # changes with every activation


class Registry:
    """The models of an output folder, kept under OUT/.emstream/models/NAME-SHA8, and the shipped ones.

    A model that is activated is copied there first: what made the labels of a run stays as it was, whatever becomes of
    the folder that it was trained in. Every change is one atomic rename, so that a daemon may look at any time.
    """

    def __init__(self, out: Path | None) -> None:
        self.folder = None if out is None else Path(out) / FOLDER

    def models(self) -> list[Model]:
        """classical, the shipped ones, and those of the folder, by name; broken ones too, with what is wrong."""
        found = [Model(name=CLASSICAL, path=None)]
        for place in (SHIPPED, self.folder):
            if place is not None and place.is_dir():
                found += [look_at(p) for p in sorted(place.iterdir()) if p.is_dir() and not p.name.startswith(".")]
        return found

    def find(self, model: str | Path) -> Model:
        """The model of that name, or of that folder. raises : ModelBroken"""
        for known in self.models():
            if str(model) in (known.name, known.path and known.path.name):
                return known
        if Path(model).is_dir():
            return look_at(Path(model))
        names = ", ".join(m.name for m in self.models())
        raise ModelBroken(f"there is no model {str(model)!r}", f"a model folder, or one of {names}")

    def add(self, model: Model, extra: Mapping[str, bytes] | None = None) -> Model:
        """Copy a model in, whole or not at all; nothing happens to one that is shipped or already here.

        extra  : more files of the copy, by name
        raises : ModelBroken
        """
        model.check()
        assert self.folder is not None
        if model.path is None or model.path.parent in (SHIPPED, self.folder):
            return model
        target = self.folder / f"{model.name}-{model.sha256[:8]}"
        if not look_at(target).problem:
            return look_at(target)
        self.folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".", suffix=".part", dir=self.folder))
        try:
            for pattern in COPIED:
                for file in model.path.glob(pattern):
                    shutil.copy(file, part / file.name)
            for name, data in (extra or {}).items():
                (part / name).write_bytes(data)
            part.chmod(0o755)
            if target.exists():  # a damaged copy
                os.replace(target, part.with_suffix(".old"))
            os.replace(part, target)
        finally:
            for rest in (part, part.with_suffix(".old")):
                shutil.rmtree(rest, ignore_errors=True)
        return look_at(target)

    def activate(self, model: Model, extra: Mapping[str, bytes] | None = None) -> Active:
        """Want a model at work: the daemon on this folder, now or at its next start, takes it. raises : ModelBroken"""
        kept = self.add(model, extra)
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        name = kept.name if kept.path is None else kept.path.name
        wanted = {"model": name, "sha256": kept.sha256, "at": _now(), "by": _who()}
        _replace(self.folder / ACTIVE, wanted)
        return self.active() or Active(model=name)

    def active(self) -> Active | None:
        """What was activated last; None when nothing was, or it cannot be read."""
        told = self._told(ACTIVE)
        if told is None or not isinstance(told.get("model"), str):
            return None
        assert self.folder is not None
        texts = {k: str(told.get(k, "")) for k in ("model", "sha256", "at", "by")}
        return Active(**texts, stamp=self.stamp())

    def stamp(self) -> int:
        """Changes with every activation; 0 when there was none."""
        try:
            return 0 if self.folder is None else (self.folder / ACTIVE).stat().st_mtime_ns
        except OSError:
            return 0

    def answer(self, **told: Any) -> None:
        """The daemon tells what it made of the activation."""
        if self.folder is not None and self.folder.is_dir():
            _replace(self.folder / ANSWER, {**told, "at": _now()})

    def answered(self) -> dict[str, Any]:
        """What the daemon told last: in_use, sha256, and when it refused a model `refused` and `because`."""
        return self._told(ANSWER) or {}

    def _told(self, name: str) -> dict[str, Any] | None:
        try:
            told = json.loads((self.folder / name).read_bytes()) if self.folder is not None else None
        except (OSError, ValueError):
            return None
        return told if isinstance(told, dict) else None


def look_at(folder: Path) -> Model:
    """What lies in a model folder, without loading it; `problem` tells what is wrong at first sight."""
    folder = folder.resolve() if folder.is_symlink() or not folder.is_absolute() else folder
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    except FileNotFoundError as problem:
        missing = Path(str(problem.filename)).name
        return Model(name=folder.name, path=folder, problem=f"{folder} is no model folder: {missing} is missing")
    except (OSError, ValueError) as problem:
        return Model(name=folder.name, path=folder, problem=f"{folder}: {problem}")
    if not isinstance(about, dict):
        return Model(name=folder.name, path=folder, problem=f"{folder / ABOUT} is no model.json")
    wrong = f"{folder / WEIGHTS} is not the file that {ABOUT} was written for"
    problem_ = wrong if about.get("sha256", digest) != digest else ""
    return Model(name=str(about.get("name", folder.name)), path=folder, sha256=digest, about=about, problem=problem_)


def _replace(path: Path, document: Mapping[str, Any]) -> None:
    descriptor, part = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(json.dumps(document, indent=1) + "\n")
    os.chmod(part, 0o644)
    os.replace(part, path)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        return ""
