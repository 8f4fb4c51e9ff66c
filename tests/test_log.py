"""Log lines for machines and for people; repeated events are calmed."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from emstream.log import Calm, set_up


@pytest.fixture
def restored() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("emstream")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], level, our_level = before
    root.setLevel(level)
    ours.setLevel(our_level)
    logging.captureWarnings(False)


@pytest.mark.usefixtures("restored")
def test_json_lines_carry_event_fields_and_traceback() -> None:
    out = io.StringIO()
    set_up("info", "json", stream=out)
    log = logging.getLogger("emstream.test")
    log.debug("not asked for")
    log.info("frame committed", extra={"run": "a", "frame": 3})
    try:
        raise ValueError("broken header")
    except ValueError:
        log.exception("file quarantined")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert (first["event"], first["run"], first["frame"], first["level"]) == ("frame committed", "a", 3, "info")
    assert first["ts"].endswith("Z")
    assert "broken header" in second["error"]


@pytest.mark.usefixtures("restored")
def test_people_read_key_value_lines() -> None:
    out = io.StringIO()
    set_up("warning", "tty", stream=out)
    logging.getLogger("emstream").warning("disk fills", extra={"path": "a b", "left": 0.123456})
    line = out.getvalue()
    assert 'disk fills  path="a b"  left=0.1235' in line
    assert "warning" in line


@pytest.mark.usefixtures("restored")
def test_setting_up_twice_prints_once() -> None:
    out = io.StringIO()
    set_up("info", "json", stream=io.StringIO())
    set_up("info", "json", stream=out)
    logging.getLogger("emstream").info("once")
    assert len(out.getvalue().splitlines()) == 1


def test_a_flood_of_one_event_is_cut_and_counted_while_others_pass() -> None:
    now = [0.0]
    calm = Calm(burst=3, per_s=10, clock=lambda: now[0])

    def record(event: str, name: int) -> logging.LogRecord:
        return logging.LogRecord("emstream", logging.INFO, "", 0, event, (name,), None)

    passed = [calm.filter(record("file %s quarantined", i)) for i in range(100)]
    assert sum(passed) == 3
    assert calm.filter(record("file %s seen", 1))
    now[0] = 11.0
    late = record("file %s quarantined", 7)
    assert calm.filter(late)
    assert vars(late)["left_out"] == 97


@pytest.mark.usefixtures("restored")
def test_lines_go_where_stderr_leads_when_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A progress bar takes the place of stderr, so that lines appear above it and not in it."""
    set_up("info", "tty")
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    logging.getLogger("emstream.test").warning("the cluster was lost")
    assert "the cluster was lost" in out.getvalue()
