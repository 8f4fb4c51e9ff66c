"""The long crash run: a store's writer killed again and again, at random points and at random times.

    python benchmarks/bench_crash.py --kills 10000 --seed 0
    python benchmarks/bench_crash.py --power            # every state that a power cut may leave, of a run of six frames

Each store is written by lives that are cut short, half of them by SIGKILL at a failpoint, half by SIGKILL after a random
time; what readers see is compared after every kill, and everything with the planted frames once a life reaches its end.
The two naive protocols of the tests get the same kills at points. Prints the table of reliability.md; exit code 1 when a
frame was lost, doubled or wrong, with the seed of the store that shows it.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from crash import planted_source as planted
from crash.harness import Life, assert_perfect, in_memory, killed_over_and_over, lives, outcome

POINTS = ("chunk.written", "chunk.renamed", "ledger.committed")


def naive(life: Life, folder: Path, protocol: str, stores: int, seed: int) -> dict[str, int]:
    """Frames lost, doubled and wrong by a protocol that nobody should use."""
    sums = {"kills": 0, "lost": 0, "doubled": 0, "wrong": 0}
    for k in range(stores):
        rng = random.Random(f"{seed}/{protocol}/{k}")
        out = folder / f"{protocol}-{k}"
        out.mkdir()
        for _ in range(4):
            killed = life(out, protocol, f"{rng.choice(POINTS)}:{rng.randint(1, 6)}:kill") == -signal.SIGKILL
            sums["kills"] += killed
        life(out, protocol)
        for fault, n in outcome(out).items():
            sums[fault] += n
    return sums


def undisturbed(life: Life, folder: Path) -> float:
    """Seconds that a life takes when nobody kills it; asked again now and then, for the machine has other work."""
    took = []
    for k in range(3):
        out = folder / f"undisturbed-{k}"
        out.mkdir()
        began = time.monotonic()
        life(out, "emstream")
        took.append(time.monotonic() - began)
        shutil.rmtree(out)
    return min(took)


def power_cuts(folder: Path, most: int, seed: int) -> int:
    """Recover from states that a power cut may leave, at most so many of each store; returns how many did not."""
    from crash import power, test_crash_power

    from emstream.store import recover

    planted.FRAMES = test_crash_power.FRAMES
    recover.boot_id = lambda: "after the power cut"
    failed = 0
    print("| store | system calls | states | tried | not recovered |\n|---|---|---|---|---|")
    for name, fsync in (("emstream", True), ("emstream without fsync", False)):
        place = folder / name
        place.mkdir()
        ops = power.record(place, planted.FRAMES, fsync)
        found = list(power.states(ops))
        wrong, tried = 0, min(most, len(found))
        for where, acked, state in random.Random(seed).sample(found, tried):
            try:
                test_crash_power.survive(place, where, acked, state)
            except AssertionError as error:
                wrong += 1
                if fsync:
                    print(error, file=sys.stderr, flush=True)
        print(f"| {name} | {len(ops)} | {len(found)} | {tried} | {wrong} |", flush=True)
        failed += wrong if fsync else 0
    return failed


def main() -> int:
    """Run until so many kills have come about, or the time is over."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument("--kills", type=int, default=10_000)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument(
        "--minutes", type=float, default=1e9, help="stop after so long, and say how many kills there were"
    )
    asked.add_argument("--frames", type=int, default=96, help="in each store")
    asked.add_argument("--most", type=int, default=100, help="kills of one store at most")
    asked.add_argument("--power", action="store_true", help="power cuts instead of kills; needs strace")
    asked.add_argument("--states", type=int, default=1 << 30, help="with --power: a random sample of so many")
    args = asked.parse_args()
    if args.power:
        with in_memory(Path(tempfile.mkdtemp())) as folder:
            return min(1, power_cuts(folder, args.states, args.seed))
    planted.FRAMES = args.frames
    began, kills, stores = time.monotonic(), 0, 0
    with lives() as life, in_memory(Path(tempfile.mkdtemp())) as folder:
        calm_s = undisturbed(life, folder)
        while kills < args.kills and time.monotonic() - began < 60 * args.minutes:
            out = folder / str(stores)
            out.mkdir()
            try:
                kills += killed_over_and_over(life, out, random.Random(f"{args.seed}/{stores}"), args.most, calm_s / 2)
                assert_perfect(out)
            except AssertionError as error:
                print(f"store {stores} of seed {args.seed}, after {kills} kills: {error}")
                return 1
            stores += 1
            shutil.rmtree(out)
            if stores % 20 == 0:
                print(f"{kills} kills, {stores} stores, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
                calm_s = undisturbed(life, folder)
        seconds = time.monotonic() - began
        print("| protocol | kills | frames | lost | doubled | wrong |\n|---|---|---|---|---|---|")
        print(f"| emstream | {kills} | {stores * planted.FRAMES} | 0 | 0 | 0 |")
        for protocol in ("note-after", "note-before"):
            found = naive(life, folder, protocol, 10, args.seed)
            print(
                f"| {protocol} | {found['kills']} | {10 * planted.FRAMES} | {found['lost']} | {found['doubled']} | {found['wrong']} |"
            )
        print(f"\nseed {args.seed}, {stores} stores, {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
