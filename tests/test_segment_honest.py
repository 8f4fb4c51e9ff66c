"""Never silently the wrong polarity, and never silently a model that does not fit: both kinds of image, both methods."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from emstream import simulate
from emstream.config import Settings
from emstream.messages import Labelled
from emstream.metrics import Metrics
from emstream.pipeline.models import JUDGED, ModelsInUse
from emstream.segment import SegmentOptions, load, polarity_of
from emstream.segment.exchange import Exchange
from emstream.segment.predict import judge


def frame(polarity: Any, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Bright field (dark particles) or as in HAADF (bright ones), 20 e/px, and where the particles are."""
    movie = simulate.movie(
        1, (320, 320), particles=14, diameter=(24, 44), contrast=(0.35, 0.5), dose=20, polarity=polarity, seed=seed
    )
    return movie.frame(0), movie.labels(0) > 0


@pytest.mark.parametrize("model", ["classical", "default"])
@pytest.mark.parametrize("polarity", ["dark", "bright"])
def test_particles_not_the_film_between_them_are_found_whichever_is_darker(model: str, polarity: str) -> None:
    pixels, truth = frame(polarity)
    labelled = load(SegmentOptions(model=model, judge_every=1), threads=1)(pixels)
    found = labelled.labels > 0
    assert (found & truth).sum() / (found | truth).sum() > 0.6
    if model == "default":
        assert labelled.agreement > 0.6


@pytest.mark.parametrize("polarity", ["dark", "bright"])
def test_metadata_decide_where_the_reader_knows_them_but_never_against_the_user(polarity: str) -> None:
    pixels, truth = frame(polarity)
    told: Any = polarity
    segment = load(SegmentOptions(model="classical"))
    segment.reset(told)
    labels = segment(pixels).labels > 0
    assert (labels & truth).sum() / (labels | truth).sum() > 0.6
    set_by_user = load(SegmentOptions(model="classical", polarity=told))
    set_by_user.reset("bright" if polarity == "dark" else "dark")
    assert np.array_equal(set_by_user(pixels).labels > 0, labels)


@pytest.mark.parametrize("model", ["classical", "default"])
def test_two_detectors_that_record_at_once_are_each_seen_as_if_alone(model: str) -> None:
    movies = [
        simulate.movie(5, (256, 256), particles=14, diameter=(14, 34), dose=20, polarity=side, seed=6 + k)
        for k, side in enumerate(("dark", "bright"))
    ]
    options = SegmentOptions(model=model, judge_every=2)
    alone = []
    for movie in movies:
        one = load(options, threads=1)
        alone.append([one(f) for f in movie.frames])
    both, known = Exchange(load(options, threads=1)), [None, None]
    for i in range(5):
        for k in (0, 1):
            if known[k] is None:
                both.reset()
            else:
                both.memory = known[k]
            seen = both.look(movies[k].frame(i))
            known[k] = both.memory
            both.reset()  # made to labels when another series has its turn
            labelled = seen()
            assert np.array_equal(labelled.labels, alone[k][i].labels)
            assert np.array_equal(labelled.agreement, alone[k][i].agreement, equal_nan=True)


def test_what_was_learned_for_another_model_is_not_handed_to_the_one_at_work() -> None:
    pixels, _ = frame("bright")
    both = Exchange(load(SegmentOptions(model="classical")))
    both.reset("bright")
    first = both(pixels).labels
    kept = both.memory
    both.offer(load(SegmentOptions(model="classical")))
    both(frame("dark")[0])
    both.memory = kept
    assert np.array_equal(both(pixels).labels, first)  # begun anew, with the polarity of the series


def test_what_readers_tell_becomes_a_polarity() -> None:
    assert polarity_of({"signal": "HAADF"}) == "bright"
    assert polarity_of({"detector": "DF-I"}) == "bright"
    assert polarity_of({"signal": "BF-S"}) == "dark"
    assert polarity_of({"signal": "Bright Field"}) == "dark"
    assert polarity_of({"camera": "K3"}) == "auto"
    assert polarity_of({}) == "auto"


def test_a_model_of_the_wrong_polarity_is_told_of_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that takes the film for particles: agreement is low, the page, the log and the metric say so."""
    metrics, events = Metrics(), list[tuple[Any, ...]]()
    models = ModelsInUse(
        tmp_path,
        Settings(segment=SegmentOptions(model="classical", judge_every=1)),
        True,
        metrics,
        lambda *e: events.append(e),
    )

    def see(agreement: float) -> None:
        aligned: Any = SimpleNamespace(frame=SimpleNamespace(time_s=0.0))
        labelled = Labelled(np.zeros((2, 2), np.int32), "classical", "", agreement)
        models.note(SimpleNamespace(run="r", frame=1, aligned=aligned, labelled=labelled))  # type: ignore[arg-type]

    for _ in range(JUDGED):
        see(0.9)
    assert models.fits
    assert not list(models.warnings())
    with caplog.at_level("WARNING"):
        for _ in range(JUDGED):
            see(0.1)
    assert not models.fits
    assert "emstream train" in next(models.warnings())
    assert sum("does not seem to fit" in r.message for r in caplog.records) == 1  # once, not with every frame
    text = metrics.exposition().decode()
    assert "emstream_model_fits 0.0" in text
    assert "emstream_model_agreement 0.1" in text
    for _ in range(JUDGED):
        see(0.9)
    assert models.fits
    models.stop()


def test_agreement_is_low_when_the_network_takes_the_film_for_particles() -> None:
    segment: Any = load(SegmentOptions(judge_every=1), threads=1)
    pixels, truth = frame("dark")
    fits = segment(pixels).agreement
    segment.reset()
    small = segment._working_image(pixels)
    judge(segment.memory, small, 1 - truth.astype(np.float32), None)
    assert segment.memory.agreement < 0.2 < 0.6 < fits
