"""Simulated coarsening through align, the shipped model, measure and link, against the truth: counts to exponents.

200 particles that ripen (n = 3), wander, touch and become one, under a drifting camera; 300 frames of 512².
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from through import through

from emstream import measure
from emstream.pipeline.steps import linked, measured
from emstream.segment import SegmentOptions
from emstream.simulate import Movie, movie

ROSE = 5.0  # contrast · sqrt(electrons inside): what is fainter nobody can count (A. Rose, J Opt Soc Am 38:196, 1948)
OVERLAP = 0.5  # least intersection over union of a found and a true particle
NEAR = 15  # frames by which a coalescence may be told early: many a segmentation joins two before they touch
STRICT = 5


def scene(dose: float, frames: int, seed: int, wander: float = 0.3) -> Movie:
    """The movie: its truth is exact, its exponent 3 from the first frame."""
    return movie(
        frames, (512, 512), dose=dose, particles=200, diameter=(4, 24), ripe=True, coarsen=3.0, exponent=3.0,
        wander=wander, coalesce=True, contrast=(0.3, 0.6), drift_per_frame=(0.12, -0.08), jitter=0.3, seed=seed,
    )  # fmt: skip


@dataclass
class Score:
    """What is counted over the movie."""

    true: int = 0
    missed: int = 0
    false: int = 0
    links: int = 0
    switches: int = 0
    counts: list[tuple[int, int]] = field(default_factory=list)
    medians: list[tuple[float, float]] = field(default_factory=list)
    last: dict[int, int] = field(default_factory=dict)
    who: dict[int, Counter] = field(default_factory=dict)
    shown: dict[int, set[int]] = field(default_factory=dict)

    def frame(
        self, i: int, truth: dict[str, np.ndarray], labels: np.ndarray, true_labels: np.ndarray, columns: Any
    ) -> None:
        """One frame: found against true, the faint and those at the border neither asked for nor held against anyone."""
        n, m = int(labels.max()) + 1, int(true_labels.max()) + 1
        shared = np.bincount(labels.ravel().astype(np.int64) * m + true_labels.ravel(), minlength=n * m).reshape(n, m)
        size, true_size = shared.sum(axis=1), shared.sum(axis=0)
        asked = np.zeros(m, bool)
        asked[truth["particle"][truth["asked"]] + 1] = True
        asked &= true_size > 0
        asked[0] = False
        union = size[:, None] + true_size - shared
        found, real = np.nonzero((shared > OVERLAP * union) & (size > 0)[:, None])
        keep = (found > 0) & (real > 0)
        match = dict(zip(found[keep].tolist(), real[keep].tolist()))
        hit = {r for r in match.values() if asked[r]}
        others = shared[:, 1:][:, ~asked[1:]].sum(axis=1)
        wrong = [
            a for a in columns["label"].tolist()
            if a not in match and others[a] < 0.5 * size[a] and not columns["touches_border"][columns["label"] == a][0]
        ]  # fmt: skip
        self.true += int(asked.sum())
        self.missed += int(asked.sum()) - len(hit)
        self.false += len(wrong)
        self.counts.append((len(hit) + len(wrong), int(asked.sum())))
        track = dict(zip(columns["label"].tolist(), columns["track"].tolist()))
        size_of = dict(zip(columns["label"].tolist(), columns["diameter"].tolist()))
        d = [size_of[a] for a, r in match.items() if asked[r]] + [size_of[a] for a in wrong]
        self.medians.append((float(np.median(d)), float(np.median(2 * np.sqrt(true_size[asked] / np.pi)))))
        for a, r in match.items():
            self.who.setdefault(track[a], Counter())[r - 1] += 1
            if asked[r]:
                self.shown.setdefault(r - 1, set()).add(i)
                if r in self.last:
                    self.links += 1
                    self.switches += self.last[r] != track[a]
                self.last[r] = track[a]

    def events(self, told: list[dict[str, Any]], m: Movie, near: int = NEAR) -> tuple[float, float, float, int]:
        """F1, precision and recall of the coalescences, and how many there were to see."""
        owner = {t: c.most_common(1)[0][0] for t, c in self.who.items()}
        happened = [
            (int(e["frame"]), {int(e["particle"]), int(e["other"])}) for e in m.events if e["kind"] == "coalescence"
        ]
        seen = [h for h in happened if h[0] < len(m) - near
                and all(self.shown.get(p, set()) & set(range(h[0] - near, h[0])) for p in h[1])]  # fmt: skip
        mine = [(e["frame"], {owner.get(e["track"], -1), owner.get(e["other_track"], -2)}) for e in told
                if e["kind"] == "coalescence"]  # fmt: skip

        def same(a: tuple[int, set[int]], b: tuple[int, set[int]]) -> bool:
            return abs(a[0] - b[0]) <= near and a[1] == b[1]

        precision = sum(any(same(e, h) for h in happened) for e in mine) / max(len(mine), 1)
        recall = sum(any(same(e, h) for e in mine) for h in seen) / max(len(seen), 1)
        return 2 * precision * recall / max(precision + recall, 1e-9), precision, recall, len(seen)


def truth_of(m: Movie) -> list[dict[str, np.ndarray]]:
    """Of each frame: the particles, and which of them can be asked for: whole in the frame, and not too faint."""
    strength = np.abs(m.contrast) * (1 - m.dome / 3)
    t = m.tracks
    area = np.pi * t["diameter"] ** 2 / 4
    asked = t["inside"] & (strength[t["particle"]] * np.sqrt(m.dose * area) >= ROSE)
    return [
        {"particle": t["particle"][f], "asked": asked[f]}
        for f in (np.flatnonzero(t["frame"] == i) for i in range(len(m)))
    ]


def run(m: Movie, model: str, average: int = 0) -> dict[str, Any]:
    """The movie through the loop's own steps; model = truth takes the true labels in place of the network's."""
    options = SegmentOptions(model=model, average_frames=average)
    together_n = []
    tracks, score, told, rows, truth, spent = measure.start_tracks(), Score(), [], [], truth_of(m), 0.0
    for i, shown in enumerate(through(m, options)):
        aligned, labelled, true_labels, valid = shown.aligned, shown.labelled, shown.truth, shown.aligned.valid
        if model != "truth":
            together_n.append(labelled.averaged)
        start = time.thread_time()
        tracks, found, _ = linked(tracks, i, aligned, labelled, measured(labelled, aligned), m.pixel_size_nm)
        spent += time.thread_time() - start
        inside = np.zeros(m.shape, bool)
        inside[valid[0] : valid[1], valid[2] : valid[3]] = True
        score.frame(i, truth[i], np.where(inside, labelled.labels, 0), true_labels, found.particles)
        told += found.events
        rows.append({n: np.asarray(found.particles[n]) + np.zeros(found.count, np.int64)
                     for n in ("track", "frame", "time_s", "diameter", "touches_border")})  # fmt: skip
    table = {n: np.concatenate([r[n] for r in rows]) for n in rows[0]}
    table["diameter_px"] = table.pop("diameter")
    events = {n: np.array([e[n] for e in told]) for n in ("kind", "track", "other_track", "frame")}
    found_law = measure.study_run(table, events)
    counts, medians = np.array(score.counts, float), np.array(score.medians)
    f1, precision, recall, n_events = score.events(told, m)
    return {
        "count error %": 100 * np.abs(counts[:, 0] / counts[:, 1] - 1).mean(),
        "count bias %": 100 * (counts[:, 0] / counts[:, 1] - 1).mean(),
        "median diameter error %": 100 * np.abs(medians[:, 0] / medians[:, 1] - 1).mean(),
        "diameter bias %": 100 * (medians[:, 0] / medians[:, 1] - 1).mean(),
        "MOTA": 1 - (score.missed + score.false + score.switches) / score.true,
        "missed %": 100 * score.missed / score.true,
        "false %": 100 * score.false / score.true,
        "switches / 1000 links": 1000 * score.switches / max(score.links, 1),
        "coalescence F1": f1,
        "precision": precision,
        "recall": recall,
        "F1 within 5 frames": score.events(told, m, STRICT)[0],
        "coalescences": n_events,
        "exponent": found_law.paths.exponent,
        "± se": found_law.paths.exponent_error,
        "from the mean": found_law.mean.exponent if found_law.mean else float("nan"),
        "radius scatter px": found_law.scatter,
        "frames together": float(np.mean(together_n)) if together_n else 1.0,
        "measure + link ms": 1e3 * spent / len(m),
    }


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--doses", type=float, nargs="+", default=[4.0, 10.0, 20.0])
    parse.add_argument("--models", nargs="+", default=["truth", "default"])
    parse.add_argument("--frames", type=int, default=300)
    parse.add_argument("--seeds", type=int, nargs="+", default=[0])
    parse.add_argument("--average", type=int, default=0, help="segment.average_frames")
    parse.add_argument(
        "--wander", type=float, default=0.3, help="px a particle moves from frame to frame, rms per axis"
    )
    options = parse.parse_args()
    head = False
    for model in options.models:
        for dose in options.doses if model != "truth" else options.doses[:1]:
            for seed in options.seeds:
                result = run(scene(dose, options.frames, seed, options.wander), model, options.average)
                if not head:
                    print("| labels | e/px | seed | " + " | ".join(result) + " |")
                    print("|---" * (len(result) + 3) + "|")
                    head = True
                print(
                    f"| {model} | {dose:g} | {seed} | " + " | ".join(f"{v:.3g}" for v in result.values()) + " |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
