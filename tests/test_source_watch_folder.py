"""A watched folder over its life: ten thousand files, partial ones, restarts, series, memory, the system's hints."""

from __future__ import annotations

import gc
import io
import os
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from contracts import Planted

from emstream.messages import Frame
from emstream.source import SourceOptions
from emstream.source.discover import Discovery
from emstream.source.finished import RECENT, Finished
from emstream.source.formats import open_source
from emstream.source.formats.dm_write import dm4
from emstream.source.formats.series import natural_key
from emstream.source.play import MrcWriter, steps
from emstream.source.tree import Found
from emstream.source.watch import watch
from emstream.source.watcher import Watcher

MANY = int(os.environ.get("EMSTREAM_BURST", "10000"))


class Told:
    """A report that remembers all it is told."""

    def __init__(self) -> None:
        self.n_seen = 0
        self.refused: list[tuple[str, str]] = []
        self.up: list[bool] = []
        self.gone: list[str] = []
        self.missed = 0
        self.waiting = (0, 0.0, 0)

    def seen(self, n: int) -> None:
        self.n_seen += n

    def read(self, seconds: float, nbytes: int) -> None:
        assert seconds >= 0
        assert nbytes > 0

    def quarantined(self, path: str, reason: str, what: str, frame: int = -1) -> None:
        assert what
        self.refused.append((path, reason))

    def retried(self, path: str) -> None: ...

    def pending(self, count: int, oldest_s: float, settling: int) -> None:
        self.waiting = (count, oldest_s, settling)

    def watch_up(self, up: bool) -> None:
        self.up.append(up)

    def missed_hint(self, n: int) -> None:
        self.missed += n

    def lost(self, path: str) -> None:
        self.gone.append(path)


class Taken:
    """A ledger that knows how many frames of which path went out."""

    def __init__(self, frames: list[Frame]) -> None:
        self.taken: dict[str, int] = defaultdict(int)
        for frame in frames:
            self.taken[frame.origin.path] += 1

    def known_frames(self, path: str, size: int, mtime_ns: int, inode: int) -> int:
        return self.taken.get(path, 0)

    def asked_again(self) -> list[str]:
        return []


class Scene:
    """A watched folder, and a clock that only moves when told."""

    def __init__(self, root: Path, known: Taken | None = None, **options: object) -> None:
        root.mkdir(exist_ok=True)
        self.root, self.told, self.now = root, Told(), 1000.0
        settings = SourceOptions(**options)  # type: ignore[arg-type]
        self.watcher = Watcher(root, settings, known or Taken([]), self.told, timer=lambda: 0.0)

    def put(self, *numbers: int) -> None:
        for i in numbers:
            (self.root / f"f_{i}.npy").write_bytes(npy(i))

    def step(self, seconds: float) -> list[Frame]:
        self.now += seconds
        return list(self.watcher.step(self.now))

    def run(self, seconds: float, every: float = 0.2) -> list[Frame]:
        return [f for _ in range(round(seconds / every)) for f in self.step(every)]

    def until(self, n: int, seconds: float = 200.0) -> list[Frame]:
        """Until n frames came; gives up after so much of its own time."""
        frames: list[Frame] = []
        end = self.now + seconds
        while len(frames) < n and self.now < end:
            frames += self.step(0.25)
        return frames


def npy(i: int) -> bytes:
    """A .npy of 4 x 4 px that holds i + 1: no pixel is zero."""
    return NPY_HEAD + np.full((4, 4), i + 1, "<u4").tobytes()


def _head() -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros((4, 4), "<u4"))
    return out.getvalue()[:-64]


NPY_HEAD = _head()


def numbers(frames: list[Frame]) -> list[int]:
    return [int(f.pixels[0, 0]) - 1 for f in frames]


# -- many files


def flat(root: Path, outside: Path) -> None:
    for i in range(MANY):
        (root / f"f_{i}.npy").write_bytes(npy(i))


