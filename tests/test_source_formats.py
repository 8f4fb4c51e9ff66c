"""Every reader on files made here: pixels and sizes as written, nothing half written counted, damage refused."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from contracts import (
    Planted,
    check_cut,
    check_growth,
    check_hostile,
    check_reader,
    check_what_is_there,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emstream.errors import BadSettings, NotComplete, SourceMissing, UnreadableFile
from emstream.source import SourceOptions
from emstream.source.formats import open_movie, open_source, sniff
from emstream.source.formats.dm_write import dm4
from emstream.source.play import steps

SIZE = (0.25, 0.25)
DATA = Path(os.environ.get("EMSTREAM_DATA", Path(__file__).parents[2] / "shared" / "data")) / "formats"


# -- writers of the formats that no library writes


def seq(frames: np.ndarray, fps: float = 25.0, t0: int = 1_700_000_000) -> bytes:
    """NorPix, version 5: images at 8192, each followed by its stamp, padded to 8192."""
    height, width = frames.shape[1:]
    bits = frames.dtype.itemsize * 8
    nbytes = width * height * bits // 8
    stride = -(-(nbytes + 8) // 8192) * 8192
    head = bytearray(8192)
    struct.pack_into("<I", head, 0, 0xFEED)
    head[4:28] = "Norpix seq\n".encode("utf-16-le").ljust(24, b"\0")[:24]
    struct.pack_into("<II", head, 28, 5, 1024)
    struct.pack_into("<9I", head, 548, width, height, bits, bits, nbytes, 100, len(frames), 0, stride)
    struct.pack_into("<d", head, 584, fps)
    body = b""
    for i, frame in enumerate(frames):
        stamp = struct.pack("<IHH", t0 + i, 500, 250)
        body += (frame.tobytes() + stamp).ljust(stride, b"\0")
    return bytes(head) + body


def mib(frames: np.ndarray) -> bytes:
    """Merlin: a 384-byte header before each frame, pixels big endian."""
    height, width = frames.shape[1:]
    kind = f"U{frames.dtype.itemsize * 8:02d}"
    out = b""
    for i, frame in enumerate(frames):
        text = (
            f"MQ1,{i + 1:06d},00384,01,{width:04d},{height:04d},{kind},   1x1,01,2023-11-14 22:13:{20 + i:02d}.500000,"
            f"0.010000,0,0,0,1.2E+2,2023-11-14T22:13:{20 + i:02d}.500000000Z,"
        )
        out += text.encode().ljust(384, b"\0") + frame.astype(frame.dtype.newbyteorder(">")).tobytes()
    return out


def tvips(frames: np.ndarray, first: bool = True, start: int = 0) -> bytes:
    """TVIPS version 2: 256 bytes, then frames behind 12 bytes of number, seconds and milliseconds."""
    height, width = frames.shape[1:]
    head = bytearray(256)
    struct.pack_into("<5I", head, 0, 256, 2, width, height, frames.dtype.itemsize * 8)
    struct.pack_into("<I", head, 48, 12)
    body = b"".join(struct.pack("<3I", start + i, 1_700_000_000 + i, 250) + f.tobytes() for i, f in enumerate(frames))
    return (bytes(head) if first else b"") + body


def ser(frames: np.ndarray, nm: float = 0.25, announced: int | None = None) -> bytes:
    """TIA, version 0x220: header, elements, then the table of their places, as the program leaves it."""
    n, height, width = frames.shape
    total = announced or n
    code = {"uint8": 1, "uint16": 2, "uint32": 3, "int16": 5, "int32": 6, "float32": 7}[frames.dtype.name]
    table = 30 + 25  # right behind the header and one dimension
    at = table + 16 * total
    body, offsets = b"", []
    for frame in frames:
        offsets.append(at + len(body))
        head = struct.pack("<ddiddiHII", 0.0, nm * 1e-9, 0, 0.0, nm * 1e-9, 0, code, width, height)
        body += head + frame.tobytes()
    head = struct.pack("<HHHIIII", 0x4949, 0x0197, 0x220, 0x4122, 0x4152, total, n) + struct.pack("<QI", table, 1)
    places = struct.pack(f"<{total}Q", *offsets, *[0] * (total - n)) + bytes(8 * total)
    return (head.ljust(table, b"\0") + places) + body


def npy_stack(frames: np.ndarray) -> bytes:
    import io

    out = io.BytesIO()
    np.save(out, frames)
    return out.getvalue()


def mrc(frames: np.ndarray, **more: Any) -> bytes:
    import io

    import mrcfile

    out = io.BytesIO()
    writer = mrcfile.mrcinterpreter.MrcInterpreter()
    writer._iostream = out
    writer._create_default_attributes()
    writer.set_data(frames)
    writer.voxel_size = SIZE[0] * 10
    if frames.ndim == 3:
        writer.set_image_stack()
        writer.voxel_size = SIZE[0] * 10
    writer._read_only = False
    writer.flush()
    return out.getvalue()


def tif(frames: np.ndarray, **more: Any) -> bytes:
    import io

    out = io.BytesIO()
    resolution = (1e7 / SIZE[1], 1e7 / SIZE[0])
    with tifffile.TiffWriter(out, bigtiff=more.pop("bigtiff", False), byteorder=more.pop("byteorder", "<")) as writer:
        for frame in frames:
            writer.write(
                frame,
                photometric="minisblack",
                resolution=resolution,
                resolutionunit="CENTIMETER",
                metadata=None,
                contiguous=False,
                **more,
            )
    return out.getvalue()


def planted(dtype: str, n: int = 5, shape: tuple[int, int] = (12, 20)) -> np.ndarray:
    return Planted(n, shape, np.dtype(dtype)).frames


# -- whole files

WHOLE: list[tuple[str, str, np.ndarray, Callable[[np.ndarray], bytes], tuple[float, float] | None]] = [
    *[(f"mrc-{d}", "mrc", planted(d), mrc, SIZE) for d in ("int16", "float32", "uint16", "float16")],
    *[(f"tiff-{d}", "tiff", planted(d), tif, SIZE) for d in ("uint8", "uint16", "int16", "uint32", "float32")],
    *[
        (f"tiff-{c}-{d}", "tiff", planted(d), lambda f, c=c: tif(f, compression=c), SIZE)
        for c in ("lzw", "deflate", "zstd", "packbits")
        for d in ("uint8", "uint16")
    ],
    ("tiff-lzw-predictor", "tiff", planted("uint16"), lambda f: tif(f, compression="lzw", predictor=2), SIZE),
    ("tiff-bigtiff", "tiff", planted("uint16"), lambda f: tif(f, bigtiff=True), SIZE),
    ("tiff-bigtiff-zstd", "tiff", planted("uint16"), lambda f: tif(f, bigtiff=True, compression="zstd"), SIZE),
    ("tiff-big-endian", "tiff", planted("uint16"), lambda f: tif(f, byteorder=">"), SIZE),
    ("tiff-tiles", "tiff", planted("uint16", 3, (40, 50)), lambda f: tif(f, tile=(16, 16)), SIZE),
    ("tiff-strips", "tiff", planted("uint16", 3, (40, 50)), lambda f: tif(f, rowsperstrip=7), SIZE),
    ("tiff-strips-lzw", "tiff", planted("uint16", 3, (40, 50)), lambda f: tif(f, rowsperstrip=7, compression="lzw"), SIZE),
    *[
        (f"npy-{d}", "npy", planted(d), npy_stack, None)
        for d in ("uint8", "uint16", "int16", "int32", "float16", "float32", "float64")
    ],
    ("npy-big-endian", "npy", planted("uint16"), lambda f: npy_stack(f.astype(">u2")), None),
    *[(f"dm4-{d}", "dm4", planted(d), lambda f: dm4(f, SIZE), SIZE) for d in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32")],
    *[(f"seq-{d}", "seq", planted(d), seq, None) for d in ("uint8", "uint16")],
    *[(f"mib-{d}", "mib", planted(d), mib, None) for d in ("uint8", "uint16", "uint32")],
    *[(f"tvips-{d}", "tvips", planted(d), tvips, None) for d in ("uint8", "uint16")],
    *[(f"ser-{d}", "ser", planted(d), ser, SIZE) for d in ("uint16", "int16", "int32", "float32")],
]  # fmt: skip
SUFFIX = {"tiff": ".tif"}
IDS = [w[0] for w in WHOLE]


@pytest.mark.parametrize(("name", "reader", "frames", "write", "size"), WHOLE, ids=IDS)
def test_what_was_written_is_read(
    name: str, reader: str, frames: np.ndarray, write: Any, size: tuple[float, float] | None, tmp_path: Path
) -> None:
    path = tmp_path / f"m{SUFFIX.get(reader, '.' + reader)}"
    path.write_bytes(write(frames))
    assert sniff(path).name == reader
    check_reader(path, frames, pixel_size_nm=size, name=reader)


CUTS = [w for w in WHOLE if w[0] in {
    "mrc-uint16", "mrc-float32", "tiff-uint16", "tiff-lzw-uint16", "tiff-zstd-uint8", "tiff-bigtiff", "tiff-tiles",
    "tiff-strips-lzw", "npy-uint16", "dm4-uint16", "seq-uint16", "mib-uint16", "tvips-uint16", "ser-uint16",
}]  # fmt: skip


@pytest.mark.parametrize(("name", "reader", "frames", "write", "size"), CUTS, ids=[w[0] for w in CUTS])
def test_a_file_that_ends_anywhere_gives_only_frames_that_are_whole(
    name: str, reader: str, frames: np.ndarray, write: Any, size: tuple[float, float] | None, tmp_path: Path
) -> None:
    check_cut(write(frames), tmp_path / f"m{SUFFIX.get(reader, '.' + reader)}", frames)


@pytest.mark.parametrize(
    ("reader", "write", "head", "stride"),
    [("mrc", mrc, 1024, 480), ("seq", seq, 8192, 8192), ("mib", mib, 0, 864), ("tvips", tvips, 256, 492)],
)
def test_appending_grows_it(reader: str, write: Any, head: int, stride: int, tmp_path: Path) -> None:
    frames = planted("uint16", 8)
    data = write(frames)
    if reader == "mrc":
        data = data[:8] + struct.pack("<i", 1) + data[12:]  # as cameras leave nz
    path = tmp_path / f"m.{reader}"

    def grow() -> Iterator[int]:
        with path.open("wb", buffering=0) as file:
            for k in range(0, len(data), 211):
                file.write(data[k : k + 211])
                yield max(0, min(len(data), k + 211) - head) // stride

    check_growth(path, grow(), frames)


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_a_tiff_grows_page_by_page(compression: str | None, tmp_path: Path) -> None:
    frames = planted("uint16", 6)
    path = tmp_path / "m.tif"

    def grow() -> Iterator[int]:
        with tifffile.TiffWriter(path, bigtiff=True) as writer:
            for i, frame in enumerate(frames):
                writer.write(frame, photometric="minisblack", contiguous=False, compression=compression)
                writer.filehandle.flush()
                yield i + 1

    check_growth(path, grow(), frames)


def test_a_preallocated_file_counts_only_what_was_written(tmp_path: Path) -> None:
    """Zeros to the end, as some recorders reserve the disk: no frame of it is believed before it is written."""
    frames = planted("uint16", 6)
    data = mrc(frames)
    path = tmp_path / "m.mrc"
    for n in range(7):
        written = data[: 1024 + n * 480]
        path.write_bytes(written + bytes(len(data) - len(written)))
        with open_movie(path) as movie:
            state = movie._source.poll()
            assert state.n_complete <= n
            assert all(np.array_equal(movie[i], frames[i]) for i in range(state.n_complete))


def test_a_movie_that_is_replaced_by_a_shorter_one_begins_a_new_epoch(tmp_path: Path) -> None:
    path = tmp_path / "m.mrc"
    path.write_bytes(mrc(planted("uint16", 6)))
    source = open_source(path)
    assert source.poll().n_covered == 6
    other = Planted(3, dtype=np.dtype("u2"), seed=9).frames
    path.write_bytes(mrc(other))
    state = source.poll()
    assert (state.n_covered, state.epoch) == (3, 1)
    assert np.array_equal(source.read(1), other[1])
    source.close()


# -- what only some formats have


def test_mrc_mode_0_is_unsigned_unless_imod_says_signed(tmp_path: Path) -> None:
    """MRC2014 calls mode 0 signed; cameras and SerialEM write unsigned bytes, and IMOD has a flag for either."""
    path = tmp_path / "m.mrc"
    data = bytearray(mrc(planted("int8")))
    path.write_bytes(data)
    check_reader(path, planted("int8").view("u1"), pixel_size_nm=SIZE, name="mrc")
    struct.pack_into("<2i", data, 152, 1146047817, 1)
    path.write_bytes(data)
    check_reader(path, planted("int8"), pixel_size_nm=SIZE, name="mrc")


def test_image_j_stacks_with_one_directory(tmp_path: Path) -> None:
    frames = planted("uint16")
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, frames, imagej=True, resolution=(4, 4), metadata={"unit": "nm", "axes": "ZYX"})
    check_reader(path, frames, pixel_size_nm=SIZE, name="tiff")
    check_cut(path.read_bytes(), tmp_path / "cut.tif", frames)


def test_tifffile_stacks_with_one_directory(tmp_path: Path) -> None:
    frames = planted("uint16")
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, frames)
    check_reader(path, frames, name="tiff")


def test_a_set_of_tvips_files_is_one_movie(tmp_path: Path) -> None:
    frames = planted("uint16", 7)
    (tmp_path / "m_000.tvips").write_bytes(tvips(frames[:3]))
    (tmp_path / "m_001.tvips").write_bytes(tvips(frames[3:6], first=False, start=3))
    (tmp_path / "m_002.tvips").write_bytes(tvips(frames[6:], first=False, start=6))
    check_reader(tmp_path / "m_000.tvips", frames, name="tvips")


def test_a_director_and_its_segments_are_one_movie(tmp_path: Path) -> None:
    frames = planted("uint16", 7)
    data = frames.tobytes()
    (tmp_path / "m.dm4").write_bytes(dm4(frames[0], SIZE))
    for k, at in enumerate(range(0, len(data), 1001)):  # frames straddle the segments
        (tmp_path / ("m.raw" if k == 0 else f"m.raw_{k}")).write_bytes(data[at : at + 1001])
    check_reader(tmp_path / "m.dm4", frames, pixel_size_nm=SIZE, name="gatan-raw")


def test_stamps_in_the_file_are_the_frames_times(tmp_path: Path) -> None:
    frames = planted("uint16", 3)
    for name, data in (("m.seq", seq(frames)), ("m.tvips", tvips(frames))):
        (tmp_path / name).write_bytes(data)
        with open_movie(tmp_path / name) as movie:
            times = [movie.frame_time(i) for i in range(3)]
        assert times == pytest.approx([1_700_000_000.25 + i for i in range(3)], abs=0.26)
    (tmp_path / "m.mib").write_bytes(mib(frames))
    with open_movie(tmp_path / "m.mib") as movie:
        assert [movie.frame_time(i) for i in range(3)] == [1_700_000_000.5 + i for i in range(3)]


def test_a_series_that_is_being_written_counts_its_valid_elements(tmp_path: Path) -> None:
    frames = planted("uint16", 4)
    path = tmp_path / "m.ser"
    path.write_bytes(ser(frames, announced=9))
    assert check_what_is_there(path, frames) == 4


@pytest.mark.parametrize("name", ["Data", "exotic/stack"])
def test_hdf5_stacks(name: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    frames = planted("uint16")
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=frames, chunks=(1, 12, 20), compression="gzip")
        file["other"] = np.arange(4)
    check_reader(path, frames, name="hdf5")


def test_hdf5_with_axes_in_nanometres(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    frames = planted("uint16")
    with h5py.File(tmp_path / "m.emd", "w") as file:
        group = file.create_group("data/image")
        group["data"] = frames
        for k, n in enumerate(frames.shape):
            dim = group.create_dataset(f"dim{k + 1}", data=np.arange(n) * 0.25)
            dim.attrs["units"] = "[n_m]"
    check_reader(tmp_path / "m.emd", frames, pixel_size_nm=SIZE, name="hdf5")


def test_a_dectris_master_reads_its_data_files(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    frames = planted("uint32", 7)
    for k, part in enumerate((frames[:4], frames[4:])):
        with h5py.File(tmp_path / f"m_data_00000{k + 1}.h5", "w") as file:
            file["entry/data/data"] = part
    with h5py.File(tmp_path / "m_master.h5", "w") as file:
        group = file.create_group("entry/data")
        for k in (1, 2, 3):  # the third is announced and not there
            group[f"data_00000{k}"] = h5py.ExternalLink(f"m_data_00000{k}.h5", "/entry/data/data")
    check_reader(tmp_path / "m_master.h5", frames, name="hdf5")


@pytest.mark.parametrize("version", [2, 3])
def test_a_plain_zarr_array(version: int, tmp_path: Path) -> None:
    import zarr

    frames = planted("uint16")
    zarr.create_array(tmp_path / "m.zarr", data=frames, chunks=(1, 12, 20), zarr_format=version)
    check_reader(tmp_path / "m.zarr", frames, name="zarr")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("unit", ["nanometer", "angstrom", "micrometer"])
def test_an_ome_zarr_image(version: int, unit: str, tmp_path: Path) -> None:
    import zarr

    frames = planted("uint16")
    scale = {"nanometer": 0.25, "angstrom": 2.5, "micrometer": 0.25e-3}[unit]
    axes = [{"name": "t", "type": "time"}, *({"name": a, "type": "space", "unit": unit} for a in "yx")]
    found = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, scale, scale]}]}
    told: dict[str, Any] = {"multiscales": [{"axes": axes, "datasets": [found], "version": "0.4"}]}
    group = zarr.create_group(tmp_path / "m.zarr", zarr_format=version)
    group.create_array("0", data=frames, chunks=(1, 12, 20))
    group.attrs.update(told if version == 2 else {"ome": told})
    check_reader(tmp_path / "m.zarr", frames, pixel_size_nm=SIZE, name="ome-zarr")


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    frames = planted("uint16", 12)
    for i, frame in enumerate(frames):
        tifffile.imwrite(tmp_path / f"f_{i}.tif", frame)
    (tmp_path / "notes.txt").write_text("no frame")
    check_reader(tmp_path, frames, name="folder")


def test_a_tree_of_hours_minutes_and_seconds_is_read_in_order(tmp_path: Path) -> None:
    movie = Planted(11)
    for _ in steps(movie, tmp_path, fmt="dm4-tree"):  # type: ignore[arg-type]
        pass
    assert len(list(tmp_path.glob("movie/Hour_00/Minute_00/Second_*"))) == 3
    check_reader(tmp_path / "movie", movie.frames, pixel_size_nm=SIZE, name="gatan-tree")


# -- colour


def colours(path: Path, pixels: np.ndarray) -> None:
    import imagecodecs

    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(pixels))
        return
    grey = pixels.shape[-1] == 2
    extra = {} if pixels.shape[-1] == 3 else {"extrasamples": ["unassalpha"]}
    tifffile.imwrite(path, pixels, photometric="minisblack" if grey else "rgb", planarconfig="contig", **extra)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_equal_colours_are_grey_and_alpha_is_ignored(suffix: str, channels: int, tmp_path: Path) -> None:
    grey = Planted(1, (30, 40), np.dtype("u1")).frame(0)
    pixels = np.stack([grey] * channels, -1)
    if channels in (2, 4):
        pixels[..., -1] = np.arange(30 * 40).reshape(30, 40) % 251
    colours(tmp_path / f"f{suffix}", pixels)
    check_reader(tmp_path / f"f{suffix}", grey[None])


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_that_differ_are_refused(suffix: str, channels: int, tmp_path: Path) -> None:
    grey = Planted(1, (30, 40), np.dtype("u1")).frame(0)
    pixels = np.stack([grey] * channels, -1)
    pixels[5, 7, 1] += 1
    colours(tmp_path / f"f{suffix}", pixels)
    with pytest.raises(UnreadableFile) as caught, open_movie(tmp_path / f"f{suffix}") as movie:
        movie[0]
    assert caught.value.reason == "colour"


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_png_pictures(dtype: str, tmp_path: Path) -> None:
    import imagecodecs

    frame = Planted(1, dtype=np.dtype(dtype)).frame(0)
    (tmp_path / "f.png").write_bytes(imagecodecs.png_encode(frame))
    check_reader(tmp_path / "f.png", frame[None], name="png")
    check_cut((tmp_path / "f.png").read_bytes(), tmp_path / "cut.png", frame[None])


def test_jpeg_pictures(tmp_path: Path) -> None:
    import imagecodecs

    data = imagecodecs.jpeg_encode(Planted(1, (24, 40), np.dtype("u1")).frame(0))
    (tmp_path / "f.jpg").write_bytes(data)
    frame = imagecodecs.jpeg_decode(data)
    check_reader(tmp_path / "f.jpg", frame[None], name="jpeg")
    check_cut(data, tmp_path / "cut.jpg", frame[None])


# -- what cannot be read


def test_what_is_not_there_empty_foreign_or_no_file_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        open_movie(tmp_path / "nowhere.tif")
    (tmp_path / "empty.tif").touch()
    with pytest.raises(NotComplete):
        open_source(tmp_path / "empty.tif")
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "text.tif").write_text("this is no picture at all, but text")
    (tmp_path / "nothing").mkdir()
    for name, reason in (
        ("empty.tif", "empty"), ("pipe.tif", "not_a_file"), ("text.tif", "unknown_format"), ("nothing", "unknown_format")
    ):  # fmt: skip
        with pytest.raises(UnreadableFile) as caught:
            open_movie(tmp_path / name)
        assert caught.value.reason == reason
        assert name in str(caught.value)
    with pytest.raises(BadSettings):
        sniff(tmp_path / "text.tif", "no-such-reader")


def test_frames_larger_than_the_setting_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    for name, data in (
        ("m.mrc", mrc(planted("uint16"))),
        ("m.tif", tif(planted("uint16"), compression="lzw")),
        ("m.npy", npy_stack(planted("uint16"))),
        ("m.dm4", dm4(planted("uint16"))),
        ("m.seq", seq(planted("uint16"))),
        ("m.mib", mib(planted("uint16"))),
        ("m.tvips", tvips(planted("uint16"))),
        ("m.ser", ser(planted("uint16"))),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UnreadableFile) as caught:
            open_source(tmp_path / name, SourceOptions(max_frame_bytes=479))
        assert caught.value.reason == "oversize"
        open_source(tmp_path / name, SourceOptions(max_frame_bytes=16384)).close()


SMALL = planted("uint16", 2, (6, 8))
VICTIMS: dict[str, tuple[bytes, int]] = {  # file, and how many bytes of it are its header
    "m.mrc": (mrc(SMALL), 256),
    "m.tif": (tif(SMALL), 0),
    "lzw.tif": (tif(SMALL, compression="lzw"), 0),
    "zstd.tif": (tif(SMALL, bigtiff=True, compression="zstd"), 0),
    "m.npy": (npy_stack(SMALL), 128),
    "m.dm4": (dm4(SMALL, SIZE), 0),
    "m.seq": (seq(SMALL), 640),
    "m.mib": (mib(SMALL), 128),
    "m.tvips": (tvips(SMALL), 64),
    "m.ser": (ser(SMALL), 160),
}


EXTREMES = [bytes([v]) * n for v in (0, 1, 0x7F, 0x80, 0xFF) for n in (1, 2, 4, 8)]
BYTES = st.one_of(st.sampled_from(EXTREMES), st.binary(min_size=1, max_size=4))
FLIPS = st.lists(st.tuples(st.integers(0, 4095), BYTES), min_size=1, max_size=6)


@pytest.mark.parametrize("name", VICTIMS)
@settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(flips=FLIPS)
def test_a_damaged_header_never_harms(
    name: str,
    tmp_path_factory: pytest.TempPathFactory,
    flips: list[tuple[int, bytes]],
) -> None:
    whole, header = VICTIMS[name]
    within = [(at % (header or len(whole)), value) for at, value in flips]
    check_hostile(whole, tmp_path_factory.getbasetemp() / name, within)


# -- files of real instruments

PARTIAL = 64  # of long movies only the first frames' sums are listed


def _truth() -> dict[str, Any]:
    path = DATA / "truth.json"
    return json.loads(path.read_text()) if path.is_file() else {}


@pytest.mark.skipif(not _truth(), reason="the files of real instruments are not here (EMSTREAM_DATA)")
@pytest.mark.parametrize("name", _truth())
def test_files_of_real_instruments_give_what_other_readers_give(name: str) -> None:
    truth = _truth()[name]
    shape = truth["shape"]
    with open_movie(DATA / name) as movie:
        assert len(movie) == truth.get("n_frames", 1)
        assert movie.shape == tuple(shape[-2:])
        assert movie.dtype == np.dtype(truth["dtype"]).newbyteorder("=")
        sums = truth.get("frame_sums", [truth["sum"]])
        assert len(sums) in (len(movie), PARTIAL)
        for i, expected in enumerate(sums):
            total = float(movie[i].sum(dtype=np.float64))
            assert total == pytest.approx(expected, rel=1e-6), f"frame {i}"
        corner = (-1, 0) if name.startswith("tia/") else (0, 0)  # the other reader turns TIA's pictures upside down
        assert movie[0][corner] == pytest.approx(truth["first_pixel"])
        if "growing_bigtiff" in name:
            return  # its listed size, 0.05, is not what its tags say: 2e7 px/cm are 0.5 nm
        size = truth.get("pixel_size")
        units = truth.get("pixel_unit") or [None]
        if size and min(size) <= 0:
            assert movie.pixel_size_nm is None
        elif size and set(units) == {"nm"}:
            assert movie.pixel_size_nm == pytest.approx(tuple(size[-2:]), rel=1e-3)
