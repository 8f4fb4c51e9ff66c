"""How good a segmentation is: overlap, instances found, counts and sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from emstream.learn.data import Picture


def overlap(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """IoU and Dice of two masks or label images, 0..1; both empty = 1."""
    a, b = found > 0, truth > 0
    both, either = int((a & b).sum()), int((a | b).sum())
    return (1.0, 1.0) if either == 0 else (both / either, 2 * both / (both + either))


def matched(found: np.ndarray, truth: np.ndarray, threshold: float = 0.5) -> tuple[int, int, int]:
    """TP, FP, FN of instances; a pair is matched when its IoU > `threshold` >= 0.5, so no particle is matched twice."""
    n, m = int(found.max()), int(truth.max())
    table = np.bincount((truth.astype(np.int64) * (n + 1) + found).ravel(), minlength=(n + 1) * (m + 1))
    table = table.reshape(m + 1, n + 1)
    either = table.sum(1, keepdims=True) + table.sum(0, keepdims=True) - table
    iou = (table / np.maximum(either, 1))[1:, 1:]
    there = (table[1:].sum(1) > 0).sum()
    hits = int((iou > threshold).sum())
    return hits, int((table[:, 1:].sum(0) > 0).sum()) - hits, int(there) - hits


def diameters(labels: np.ndarray) -> np.ndarray:
    """Equivalent diameters of the particles, px."""
    area = np.bincount(labels.ravel())[1:]
    return np.sqrt(4 / np.pi * area[area > 0])


def judge(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """All numbers for one image; `count_error` and `diameter_error` (of the mean) are relative, signed."""
    iou, dice = overlap(found, truth)
    tp, fp, fn = matched(found, truth)
    d, d0 = diameters(found), diameters(truth)
    return {
        "found": len(d),
        "there": len(d0),
        "iou": iou,
        "dice": dice,
        "ap50": tp / (tp + fp + fn) if tp + fp + fn else 1.0,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0,
        "count_error": (len(d) - len(d0)) / max(len(d0), 1),
        "diameter_error": float(d.mean() / d0.mean() - 1) if len(d) and len(d0) else float("nan"),
    }


def score(segment: Callable[[np.ndarray], np.ndarray], pictures: Sequence[Picture]) -> dict[str, Any]:
    """Means over pictures, each judged alone; `bad` = share with an IoU below .3; `best`, `worst` = names by IoU.

    `count_error`, `diameter_error` are means of absolute errors; `count` is the error of all pictures' particles
    together and `diameter` the mean of signed errors.

    segment : (y, x) float32 -> (y, x) int32 labels
    """
    each = [judge(segment(p.image), p.labels) for p in pictures]
    iou = np.array([e["iou"] for e in each])
    sizes = np.array([e["diameter_error"] for e in each])
    order = np.argsort(iou)
    return {
        "pictures": len(each),
        **{k: round(float(np.mean([e[k] for e in each])), 4) for k in ("iou", "dice", "ap50", "f1")},
        "iou_median": round(float(np.median(iou)), 4),
        "bad": round(float((iou < 0.3).mean()), 4),
        "count_error": round(float(np.mean(np.abs([e["count_error"] for e in each]))), 4),
        "count": round(sum(e["found"] for e in each) / max(sum(e["there"] for e in each), 1) - 1, 4),
        "diameter_error": round(float(np.nanmean(np.abs(sizes))) if np.isfinite(sizes).any() else float("nan"), 4),
        "diameter": round(float(np.nanmean(sizes)) if np.isfinite(sizes).any() else float("nan"), 4),
        "best": [pictures[i].name for i in order[::-1][:4]],
        "worst": [pictures[i].name for i in order[:4]],
    }
