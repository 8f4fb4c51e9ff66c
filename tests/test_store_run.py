"""A run holds what was planted, byte for byte, and every reader of OME-Zarr opens it while it grows and after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr

from emstream.errors import FrameOutOfRange, NotARun, StoreDamaged
from emstream.messages import Origin, Status
from emstream.store import FrameRecord, LabelRecord, Ledger, Run, RunWriter, StoreOptions
from emstream.store.chunks import encode, little
from emstream.store.layout import COLUMNS, Layout, chunk_name, codecs, dumps

SHAPE = (300, 517)
DTYPES = ("uint8", "uint16", "int16", "float32", "uint32")


def planted(i: int, dtype: str, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Frame i: noise over the whole range of a dtype."""
    rng = np.random.default_rng([i, *dtype.encode()])
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 1e4, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def labels_of(i: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    image = np.zeros(shape, np.int32)
    image[i : i + 40, 10:90] = 1
    image[200:260, 300 + i : 340] = 70000
    return image


def new_writer(ledger: Ledger, dtype: str = "uint16", *, size: float | None = 0.5, **options: object) -> RunWriter:
    scale = None if size is None else (size, 2 * size)
    row = ledger.run_for("cam", "cam", SHAPE, dtype, scale)
    wanted = StoreOptions(**({"low_water_mb": 0, "publish_every_s": 0, "fsync": False} | options))
    return RunWriter(ledger.out, row, ledger, wanted, {"camera": "planted"})


def add(writer: RunWriter, i: int, *, raw: np.ndarray | None = None, segment: bool = True) -> None:
    record = FrameRecord(
        planted(i, writer.row.dtype), Origin(f"{i}.tif", 0, 1, i, i), 1e9 + i, (i / 4, -i / 8), 0.5, i // 2, raw=raw,
        source_index=10 + i,
    )  # fmt: skip
    writer.write_frames([record])
    writer.flush()
    if segment:
        writer.write_labels([LabelRecord(i, labels_of(i), 2, 0.25, "planted@")])
        writer.flush()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path, fsync=False) as ledger:
        yield ledger


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compressor", ["blosc-lz4", "zstd", "none"])
def test_planted_frames_come_back_byte_for_byte(ledger: Ledger, dtype: str, compressor: str) -> None:
    writer = new_writer(ledger, dtype, compressor=compressor)
    for i in range(3):
        add(writer, i)
    writer.close()
    wanted = np.stack([planted(i, dtype) for i in range(3)])
    run, group = Run(writer.path), zarr.open_group(writer.path, mode="r")
    for got in (run.frames.compute(), group["0"][:], da.from_zarr(str(writer.path), component="0").compute()):
        assert got.dtype == np.dtype(dtype)
        assert got.tobytes() == wanted.tobytes()
    assert run.dtype == np.dtype(dtype)
    assert np.array_equal(run.labels.compute(), [labels_of(i) for i in range(3)])
    assert run.labels.dtype == np.uint32
    assert np.array_equal(run.label(2), labels_of(2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_levels_halve_down_to_256_px_and_are_means(ledger: Ledger, dtype: str) -> None:
    writer = new_writer(ledger, dtype)
    add(writer, 0)
    run = Run(writer.path)
    image = planted(0, dtype).astype(np.float64)
    assert run.levels == 3
    for level, shape in enumerate([(300, 517), (150, 259), (75, 130)]):
        stored = run.frame(0, level)
        assert stored.shape == shape
        assert run.label(0, level).shape == shape
        padded = np.pad(image, [(0, -image.shape[0] % 2**level), (0, -image.shape[1] % 2**level)], mode="edge")
        y, x = padded.shape
        mean = padded.reshape(y // 2**level, 2**level, x // 2**level, 2**level).mean((1, 3))
        inside = (slice(0, shape[0] - 1), slice(0, shape[1] - 1))
        tolerance = 1.5 if np.dtype(dtype).kind in "iu" else 1e-2
        assert np.abs(stored.astype(np.float64) - mean)[inside].max() <= tolerance


def test_labels_keep_their_numbers_in_every_level(ledger: Ledger) -> None:
    writer = new_writer(ledger)
    add(writer, 0)
    for level in range(3):
        assert set(np.unique(Run(writer.path).label(0, level))) == {0, 1, 70000}


def test_columns_say_what_was_written(ledger: Ledger) -> None:
    writer = new_writer(ledger)
    for i in range(4):
        add(writer, i, segment=i != 2)
    run = Run(writer.path)
    assert np.array_equal(run.column("time_s"), 1e9 + np.arange(4))
    assert np.array_equal(run.shifts.compute(), [(i / 4, -i / 8) for i in range(4)])
    assert np.array_equal(run.column("confidence"), np.full(4, 0.5, np.float32))
    assert np.array_equal(run.column("anchor"), [0, 0, 1, 1])
    assert np.array_equal(run.column("source_index"), [10, 11, 12, 13])
    assert np.array_equal(run.column("particles"), [2, 2, -1, 2])
    assert np.array_equal(run.column("area_fraction"), np.array([0.25, 0.25, np.nan, 0.25], np.float32), equal_nan=True)
    assert np.array_equal(run.column("status") & Status.SEGMENTED > 0, [True, True, False, True])
    assert {name: str(run.column(name).dtype) for name in COLUMNS} == {name: c.dtype for name, c in COLUMNS.items()}
    writer.close()
    table = run.table("frames")
    assert np.array_equal(table["frame"], np.arange(4))
    assert np.array_equal(table["shift_y_px"], np.arange(4) / 4)


def test_raw_frames_are_kept_when_asked(ledger: Ledger) -> None:
    writer = new_writer(ledger, keep_raw=True)
    for i in range(2):
        add(writer, i, raw=planted(50 + i, "uint16"))
    run = Run(writer.path)
    assert run.raw is not None
    assert np.array_equal(run.raw.compute(), [planted(50 + i, "uint16") for i in range(2)])
    assert np.array_equal(run.frames.compute(), [planted(i, "uint16") for i in range(2)])


def test_raw_frames_are_not_kept_otherwise(ledger: Ledger) -> None:
    writer = new_writer(ledger)
    add(writer, 0, raw=planted(50, "uint16"))
    assert Run(writer.path).raw is None
    assert not (writer.path / "raw").exists()


def test_an_unknown_pixel_size_is_null_and_says_so(ledger: Ledger) -> None:
    writer = new_writer(ledger, size=None)
    add(writer, 0)
    run = Run(writer.path)
    assert run.pixel_size_nm is None
    assert run.attrs["pixel_size_nm"] is None
    assert "in pixels" in run.attrs["note"]
    opened(writer.path, 1)


def opened(path: Path, n: int) -> None:
    """Every reader opens the run and finds n frames with the pixels that were planted."""
    import napari_ome_zarr
    from ome_zarr_models import open_ome_zarr

    group = zarr.open_group(path, mode="r")
    model = open_ome_zarr(group)
    assert type(model).__name__ == "Image"
    assert type(open_ome_zarr(group["labels/particles"])).__name__ in ("ImageLabel", "Image")
    reader = napari_ome_zarr.napari_get_reader(str(path))
    assert reader is not None
    layers = {layer[2] if len(layer) > 2 else "image": layer for layer in reader(str(path))}
    data = layers["image"][0]
    assert [level.shape[-3:] for level in data] == [(n, 300, 517), (n, 150, 259), (n, 75, 130)]
    assert np.array_equal(np.asarray(data[0]).reshape(n, *SHAPE)[-1], planted(n - 1, "uint16"))
    assert np.array_equal(np.asarray(layers["labels"][0][0]).reshape(n, *SHAPE)[-1], labels_of(n - 1))
    lazy = da.from_zarr(str(path), component="0")
    assert np.array_equal(lazy[n - 1].compute(), planted(n - 1, "uint16"))


def test_every_reader_opens_a_run_at_its_first_frame_while_it_grows_and_when_it_is_closed(ledger: Ledger) -> None:
    writer = new_writer(ledger)
    add(writer, 0)
    opened(writer.path, 1)
    for i in range(1, 4):
        add(writer, i)
    opened(writer.path, 4)
    writer.close()
    opened(writer.path, 4)


def test_xarray_opens_a_level_and_the_columns(ledger: Ledger) -> None:
    xarray = pytest.importorskip("xarray")
    writer = new_writer(ledger)
    add(writer, 0)
    assert xarray.open_zarr(writer.path / "frames", consolidated=False)["shift"].shape == (1, 2)


def test_scales_are_in_the_metadata(ledger: Ledger) -> None:
    writer = new_writer(ledger)
    add(writer, 0)
    multiscale = zarr.open_group(writer.path, mode="r").attrs["ome"]["multiscales"][0]
    scales = [d["coordinateTransformations"][0]["scale"] for d in multiscale["datasets"]]
    assert scales == [[1, 0.5, 1.0], [1, 1.0, 2.0], [1, 2.0, 4.0]]
    assert [a["unit"] for a in multiscale["axes"]] == ["second", "nanometer", "nanometer"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compressor", ["blosc-lz4", "zstd", "none"])
def test_our_chunks_are_the_ones_that_zarr_writes(tmp_path: Path, dtype: str, compressor: str) -> None:
    image = planted(1, dtype)
    folder = tmp_path / "array"
    folder.mkdir()
    (folder / "zarr.json").write_bytes(dumps(Layout(SHAPE, dtype, compressor).array("0", 1)))
    array = zarr.open_array(folder, mode="r+")
    array[0] = image
    ours = b"".join(encode(little(image, dtype), compressor))
    theirs = (folder / chunk_name(0)).read_bytes()
    assert len(ours) == len(theirs)
    assert ours == theirs
    assert codecs(dtype, compressor)[-1]["name"] == "crc32c"


@pytest.mark.parametrize("path", Layout(SHAPE, "uint16", keep_raw=True).images())
def test_every_stored_chunk_is_the_one_that_zarr_writes(ledger: Ledger, tmp_path: Path, path: str) -> None:
    writer = new_writer(ledger, keep_raw=True)
    add(writer, 0)
    stored = (writer.path / path / chunk_name(0)).read_bytes()
    array = zarr.open_array(writer.path / path, mode="r+")
    array[0] = array[0]
    assert (writer.path / path / chunk_name(0)).read_bytes() == stored


def test_a_closed_run_goes_on(ledger: Ledger) -> None:
    writer = new_writer(ledger)
    add(writer, 0)
    writer.close()
    again = new_writer(ledger)
    again.reopen()
    assert Run(again.path).state == "live"
    add(again, 1)
    again.close()
    run = Run(again.path)
    assert (run.n, run.state, run.name) == (2, "closed", "cam")
    assert np.array_equal(run.frames.compute(), [planted(i, "uint16") for i in range(2)])


def test_states_are_kept_for_the_next_start(ledger: Ledger) -> None:
    writer = new_writer(ledger)
    assert writer.read_state("drift") is None
    writer.write_state("drift", {"a": np.arange(3), "b": np.float64(2)})
    state = new_writer(ledger).read_state("drift")
    assert state is not None
    assert np.array_equal(state["a"], np.arange(3))


def test_what_is_no_run_or_no_frame_says_so(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(NotARun, match="is no run"):
        Run(tmp_path)
    writer = new_writer(ledger)
    add(writer, 0)
    run = Run(writer.path)
    with pytest.raises(FrameOutOfRange):
        run.frame(1)
    with pytest.raises(KeyError, match="colour"):
        run.column("colour")
    (writer.path / "0" / "c.0.0.0").write_bytes(b"broken")
    with pytest.raises(StoreDamaged, match="frame 0 of"):
        run.frame(0)
