"""How good the labels are and how long they take: python benchmarks/bench_segment.py [--data FOLDER] [--speed|--quality]

FOLDER holds emps_train/ and msa_em_sintering/; without it only simulated frames are judged.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from segment_scenes import flickering, mixed, one_size, touching
from through import Branch, through

from emstream import simulate
from emstream.learn.data import Picture, read_pictures
from emstream.learn.evaluate import score
from emstream.learn.ship import every_second, parts
from emstream.measure import particles
from emstream.messages import Aligned, Frame, Origin
from emstream.segment import Segmenter, SegmentOptions, load

SEEDS = (1, 2, 3)
COLUMNS = ("iou", "dice", "ap50", "f1", "count_error", "count", "diameter_error", "diameter")


def main() -> None:
    """Print the tables of segment.md."""
    ask = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    ask.add_argument("--data", type=Path)
    ask.add_argument("--models", nargs="+", default=["classical", "default"])
    ask.add_argument("--speed", action="store_true", help="only speed")
    ask.add_argument("--quality", action="store_true", help="only quality")
    ask.add_argument("--only", default="", help="only the sets whose name holds this")
    ask.add_argument("--long-side", type=int, default=SegmentOptions().long_side_px, help="working size of the quality")
    given = ask.parse_args()
    if not given.quality:
        speeds(given.models)
        networks()
    if not given.speed:
        qualities(given.models, given.data, given.only, given.long_side)


def qualities(models: list[str], data: Path | None, only: str, long_side: int) -> None:
    """One line for each set and model: every picture judged alone, and how far three seeds are apart."""
    print(
        "\n| set | model | IoU | Dice | AP50 | F1 | count error | all counted | diameter error | mean diameter | seeds |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, pictures_of in sets(data):
        if only not in name:
            continue
        seeds = pictures_of()
        for model in models:
            segment = fresh(load(SegmentOptions(model=model, judge_every=0, long_side_px=long_side), threads=1))
            each = [score(segment, pictures) for pictures in seeds]
            numbers = " | ".join(f"{np.mean([s[k] for s in each]):.3f}" for k in COLUMNS)
            spread = f"Dice ± {np.std([s['dice'] for s in each]):.3f}" if len(each) > 1 else ""
            print(f"| {name} | {model} | {numbers} | {spread} |", flush=True)
    for model in models if only in "in a movie" else ():
        for dose in (4, 20):
            each = [in_a_movie(model, dose, seed) for seed in SEEDS]
            numbers = " | ".join(f"{np.mean([s[k] for s in each]):.3f}" for k in COLUMNS)
            print(f"| 5–60 px mixed, contrast .3–.5, {dose} e/px, in a movie | {model} | {numbers} | |", flush=True)
    for model in models if only in "flicker" else ():
        for average, name in ((1, "each frame alone"), (0, "by the dose, the default")):
            print(f"| static scene, 4 e/px, {name} | {model} | {flicker(model, average)} |", flush=True)


def sets(data: Path | None) -> Iterator[tuple[str, Callable[[], list[list[Picture]]]]]:
    """The name of a set, and a call that makes its pictures, seed by seed."""

    def emps(which: int) -> list[list[Picture]]:
        folder = Path(data or "") / "emps_train"
        return [parts(read_pictures(folder / "images", folder / "segmaps"))[which]]

    def msa(all_of_them: bool) -> list[list[Picture]]:
        folder = Path(data or "") / "msa_em_sintering"
        frames = read_pictures(folder / "images", folder / "labels")
        learned = set() if all_of_them else {p.name for p in every_second(frames)}
        return [[p for p in frames if p.name not in learned]]

    def seeds(make: Callable[..., list[Picture]], *settings: object) -> Callable[[], list[list[Picture]]]:
        return lambda: [make(*settings, seed) for seed in SEEDS]

    if data is not None:
        yield "EMPS validation", lambda: emps(2)
        yield "EMPS, settings chosen on", lambda: emps(1)
        yield "msa, all 20", lambda: msa(True)
        yield "msa, the 10 not trained on", lambda: msa(False)
    for dose in (4, 20):
        for text, contrast in (("contrast .3–.5", (0.3, 0.5)), ("contrast .08–.35", (0.08, 0.35))):
            yield f"5–60 px mixed, {text}, {dose} e/px", seeds(mixed, dose, contrast)
    for dose in (4, 20):
        yield f"30 % touching, {dose} e/px", seeds(touching, dose)
    for diameter in (5, 10, 20, 40, 60):
        for dose in (4, 20):
            yield f"{diameter} px, {dose} e/px", seeds(one_size, diameter, dose)


def fresh(segment: Segmenter) -> Callable[[np.ndarray], np.ndarray]:
    """Each picture judged alone, without what the one before taught."""

    def one(image: np.ndarray) -> np.ndarray:
        segment.reset()
        return np.asarray(segment(image).labels)

    return one


def in_a_movie(model: str, dose: float, seed: int, frames: int = 16, first: int = 6) -> dict[str, Any]:
    """Means over the later frames of a drifting movie that goes through the daemon's steps: by the default, few electrons are added up."""
    m = simulate.movie(frames, (512, 512), dose=dose, diameter=(5, 60), contrast=(0.3, 0.5), seed=seed)
    found, pictures = [], []
    for i, shown in enumerate(through(m, SegmentOptions(model=model, judge_every=0), threads=1)):
        if i >= first:
            y0, y1, x0, x1 = shown.aligned.valid
            found.append(np.asarray(shown.labelled.labels)[y0:y1, x0:x1])
            pictures.append(Picture(f"{i}", np.full((1, 1), len(pictures)), shown.truth[y0:y1, x0:x1]))
    return score(lambda image: found[int(image[0, 0])], pictures)


