"""The segmentation room: an image becomes numbered particles, by a network or by the classical method."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from emstream.errors import BadSettings, ModelBroken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emstream.messages import Array, Labelled, PixelSize, Rect

Polarity: TypeAlias = Literal["auto", "dark", "bright"]
SHIPPED = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOptions:
    """What counts as a particle, and who finds it."""

    enabled: bool = True
    model: str = "default"  # default | classical | folder of a trained model (model.json, weights.safetensors)
    polarity: Polarity = "auto"  # are particles darker or brighter than what is around them
    long_side_px: int = 512  # longer side of what the network sees; 0 = as it is. Small particles need more
    threshold: float = 0.6  # of the network's foreground, 0..1
    split: bool = True  # take touching particles apart
    min_diameter_px: float = 3.0  # equivalent diameter below which a particle is dropped
    min_diameter_nm: float = 0.0  # the same in nm, where the pixel size is known; the stricter one holds
    average_frames: int = 0  # aligned frames added up before the network looks; 1 = each alone, 0 = by the dose
    settle_frames: int = 8  # frames after which the classical method only follows slowly
    backend: Literal["auto", "torch", "openvino"] = "auto"  # auto = openvino where it is installed and there is no GPU
    judge_every: int = 16  # compare network and classical method each so many frames; 0 = never


class Segmenter(Protocol):
    """An image in, particles out. It may keep a causal state; `reset` forgets it (a new series).

    memory : that state, of any kind: taken while another series has its turn, and set when it is this one's again
    """

    memory: Any

    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str:
        """Of the weights; "" when there are none."""
        ...

    def __call__(self, pixels: Array, *, valid: Rect | None = None, pixel_size_nm: PixelSize | None = None) -> Labelled:
        """Particles of one frame.

        pixels        : (y, x), any integer or float dtype, counts
        valid         : y0, y1, x0, x1 of the pixels that the frame covers; None = all. No label lies outside.
        pixel_size_nm : (y, x) nm per px; only used for `min_diameter_nm`
        returns       : Labelled; labels (y, x) int32, 1…n without gaps, 0 = background
        raises        : BadImage
        """
        ...

    def look(
        self, pixels: Array, *, valid: Rect | None = None, pixel_size_nm: PixelSize | None = None
    ) -> Callable[[], Labelled]:
        """The same in two parts: what the network sees now, and a function that makes particles of it.

        The function is called once for each frame, nearly in the frames' order; that may be in another thread.
        """
        ...

    def warm_up(self, shape: tuple[int, int], dtype: str = "uint16") -> None:
        """Pay all first-time costs now, for frames of this shape; the state is as before."""
        ...

    def reset(self, polarity: Polarity = "auto") -> None:
        """Forget what was learned from earlier frames. polarity : of the new series, where its metadata tell"""
        ...


def polarity_of(meta: Mapping[str, Any]) -> Polarity:
    """What a reader's metadata say of particles: bright in annular dark field, dark in bright field, else auto."""
    words = f" {meta.get('signal', '')} {meta.get('detector', '')} ".lower().replace("-", " ").replace("_", " ")
    if any(w in words for w in ("haadf", "adf", "dark field", "darkfield", " df")):
        return "bright"
    if any(w in words for w in ("abf", " bf", "bright field", "brightfield")):
        return "dark"
    return "auto"


def load(options: SegmentOptions, device: str = "cpu", threads: int = 0) -> Segmenter:
    """The segmenter that the options name. torch is imported only for a network.

    device  : cpu | cuda:N
    threads : CPU threads of the network; 0 = all cores
    raises  : ModelBroken (no such model, damaged, or of another kind), BadSettings
    """
    check(options)
    if options.model == "classical":
        from emstream.segment.classical import Classical

        return Classical(options)
    folder = SHIPPED / options.model if options.model == "default" else Path(options.model)
    if not folder.is_dir():
        raise ModelBroken(f"segment.model = {options.model!r} is no folder", "default, classical, or a model folder")
    from emstream.segment.model import kind, read_autoencoder

    if kind(folder) == "autoencoder":
        from emstream.segment.autoencoder import Simplifier

        simple, about, digest = read_autoencoder(folder)
        return Simplifier(simple, str(about.get("name", folder.name)), digest, options)
    from emstream.segment.predict import Network

    return Network(folder, options, device, threads)


@lru_cache(maxsize=4)
def _loaded(model: str) -> Segmenter:
    return load(SegmentOptions(model=model))


class _Door(ModuleType):
    """`emstream.segment` is this room and, as promised to users, a function too."""

    def __call__(self, image: Array, model: str = "default", pixel_size_nm: PixelSize | None = None) -> Array:
        """Particles of one image: (y, x) -> (y, x) int32 labels, 0 = background.

        image  : a camera's frame, or one of a run: rows and columns of nothing but 0 at its borders, which drift left
                 there, are no film
        model  : default | classical | folder of a trained model
        raises : BadImage, ModelBroken
        """
        segmenter = _loaded(model)
        segmenter.reset()  # every call is a new series
        return segmenter(image, valid=_covered(image), pixel_size_nm=pixel_size_nm).labels


def _covered(image: Array) -> Rect | None:
    """The rectangle that holds all that is not 0; None = the whole image, also where that is next to nothing."""
    if image.ndim != 2:
        return None
    y, x = ((image != 0).any(axis=a).nonzero()[0] for a in (1, 0))
    if not len(y) or min(int(y[-1] - y[0]), int(x[-1] - x[0])) < 16:
        return None
    rect = (int(y[0]), int(y[-1]) + 1, int(x[0]), int(x[-1]) + 1)
    return None if rect == (0, image.shape[0], 0, image.shape[1]) else rect


sys.modules[__name__].__class__ = _Door


def check(options: SegmentOptions) -> None:
    """raises : BadSettings, with one line per mistake."""
    problems = []
    if options.polarity not in ("auto", "dark", "bright"):
        problems.append(f"segment.polarity = {options.polarity!r} is not auto, dark or bright")
    if options.backend not in ("auto", "torch", "openvino"):
        problems.append(f"segment.backend = {options.backend!r} is not auto, torch or openvino")
    if not 0 < options.threshold < 1:
        problems.append(f"segment.threshold = {options.threshold} is not between 0 and 1")
    if options.long_side_px != 0 and options.long_side_px < 64:
        problems.append(f"segment.long_side_px = {options.long_side_px} is below 64")
    if not 0 <= options.average_frames <= 64:
        problems.append(f"segment.average_frames = {options.average_frames} is not between 0 and 64; 0 = by the dose")
    for name in ("min_diameter_px", "min_diameter_nm", "settle_frames", "judge_every"):
        if getattr(options, name) < 0:
            problems.append(f"segment.{name} = {getattr(options, name)} is negative")
    if problems:
        raise BadSettings("; ".join(problems), "emstream live --help", tuple(problems))
