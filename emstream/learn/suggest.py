"""Which frames are most worth a person's time: those where network and classical methods agree least, spread in time."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from emstream.learn import LearnOptions, Spread, prepare
from emstream.learn.lessons import Record
from emstream.learn.prepare import here
from emstream.learn.recipes import model_folder


def suggest(
    options: LearnOptions, inputs: Sequence[Path], n: int, model: str = "default", spread: Spread = here
) -> list[dict[str, Any]]:
    """The n frames most worth labelling, the least sure first: {"input", "frame", "name", "agreement"}.

    model  : whose judgement is asked; where it agrees with the best classical mask, a label would teach little
    raises : SourceMissing, UnreadableFile, ModelBroken
    """
    options = replace(options, recipe="student", validation=0.0)
    seen = prepare.look_over(inputs, "none", options, spread)
    with tempfile.TemporaryDirectory(prefix="emstream-suggest-") as folder:
        records = prepare.teach(seen, model_folder(model), Path(folder), options, spread)
    return [
        {
            "input": seen.materials[r.source].path, "frame": r.frame, "name": r.name,
            "agreement": round(r.agreement, 3),
        }
        for r in spread_out(records, n)
    ]  # fmt: skip


def spread_out(records: Sequence[Record], n: int) -> list[Record]:
    """The n least sure records, no two of a movie nearer in time than half of an even spacing; relaxed when too few are left."""
    span: dict[int, list[int]] = {}
    for r in records:
        span.setdefault(r.source, []).append(r.frame)
    order = sorted(records, key=lambda r: r.agreement)
    share = n * 2.0
    chosen: list[Record] = []
    while len(chosen) < min(n, len(records)):
        for r in order:
            near = (max(span[r.source]) - min(span[r.source])) / share
            if r not in chosen and all(c.source != r.source or abs(c.frame - r.frame) >= near for c in chosen):
                chosen.append(r)
            if len(chosen) == n:
                break
        share *= 2
        if share > 1e6:
            break
    return sorted(chosen, key=lambda r: r.agreement)