def nested(root: Path, outside: Path) -> None:
    for i in range(MANY):
        folder = root / f"day_{i // 1000}" / f"part_{i // 50}"
        if i % 50 == 0:
            folder.mkdir(parents=True)
        (folder / f"f_{i}.npy").write_bytes(npy(i))


def renamed(root: Path, outside: Path) -> None:
    for i in range(MANY):
        part = root / f"f_{i}.npy.part"
        part.write_bytes(npy(i))
        part.rename(root / f"f_{i}.npy")


def moved_in(root: Path, outside: Path) -> None:
    outside.mkdir()
    nested(outside, outside)
    for folder in sorted(outside.iterdir()):
        folder.rename(root / folder.name)


@pytest.mark.parametrize(
    ("write", "live"), [(flat, True), (nested, True), (renamed, True), (moved_in, True), (moved_in, False)]
)
def test_ten_thousand_files_come_once_and_in_order(
    write: Callable[[Path, Path], None], live: bool, tmp_path: Path
) -> None:
    scene = Scene(tmp_path / "camera", reorder_s=60.0)
    writer = threading.Thread(target=write, args=(scene.root, tmp_path / "outside"))
    writer.start()
    frames: list[Frame] = []
    while live and writer.is_alive():
        frames += scene.step(0.25)
    writer.join()
    frames += scene.until(MANY - len(frames))
    frames += scene.run(40, every=1.0)  # the slow comparison of all files finds nothing more
    assert sorted(numbers(frames)) == list(range(MANY))
    assert scene.told.n_seen == MANY
    assert not scene.told.refused
    assert not scene.told.gone
    assert not any(f.late for f in frames)
    for series in {f.series for f in frames}:
        keys = [natural_key(f.origin.path) for f in frames if f.series == series]
        assert keys == sorted(keys)


# -- whole or not


@pytest.mark.parametrize("fmt", ["tiff", "npy", "png", "dm4-tree"])
def test_a_frame_that_is_written_in_pieces_comes_when_it_is_whole(fmt: str, tmp_path: Path) -> None:
    movie = Planted(5)
    scene = Scene(tmp_path / "camera", settle_s=5.0)
    frames: list[Frame] = []
    for i, _ in steps(movie, scene.root, fmt=fmt, pieces=7):  # type: ignore[arg-type]
        frames += scene.run(0.3, every=0.1)
        assert len(frames) <= i + 1
    for frame in frames:
        assert frame.origin.size == (scene.root / frame.origin.path).stat().st_size
    frames += scene.run(8)
    assert np.array_equal(np.stack([f.pixels for f in frames]), movie.frames)


def test_a_growing_movie_comes_frame_by_frame_and_its_last_frame_once_it_is_quiet(tmp_path: Path) -> None:
    movie = Planted(6)
    scene = Scene(tmp_path / "camera", settle_s=3.0)
    camera = steps(movie, scene.root, fmt="mrc", pieces=4)  # type: ignore[arg-type]
    frames: list[Frame] = []
    for i, whole in camera:
        frames += scene.run(0.3, every=0.1)
        assert len(frames) <= i  # frame i is believed when the next one begins
        assert not whole or len(frames) == i
        if whole and i == len(movie) - 1:
            break
    assert not scene.run(2)
    frames += scene.run(2)
    assert [f.origin.sub for f in frames] == list(range(6))
    assert np.array_equal(np.stack([f.pixels for f in frames]), movie.frames)
    assert {f.series for f in frames} == {"movie.mrc"}
    camera.close()  # type: ignore[attr-defined]


def test_a_growing_tiff_stack_comes_page_by_page(tmp_path: Path) -> None:
    movie = Planted(5)
    scene = Scene(tmp_path / "camera")
    frames: list[Frame] = []
    for i, _ in steps(movie, scene.root, fmt="tiff-stack"):  # type: ignore[arg-type]
        frames += scene.run(0.5, every=0.1)
        assert len(frames) <= i + 1
    frames += scene.run(4)
    assert [f.origin.sub for f in frames] == list(range(5))
    assert np.array_equal(np.stack([f.pixels for f in frames]), movie.frames)


