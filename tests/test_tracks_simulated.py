"""The short twin of benchmarks/bench_tracks.py: a coarsening movie through align, segment, measure and link."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
    try:
        return importlib.import_module("bench_tracks")
    finally:
        sys.path.pop()


def test_with_perfect_labels_nothing_is_missed_and_nobody_changes_names(bench: ModuleType) -> None:
    found = bench.run(bench.scene(10.0, 40, 1), "truth")
    assert found["MOTA"] >= 0.999
    assert found["switches / 1000 links"] <= 0.5
    assert found["count error %"] == 0
    assert found["median diameter error %"] < 0.01


def test_with_the_shipped_model_counts_sizes_and_names_hold(bench: ModuleType) -> None:
    found = bench.run(bench.scene(20.0, 6, 1), "default")
    assert found["MOTA"] >= 0.95
    assert found["count error %"] <= 3
    assert found["median diameter error %"] <= 2
