"""Archives as inputs: what they are, any frame of them, from any process; on disk, in memory and over HTTP."""

from __future__ import annotations

import functools
import os
import pickle
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from contracts import Planted
from zarr.storage import FsspecStore

import emstream
from emstream.errors import BadSettings, FrameOutOfRange, MissingExtra, SourceMissing, UnreadableFile
from emstream.source import SourceOptions
from emstream.source.archive import Input, look, open_input, replay
from emstream.source.formats import axes
from emstream.store import FrameRecord, Ledger, RunWriter, StoreOptions

FRAMES = Planted(6).frames  # (6, 12, 20) uint16


def ome(store: Any, frames: np.ndarray, axes: str, version: str, scale: list[float] | None = None) -> None:
    """An OME-Zarr image as other programs write it: 0.4 on Zarr v2, 0.5 on v3."""
    units = {"t": "millisecond", "y": "angstrom", "x": "angstrom", "z": "micrometer"}
    kinds = {"t": "time", "c": "channel"}
    told = [{"name": a, "type": kinds.get(a, "space"), **({"unit": units[a]} if a in units else {})} for a in axes]
    steps = scale or [{"t": 50.0, "y": 2.0, "x": 4.0}.get(a, 1.0) for a in axes]
    image = {
        "name": "image",
        "version": version,
        "axes": told,
        "datasets": [{"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": steps}]}],
    }
    group = zarr.create_group(store, zarr_format=3 if version == "0.5" else 2)
    group.attrs.update(
        {"ome": {"version": "0.5", "multiscales": [image]}} if version == "0.5" else {"multiscales": [image]}
    )
    group.create_array("s0", data=frames, chunks=(1,) * (frames.ndim - 2) + frames.shape[-2:])


def read(archive: Input) -> np.ndarray:
    with open_input(archive) as source:
        return source.read(0, len(source))


def run_of(folder: Path, frames: np.ndarray, *, closed: bool = True) -> tuple[Path, Any]:
    """A run of emstream with these frames, and what goes on writing it."""
    ledger = Ledger(folder, fsync=False)
    row = ledger.run_for("s", "cam", frames.shape[1:], frames.dtype.name, (0.5, 0.5))
    writer = RunWriter(folder, row, ledger, StoreOptions(fsync=False, low_water_mb=0))
    append(writer, frames)
    if closed:
        writer.close()
        ledger.close()
    return Path(writer.path), writer


def append(writer: Any, frames: np.ndarray) -> None:
    from emstream.messages import Origin

    writer.write_frames(
        [
            FrameRecord(pixels=f, origin=Origin(f"{i}-{f.sum()}", 0, 1, 1, i + 1), time_s=1e9 + i, shift=(0.0, 0.0))
            for i, f in enumerate(frames)
        ]
    )
    writer.flush()
    writer.publish()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_image_of_other_programs_gives_its_frames_calibrated(version: str, tmp_path: Path) -> None:
    ome(tmp_path / "a.ome.zarr", FRAMES, "tyx", version)
    archive = look(tmp_path / "a.ome.zarr")
    assert (archive.frames, archive.shape, archive.dtype, archive.format) == (6, (12, 20), "uint16", "ome-zarr")
    assert archive.pixel_size_nm == pytest.approx((0.2, 0.4))
    assert archive.name == "a"
    assert np.array_equal(read(archive), FRAMES)
    with open_input(archive) as source:
        assert np.allclose(np.diff(source.times(0, 6)), 0.05)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("order", ["tczyx", "tcyx", "ctyx", "zyxt", "txcy"])