def test_an_empty_file_waits_as_long_as_it_takes(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "camera", stuck_s=5.0)
    path = scene.root / "f_0.tif"
    path.touch()
    assert not scene.run(100)
    assert not scene.told.refused
    assert scene.told.waiting[0] == 1
    tifffile.imwrite(path, Planted().frame(0))
    assert len(scene.run(20)) == 1
    assert scene.told.waiting[0] == 0


def test_a_file_that_stays_a_part_is_refused_and_read_when_it_goes_on(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "camera", stuck_s=5.0)
    path = scene.root / "f_3.npy"
    path.write_bytes(npy(3)[:-10])
    assert not scene.run(3)
    assert not scene.told.refused
    assert not scene.run(60)
    assert scene.told.refused == [("f_3.npy", "truncated")]
    path.write_bytes(npy(3))
    assert numbers(scene.run(60)) == [3]


def test_a_half_written_frame_holds_the_next_ones_back_only_for_a_while(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "camera", reorder_s=2.0, stuck_s=1000.0)
    scene.put(0, 2)
    (scene.root / "f_1.npy").write_bytes(npy(1)[:-1])
    assert numbers(scene.run(1)) == [0]
    assert numbers(scene.run(4)) == [2]
    scene.put(1)
    (frame,) = scene.run(20)
    assert numbers([frame]) == [1]
    assert frame.late


def test_a_later_frame_waits_for_an_earlier_one(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "camera", reorder_s=2.0)
    scene.put(0, 1)
    assert numbers(scene.run(1)) == [0, 1]
    scene.put(3)
    assert not scene.run(1)
    scene.put(2)
    frames = scene.run(1.4)
    assert numbers(frames) == [2, 3]
    assert not any(f.late for f in frames)


# -- restarts


def test_frames_that_the_ledger_knows_are_not_handed_out_again(tmp_path: Path) -> None:
    first = Scene(tmp_path / "camera")
    first.put(*range(20))
    frames = first.until(20)
    first.watcher.close()
    again = Scene(tmp_path / "camera", known=Taken(frames))
    again.put(20)
    assert numbers(again.run(40)) == [20]


def test_beside_thousands_of_files_that_are_known_the_new_ones_come_at_once(tmp_path: Path) -> None:
    many, missed = 3000, 700
    known, opened = Taken([]), []
    known.taken |= {f"f_{i}.npy": 1 for i in range(many) if i != missed}
    scene = Scene(tmp_path / "camera", known=known)
    scene.put(*range(many + 3))
    scene.watcher._opener = lambda path, options: opened.append(path) or open_source(path, options)
    assert numbers(scene.step(0.25)) == [many, many + 1, many + 2]
    rest = scene.until(1)
    assert numbers(rest) == [missed]
    assert rest[0].late
    assert not scene.run(5)
    assert len(opened) < 200  # one tells that the others of its kind and size need not be looked into
    assert scene.told.waiting[0] == 0


@pytest.mark.parametrize("taken", [0, 1, 3, 4])
def test_a_movie_that_grew_between_two_lives_goes_on_where_it_was(taken: int, tmp_path: Path) -> None:
    movie = Planted(7)
    first = Scene(tmp_path / "camera")
    camera = MrcWriter(first.root / "m.mrc", movie.shape, movie.dtype, None, 1)
    for i in range(4):
        list(camera.frame(i, movie.frame(i)))
    frames = first.run(5)[:taken]
    first.watcher.close()
    again = Scene(first.root, known=Taken(frames))
    rest = again.run(5)
    assert [f.origin.sub for f in rest] == list(range(taken, 4))
    for i in range(4, 7):
        list(camera.frame(i, movie.frame(i)))
    rest += again.run(40)
    camera.close()
    rest += again.run(40)
    assert [f.origin.sub for f in rest] == list(range(taken, 7))
    assert all(np.array_equal(f.pixels, movie.frame(f.origin.sub)) for f in rest)


