"""Every promised metric is there from the start, and no label value can grow by mistake."""

from __future__ import annotations

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from emstream.metrics import FRAME_STATES, MILESTONES, STAGES, Metrics

PROMISED = [
    "frames_total",
    "frames_pending",
    "oldest_pending_seconds",
    "stage_seconds_bucket",
    "frame_latency_seconds_bucket",
    "bytes_total",
    "queue_bytes",
    "drift_pixels",
    "drift_speed_nm_per_second",
    "alignment_confidence",
    "alignment_rejected_total",
    "particles",
    "particle_diameter_nm",
    "area_fraction",
    "last_commit_timestamp_seconds",
    "watch_up",
    "watch_missed_hints_total",
    "store_free_bytes",
    "gpu_up",
    "gpu_memory_bytes",
    "gpu_fallback_total",
    "segmentation_backlog_frames",
    "model_info",
    "build_info",
]


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[f"emstream_{name}", tuple(sorted(labels.items()))]


def test_all_promised_metrics_are_there_before_the_first_frame() -> None:
    metrics = Metrics()
    metrics.model("default", "abc")
    metrics.build("0.1.0")
    names = {name for name, _ in samples(metrics)}
    assert not [name for name in PROMISED if f"emstream_{name}" not in names]
    assert "process_resident_memory_bytes" in names


def test_every_label_value_exists_from_the_start() -> None:
    found = samples(Metrics())
    for state in FRAME_STATES:
        assert found["emstream_frames_total", (("state", state),)] == 0
    for stage in STAGES:
        assert found["emstream_stage_seconds_count", (("stage", stage),)] == 0
    for to in MILESTONES:
        assert found["emstream_frame_latency_seconds_count", (("to", to),)] == 0
    assert len(found) < 500


def test_counts_what_it_is_told() -> None:
    metrics = Metrics()
    metrics.frames("committed", 3)
    metrics.bytes("written", 1000)
    metrics.drift((1.5, -2.0), 0.75, 12.0)
    metrics.sizes(9, 0.25, {"0.1": 4.0, "0.5": 5.0, "0.9": 8.0})
    metrics.latency("committed", -0.5)
    with metrics.timed("align", frames=4):
        pass
    assert value(metrics, "frames_total", state="committed") == 3
    assert value(metrics, "bytes_total", direction="written") == 1000
    assert value(metrics, "drift_pixels", axis="x") == -2.0
    assert value(metrics, "drift_speed_nm_per_second") == 12.0
    assert value(metrics, "particle_diameter_nm", quantile="0.9") == 8.0
    assert value(metrics, "frame_latency_seconds_sum", to="committed") == 0
    assert value(metrics, "stage_seconds_count", stage="align") == 4


def test_unknown_is_nan_not_zero() -> None:
    metrics = Metrics()
    assert math.isnan(value(metrics, "particles"))
    metrics.sizes(2, 0.1, {})
    assert math.isnan(value(metrics, "particle_diameter_nm", quantile="0.5"))


def test_a_typing_error_cannot_grow_a_series() -> None:
    with pytest.raises(ValueError, match="committed"):
        Metrics().frames("comitted")
