"""A short life of the long one in benchmarks/bench_soak.py: killed, its disk filled, its folder unmounted; nothing lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[1] / "benchmarks" / "bench_soak.py"


def test_whatever_happens_to_a_daemon_every_frame_is_stored_and_segmented_once(tmp_path: Path) -> None:
    what = (
        "--frames 900 --parts everything --movie 200 --singles 60 --kills 2 --full 1 --unmounts 1 --swaps 0 --every 0.1"
    )
    answer = subprocess.run(
        [sys.executable, SOAK, *what.split(), "--disk-mb", "64", "--folder", tmp_path / "kept"],
        capture_output=True, text=True, check=False, timeout=800,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr[-4000:]
    assert "| everything | 900 | 0 | 0 | 0 | 0 | 1 |" in answer.stdout