# -- what comes, goes, and is no frame


def test_a_broken_file_is_told_again_only_when_it_changes(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "camera")
    path = scene.root / "f_5.npy"
    for k, text in enumerate((b"this is no array, nor will it ever be", b"another text, as little a frame as that")):
        path.write_bytes(text)
        assert not scene.run(100)
        assert scene.told.refused == [("f_5.npy", "unknown_format")] * (k + 1)
    scene.put(5)
    assert numbers(scene.run(100)) == [5]
    assert len(scene.told.refused) == 2


def test_a_copy_over_the_same_name_is_a_new_frame_only_when_its_pixels_differ(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "camera")
    scene.put(0)
    assert numbers(scene.run(5)) == [0]
    for i, expected in ((0, []), (9, [9])):
        copy = scene.root / "copy.part"
        copy.write_bytes(npy(i))
        copy.rename(scene.root / "f_0.npy")
        assert numbers(scene.run(100)) == expected


def test_a_frame_that_is_renamed_after_it_was_read_is_not_read_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "camera")
    scene.put(0)
    assert numbers(scene.run(5)) == [0]
    (scene.root / "sub").mkdir()
    (scene.root / "f_0.npy").rename(scene.root / "sub" / "h_0.npy")
    assert not scene.run(100)
    assert not scene.told.gone


def test_a_file_that_goes_away_before_it_was_read_is_told_as_lost(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "camera", stuck_s=1000.0)
    path = scene.root / "f_0.npy"
    path.write_bytes(npy(0)[:-1])
    scene.run(1)
    path.unlink()
    assert not scene.run(20)
    assert scene.told.gone == ["f_0.npy"]
    assert scene.told.waiting[0] == 0


def test_nothing_is_told_as_lost_while_the_whole_folder_is_away(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "camera", stuck_s=1000.0)
    path = scene.root / "f_0.npy"
    path.write_bytes(npy(0)[:-1])
    scene.run(1)
    path.unlink()
    scene.step(0.1)
    scene.root.rename(tmp_path / "away")
    scene.root.mkdir()
    scene.run(20)
    assert scene.told.gone == []
    path = tmp_path / "away" / "f_0.npy"
    path.write_bytes(npy(0))
    scene.root.rmdir()
    (tmp_path / "away").rename(scene.root)
    assert numbers(scene.run(5)) == [0]
    assert scene.told.gone == []


def test_names_of_unfinished_and_foreign_files_are_left_alone(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "camera")
    for name in (".hidden.npy", "f_1.npy.part", "f_2.npy~", "f_3.tmp", "notes.txt", "log.csv", "README", "Thumbs.db"):
        (scene.root / name).write_bytes(npy(1))
    (scene.root / ".cache").mkdir()
    (scene.root / ".cache" / "f_3.npy").write_bytes(npy(3))
    (scene.root / "same.npy").symlink_to(scene.root / ".cache" / "f_3.npy")
    (scene.root / "round").symlink_to(scene.root)
    assert not scene.run(100)
    assert not scene.told.refused
    assert scene.told.waiting[0] == 0


def test_a_name_that_is_no_text_is_read_and_spoken_of_as_text(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "camera")
    try:
        with open(os.fsencode(scene.root) + b"/f_\xff_0.npy", "wb") as file:
            file.write(npy(4))
    except OSError:
        pytest.skip("this file system takes only names that are text")
    (frame,) = scene.run(10)
    assert numbers([frame]) == [4]
    assert frame.origin.path == "f_\\xff_0.npy"


