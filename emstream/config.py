"""The options of all rooms composed into one `Settings`: defaults < TOML < environment < --set."""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from emstream.align import AlignOptions
from emstream.arrays import ComputeOptions
from emstream.errors import BadSettings
from emstream.learn import LearnOptions
from emstream.measure import MeasureOptions
from emstream.segment import SegmentOptions
from emstream.source import SourceOptions
from emstream.store import StoreOptions
from emstream.view import ViewOptions

SECRETS = ("view.token", "view.webhook")  # a webhook's address holds its key
PREFIX = "EMSTREAM_"  # EMSTREAM_ALIGN__ENABLED=false is align.enabled


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """What is said on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    style: Literal["auto", "tty", "json"] = "auto"  # auto = tty on a terminal, JSON lines elsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """Where offline jobs run, and how their workers are asked for; one worker is one process of one thread."""

    workers: int = 0  # processes (local) or jobs (slurm); 0 = as many as cores, memory and GPUs allow; slurm: 1
    timeout_s: float = 20.0  # how long a scheduler may take to answer
    tls: bool = True  # local, slurm: encrypted with keys that live as long as the job
    tls_ca: str = ""  # certificates and key (PEM) for tls://; empty = one-time keys, or dask's own configuration
    tls_cert: str = ""
    tls_key: str = ""
    memory_gb: float = 0.0  # slurm: of one worker; 0 = what a block needs
    cpus: int = 1  # slurm: of one worker
    gpus: int = 0  # slurm: of one worker; 1 where the partition has GPUs
    partition: str = ""  # slurm; empty, as the two below = jobqueue.slurm.* of dask's configuration, then the site's
    account: str = ""
    walltime: str = ""  # 04:00:00
    adaptive: bool = False  # slurm: between one job and `workers`, by the work that is left
    queue_s: float = 0.0  # slurm: give up when no job starts for so long; 0 = never
    folder: str = "~/.emstream"  # slurm: seen by all nodes: one-time keys and the workers' logs


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting, by room; `origins` tells where each one that is not a default came from."""

    source: SourceOptions = field(default_factory=SourceOptions)
    align: AlignOptions = field(default_factory=AlignOptions)
    store: StoreOptions = field(default_factory=StoreOptions)
    segment: SegmentOptions = field(default_factory=SegmentOptions)
    measure: MeasureOptions = field(default_factory=MeasureOptions)
    learn: LearnOptions = field(default_factory=LearnOptions)
    view: ViewOptions = field(default_factory=ViewOptions)
    compute: ComputeOptions = field(default_factory=ComputeOptions)
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    log: LogOptions = field(default_factory=LogOptions)
    origins: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[str, Any, str]]:
        """(name, value, where it came from) of every setting."""
        for room in rooms():
            options = getattr(self, room)
            for f in dataclasses.fields(options):
                name = f"{room}.{f.name}"
                yield name, getattr(options, f.name), self.origins.get(name, "default")

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values by room, for the run's metadata; secrets stay out."""
        tree = {room: dataclasses.asdict(getattr(self, room)) for room in rooms()}
        for name in SECRETS:
            room, _, key = name.partition(".")
            tree[room].pop(key, None)
        return tree


def rooms() -> dict[str, type]:
    """The rooms that have options, by name."""
    return {f.name: f.default_factory for f in dataclasses.fields(Settings) if f.name != "origins"}  # type: ignore[misc]