def flicker(model: str, average: int) -> str:
    """Relative rms of the change of labelled area from frame to frame, nothing but noise changing; seed by seed.

    average : `segment.average_frames`; the first frames, which have fewer before them, are left out
    """
    told = []
    options = SegmentOptions(model=model, judge_every=0, average_frames=average)
    for seed in SEEDS:
        branch, areas = Branch(options, threads=1), []
        for i, pixels in enumerate(flickering(4, seed, 18)):
            frame = Frame("still", Origin("", i, 0, 0, 0), pixels, i / 10)
            aligned = Aligned(frame, pixels, (0.0, 0.0), 1.0, 0, 1, (0, pixels.shape[0], 0, pixels.shape[1]))
            areas.append(float((np.asarray(branch(aligned).labels) > 0).sum()))
        area = np.array(areas[6:])
        told.append(np.sqrt(np.mean((area[1:] / area[:-1] - 1) ** 2)))
    return "area flicker, rms: " + ", ".join(f"{100 * t:.2f} %" for t in told)


def speeds(models: list[str]) -> None:
    """Frame -> labels -> table of particles."""
    print("| model | frame | working size | ms to labels | ms to the table |\n|---|---|---|---|---|")
    for model in models:
        for side, long_side in ((512, 512), (512, 256), (1024, 512), (1024, 256), (2048, 512)):
            times = " | ".join(f"{t:.1f}" for t in speed(model, side, long_side))
            print(f"| {model} | {side}² | {long_side} | {times} |", flush=True)