def test_an_empty_folder_in_its_place_is_a_mount_point_without_its_mount(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "camera")
    scene.put(0)
    movie = Planted(3)
    camera = MrcWriter(scene.root / "m.mrc", movie.shape, movie.dtype, None, 1)
    for i in range(2):
        list(camera.frame(i, movie.frame(i)))
    assert len(scene.run(5)) == 3
    scene.root.rename(tmp_path / "away")
    scene.root.mkdir()
    assert not scene.run(60)
    assert scene.told.up == [True, False]
    scene.root.rmdir()
    (tmp_path / "away").rename(scene.root)
    list(camera.frame(2, movie.frame(2)))
    scene.put(1)
    frames = scene.run(60)
    camera.close()
    assert scene.told.up == [True, False, True]
    assert sorted((f.origin.path, f.origin.sub) for f in frames) == [("f_1.npy", 0), ("m.mrc", 2)]
    assert not scene.told.gone


# -- what belongs together

SINGLES = ("a/f_0.npy", "a/f_1.npy", "b/deep/g_0.npy", "top_0.npy")
TREE = tuple(
    f"Au/Hour_00/Minute_00/Second_0{s}/Au_Hour_00_Minute_00_Second_0{s}_Frame_000{i}.npy"
    for s in (0, 1)
    for i in (0, 1)
)
MOVIES = {"m.mrc": ["m.mrc"] * 2, "n.mrc": ["n.mrc"] * 2}
FOLDERS = {"a": [*SINGLES[:2]], "b/deep": [SINGLES[2]], "Au": [*TREE]}
SERIES = {
    "auto": {**FOLDERS, "": ["top_0.npy"], **MOVIES},
    "folder": {**FOLDERS, "": ["m.mrc", "m.mrc", "n.mrc", "n.mrc", "top_0.npy"]},
    "file": {**{n: [n] for n in (*SINGLES, *TREE)}, **MOVIES},
    "all": {"": sorted((*SINGLES, *TREE, *MOVIES["m.mrc"], *MOVIES["n.mrc"]))},
}


@pytest.mark.parametrize("group", SERIES)
def test_series_are_what_the_settings_say(group: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path / "camera", group=group)
    for name in (*SINGLES, *TREE):
        (scene.root / name).parent.mkdir(parents=True, exist_ok=True)
        (scene.root / name).write_bytes(npy(1))
    movie = Planted(2)
    for name in MOVIES:
        camera = MrcWriter(scene.root / name, movie.shape, movie.dtype, None, 1)
        for i in range(2):
            list(camera.frame(i, movie.frame(i)))
        camera.close()
    found = defaultdict(list)
    for frame in scene.run(10):
        found[frame.series].append(frame.origin.path)
    if group in ("auto", "folder"):
        assert found["Au"] == list(TREE)
    assert {series: sorted(paths) for series, paths in found.items()} == SERIES[group]


def test_a_movie_in_pieces_is_one_series_read_through_its_first(tmp_path: Path) -> None:
    movie = Planted(4)
    scene = Scene(tmp_path / "camera")
    data = movie.frames.tobytes()
    cut = len(data) // 3 + 5  # frames straddle the pieces
    (scene.root / "Pt.dm4").write_bytes(dm4(movie.frame(0)))
    (scene.root / "Pt.raw").write_bytes(data[:cut])
    frames = scene.run(1)
    (scene.root / "Pt.raw_1").write_bytes(data[cut:])
    frames += scene.run(60)
    assert {f.series for f in frames} == {"Pt.dm4"}
    assert [f.origin.sub for f in frames] == [0, 1, 2, 3]
    assert np.array_equal(np.stack([f.pixels for f in frames]), movie.frames)
    assert not scene.told.refused


# -- what it costs


def grown_per_file(root: Path) -> float:
    """Bytes of memory that a file which is done with leaves behind."""
    scene = Scene(root)

    def pour(start: int, n: int) -> None:
        folder = scene.root / f"d_{start}"
        folder.mkdir()
        for i in range(start, start + n):
            (folder / f"f_{i}.npy").write_bytes(npy(i))
        assert len(scene.until(n)) == n
        shutil.rmtree(folder)
        scene.run(3, every=0.5)
        gc.collect()

    tracemalloc.start()
    pour(0, 4500)  # what is remembered of the last few thousand files is full
    before = tracemalloc.get_traced_memory()[0]
    for k in range(2):
        pour(4500 + RECENT * k, RECENT)
    return (tracemalloc.get_traced_memory()[0] - before) / (2 * RECENT)