def test_axes_beside_t_y_x_are_held_where_the_user_says(version: str, order: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    size = {"t": 4, "c": 2, "z": 3, "y": 12, "x": 20}
    data = rng.integers(0, 9, [size[a] for a in order]).astype(np.uint8)
    ome(tmp_path / "a.zarr", data, order, version)
    held = {a: size[a] - 1 for a in order if a not in "tyx"}
    select = ",".join(f"{a}={i}" for a, i in held.items())
    got = read(look(tmp_path / "a.zarr", SourceOptions(select=select)))
    part = data[tuple(held.get(a, slice(None)) for a in order)]
    left = [a for a in order if a not in held]
    assert np.array_equal(got, part.transpose([left.index(a) for a in "tyx"]))
    with pytest.raises(UnreadableFile, match=rf"{order[0]}={size[order[0]]}.*--select .*{next(iter(held))}=0"):
        look(tmp_path / "a.zarr")


def test_a_stack_without_time_says_how_its_frames_are_counted(tmp_path: Path) -> None:
    ome(tmp_path / "z.zarr", FRAMES, "zyx", "0.5")
    with pytest.raises(UnreadableFile, match=r"z=6, y=12, x=20.*--select t=z"):
        look(tmp_path / "z.zarr")
    assert np.array_equal(read(look(tmp_path / "z.zarr", SourceOptions(select="t=z"))), FRAMES)
    assert np.array_equal(read(look(tmp_path / "z.zarr", SourceOptions(select="z=2"))), FRAMES[2:3])
    ome(tmp_path / "tz.zarr", FRAMES[None], "tzyx", "0.4")
    with pytest.raises(UnreadableFile, match="t=z where z counts the frames"):
        look(tmp_path / "tz.zarr")
    assert np.array_equal(read(look(tmp_path / "tz.zarr", SourceOptions(select="t=z"))), FRAMES)


@pytest.mark.parametrize("fmt", [2, 3])
def test_plain_arrays_of_both_formats(fmt: int, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "p.zarr", data=FRAMES, chunks=(4, 6, 20), zarr_format=fmt)  # type: ignore[arg-type]
    archive = look(tmp_path / "p.zarr")
    assert archive.chunk == 4
    assert np.array_equal(read(archive), FRAMES)
    assert archive.pixel_size_nm is None
    assert look(tmp_path / "p.zarr", SourceOptions(pixel_size_nm=0.3)).pixel_size_nm == (0.3, 0.3)
    group = zarr.create_group(tmp_path / "g.zarr", zarr_format=fmt)  # type: ignore[arg-type]
    group.create_array("raw", data=FRAMES)
    assert np.array_equal(read(look(tmp_path / "g.zarr")), FRAMES)
    group.create_array("other", data=FRAMES)
    with pytest.raises(UnreadableFile, match=r"2 stacks.*g\.zarr/other.*g\.zarr/raw"):
        look(tmp_path / "g.zarr")
    assert np.array_equal(read(look(tmp_path / "g.zarr" / "other")), FRAMES)


@pytest.mark.parametrize("size", [0.0, -1.0, (0.2, 0.0), float("nan"), float("inf")])
def test_a_pixel_size_that_is_no_length_is_refused(size: Any) -> None:
    with pytest.raises(BadSettings, match=r"source\.pixel_size_nm"):
        SourceOptions(pixel_size_nm=size)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_one_image_of_a_converter_s_container_is_opened_also_where_nothing_can_be_listed(
    version: str, tmp_path: Path, web: str
) -> None:
    layout = {"bioformats2raw.layout": 3}
    outer = zarr.create_group(tmp_path / "b.zarr", zarr_format=3 if version == "0.5" else 2)
    outer.attrs.update({"ome": {"version": "0.5", **layout}} if version == "0.5" else layout)
    ome(tmp_path / "b.zarr" / "0", FRAMES, "tyx", version)
    for where in (str(tmp_path / "b.zarr"), f"{web}/b.zarr"):
        assert np.array_equal(read(look(where)), FRAMES)
    ome(tmp_path / "b.zarr" / "1", FRAMES, "tyx", version)
    with pytest.raises(UnreadableFile, match=r"2 stacks.*b\.zarr/0.*b\.zarr/1"):
        look(tmp_path / "b.zarr")


def test_labels_of_a_run_are_a_stack_and_no_run(tmp_path: Path) -> None:
    path, _ = run_of(tmp_path, FRAMES)
    group = zarr.open_group(path / "labels" / "particles")
    group.attrs["emstream"] = {"model": "x"}
    archive = look(path / "labels" / "particles")
    assert (archive.format, archive.dtype) == ("ome-zarr", "uint32")
    assert not read(archive).any()


def test_names_of_axes_are_taken_where_the_array_tells_them(tmp_path: Path) -> None:
    data = FRAMES.transpose(1, 2, 0)  # y, x, t
    zarr.create_array(tmp_path / "v3.zarr", data=data, dimension_names=["y", "x", "time"])
    old = zarr.create_array(tmp_path / "v2.zarr", data=data, zarr_format=2)
    old.attrs["_ARRAY_DIMENSIONS"] = ["y", "x", "time"]
    for name in ("v3.zarr", "v2.zarr"):
        assert np.array_equal(read(look(tmp_path / name)), FRAMES)


def test_a_sharded_array_is_read_by_its_shards(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "s.zarr", data=FRAMES, chunks=(1, 12, 20), shards=(3, 12, 20))
    archive = look(tmp_path / "s.zarr")
    assert archive.chunk == 3
    assert np.array_equal(read(archive), FRAMES)


@pytest.mark.parametrize(
    ("select", "says"),
    [
        ("q=1", "no such axis"),
        ("c=9", "c goes from 0 to 1"),
        ("c", "axis=index"),
        ("c=one", "c goes from"),
        ("y=3", "no such axis"),
    ],
)
def test_a_select_that_does_not_fit_is_refused_with_the_axes(select: str, says: str, tmp_path: Path) -> None:
    ome(tmp_path / "a.zarr", np.stack([FRAMES, FRAMES], 1), "tcyx", "0.5")
    with pytest.raises(BadSettings, match=says):
        look(tmp_path / "a.zarr", SourceOptions(select=select))


def test_axes_are_found_by_any_usual_name() -> None:
    found = axes.find("here", ["time", "height", "width"], (5, 3, 4), "", False)
    assert (found.t, found.y, found.x, found.fixed) == (0, 1, 2, ())
    unnamed = axes.find("here", None, (5, 2, 3, 4), "axis1=1", False)
    assert (unnamed.t, unnamed.fixed) == (0, ((1, 1),))
    with pytest.raises(UnreadableFile, match="axis0=5, axis1=2, y=3, x=4"):
        axes.find("here", None, (5, 2, 3, 4), "", False)
    with pytest.raises(UnreadableFile, match="no axis y"):
        axes.find("here", ["t", "x"], (5, 3), "", False)


def test_a_description_goes_to_another_process_and_reads_the_same(tmp_path: Path) -> None:
    ome(tmp_path / "a.zarr", np.stack([FRAMES, FRAMES + 1], 1), "tcyx", "0.4")
    archive = pickle.loads(pickle.dumps(look(tmp_path / "a.zarr", SourceOptions(select="c=1"))))
    assert len(pickle.dumps(archive)) < 4000
    assert hash(archive) == hash(look(tmp_path / "a.zarr", SourceOptions(select="c=1")))
    with open_input(archive) as source:
        assert np.array_equal(source.read(2, 5), FRAMES[2:5] + 1)
        assert source.read(3, 3).shape == (0, 12, 20)
        with pytest.raises(FrameOutOfRange):
            source.read(5, 7)


def test_a_run_that_grows_is_read_up_to_what_was_published(tmp_path: Path) -> None:
    path, writer = run_of(tmp_path, FRAMES[:4], closed=False)
    early = look(path)
    assert early.frames == 4
    with emstream.open(path) as movie:
        assert not movie.complete
        append(writer, FRAMES[4:])
        assert np.array_equal(read(early), FRAMES[:4])
        assert look(path).frames == 6
        assert movie.refresh() == 6
        assert np.array_equal(movie[5], FRAMES[5])


@pytest.mark.parametrize("kind", ["run", "v2", "v3", "sharded", "folder"])
def test_a_damaged_frame_is_named_with_its_place_and_the_others_are_read(kind: str, tmp_path: Path) -> None:
    if kind == "run":
        path, _ = run_of(tmp_path, FRAMES)
        hurt = path / "0" / "c.3.0.0"
    elif kind == "folder":
        path = tmp_path / "camera"
        path.mkdir()
        for i, frame in enumerate(FRAMES):
            tifffile.imwrite(path / f"f_{i}.tif", frame, compression="zlib")
        hurt = path / "f_3.tif"
    else:
        path = tmp_path / "a.zarr"
        shards = {"shards": (1, 12, 20)} if kind == "sharded" else {}
        codec: Any = zarr.codecs.GzipCodec() if kind != "v2" else "auto"
        zarr.create_array(
            path, data=FRAMES, chunks=(1, 12, 20), zarr_format=2 if kind == "v2" else 3, compressors=codec, **shards
        )
        hurt = path / ("3.0.0" if kind == "v2" else "c/3/0/0")
    hurt.write_bytes(hurt.read_bytes()[: hurt.stat().st_size // 2])
    archive = look(path)
    with open_input(archive) as source:
        with pytest.raises(UnreadableFile, match=f"frame 3 of .*{hurt.name if kind != 'v3' else 'c/3/0/0'}"):
            source.read(0, 6)
        pixels, bad = source.read_good(0, 6)
        assert [b.frame for b in bad] == [3]
        assert hurt.name in bad[0].why
        assert not pixels[3].any()
        assert np.array_equal(np.delete(pixels, 3, 0), np.delete(FRAMES, 3, 0))


def test_a_chunk_of_a_run_that_is_gone_is_damage_and_never_silent_zeros(tmp_path: Path) -> None:
    path, _ = run_of(tmp_path, FRAMES)
    (path / "0" / "c.2.0.0").unlink()
    with open_input(look(path)) as source:
        assert [b.frame for b in source.read_good(0, 6)[1]] == [2]
        with pytest.raises(UnreadableFile, match=r"frame 2 .*0/c\.2\.0\.0.*not there"):
            source.read(2, 3)


def test_a_frame_of_which_nothing_is_stored_is_told_and_a_blank_one_or_a_blank_corner_is_not(tmp_path: Path) -> None:
    frames = FRAMES.copy()
    frames[1] = 0
    frames[2, :6, :10] = 0
    stack = zarr.create_array(tmp_path / "a.zarr", shape=frames.shape, dtype=frames.dtype, chunks=(1, 6, 10))
    stack[:] = frames  # a blank chunk is not stored
    with open_input(look(tmp_path / "a.zarr")) as source:
        pixels, bad = source.read_good(0, 6)
        assert [b.frame for b in bad] == [1]
        assert "chunk c/1/0/0 is not stored (blank from the beginning, or lost)" in bad[0].why
        assert np.array_equal(pixels, frames)
    whole = zarr.create_array(
        tmp_path / "b.zarr",
        shape=frames.shape,
        dtype=frames.dtype,
        chunks=(1, 12, 20),
        config={"write_empty_chunks": True},
    )
    whole[:] = frames
    assert np.array_equal(read(look(tmp_path / "b.zarr")), frames)


def test_an_archive_that_changed_since_it_was_looked_at_is_refused(tmp_path: Path) -> None:
    zarr.save_array(tmp_path / "a.zarr", FRAMES)
    archive = look(tmp_path / "a.zarr")
    zarr.create_array(tmp_path / "a.zarr", data=FRAMES[:3], overwrite=True)
    with pytest.raises(UnreadableFile, match="was 6 frames"):
        open_input(archive)


@pytest.fixture
def memory() -> Iterator[str]:
    import fsspec

    yield "memory://em-inputs"
    fsspec.filesystem("memory").rm("/em-inputs", recursive=True)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_image_at_a_url(version: str, memory: str) -> None:
    ome(FsspecStore.from_url(f"{memory}/a.ome.zarr"), np.stack([FRAMES, FRAMES], 1), "tcyx", version)
    archive = look(f"{memory}/a.ome.zarr", SourceOptions(select="c=0"))
    assert (archive.where, archive.name, archive.frames) == (f"{memory}/a.ome.zarr", "a", 6)
    assert np.array_equal(read(archive), FRAMES)
    with emstream.open(f"{memory}/a.ome.zarr", select="c=1") as movie:
        assert len(movie) == 6
        assert np.array_equal(movie[-1], FRAMES[-1])
    assert [f.origin.sub for f in replay(archive, start=4)] == [4, 5]


class Quiet(SimpleHTTPRequestHandler):
    """A folder over HTTP that never lists, as object stores do not; `busy` answers that many requests with 503.

    Everything under /secret is forbidden.
    """

    busy = 0

    def do_GET(self) -> None:
        if type(self).busy > 0:
            type(self).busy -= 1
            self.send_error(503)
        elif self.path.startswith("/secret"):
            self.send_error(403)
        else:
            super().do_GET()

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    Quiet.busy = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_archives_over_http(web: str, tmp_path: Path) -> None:
    ome(tmp_path / "v2.zarr", FRAMES, "tyx", "0.4")
    ome(tmp_path / "v3.zarr", FRAMES, "tyx", "0.5")
    zarr.create_array(tmp_path / "plain", data=FRAMES, chunks=(2, 12, 20))
    run_of(tmp_path, FRAMES)
    for name in ("v2.zarr", "v3.zarr", "plain", "cam.zarr"):
        assert np.array_equal(read(look(f"{web}/{name}")), FRAMES), name
    run = look(f"{web}/cam.zarr")
    assert run.format == "emstream-run"
    with open_input(run) as source:
        assert np.array_equal(source.times(0, 6), 1e9 + np.arange(6))
        (tmp_path / "cam.zarr" / "0" / "c.4.0.0").unlink()
        assert [b.frame for b in source.read_good(0, 6)[1]] == [4]


@pytest.mark.parametrize("name", ["movie.tif", "movie.npy"])
def test_a_camera_file_at_a_url_is_fetched_once_and_again_when_it_changed(
    web: str, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, file = SourceOptions(cache=str(tmp_path / "cache"), pixel_size_nm=0.5), tmp_path / name

    def write(frames: np.ndarray, when: float) -> None:
        tifffile.imwrite(file, frames, photometric="minisblack") if file.suffix == ".tif" else np.save(file, frames)
        os.utime(file, (when, when))

    write(FRAMES, 1e9)
    archive = look(f"{web}/{name}?key=1", options)
    assert np.array_equal(read(archive), FRAMES)
    assert (archive.where, archive.name, archive.mtime_ns) == (f"{web}/{name}?key=1", "movie", 10**18)
    with monkeypatch.context() as patch:
        patch.setattr("emstream.source.formats.fetch._copy", None)  # what is here is not fetched again
        assert look(f"{web}/{name}?key=2", options).mtime_ns == archive.mtime_ns
    write(FRAMES[:4] + 1, 2e9)
    assert np.array_equal(read(look(f"{web}/{name}", options)), FRAMES[:4] + 1)
    monkeypatch.setattr("emstream.source.formats.fetch.SPARE", 1 << 60)
    write(FRAMES[:2], 1.5e9)
    with pytest.raises(UnreadableFile, match=r"do not fit into .*source\.cache"):
        look(f"{web}/{name}", options)


def test_a_server_that_sends_whole_shards_is_refused_and_not_taken_for_damage(
    web: str, memory: str, tmp_path: Path
) -> None:
    for store in (tmp_path / "s.zarr", FsspecStore.from_url(f"{memory}/s.zarr")):
        zarr.create_array(store, data=FRAMES, chunks=(1, 12, 20), shards=(3, 12, 20))
    with pytest.raises(UnreadableFile, match="range requests"):
        look(f"{web}/s.zarr")
    assert np.array_equal(read(look(f"{memory}/s.zarr")), FRAMES)


def test_a_server_that_is_busy_for_a_moment_is_waited_for_and_one_that_is_gone_is_no_damage(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emstream.source.formats.remote.PAUSES_S", (0.01, 0.01, 0.01))
    zarr.save_array(tmp_path / "a.zarr", FRAMES)
    archive = look(f"{web}/a.zarr")
    with open_input(archive) as source:
        Quiet.busy = 2
        assert np.array_equal(source.read(0, 6), FRAMES)
        Quiet.busy = 1000
        with pytest.raises(SourceMissing, match="cannot be reached"):
            source.read_good(0, 6)


def test_what_cannot_be_opened_is_said_with_the_cause(
    web: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("emstream.source.formats.remote.PAUSES_S", ())
    with pytest.raises(SourceMissing, match=r"nothing at .*/nowhere\.zarr"):
        look(f"{web}/nowhere.zarr")
    with pytest.raises(UnreadableFile, match=r"403.*check the credentials"):
        look(f"{web}/secret/a.zarr")
    with pytest.raises(SourceMissing, match="cannot be reached"):
        look("http://127.0.0.1:1/a.zarr")
    with pytest.raises(SourceMissing, match="carrier"):
        look("carrier-pigeon://a.zarr")
    cache = SourceOptions(cache=str(tmp_path / "cache"))
    with pytest.raises(SourceMissing, match=r"nothing at .*/movie\.mrc"):
        look(f"{web}/movie.mrc", cache)
    with pytest.raises(UnreadableFile, match=r"403.*check the credentials"):
        look(f"{web}/secret/movie.mrc", cache)
    with pytest.raises(SourceMissing, match="cannot be reached"):
        look("http://127.0.0.1:1/movie.mrc", cache)
    with pytest.raises(SourceMissing, match="nowhere"):
        look(tmp_path / "nowhere")
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(MissingExtra, match=r"s3://bucket/a\.zarr.*emstream\[remote\]"):
        look("s3://bucket/a.zarr")
