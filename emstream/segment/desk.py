"""What `emstream models` does: list, show, activate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from emstream.segment import SegmentOptions, load
from emstream.segment.golden import RECORD, record, self_test
from emstream.segment.registry import Model, Registry


def table(out: Path | None) -> list[dict[str, Any]]:
    """One row per model: name, state (active: wanted; in use: by the daemon), sha256, iou, ap50, made, where, problem."""
    registry = Registry(out)
    active, answer = registry.active(), registry.answered()
    wanted = active.model if active else ""
    rows = []
    for model in registry.models():
        known = {model.name, model.path.name if model.path else model.name}
        state = ["active"] * (wanted in known)
        state += ["in use"] * bool(answer.get("in_use") == model.name and answer.get("sha256") == model.sha256)
        if str(answer.get("refused", "")).startswith(f"{wanted}: ") and wanted in known:
            state += [f"refused: {str(answer['refused'])[len(wanted) + 2 :]}"]
        judged = model.about.get("validation", {})
        rows.append(
            {
                "name": model.path.name if model.path else model.name, "state": ", ".join(state) or None,
                "sha256": model.sha256[:8] or None, "iou": judged.get("iou"), "ap50": judged.get("ap50"),
                "made": model.about.get("provenance", {}).get("made"), "path": str(model.path) if model.path else None,
                "problem": model.problem or None,
            }
        )  # fmt: skip
    return rows


def show(name: str, out: Path | None) -> dict[str, Any]:
    """What model.json tells of a model, without long lists. raises : ModelBroken"""
    model = Registry(out).find(name)
    told = {k: v for k, v in model.about.items() if k not in ("format", "sha256", "name")}
    return {
        "name": model.name, "path": str(model.path) if model.path else None, "sha256": model.sha256 or None,
        "problem": model.problem or None, **_flat(told),
    }  # fmt: skip


def activate(name: str, out: Path, options: SegmentOptions, anyway: bool = False) -> dict[str, Any]:
    """Try a model, copy it to the folder of the runs with its golden masks, and want it at work there.

    anyway : also when it finds no golden particles
    raises : ModelBroken; what was active stays so then
    """
    registry = Registry(out)
    model = registry.find(name)
    model.check()
    numbers, golden = _tried(model, options, anyway)
    active = registry.activate(model, {RECORD: golden} if golden else None)
    told = {"active": active.model, "sha256": active.sha256 or None, "in": str(out), "iou": numbers}
    return told | {"next": "the daemon takes it up within seconds; emstream models list OUT shows it"}


def _tried(model: Model, options: SegmentOptions, anyway: bool) -> tuple[dict[str, float], bytes]:
    """Self-test by the library that the daemon uses too. raises : ModelBroken"""
    segmenter = load(replace(options, model=model.setting, judge_every=0))
    numbers = self_test(segmenter, anyway=anyway)
    return numbers, record(segmenter, anyway) if model.path is not None else b""


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested names with dots; lists of more than eight become their length."""
    rows: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            rows |= _flat(value, f"{above}{name}.")
        else:
            rows[above + name] = f"{len(value)} of them" if isinstance(value, list) and len(value) > 8 else value
    return rows
