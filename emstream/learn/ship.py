"""Make the weights that emstream ships.

    python -m emstream.learn.ship --emps FOLDER --out emstream/segment/weights/default

FOLDER holds images/ and segmaps/ of the EMPS training split (Yildirim & Cole 2021, doi 10.1021/acs.jcim.0c01455).
Half of the crops are cut from it, half are procedural frames; 15 % of the pictures, by the hash of their name, are kept
for validation and never trained on. Run again in the same folder, it goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emstream.learn import LearnOptions, train


def main() -> None:
    """Train and tell how it goes, one JSON line each time there is news."""
    ask = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    ask.add_argument("--emps", type=Path, required=True, help="folder with images/ and segmaps/")
    ask.add_argument("--out", type=Path, required=True, help="folder of the model")
    ask.add_argument("--minutes", type=float, default=60.0)
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--start-from", default="", help="folder of a model whose weights are the start")
    ask.add_argument("--learning-rate", type=float, default=2e-3)
    given = ask.parse_args()
    options = LearnOptions(
        recipe="supervised", minutes=given.minutes, threads=given.threads, epochs=1000, steps_per_epoch=100,
        start_from=given.start_from, learning_rate=given.learning_rate,
    )  # fmt: skip
    numbers = train(options, [given.emps / "images"], given.out, labels=str(given.emps / "segmaps"), progress=tell)
    tell({"done": True, "validation": numbers})


def tell(news: Mapping[str, Any]) -> None:
    """One line of JSON on standard output."""
    sys.stdout.write(json.dumps(news) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
