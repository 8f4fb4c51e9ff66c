"""Archives become runs, block by block, on whatever dask cluster there is.

The work of the live loop is done by the same functions (`pipeline.steps`), over blocks (`pipeline.blocks`), in waves:

    alone    each block by itself: where its frames lie, its keyframe        (jobs.block.find_alone)
    link     keyframes compared with those 1, 2, 4 and 8 before them         (jobs.block.link_blocks)
    place    one robust solution over the links, here: numbers only          (jobs.place)
    finish   each frame's shift with all around it known; moved, segmented,
             measured, written as whole shards                               (jobs.block.finish_blocks)
    tracks   linked in stretches of blocks, and joined                       (jobs.tracks)
    finish   columns, metadata                                               (jobs.finish)

A task holds one block, and returns small numbers. A live run stays causal: none of this is asked while a camera writes.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emstream import __version__
from emstream.config import Settings
from emstream.errors import BadSettings, JobFailed, StoreBusy
from emstream.jobs.block import find_alone, finish_blocks, link_blocks
from emstream.jobs.cluster import client, leaving
from emstream.jobs.files import record
from emstream.jobs.finish import finish
from emstream.jobs.job import Job, frame_bytes, frames_in_a_block, identity, name_of, shared
from emstream.jobs.place import Pair, place
from emstream.jobs.progress import Progress
from emstream.jobs.tracks import link_stretches, name_particles, stitch, unsettled
from emstream.jobs.waves import Hands, Here, Workers
from emstream.segment import load as load_segmenter
from emstream.source.archive import Input, look
from emstream.store.chunks import replace
from emstream.store.finished import write_arrays
from emstream.store.ledger import FOLDER
from emstream.store.lock import take
from emstream.store.names import free_name, safe_name
from emstream.store.reboot import sync_file_system
from emstream.store.run import Run
from emstream.store.shards import read_journal, wrong

log = logging.getLogger("emstream.jobs")
PAIRS = 64  # links in a task
TOLD = 20  # bad frames that an error names


def reprocess(
    inputs: Sequence[str | Path],
    out: Path | None,
    settings: Settings,
    *,
    cluster: str = "local",
    align: str = "again",
    workers: int = 0,
    skip_bad: bool = False,
    labels: str | None = None,
) -> list[dict[str, Any]]:
    """A run under `out` for each input: a run, any OME-Zarr, a plain Zarr array, a camera file or folder.

    cluster  : as `jobs.cluster.client` takes it, or here: in this process
    align    : again = estimate the drift anew; keep = the frames are aligned already and stay where they are
    skip_bad : frames that cannot be read become blank ones instead of an error
    labels   : no new run: one more set of labels of that name for each input, which is a run; `out` is not used
    returns  : one row per input: {"input", "run", "frames", "segmented", "tracks", "bad"}
    raises   : SourceMissing, UnreadableFile, BadSettings, ModelBroken, JobFailed, StoreBusy

    The same call again goes on where an earlier one ended, however it ended.
    """
    if align not in ("again", "keep"):
        raise BadSettings(f"--align {align!r}", "use again or keep")
    if labels is not None:
        align = "keep"
    model = _model(settings)
    kept = align == "keep"
    archives = [look(where, settings.source, moved=kept) for where in inputs]
    jobs = []
    for archive in archives:
        named = _label_job(archive, settings, model, labels) if labels is not None else None
        jobs.append(named or _run_job(archive, Path(out or "."), settings, align, model))
    need = max((4 * job.frames * frame_bytes(job.archive) for job in jobs), default=0) + (700 << 20)
    everyone = Workers(lambda: client(cluster, workers, settings, need_bytes=need))
    with Here() if cluster == "here" else everyone as hands:
        try:
            return [_led(job, hands, skip_bad) for job in jobs]
        except KeyboardInterrupt:
            leaving()
            log.warning("interrupted; what is written is kept: the same command goes on from there")
            raise


def _led(job: Job, hands: Hands, skip_bad: bool) -> dict[str, Any]:
    """One job, from where it stands to its end."""
    work = Path(job.work)
    work.mkdir(parents=True, exist_ok=True)
    lock = take(work / "lock", work)
    try:
        with Progress(job.archive.name) as progress:
            finished = _finished(job)
            if finished is not None:
                return _mended(job, finished, hands, progress)
            bad = _placed(job, hands, progress, skip_bad) if job.estimated else []
            told = _blocks(job, list(range(job.blocks)), hands, progress)
            again = sum(t["again"] for t in told)
            if again:
                log.info("blocks that were written before", extra={"run": job.archive.name, "blocks": again})
            later = [b for k in range(job.blocks) for b in (record(job, k) or {})["bad"]]
            _refuse([b for b in later if b not in bad], skip_bad)  # the first pass told of the others
            tracks = _tracked(job, hands, progress)
            about = {"anchors": json.loads(job.placed.read_bytes())["anchors"]} if job.estimated else {}
            (row,) = hands.run(finish, [(job, about)])
            run = _delivered(job)
    finally:
        os.close(lock)
    shutil.rmtree(work, ignore_errors=True)
    return {"input": job.archive.where, "run": str(run), **row, **tracks, "bad": len(later)}


def _placed(job: Job, hands: Hands, progress: Progress, skip_bad: bool) -> list[list[Any]]:
    """The first pass, the links, the solution; what could not be read."""
    progress.stage("drift", job.n)
    told = hands.run(
        find_alone, [(job, group) for group in job.groups(list(range(job.blocks)), hands.count())],
        lambda group: progress.advance(sum(_length(job, t["block"]) for t in group)),
    )  # fmt: skip
    flat = [t for group in told for t in group]
    bad = [[job.span(t["block"])[0] + i, why] for t in flat for i, why in t["bad"]]
    _refuse(bad, skip_bad)
    if job.placed.is_file():
        return bad

    def measure(asked: list[Pair]) -> list[dict[str, Any]]:
        progress.stage("links", len(asked), "pairs")
        size = max(1, min(PAIRS, -(-len(asked) // (4 * hands.count()))), -(-len(asked) // 2000))
        calls = [(job, asked[i : i + size]) for i in range(0, len(asked), size)]
        found = hands.run(link_blocks, calls, lambda links: progress.advance(min(size, len(asked))))
        return [link for group in found for link in group]

    place(job, flat, measure)
    return bad


def _blocks(job: Job, blocks: list[int], hands: Hands, progress: Progress) -> list[dict[str, Any]]:
    progress.stage("frames", sum(_length(job, k) for k in blocks))
    told = hands.run(
        finish_blocks, [(job, group) for group in job.groups(blocks, hands.count())],
        lambda group: progress.advance(sum(t["frames"] for t in group)),
    )  # fmt: skip
    return [t for group in told for t in group]


def _tracked(job: Job, hands: Hands, progress: Progress) -> dict[str, Any]:
    """The tables of particles, tracks and events."""
    write_arrays(Path(job.run), job.layout, job.n, None if job.labels == "particles" else job.labels)
    stretches = list(range(len(job.stretches)))
    progress.stage("tracks", job.n)
    hands.run(
        link_stretches, [(job, some) for some in shared(stretches, hands.count())],
        lambda group: progress.advance(sum(t["frames"] for t in group)),
    )  # fmt: skip
    while wrong_ones := unsettled(job):
        log.info("stretches are linked again", extra={"run": job.archive.name, "stretches": len(wrong_ones)})
        hands.run(link_stretches, [(job, [s], True) for s in wrong_ones])
    (told,) = hands.run(stitch, [(job,)])
    size = max(1, -(-len(stretches) // hands.count()))  # they take milliseconds
    hands.run(name_particles, [(job, stretches[i : i + size]) for i in range(0, len(stretches), size)])
    return told


def _mended(job: Job, run: Path, hands: Hands, progress: Progress) -> dict[str, Any]:
    """A run that this very job made before: verified, and what is damaged of it written again."""
    folder = run / "tables" if job.labels == "particles" else run / "tables" / job.labels
    lines = list(read_journal(folder))
    damaged = sorted({int(line["shard"]) for line in lines if wrong(run, line)})
    job = dataclasses.replace(job, run=str(run))
    if damaged:
        log.warning("damaged blocks are made again", extra={"run": run.name, "blocks": len(damaged)})
        if job.estimated:
            _placed(job, hands, progress, skip_bad=True)
        _blocks(job, damaged, hands, progress)
        for line in lines:
            if what := wrong(run, line):
                raise JobFailed(f"{run}/{line['array']}, block {line['shard']}: {what}", "was made by another version")
    shutil.rmtree(job.work, ignore_errors=True)
    row = {"input": job.archive.where, "run": str(run), "frames": job.n, "mended": len(damaged)}
    log.info("made before, and sound" if not damaged else "mended", extra=row)
    return row


def _refuse(bad: Sequence[Sequence[Any]], skip_bad: bool) -> None:
    """raises : JobFailed naming the frames that cannot be read, unless they are to be left out."""
    if not bad:
        return
    if not skip_bad:
        named = "; ".join(str(why) for _, why in bad[:TOLD]) + ("; …" if len(bad) > TOLD else "")
        raise JobFailed(f"{len(bad)} frames cannot be read: {named}", "--skip-bad leaves them blank")
    for frame, why in bad[:TOLD]:
        log.warning("frame left blank", extra={"frame": frame, "reason": why})


# ---- what there is to do -----------------------------------------------------------------------------------------


def _run_job(archive: Input, out: Path, settings: Settings, align: str, model: str) -> Job:
    out = out.resolve()
    what = identity(archive, settings, align, "particles", model, __version__)
    work = out / FOLDER / "jobs" / name_of(what)
    return _noted(
        Job(
            id=name_of(what), archive=archive, settings=settings, frames=frames_in_a_block(archive), out=str(out),
            work=str(work), run=str(work / "run.zarr"), align=align, labels="particles",
        ),
        what,
    )  # fmt: skip


def _label_job(archive: Input, settings: Settings, model: str, labels: str) -> Job:
    """One more set of labels of a run. raises : BadSettings, StoreBusy"""
    if not settings.segment.enabled:
        raise BadSettings("--in-place labels with segment.enabled = false", "there would be no labels")
    if archive.format != "emstream-run" or "://" in archive.where:
        raise BadSettings(f"--in-place labels: {archive.where} is no run on this machine", "give a run: OUT/NAME.zarr")
    if safe_name(labels) != labels or labels == "particles":
        raise BadSettings(f"--in-place labels {labels!r}", "a name of letters and digits, other than particles")
    run = Path(archive.where)
    if Run(run).state == "live":
        raise StoreBusy(f"{run} is still written", "wait until it is closed")
    what = identity(archive, settings, "keep", labels, model, __version__)
    what["stamp"] = []  # the run's own metadata does not change what its frames are
    work = run.parent / FOLDER / "jobs" / name_of(what)
    job = Job(
        id=name_of(what), archive=archive, settings=settings, frames=frames_in_a_block(archive), out=str(run.parent),
        work=str(work), run=str(run), align="keep", labels=labels,
    )  # fmt: skip
    if labels in Run(run).label_names and _maker(run / "labels" / labels) != job.id:
        raise BadSettings(f"{run} has labels {labels!r} already, made otherwise", "choose another name")
    return _noted(job, what)


def _noted(job: Job, what: Mapping[str, Any]) -> Job:
    work = Path(job.work)
    work.mkdir(parents=True, exist_ok=True)
    replace(work / "job.json", json.dumps(what, indent=1, sort_keys=True, default=str).encode())
    return job


def _finished(job: Job) -> Path | None:
    """The run that this job made before, if it did."""
    if job.labels != "particles":
        return Path(job.run) if _maker(Path(job.run) / "labels" / job.labels) == job.id else None
    return next((p for p in sorted(Path(job.out).glob("*.zarr")) if _maker(p) == job.id), None)


def _maker(group: Path) -> str:
    """The job that made a run or labels; "" when none did."""
    try:
        return str(json.loads((group / "zarr.json").read_bytes())["attributes"]["emstream"].get("job", ""))
    except (OSError, ValueError, KeyError):
        return ""


def _delivered(job: Job) -> Path:
    """The run in its place, under a name that is free."""
    if job.settings.store.fsync:
        sync_file_system(Path(job.run))
    if job.labels != "particles":
        return Path(job.run)
    out = Path(job.out)
    while True:
        name = free_name(job.archive.name, {p.name.removesuffix(".zarr") for p in out.glob("*.zarr")})
        try:
            os.rename(job.run, out / f"{name}.zarr")
        except FileExistsError:  # another one was faster
            continue
        except OSError:
            if (out / f"{name}.zarr").exists():
                continue
            raise
        return out / f"{name}.zarr"


def _model(settings: Settings) -> str:
    """Name and checksum of the model. raises : ModelBroken, BadSettings"""
    if not settings.segment.enabled:
        return ""
    segmenter = load_segmenter(settings.segment)
    return f"{segmenter.name}@{segmenter.sha256}"


def _length(job: Job, k: int) -> int:
    start, stop = job.span(k)
    return stop - start
