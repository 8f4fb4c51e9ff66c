"""What changed between two results of one movie: shifts, labels, tables, settings, models. Reads only.

Labels lie on frames that each run moved by its own shifts; they are compared where the camera saw them. Lazily, some
frames of both runs at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emstream.errors import BadSettings, StoreDamaged
from emstream.jobs.diff_told import changed, made_by, models, tables
from emstream.jobs.progress import Progress
from emstream.measure.agreement import Agreement, agree
from emstream.messages import Status
from emstream.store import Run

WORST = 10  # frames that are named
AT_ONCE = 64 << 20  # bytes of labels of one run in a task; at least READ frames
READ = 8  # frames that lie together in a shard


def diff(
    first: str | Path, second: str | Path, *, labels: Sequence[str] = ("particles",), every: int = 1
) -> dict[str, Any]:
    """What changed from the first run to the second; both may be one run, with two sets of labels.

    labels  : name of the labels of both, or of the one and the other
    every   : compare the labels of every so many frames
    returns : {"first", "second", "frames", "shifts", "labels", "tables", "settings", "models", "per_frame"}, see the
              functions below; per_frame holds columns of equal length
    raises  : NotARun, BadSettings (frames of another shape; no such labels), StoreDamaged
    """
    if every < 1 or not 1 <= len(labels) <= 2:
        raise BadSettings(
            f"--every {every}, --labels {','.join(labels)}", "--every 1 or more; --labels NAME or NAME,NAME"
        )
    a, b = Run(first), Run(second)
    names = (labels[0], labels[-1])
    for run, name in zip((a, b), names, strict=True):
        if name not in run.label_names:
            raise BadSettings(f"{run.path} has no labels {name!r}", f"it has {', '.join(run.label_names)}")
    if a.shape != b.shape:
        raise BadSettings(
            f"{a.path} has frames of {_size(a.shape)} px, {b.path} of {_size(b.shape)}",
            "two runs of one movie are compared",
        )
    pairs, by = same_frames(a, b)
    if not len(pairs):
        raise BadSettings(f"{a.path} and {b.path} have no frame in common", "two runs of one movie are compared")
    shifts, moved = _shifts(a, b, pairs)
    told = models(a, names[0]), models(b, names[1])
    agreed, per_frame = _labels(a, b, pairs, names, every)
    return {
        "first": str(a.path),
        "second": str(b.path),
        "frames": {"first": a.n, "second": b.n, "compared": len(pairs), "by": by},
        "shifts": shifts,
        "labels": agreed,
        "tables": tables(a, b, names),
        "settings": changed(made_by(a, names[0]).get("settings"), made_by(b, names[1]).get("settings")),
        "models": [{"first": told[0], "second": told[1]}] if told[0] != told[1] else [],
        "per_frame": {"frame": pairs[:, 0].tolist(), "second_frame": pairs[:, 1].tolist(), **moved, **per_frame},
    }


def same_frames(a: Run, b: Run) -> tuple[np.ndarray, str]:
    """(k, 2) int64: the numbers of the frames that both have; and how they were found.

    By number when the runs are equally long; else by time where that is clear, as of a run from which bad frames were
    left out; else the first ones by number.
    """
    n, m = a.n, b.n
    if n != m:
        ta, tb = a.column("time_s"), b.column("time_s")
        common, i, j = np.intersect1d(ta, tb, assume_unique=False, return_indices=True)
        clear = all(np.isfinite(t).all() and len(np.unique(t)) == len(t) for t in (ta, tb))
        if clear and len(common) >= 0.5 * min(n, m):
            order = np.argsort(i)
            return np.stack([i[order], j[order]], 1), "time"
    k = np.arange(min(n, m))
    return np.stack([k, k], 1), "number"


def _shifts(a: Run, b: Run, pairs: np.ndarray) -> tuple[dict[str, Any], dict[str, list[float | None]]]:
    """How far the shifts differ, beyond where each run put its origin: rms, p95, largest (px), the worst frames.

    Each run is free to choose its anchor: the median difference of all frames of one anchor pair is `offset`, and no error.
    """
    change = b.column("shift")[pairs[:, 1]] - a.column("shift")[pairs[:, 0]]
    anchors = np.stack([a.column("anchor")[pairs[:, 0]], b.column("anchor")[pairs[:, 1]]], 1)
    kinds, kind = np.unique(anchors, axis=0, return_inverse=True)
    kind = kind.ravel()
    known = np.isfinite(change).all(1)
    offsets = np.array(
        [
            np.median(change[known & (kind == k)], 0) if (known & (kind == k)).any() else (0.0, 0.0)
            for k in range(len(kinds))
        ]
    )
    rest = change - offsets[kind]
    far = np.hypot(*rest.T)
    whole_a, whole_b = _whole(a)[pairs[:, 0]], _whole(b)[pairs[:, 1]]
    good = far[known]
    main = int(np.argmax(np.bincount(kind)))
    worst = [k for k in np.argsort(np.where(known, -far, 0.0), kind="stable")[:WORST] if known[k] and far[k] > 0]
    told = {
        "rms_px": _rms(good),
        "rms_y_px": _rms(rest[known, 0]),
        "rms_x_px": _rms(rest[known, 1]),
        "p95_px": float(np.percentile(good, 95)) if len(good) else None,
        "largest_px": float(good.max()) if len(good) else None,
        "offset_px": offsets[main].tolist(),
        "same_whole_shift": float((whole_a == whole_b).all(1).mean()),
        "anchors": [len(np.unique(anchors[:, 0])), len(np.unique(anchors[:, 1]))],
        "worst": [{"frame": int(pairs[k, 0]), "dy": float(rest[k, 0]), "dx": float(rest[k, 1])} for k in worst],
    }
    return told, {"dy": _plain(rest[:, 0]), "dx": _plain(rest[:, 1])}


def _labels(
    a: Run, b: Run, pairs: np.ndarray, names: tuple[str, str], every: int
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Overlap and particles of frames that both have segmented: mean and worst IoU and Dice, what appeared and vanished."""
    done = _segmented(a, names[0])[pairs[:, 0]] & _segmented(b, names[1])[pairs[:, 1]]
    at = np.flatnonzero(done)[::every]
    found = _compared(a, b, pairs[at], names, every)
    iou, dice = (np.array([getattr(f, name) for f in found]) for name in ("iou", "dice"))
    columns: dict[str, list[Any]] = {}
    for name in ("iou", "dice", "old", "new", "appeared", "vanished"):
        column: list[Any] = [None] * len(pairs)
        for k, f in zip(at, found, strict=True):
            column[k] = getattr(f, name)
        columns[{"old": "particles_first", "new": "particles_second"}.get(name, name)] = column
    told: dict[str, Any] = {
        "names": list(names),
        "compared": len(at),
        "segmented_in_one_only": int(_once(a, b, pairs, names)),
    }
    if not found:
        return told, columns
    sums = {
        name: sum(getattr(f, name) for f in found)
        for name in ("both", "either", "old", "new", "paired", "appeared", "vanished")
    }
    order = np.argsort(iou, kind="stable")[:WORST]
    told |= {
        "identical_frames": sum(f.both == f.either and f.old == f.new == f.paired for f in found),
        "iou": sums["both"] / sums["either"] if sums["either"] else 1.0,
        "iou_mean": float(iou.mean()),
        "iou_least": float(iou.min()),
        "dice_mean": float(dice.mean()),
        "particles": [sums["old"], sums["new"]],
        "paired": sums["paired"],
        "appeared": sums["appeared"],
        "vanished": sums["vanished"],
        "worst": [
            {
                "frame": int(pairs[at[k], 0]),
                "iou": found[k].iou,
                "dice": found[k].dice,
                "particles": [found[k].old, found[k].new],
                "appeared": found[k].appeared,
                "vanished": found[k].vanished,
            }
            for k in order
            if found[k].iou < 1 or found[k].appeared or found[k].vanished
        ],
    }
    return told, columns


