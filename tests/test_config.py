"""Settings: one door, one precedence, every mistake told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from emstream.config import Settings, load
from emstream.errors import BadSettings

EVERYBODY_RELIES_ON = [
    "align.enabled",
    "align.resample",
    "segment.enabled",
    "segment.model",
    "store.keep_raw",
    "store.compressor",
    "source.settle_s",
    "source.format",
    "source.gain",
    "source.dark",
    "source.defects",
    "source.pixel_size_nm",
    "source.group",
    "view.http",
    "view.token",
    "compute.device",
    "compute.batch",
]


def test_defaults_stand_when_nothing_is_given() -> None:
    assert load(env={}) == Settings()


@pytest.mark.parametrize("name", EVERYBODY_RELIES_ON)
def test_a_setting_that_others_rely_on_exists(name: str) -> None:
    assert name in [n for n, _, _ in Settings().rows()]


def test_set_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[compute]\nbatch = 3\nthreads = 1\n[align]\nenabled = false\n")
    settings = load(
        file, env={"EMSTREAM_COMPUTE__BATCH": "5", "EMSTREAM_ALIGN__ENABLED": "true"}, sets=["compute.batch=7"]
    )
    assert settings.compute.batch == 7
    assert settings.align.enabled is True
    assert settings.compute.threads == 1
    origins = {name: origin for name, _, origin in settings.rows()}
    assert origins["compute.batch"] == "--set"
    assert origins["align.enabled"] == "EMSTREAM_ALIGN__ENABLED"
    assert origins["compute.threads"] == str(file)
    assert origins["store.keep_raw"] == "default"


def test_every_mistake_is_named_with_where_it_came_from() -> None:
    with pytest.raises(BadSettings) as caught:
        load(env={"EMSTREAM_COMPUTE__BATCH": "many"}, sets=["align.no_such_setting=1", "align.resample=sinc"])
    problems = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    assert "compute.batch = 'many' (from EMSTREAM_COMPUTE__BATCH)" in problems
    assert "align.no_such_setting (from --set): no such setting" in problems
    assert "'fourier'" in problems


def test_a_misspelt_setting_gets_the_right_one_proposed() -> None:
    with pytest.raises(BadSettings, match=r"did you mean source\.settle_s"):
        load(env={}, sets=["source.setle_s=2"])


@pytest.mark.parametrize("text", ["not toml [", "stray = 1\n"])
def test_a_file_that_is_no_settings_file_is_refused_by_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(BadSettings, match=r"bad\.toml"):
        load(file, env={})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="nowhere"):
        load(tmp_path / "nowhere.toml", env={})


@pytest.mark.parametrize(("text", "value"), [("0.5", 0.5), ("[0.5, 0.6]", (0.5, 0.6)), ("0.5,0.6", (0.5, 0.6))])
def test_a_pixel_size_is_one_number_or_two(text: str, value: object) -> None:
    assert load(env={}, sets=[f"source.pixel_size_nm={text}"]).source.pixel_size_nm == value


def test_the_token_is_never_stored_with_a_run() -> None:
    assert "token" not in load(env={}, sets=["view.token=secret"]).as_dict()["view"]


def test_the_commented_settings_file_says_what_the_defaults_are() -> None:
    file = Path(__file__).parents[1] / "deploy" / "emstream.toml"
    settings = load(file, env={})
    for room in ("source", "align", "store", "segment", "measure", "learn", "view", "compute", "log"):
        assert getattr(settings, room) == getattr(Settings(), room), room
    named = {line.lstrip("# ").split(" =")[0] for line in file.read_text().splitlines() if " =" in line}
    assert {name.partition(".")[2] for name, _, _ in Settings().rows()} <= named


def test_what_a_room_refuses_is_said_in_its_own_words() -> None:
    with pytest.raises(BadSettings) as told:
        load(env={}, sets=["source.pixel_size_nm=-1"])
    assert told.value.problems == ("source.pixel_size_nm = -1.0 (nm per px, above 0: one number, or y,x)",)
