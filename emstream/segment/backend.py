"""What multiplies the network's numbers: torch itself, a recorded CUDA graph, or OpenVINO (an extra, for CPUs)."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emstream.errors import MissingExtra
from emstream.segment.unet import UNet

Call = Callable[[Tensor], Tensor]  # (1, 1, y, x) normalised image -> (1, maps, y, x) logits
GRAPHS = 8  # shapes whose graphs are kept


def chosen(wanted: str, device: torch.device) -> str:
    """`torch` or `openvino` for the setting `segment.backend`. raises : MissingExtra"""
    there = device.type == "cpu" and importlib.util.find_spec("openvino") is not None
    if wanted == "openvino" and not there:
        what = "runs on the CPU only" if device.type != "cpu" else "needs the package openvino"
        raise MissingExtra(f"segment.backend = 'openvino' {what}", 'pip install "emstream[openvino]"')
    return "openvino" if wanted == "openvino" or (wanted == "auto" and there) else "torch"


def frozen(net: UNet, device: torch.device, dtype: torch.dtype) -> Call:
    """The network as one call: its layers' Python code would take turns with the other threads 150 times a frame.

    Beside a busy thread a frame took 50 ms so, and takes 21 (19 alone). TorchScript is deprecated, but what replaces it
    needs a compiler at run time; without it the layers are called one by one, with the same result.
    """
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            example = torch.zeros((1, 1, 2 * net.stride, 2 * net.stride), dtype=dtype, device=device)
            traced = torch.jit.trace(net.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
            call: Call = torch.jit.freeze(traced)
    except (AttributeError, RuntimeError, NotImplementedError):
        call = net
    return Graphed(call) if device.type == "cuda" else call


class Graphed:
    """One recorded CUDA graph for each shape: a frame of 512² is some hundred kernels, which take longer to start than to run.

    What it returns is overwritten by the next call of the same shape.
    """

    def __init__(self, net: Call) -> None:
        self._net = net
        self._known: OrderedDict[tuple[int, ...], tuple[Any, Tensor, Tensor]] = OrderedDict()

    def __call__(self, x: Tensor) -> Tensor:
        key = tuple(x.shape)
        if key not in self._known:
            self._known[key] = self._record(x)
            if len(self._known) > GRAPHS:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        graph, given, made = self._known[key]
        given.copy_(x)
        graph.replay()
        return made

    def _record(self, x: Tensor) -> tuple[Any, Tensor, Tensor]:
        given, aside = x.clone(), torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(aside):  # first calls choose their algorithms, and may not do so while recording
            for _ in range(3):
                self._net(given)
        torch.cuda.current_stream(x.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = self._net(given)
        return graph, given, made


class OpenVino:
    """The network compiled by OpenVINO, for any size; converted once for each model and kept in the user's cache.

    net     : float32, on the CPU
    key     : sha256 of its weights
    threads : 0 = all cores
    """

    def __init__(self, net: UNet, key: str, threads: int = 0) -> None:
        import openvino

        core = openvino.Core()
        precision = "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "f32"
        config = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = str(threads)
        self._call = core.compile_model(_converted(openvino, core, net, key), "CPU", config)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(self._call(np.ascontiguousarray(x.numpy()))[0]).copy())


def cache() -> Path:
    """Where converted models are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "emstream" / "openvino"


def _converted(openvino: Any, core: Any, net: UNet, key: str) -> Any:
    kept = cache() / f"{key[:24]}-{openvino.__version__.partition('-')[0]}"
    try:
        return core.read_model(kept / "model.xml")
    except RuntimeError:  # not there yet, or damaged
        pass
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        example = torch.zeros((1, 1, 2 * net.stride, 2 * net.stride))
        made = openvino.convert_model(net.eval(), example_input=example, input=openvino.PartialShape([1, 1, -1, -1]))
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=kept.parent))
        openvino.save_model(made, part / "model.xml", compress_to_fp16=False)
        shutil.rmtree(kept, ignore_errors=True)
        part.rename(kept)
    except OSError:  # no home, or a full one: converted anew at the next start
        pass
    return made