def _compared(a: Run, b: Run, pairs: np.ndarray, names: tuple[str, str], every: int) -> list[Agreement]:
    """One Agreement a pair, some frames at a time."""
    import dask

    step = max(READ, AT_ONCE // (4 * a.shape[0] * a.shape[1]) // READ * READ) if every < READ else READ
    lazy = [run.labels_of(name, step) for run, name in zip((a, b), names, strict=True)]
    delta = _whole(a)[pairs[:, 0]] - _whole(b)[pairs[:, 1]]
    groups = np.split(np.arange(len(pairs)), np.flatnonzero(np.diff(pairs[:, 0] // step)) + 1) if len(pairs) else []
    found: list[Agreement] = []
    workers = dask.system.CPU_COUNT
    with Progress(a.name) as progress:
        progress.stage("labels", len(pairs))
        for i in range(0, len(groups), workers):
            some = groups[i : i + workers]
            tasks = [
                dask.delayed(_group)(_some(lazy[0], pairs[g, 0]), _some(lazy[1], pairs[g, 1]), delta[g]) for g in some
            ]
            try:
                told = dask.compute(*tasks, scheduler="threads", num_workers=workers)
            except (RuntimeError, ValueError, OSError) as error:  # what the codecs raise for broken bytes
                for k in np.concatenate(some):  # one by one: the damaged one says its name
                    a.label(int(pairs[k, 0]), name=names[0])
                    b.label(int(pairs[k, 1]), name=names[1])
                raise StoreDamaged(f"labels of {a.path} or {b.path}: {error}", "emstream check on both runs") from error
            found += [agreement for part in told for agreement in part]
            progress.advance(sum(map(len, told)))
    return found


def _some(lazy: Any, frames: np.ndarray) -> Any:
    """Frames of a lazy array, one chunk of it where they lie together."""
    low, high = int(frames.min()), int(frames.max()) + 1
    return lazy[low:high] if high - low == len(frames) and (np.diff(frames) == 1).all() else lazy[frames]


def _group(first: np.ndarray, second: np.ndarray, delta: np.ndarray) -> list[Agreement]:
    return [agree(x, y, (int(d[0]), int(d[1]))) for x, y, d in zip(first, second, delta, strict=True)]


def _whole(run: Run) -> np.ndarray:
    """(t, 2) int64: by how many px the stored frames were moved (`align.whole` of each shift)."""
    return np.floor(np.nan_to_num(run.column("shift")) + 0.5).astype(np.int64)


def _segmented(run: Run, name: str) -> np.ndarray:
    """(t,) bool; of further labels every frame is."""
    if name != "particles":
        return np.ones(run.n, bool)
    return (run.column("status") & int(Status.SEGMENTED)) > 0


def _once(a: Run, b: Run, pairs: np.ndarray, names: tuple[str, str]) -> int:
    return int((_segmented(a, names[0])[pairs[:, 0]] != _segmented(b, names[1])[pairs[:, 1]]).sum())


def _rms(values: np.ndarray) -> float | None:
    return float(np.sqrt((values**2).mean())) if len(values) else None


def _plain(values: np.ndarray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