def speed(model: str, side: int, long_side: int, repeat: int = 15) -> tuple[float, float]:
    """Median milliseconds on one thread from a uint16 frame to its labels, and to its table of particles, warmed up."""
    n = 60 * (side // 512) ** 2
    frame = simulate.movie(1, (side, side), particles=n, diameter=(12, 30), contrast=(0.3, 0.5), seed=1).frame(0)
    segment = load(SegmentOptions(model=model, long_side_px=long_side), threads=1)
    segment.warm_up(frame.shape)
    for _ in range(9):  # until the classical method has settled
        segment(frame)
    labels, table = [], []
    for _ in range(repeat):
        began = time.perf_counter()
        found = segment(frame).labels
        labels.append(time.perf_counter() - began)
        particles(found, frame)
        table.append(time.perf_counter() - began)
    return float(np.median(labels)) * 1e3, float(np.median(table)) * 1e3


def networks(side: int = 512) -> None:
    """The shipped network alone, in every runtime that is installed: median ms, and its mask against float32's."""
    import torch

    from emstream.segment import SHIPPED
    from emstream.segment.model import read_model
    from emstream.segment.normalise import normalise

    net = read_model(SHIPPED / "default")[0]
    frame = simulate.movie(1, (side, side), particles=60, diameter=(12, 30), contrast=(0.3, 0.5), seed=1).frame(0)
    x = normalise(torch.from_numpy(frame.astype(np.float32)))[None, None]
    with torch.inference_mode():
        truth = net(x)[0, 0].numpy() > 0
    print(
        f"\n| network alone, {side}² | threads | ms | of eager float32 | mask IoU with float32 |\n|---|---|---|---|---|"
    )
    for threads in (1, 2):
        eager = 0.0
        for name, run in runtimes(net, x, threads):
            mask = run()[0, 0] > 0
            ms = median_ms(run)
            eager = eager or ms
            iou = (mask & truth).sum() / (mask | truth).sum()
            print(f"| {name} | {threads} | {ms:.1f} | {ms / eager:.2f} | {iou:.4f} |", flush=True)


def median_ms(run: Callable[[], Any], repeat: int = 12) -> float:
    """Median of the time that a call takes, after three to warm up."""
    taken = []
    for _ in range(repeat + 3):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[3:])) * 1e3


def runtimes(net: Any, x: Any, threads: int) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Name, and a call that gives the maps as float32."""
    import copy

    import torch

    from emstream.segment.backend import frozen
    from emstream.segment.predict import working_dtype

    torch.set_num_threads(threads)

    def by_torch(run: Any, pixels: Any) -> Callable[[], np.ndarray]:
        def call() -> np.ndarray:
            with torch.inference_mode():
                return np.asarray(run(pixels).float().numpy())

        return call

    last = x.contiguous(memory_format=torch.channels_last)
    yield "torch eager float32", by_torch(net, x)
    yield "torch channels_last float32", by_torch(copy.deepcopy(net).to(memory_format=torch.channels_last), last)
    dtype = working_dtype(torch.device("cpu"))
    if dtype != torch.float32:
        half = copy.deepcopy(net).to(dtype, memory_format=torch.channels_last)
        yield "torch channels_last bfloat16", by_torch(half, last.to(dtype))
        yield "torch frozen bfloat16 (the default)", by_torch(frozen(half, torch.device("cpu"), dtype), last.to(dtype))
    yield from other_runtimes(net, x, threads)


def other_runtimes(net: Any, x: Any, threads: int) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """ONNX Runtime and OpenVINO, where they are installed."""
    import io
    import warnings

    import torch

    pixels = x.numpy()
    try:
        import onnx  # noqa: F401
        import onnxruntime

        graph = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(net, (x,), graph, dynamo=False, input_names=["x"], opset_version=17)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(graph.getvalue(), options, providers=["CPUExecutionProvider"])
        yield "ONNX Runtime float32", lambda: np.asarray(session.run(None, {"x": pixels})[0])
    except ImportError:
        print("| ONNX Runtime | | not installed | | |")
    try:
        import openvino

        model = openvino.convert_model(net, example_input=x, input=[x.shape])
        for kind in ("f32", "bf16"):
            compiled = openvino.Core().compile_model(
                model, "CPU", {"INFERENCE_PRECISION_HINT": kind, "INFERENCE_NUM_THREADS": threads}
            )
            yield f"OpenVINO {kind}", lambda compiled=compiled: np.asarray(compiled(pixels)[0])
    except ImportError:
        print("| OpenVINO | | not installed | | |")


if __name__ == "__main__":
    main()
