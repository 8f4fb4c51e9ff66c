"""Training as a dask job: one task on a worker that is not the daemon's; its curves come back while it runs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emstream.config import Settings
from emstream.errors import BadSettings, SourceMissing
from emstream.jobs.cluster import client
from emstream.learn import LearnOptions
from emstream.learn import train as learn

log = logging.getLogger("emstream.jobs")
TOPIC = "emstream-train"


def train(
    inputs: Sequence[Path],
    out: Path,
    settings: Settings,
    *,
    labels: str = "none",
    recipe: str = "student",
    cluster: str = "local",
) -> dict[str, Any]:
    """A model folder from folders of labelled pictures, trained on a dask worker.

    labels  : a folder of label pictures with the same names (instances, or masks of 0 and 255)
    recipe  : supervised
    returns : the validation numbers of model.json
    raises  : SourceMissing, BadSettings, JobFailed
    """
    if recipe != "supervised":
        raise BadSettings(f"--recipe {recipe!r} is not known", "use supervised")
    if labels == "none":
        raise BadSettings("--recipe supervised needs --labels", "a folder of label pictures with the same names")
    for path in inputs:
        if not path.exists():
            raise SourceMissing(f"nothing at {path}", "check the path")
    options = dataclasses.replace(settings.learn, recipe=recipe)  # type: ignore[arg-type]
    paths = [str(p.resolve()) for p in inputs]
    where = str(Path(labels).resolve()) if Path(labels).is_dir() else labels
    with client(cluster, 1, settings) as c:
        c.subscribe_topic(TOPIC, _tell)
        task = c.submit(_on_worker, options, paths, str(out.resolve()), where, pure=False, retries=0)
        numbers: dict[str, Any] = task.result()
    return numbers


def _on_worker(options: LearnOptions, inputs: list[str], out: str, labels: str) -> dict[str, Any]:
    from distributed import get_worker

    worker = get_worker()

    def progress(values: Mapping[str, Any]) -> None:
        worker.log_event(TOPIC, dict(values))

    return learn(options, inputs, out, labels=labels, progress=progress)


def _tell(event: tuple[float, Mapping[str, Any]]) -> None:
    log.info("training", extra={k: v for k, v in event[1].items() if isinstance(v, (int, float, str))})
