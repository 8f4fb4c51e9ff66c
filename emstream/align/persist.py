"""The state as plain arrays and back, so that a restart goes on without a jump in the drift trace."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from emstream.align import AlignOptions
from emstream.align.defects import make_defects
from emstream.align.reference import Page
from emstream.align.series import DriftState, start
from emstream.align.track import Track
from emstream.align.view import make_scale
from emstream.align.weight import Spectrum
from emstream.align.witness import Mark, Witness
from emstream.arrays import to_host
from emstream.errors import BadImage

VERSION = 3


def dump(state: DriftState) -> dict[str, np.ndarray]:
    """All that `load` needs, as host arrays; what the options say is not among them."""
    c, k, s = state.cleaner, state.canvas, state.scale
    scalars = {
        "version": VERSION,
        "frame_shape": list(state.grid.frame),
        "grid_shape": list(state.grid.shape),
        "bin": state.grid.bin,
        "dtype": state.dtype.str,
        "anchor": state.anchor,
        "missed": state.missed,
        "level": list(state.level),
        "frame": state.frame,
        "base": list(state.base),
        "summed": c.summed,
        "seen": c.seen,
        "doses": list(c.doses),
        "blanks": c.blanks,
        "origin": list(k.origin),
        "count": k.count,
        "gain": k.gain,
        "jitter": state.track.jitter,
        "known": state.track.known,
        "taken": state.track.taken,
        "lean": list(state.track.lean),
        "fit": None if s is None else list(s.spectrum.fit),
        "spectrum_frames": 0 if s is None else s.spectrum.frames,
        "lattice": s is not None and s.spectrum.lattice,
        "scale_frames": 0.0 if s is None else s.frames,
        "settling": state.settling,
        "doubt": state.doubt,
        "suspect": state.witness.suspect,
        "doubts": state.witness.doubts,
        "agreed": state.witness.agreed,
        "strain": state.witness.strain,
        "marks": [[m.count, *m.origin, m.gain] for m in state.witness.marks],
    }
    out = {
        "scalars": np.frombuffer(json.dumps(scalars).encode(), np.uint8).copy(),
        "num": np.stack([to_host(a) for a in k.num]),
        "den": np.stack([to_host(a) for a in k.den]),
        "mean": state.track.mean,
        "cov": state.track.cov,
        "known": c.known,
        "defects": c.defects.pixels if c.defects is not None else np.empty(0, np.int64),
    }
    optional = {"dark": c.dark, "gain": c.gain, "total": c.total}
    if s is not None:
        optional |= {"signal": s.spectrum.signal, "noise": s.spectrum.noise}
    out |= {name: to_host(a) for name, a in optional.items() if a is not None}
    for i, m in enumerate(state.witness.marks):
        out |= {f"mark{i}": np.stack([to_host(m.num), to_host(m.den)])}
    if k.pages:
        out["page_keys"] = np.array(list(k.pages), np.int64)
        out["page_num"] = np.stack([to_host(p[0]) for p in k.pages.values()])
        out["page_den"] = np.stack([to_host(p[1]) for p in k.pages.values()])
    return {name: np.array(a) for name, a in out.items()}


def load(arrays: Mapping[str, np.ndarray], options: AlignOptions | None = None, xp: Any = np) -> DriftState:
    """The state that was dumped, on xp; following goes on as if it had never stopped.

    raises : BadImage when the arrays are no such dump, or one on another grid than the options ask for
    """
    missing = {"scalars", "num", "den", "mean", "cov", "known", "defects"} - set(arrays)
    if missing:
        raise BadImage(f"the drift state lacks {', '.join(sorted(missing))}", "start anew")
    v = json.loads(bytes(np.asarray(arrays["scalars"], np.uint8)))
    if v.get("version") != VERSION:
        raise BadImage(f"the drift state is of version {v.get('version')}, not {VERSION}", "start anew")
    state = start(tuple(v["frame_shape"]), np.dtype(v["dtype"]), options, xp=xp)
    grid = state.grid
    if list(grid.shape) != v["grid_shape"] or grid.bin != v["bin"]:
        raise BadImage(f"the drift state is on a grid of {v['grid_shape']}, not {grid.shape}", "same align.grid needed")

    def on(name: str) -> Any:
        return xp.asarray(arrays[name]) if name in arrays else None

    cleaner = replace(
        state.cleaner,
        dark=on("dark"),
        gain=on("gain"),
        known=np.asarray(arrays["known"]),
        defects=make_defects(np.asarray(arrays["defects"]), grid),
        total=on("total"),
        summed=v["summed"],
        seen=v["seen"],
        doses=tuple(v["doses"]),
        blanks=v["blanks"],
    )
    canvas = replace(
        state.canvas,
        num=tuple(on("num")),
        den=tuple(on("den")),
        origin=tuple(v["origin"]),
        count=v["count"],
        gain=v["gain"],
        pages=_pages(arrays, xp),
    )
    scale = None
    if v["fit"] is not None:
        spectrum = Spectrum(on("signal"), on("noise"), tuple(v["fit"]), v["spectrum_frames"], v["lattice"])
        scale = make_scale(spectrum, v["scale_frames"], grid)
    return replace(
        state,
        cleaner=cleaner,
        canvas=canvas,
        scale=scale,
        track=Track(
            np.array(arrays["mean"]), np.array(arrays["cov"]), v["jitter"], v["known"], v["taken"], tuple(v["lean"])
        ),
        anchor=v["anchor"],
        missed=v["missed"],
        level=(float(v["level"][0]), float(v["level"][1])),
        frame=v["frame"],
        base=tuple(v["base"]),
        settling=v["settling"],
        doubt=v.get("doubt", 0.0),
        witness=Witness(_marks(arrays, v["marks"], xp), v["suspect"], v["doubts"], v["agreed"], v["strain"]),
    )


def _marks(arrays: Mapping[str, np.ndarray], about: list[list[float]], xp: Any) -> tuple[Mark, ...]:
    pairs = [xp.asarray(arrays[f"mark{i}"]) for i in range(len(about))]
    return tuple(Mark(int(n), p[0], p[1], (int(y), int(x)), gain) for (n, y, x, gain), p in zip(about, pairs))


def _pages(arrays: Mapping[str, np.ndarray], xp: Any) -> dict[tuple[int, int], Page]:
    if "page_keys" not in arrays:
        return {}
    keys = [(int(y), int(x)) for y, x in arrays["page_keys"]]
    return dict(zip(keys, zip(xp.asarray(arrays["page_num"]), xp.asarray(arrays["page_den"]))))
