"""A daemon whose model is changed while frames come: nothing is lost, every label tells its model, a bad one is refused."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from test_live import Daemon, start

from emstream import simulate
from emstream.messages import Status
from emstream.segment import SHIPPED, SegmentOptions, desk
from emstream.segment.registry import Registry
from emstream.source.play import play
from emstream.store import Run

__all__ = ["start"]  # the fixture


def model(folder: Path, name: str) -> Path:
    """A copy of the shipped model under another name."""
    shutil.copytree(SHIPPED / "default", folder)
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(about | {"name": name}))
    return folder


def status(daemon: Daemon) -> dict:
    text = daemon.get("/api/status", Authorization="token secret")[1]
    return json.loads(text)


def test_models_are_exchanged_between_two_frames_and_a_broken_one_is_refused(
    start: Callable[..., Daemon], tmp_path: Path
) -> None:
    out, au = tmp_path / "runs", model(tmp_path / "Au", "Au")
    daemon = start(http=True)
    movie = simulate.movie(3000, (192, 192), particles=9, diameter=(14, 28), contrast=(0.3, 0.4), dose=40, seed=4)
    written, enough = [0], threading.Event()

    def camera() -> None:
        for _ in play(movie, daemon.source, fps=10):
            written[0] += 1
            if enough.is_set():
                return

    daemon.wait(lambda: daemon.get("/readyz")[0] == 200)
    playing = threading.Thread(target=camera)
    playing.start()
    try:
        daemon.wait(lambda: status(daemon)["segmented"] > 2)
        assert status(daemon)["model"] == "classical"
        desk.activate(str(au), out, SegmentOptions())
        daemon.wait(lambda: 'emstream_model_info{name="Au"' in daemon.get("/metrics")[1])

        cut = model(out / ".emstream" / "models" / "cut", "cut")
        (cut / "weights.safetensors").write_bytes(b"no weights at all")
        about = json.loads((cut / "model.json").read_text())
        (cut / "model.json").write_text(json.dumps({k: v for k, v in about.items() if k != "sha256"}))
        Registry(out).activate(Registry(out).find("cut"))  # looks well until somebody loads it
        daemon.wait(lambda: any("cut" in w for w in status(daemon)["warnings"]))
        assert status(daemon)["model"] == "Au"
        daemon.wait(lambda: 'emstream_model_swaps_total{result="refused"} 1.0' in daemon.get("/metrics")[1])
        assert next(r["state"] for r in desk.table(out) if r["name"] == "cut").startswith("active, refused: ")

        desk.activate("classical", out, SegmentOptions())
        daemon.wait(lambda: 'emstream_model_info{name="classical"' in daemon.get("/metrics")[1])
        events = json.loads(daemon.get("/api/events", Authorization="token secret")[1])["events"]
    finally:
        enough.set()
        playing.join()
    daemon.wait(lambda: status(daemon)["segmented"] == written[0])
    code, told, err = daemon.end()
    assert code == 0, err
    assert json.loads(told)["frames"] == json.loads(told)["segmented"] == written[0]
    assert [e["text"].split()[-1] for e in events if e["kind"] == "model"][-1] == "classical"
    run = Run(json.loads(told)["runs"][0])
    assert np.all(run.column("status") & Status.SEGMENTED)
    names = [m["name"] for m in run.models]
    assert names[:2] == ["classical", "Au"]
    assert run.models[1]["sha256"] == Registry(out).find("Au").sha256
    by_model = run.column("model")
    assert by_model[0] == 0
    assert by_model[run.models[1]["from_frame"]] == 1
    assert by_model[-1] == 0
    assert by_model.min() == 0
    assert not run.table("particles").duplicated(["frame", "label"]).any()