def test_a_finished_file_costs_few_bytes_of_memory(tmp_path: Path) -> None:
    """Measured in a process of its own: what other tests left behind does not count."""
    from crash.harness import in_memory  # not for the process that is measured

    code = "import sys, pathlib, test_source_watch_folder as t; print(t.grown_per_file(pathlib.Path(sys.argv[1])))"
    where = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with in_memory(tmp_path) as folder:  # thirteen thousand files
        command = [sys.executable, "-c", code, str(folder / "camera")]
        answer = subprocess.run(command, env=where, capture_output=True, text=True, timeout=300, check=False)
    assert answer.returncode == 0, answer.stderr
    assert float(answer.stdout) < 64


class DoneAtOnce(Told):
    """Everything that a discovery finds is done with."""

    def __init__(self, finished: Finished) -> None:
        super().__init__()
        self.finished, self.files = finished, 0

    def found(self, files: list[Found]) -> None:
        self.files += len(files)
        for f in files:
            self.finished.add(f.path, f.size, f.mtime_ns, f.inode)

    def knows(self, file: Found) -> bool:
        return False


@pytest.mark.parametrize("flat", [True, False])
def test_at_a_first_start_on_many_files_the_first_come_before_all_are_seen_and_each_costs_few_bytes(
    flat: bool, tmp_path: Path
) -> None:
    from crash.harness import in_memory

    many, whole = 20_000, io.BytesIO()
    np.save(whole, np.full((2, 2), 7, np.uint16))
    with in_memory(tmp_path) as folder:
        root = folder / "camera"
        for i in range(many):
            path = root / (f"f_{i:06d}.npy" if flat else f"part_{i // 500:02d}/f_{i:06d}.npy")
            if i % 500 == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(whole.getvalue())
        watcher = Watcher(root, SourceOptions(), Taken([]), Told())
        first = next(frame for _ in range(3) for frame in watcher.step(0.0))
        assert first.origin.path.endswith("f_000000.npy")
        assert not watcher._discovery.walked
        assert len(watcher._roster.files) < many / 4
        watcher.close()

        finished = Finished()
        told = DoneAtOnce(finished)
        tracemalloc.start()
        try:
            discovery = Discovery(root, (), finished, {}, told, None)
            while told.files < many / 2:
                discovery.step(0.0)
            assert not discovery.walked
            assert tracemalloc.get_traced_memory()[0] / many < 50
            while not discovery.walked:
                discovery.step(0.0)
            assert told.files == many
            assert tracemalloc.get_traced_memory()[0] / many < 50
        finally:
            tracemalloc.stop()


# -- with the operating system's hints


def test_a_file_that_its_writer_closed_is_handed_out_at_once(tmp_path: Path) -> None:
    """Nothing in this file proves that its second frame is whole: only the close does, long before it settles."""
    movie = Planted(2)
    told, stop = Told(), threading.Event()
    frames = watch(tmp_path, SourceOptions(settle_s=1000.0), Taken([]), stop, told)
    assert next(frames) is None
    camera = MrcWriter(tmp_path / "m.mrc", movie.shape, movie.dtype, None, 1)
    for i in range(2):
        list(camera.frame(i, movie.frame(i)))
    camera._file.close()  # without the header's last word
    got = list(take(frames, 2))
    stop.set()
    assert list(frames) == []
    assert [f.origin.sub for f in got] == [0, 1]


def take(frames: Iterator[Frame | None], n: int, patience_s: float = 60.0) -> Iterator[Frame]:
    end = time.monotonic() + patience_s
    for frame in frames:
        if frame is not None:
            yield frame
            n -= 1
            if n == 0:
                return
        assert time.monotonic() < end, "it never came"