def load(path: str | Path | None = None, *, env: Mapping[str, str] | None = None, sets: Sequence[str] = ()) -> Settings:
    """Settings from all places, validated; every mistake is told at once.

    path   : TOML file with one table per room
    env    : EMSTREAM_ROOM__KEY=value; the process's environment when None
    sets   : "room.key=value"
    raises : BadSettings with one problem per mistake
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, value, origin in _given(path, os.environ if env is None else env, sets):
        values[name] = value
        origins[name] = origin
    problems = [p for name in values if (p := _unknown(name, origins[name]))]
    known = {name: v for name, v in values.items() if not _unknown(name, origins[name])}
    made: dict[str, Any] = {}
    for room, kind in rooms().items():
        chosen = {name.partition(".")[2]: v for name, v in known.items() if name.partition(".")[0] == room}
        made[room], wrong = _validated(kind, chosen, room, origins)
        problems += wrong
    if problems:
        raise BadSettings("; ".join(problems), problems=tuple(problems))
    return Settings(**made, origins=origins)


def _given(path: str | Path | None, env: Mapping[str, str], sets: Sequence[str]) -> Iterator[tuple[str, Any, str]]:
    """(room.key, raw value, origin) in order of precedence, weakest first."""
    if path is not None:
        yield from _from_toml(Path(path))
    for key, value in sorted(env.items()):
        room, double, name = key.removeprefix(PREFIX).partition("__")
        if key.startswith(PREFIX) and double:
            yield f"{room.lower()}.{name.lower()}", value, key
    for item in sets:
        name, equals, value = item.partition("=")
        if not equals or "." not in name:
            raise BadSettings(f"--set {item}: not of the form room.key=value", "for example --set align.enabled=false")
        yield name.strip(), value.strip(), "--set"


def _from_toml(path: Path) -> Iterator[tuple[str, Any, str]]:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise BadSettings(f"no settings file {path}", "check -c") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise BadSettings(f"{path} is not TOML: {err}") from None
    for room, table in tree.items():
        if not isinstance(table, dict):
            raise BadSettings(
                f"{path}: {room} = {table!r} stands outside a table",
                f"write it under [room], e.g. [{next(iter(rooms()))}]",
            )
        for key, value in table.items():
            yield f"{room}.{key}", value, str(path)


def _unknown(name: str, origin: str) -> str:
    """What is wrong with a setting's name, or nothing."""
    room = name.partition(".")[0]
    known = [f"{r}.{f.name}" for r, kind in rooms().items() for f in dataclasses.fields(kind)]
    if name in known:
        return ""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    mates = [k for k in known if k.startswith(room + ".")]
    advice = (
        f"did you mean {near[0]}?"
        if near
        else f"there are {', '.join(mates)}"
        if mates
        else f"rooms are {', '.join(rooms())}"
    )
    return f"{name} (from {origin}): no such setting; {advice}"


def _as_list(value: Any) -> Any:
    """`[0.5, 0.6]` or `0.5,0.6`, as the environment and --set give it, as a list; everything else as it is."""
    if not isinstance(value, str) or not ("," in value or value.startswith("[")):
        return value
    return [part.strip().strip("'\"") for part in value.strip("[] ").split(",") if part.strip()]


def _validated(kind: type, chosen: dict[str, Any], room: str, origins: Mapping[str, str]) -> tuple[Any, list[str]]:
    """The room's options with types checked and strings converted, or what is wrong."""
    if not chosen:
        return kind(), []
    from pydantic import TypeAdapter, ValidationError

    try:
        types = {f.name: str(f.type) for f in dataclasses.fields(kind)}
        listed = {name for name, told in types.items() if "tuple" in told}
        values = {k: _as_list(v) if k in listed else v for k, v in chosen.items()}
        values = {k: [v] if types[k] == "tuple[str, ...]" and isinstance(v, str) else v for k, v in values.items()}
        return TypeAdapter(kind).validate_python(values), []
    except ValidationError as err:
        wrong = []
        for e in err.errors():
            if not e["loc"]:  # a room's own __post_init__ says all of it
                wrong.append(e["msg"].removeprefix("Value error, "))
                continue
            name = f"{room}.{'.'.join(str(p) for p in e['loc'] if isinstance(p, str))}".rstrip(".")
            key = ".".join(name.split(".")[:2])
            wrong.append(f"{key} = {chosen.get(key.partition('.')[2])!r} (from {origins.get(key, '?')}): {e['msg']}")
        return None, wrong
    except BadSettings as err:  # a room's own __post_init__
        return None, [str(err)]
