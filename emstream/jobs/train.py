"""Training as a dask job: frames are prepared as tasks, candidates trained as tasks; curves come back while they run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emstream.config import Settings
from emstream.errors import BadSettings, JobFailed, SourceMissing
from emstream.jobs.cluster import client, leaving
from emstream.jobs.ranks import together
from emstream.learn import LearnOptions
from emstream.learn import train as learn
from emstream.learn.place import check_out

log = logging.getLogger("emstream.jobs")
TOPIC = "emstream-train"
PATIENCE_S = 90.0  # how long a cancelled training may take to come to its next checkpoint


def train(
    inputs: Sequence[Path],
    out: Path,
    settings: Settings,
    *,
    labels: str = "none",
    recipe: str = "auto",
    cluster: str = "local",
    workers: int = 0,
) -> dict[str, Any]:
    """A model folder, trained on dask from runs, movies or folders of pictures.

    labels  : none, a folder, a file, or the name of a run's labels; see `emstream.learn.labels`
    recipe  : student | supervised | autoencoder, or two of them (a,b) side by side; auto = student without labels, supervised with them
    workers : processes (local) or jobs (slurm); 0 = as many as fit
    returns : the validation numbers of model.json
    raises  : SourceMissing, BadSettings (also where `out` is anything but a model or new), JobFailed (refused by the gate, or a worker was lost)
    """
    options = chosen(settings.learn, recipe, labels)
    for path in inputs:
        if not path.exists():
            raise SourceMissing(f"nothing at {path}", "a run, a movie, or a folder of pictures")
    check_out(out.resolve())
    paths = [p.resolve() for p in inputs]
    where = str(Path(labels).resolve()) if Path(labels).exists() else labels
    stop = out.resolve().with_name(out.name + ".stop")
    stop.unlink(missing_ok=True)
    with client(cluster, workers, settings) as c:
        c.subscribe_topic(TOPIC, _tell)
        allowed = usable(c)
        try:
            return learn(
                options, paths, out.resolve(), labels=where, progress=Told(str(stop)), incumbent=settings.segment.model,
                spread=Tasks(c, allowed), spread_training=Tasks(c, allowed, options.ranks, stop),
            )  # fmt: skip
        finally:
            stop.unlink(missing_ok=True)


def suggest(
    inputs: Sequence[Path], n: int, settings: Settings, *, cluster: str = "local", workers: int = 0
) -> list[dict[str, Any]]:
    """The n frames most worth labelling; see `emstream.learn.suggest`. raises : SourceMissing, BadSettings, JobFailed"""
    from emstream.learn.suggest import suggest as most_worth

    if n < 1:
        raise BadSettings(f"--suggest {n}", "a number of frames")
    for path in inputs:
        if not path.exists():
            raise SourceMissing(f"nothing at {path}", "a run, a movie, or a folder of pictures")
    with client(cluster, workers, settings) as c:
        paths = [p.resolve() for p in inputs]
        return most_worth(settings.learn, paths, n, settings.segment.model, Tasks(c, usable(c)))


def chosen(options: LearnOptions, recipe: str, labels: str) -> LearnOptions:
    """The options with the recipe. raises : BadSettings"""
    from emstream.learn.recipes import check

    if recipe == "auto":
        recipe = "student" if labels == "none" else "supervised"
    options = dataclasses.replace(options, recipe=recipe)
    check(options, labels)
    return options


def usable(c: Any) -> list[str]:
    """Addresses of the workers that training may use: never those that serve a live daemon, which are named so.

    raises : JobFailed
    """
    known = c.scheduler_info(n_workers=-1)["workers"]
    free = [address for address, w in known.items() if not str(w.get("name", "")).startswith("live")]
    if not free:
        raise JobFailed("every worker of this scheduler serves a live daemon", "start others: dask worker ADDRESS")
    return free


@dataclass(frozen=True, slots=True)
class Tasks:
    """`prepare.Spread` on a dask cluster: each call a task, none of them cached; lost ones are done again.

    ranks : a training's processes; more than one: on as many workers at once
    stop  : the file that tells running trainings to leave at their next checkpoint; None for what is short
    """

    client: Any
    workers: list[str]
    ranks: int = 1
    stop: Path | None = None

    def __call__(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        if self.ranks > 1:
            return [together(self.client, function, a, self.workers[: self.ranks]) for a in arguments]
        tasks = [
            self.client.submit(function, *a, workers=self.workers, pure=False, retries=int(self.stop is None))
            for a in arguments
        ]
        try:
            return list(self.client.gather(tasks))
        except KeyboardInterrupt:
            self._leave(tasks)
            raise

    def _leave(self, tasks: Sequence[Any]) -> None:
        """Wait until every training has left a checkpoint, then drop what is left."""
        from distributed import wait

        leaving()
        if self.stop is not None:
            log.warning("interrupted: waiting for the next checkpoint; run the same command again to go on")
            self.stop.touch()
            try:
                wait(tasks, timeout=PATIENCE_S)
            except TimeoutError:
                log.warning("no checkpoint came within %.0f s", PATIENCE_S)
        self.client.cancel(tasks, force=True)


@dataclass(frozen=True, slots=True)
class Told:
    """Progress from a worker: sent to whoever started the job; ends the training when that was interrupted."""

    stop: str

    def __call__(self, values: Mapping[str, Any]) -> None:
        from distributed import get_worker

        get_worker().log_event(TOPIC, dict(values))
        if Path(self.stop).exists():
            raise JobFailed("the training was interrupted", "run the same command again to go on")


def _tell(event: tuple[float, Mapping[str, Any]]) -> None:
    news = dict(event[1])
    news |= {f"validation_{k}": v for k, v in news.pop("validation", {}).items() if k in ("iou", "dice")}
    log.info("training", extra={k: v for k, v in news.items() if isinstance(v, (int, float, str))})
