"""What a run tells of itself, compared: tables, settings, models; and a diff as rows for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emstream.store import Run

TABLES = ("particles", "tracks", "events", "kinetics")
# columns whose means are told
SIZES = (
    "diameter_nm", "diameter_px", "area_nm2", "area_px", "density_per_nm2", "density_per_px", "mean_radius_nm",
    "mean_radius_px", "critical_radius_nm", "critical_radius_px", "clustering",
)  # fmt: skip


def tables(a: Run, b: Run, names: tuple[str, str]) -> dict[str, Any]:
    """Rows of each table, mean sizes, events by kind: [first, second]; without reading a table as a whole."""
    told: dict[str, Any] = {}
    for table in TABLES:
        first, second = _table(a, names[0], table), _table(b, names[1], table)
        if first or second:
            told[table] = {key: [first.get(key), second.get(key)] for key in sorted(first.keys() | second.keys())}
    return told


def _table(run: Run, labels: str, table: str) -> dict[str, Any]:
    """rows, mean_COLUMN of sizes, and of events how many of each kind; {} when there is no such table."""
    import pyarrow.compute as pc
    import pyarrow.dataset as pds

    folder = run.path / "tables" if labels == "particles" else run.path / "tables" / labels
    if not (folder / f"{table}.parquet").exists():
        return {}
    stored = pds.dataset(folder / f"{table}.parquet", format="parquet")
    sizes = [c for c in SIZES if c in stored.schema.names]
    kinds = ["kind"] if "kind" in stored.schema.names else []
    rows, sums, counts, each = 0, dict.fromkeys(sizes, 0.0), dict.fromkeys(sizes, 0), dict[str, int]()
    for batch in stored.to_batches(columns=[*sizes, *kinds]):
        rows += batch.num_rows
        for c in sizes:
            known = batch[c].filter(pc.is_finite(batch[c]))  # a kinetics row of a frame without particles has no radius
            sums[c] += float(pc.sum(known).as_py() or 0.0)
            counts[c] += len(known)
        for k in kinds:
            for pair in pc.value_counts(batch[k]).to_pylist():
                each[str(pair["values"])] = each.get(str(pair["values"]), 0) + pair["counts"]
    return {
        "rows": rows,
        **{f"mean_{c.removeprefix('mean_')}": sums[c] / counts[c] for c in sizes if counts[c]},
        **each,
    }


def changed(first: Any, second: Any, name: str = "") -> list[dict[str, Any]]:
    """Settings that differ: {"setting", "first", "second"}; with "only_in" where the other run does not tell them."""
    if isinstance(first, Mapping) or isinstance(second, Mapping):
        a, b = first if isinstance(first, Mapping) else {}, second if isinstance(second, Mapping) else {}
        found = []
        for key in sorted({*a, *b}):
            rows = changed(a.get(key), b.get(key), f"{name}.{key}" if name else str(key))
            if key not in a or key not in b:
                rows = [row | {"only_in": "first" if key in a else "second"} for row in rows]
            found += rows
        return found
    return [] if first == second else [{"setting": name, "first": first, "second": second}]


def made_by(run: Run, name: str) -> Mapping[str, Any]:
    """What made the labels: of the run, or of further labels."""
    return run.attrs if name == "particles" else run.about_labels(name)


def models(run: Run, name: str) -> str:
    """Name and checksum of the models of a run's labels."""
    about = made_by(run, name)
    found = about.get("models") or (
        [{"name": about["model"], "sha256": about.get("sha256")}] if "model" in about else []
    )
    return ", ".join(f"{m.get('name')} {(m.get('sha256') or '')[:12]}".strip() for m in found)


def rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The same for people: one row for each thing that can be compared."""
    frames, shifts, labels = document["frames"], document["shifts"], document["labels"]
    compared = f"{frames['compared']} compared, by {frames['by']}"
    told: list[tuple[Any, ...]] = [
        ("run", Path(document["first"]).name, Path(document["second"]).name, ""),
        ("frames", frames["first"], frames["second"], compared),
        ("anchors", *shifts["anchors"], ""),
    ]
    if shifts["rms_px"] is not None:
        far = f"rms {shifts['rms_px']:.3f} px, p95 {shifts['p95_px']:.3f}, largest {shifts['largest_px']:.3f}"
        told.append(("shifts", "", "", f"{far}; same whole shift {shifts['same_whole_shift']:.1%}"))
    told += [(f"  frame {w['frame']}", "", "", f"{w['dy']:+.3f}, {w['dx']:+.3f} px") for w in shifts["worst"][:3]]
    if not labels["compared"]:
        told.append(("labels", *labels["names"], "no frame is segmented in both"))
    else:
        overlap = f"IoU {labels['iou_mean']:.4f}, least {labels['iou_least']:.4f}; Dice {labels['dice_mean']:.4f}"
        same = f"{labels['identical_frames']} of {labels['compared']} frames identical"
        only = (
            f"; {labels['segmented_in_one_only']} segmented in one run only" if labels["segmented_in_one_only"] else ""
        )
        told.append(("labels", *labels["names"], f"{overlap}; {same}{only}"))
        told.append(("particles", *labels["particles"], f"{labels['paired']} the same, {_gone(labels)}"))
        for w in labels["worst"][:3]:
            told.append((f"  frame {w['frame']}", *w["particles"], f"IoU {w['iou']:.4f}, {_gone(w)}"))
    for table, columns in document["tables"].items():
        told += [(f"{table} {name}", *pair, _percent(*pair)) for name, pair in columns.items()]
    told += [(s["setting"], s["first"], s["second"], "changed") for s in document["settings"] if "only_in" not in s]
    alone = [sum(s.get("only_in") == side for s in document["settings"]) for side in ("first", "second")]
    if any(alone):
        told.append(("other settings", *alone, "told by one run only; --json lists them"))
    told += [("model", m["first"], m["second"], "changed") for m in document["models"]]
    return [dict(zip(("what", "first", "second", "change"), row, strict=True)) for row in told]


def _gone(counts: Mapping[str, Any]) -> str:
    return f"{counts['appeared']} appeared, {counts['vanished']} vanished"


def _percent(first: Any, second: Any) -> str:
    if first is None or second is None:
        return "only in one"
    if first == second:
        return "same"
    return f"{(second - first) / first:+.1%}" if first else ""
