"""A run that grows: reserve, write chunks, sync, count in the ledger, and only then let readers see."""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from emstream.messages import Aligned, Origin, Status
from emstream.store import StoreOptions, layout
from emstream.store.chunks import Staged, crc32c, encode, little, remove_partial, replace, sync_folder
from emstream.store.columns import Columns, model_key
from emstream.store.failpoints import failpoint
from emstream.store.layout import LABELS, Layout
from emstream.store.ledger import Ledger
from emstream.store.origins import Origins
from emstream.store.pyramid import label_levels, levels
from emstream.store.reboot import mend_coarse, sync_file_system
from emstream.store.rows import FinalRow, FrameRow, LabelRow, RunRow
from emstream.store.tables import TableWriter, write_table
from emstream.store.versions import versions

CHECKPOINT_S = 60.0  # how often everything is synced, so that after a reboot only what came since is looked at

Timed: TypeAlias = Callable[[str, int], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True, eq=False)
class FrameRecord:
    """A frame as it is to be stored."""

    pixels: np.ndarray  # (y, x) moved, the run's dtype
    origin: Origin
    time_s: float
    shift: tuple[float, float]
    confidence: float = 1.0
    anchor: int = 0
    status: int = int(Status.ALIGNED)
    raw: np.ndarray | None = None  # (y, x) as the camera wrote it
    source_index: int = -1  # place in the acquisition's own order; -1: the slot
    source: np.ndarray | None = None  # (y, x) as the camera wrote it, for its checksum; None: `raw`, or `pixels`

    @classmethod
    def of(cls, aligned: Aligned, *, keep_raw: bool = False, source_index: int = -1) -> FrameRecord:
        """The record of an aligned frame whose pixels are on the host."""
        frame = aligned.frame
        return cls(
            aligned.pixels, frame.origin, frame.time_s, aligned.shift, aligned.confidence, aligned.anchor,
            aligned.status | (int(Status.LATE) if frame.late else 0), frame.pixels if keep_raw else None, source_index,
            frame.pixels,
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        """Memory that the record holds on to."""
        return self.pixels.nbytes + (0 if self.raw is None else self.raw.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class LabelRecord:
    """The labels of a stored frame."""

    slot: int
    labels: np.ndarray  # (y, x) integer; 1…n, 0 = background
    particles: int
    area_fraction: float
    model: str  # its key, see columns.model_key
    agreement: float = float("nan")  # 0..1


class RunWriter:
    """Writes one run. Not thread-safe: one thread (the write-behind queue's) calls everything but `reserve`.

    out     : the folder of the runs
    row     : from `Ledger.run_for`
    attrs   : what `attributes.emstream` shall say besides: source, camera, settings …; a resumed run keeps what it had
    timed   : a context for each stage (fsync, ledger, publish) and its number of frames
    anew    : a run that goes on is published whole, as after a reboot; else only what may differ from the ledger
    """

    def __init__(
        self,
        out: Path,
        row: RunRow,
        ledger: Ledger,
        options: StoreOptions,
        attrs: Mapping[str, Any] | None = None,
        timed: Timed = lambda stage, frames: nullcontext(),
        anew: bool = False,
    ) -> None:
        self.row, self.ledger, self.options, self._timed = row, ledger, options, timed
        self.path = Path(out) / f"{row.name}.zarr"
        self.state_folder = ledger.folder / "state"
        self.attrs: dict[str, Any] = {"series": row.series} | dict(attrs or {}) | dict(row.attrs)
        fixed = self.attrs.setdefault("layout", {"compressor": options.compressor, "keep_raw": options.keep_raw})
        self.layout = Layout(row.shape, row.dtype, fixed["compressor"], fixed["keep_raw"])
        self.n = row.n  # frames committed
        self.published = 0
        models = [model_key(m["name"], m["sha256"]) for m in self.attrs.get("models", [])]
        self.columns = Columns(self.path / "frames", lambda start, stop: ledger.frames(row.id, start, stop), models)
        self._settled = row.settled
        self._levels = len(self.layout.levels)
        self._staged = Staged(options.fsync)
        self._frames: list[FrameRow] = []
        self._labels: list[LabelRow] = []
        self._finals: list[FinalRow] = []
        self._origins = Origins(self.path / "tables" / "origins.jsonl")
        self._tables: dict[str, TableWriter] = {}
        self._published_at = 0.0
        self._dirty = self._folders_made = False
        self._checkpoint: threading.Thread | None = None
        self._checkpoint_at = time.monotonic()
        self._leftovers = self.path.is_dir()  # of a kill, perhaps before the first frame counted
        if self.n:
            self._resume(anew)

    @property
    def name(self) -> str:
        return self.row.name

    # -- frames and labels

    def reserve(self, origins: Sequence[Origin], pixels: Callable[[int], np.ndarray] | None = None) -> list[int | None]:
        """Slots for frames that will surely be written, in this order; None for one that is stored already. Any thread.

        pixels : the i-th frame as the camera wrote it, looked at when a file of its name is known but was changed
        """
        if pixels is None:
            return self.ledger.reserve(self.row.id, origins)
        return self.ledger.reserve(self.row.id, origins, lambda i: crc32c(little(pixels(i), self.row.dtype)))

    def write_frames(
        self, records: Sequence[FrameRecord], slots: Sequence[int | None] | None = None
    ) -> list[int | None]:
        """Compress frames into files that nobody sees before `flush`.

        slots   : from `reserve`; without them they are reserved here
        returns : the slots; None for a frame that was stored before and is left alone
        raises  : OSError; the same call may be repeated after `discard`
        """
        if slots is None:
            slots = self.reserve([r.origin for r in records])
        self._make_folders()
        for record, slot in zip(records, slots, strict=True):
            if slot is not None:
                self._write_frame(record, slot)
        return list(slots)

    def write_labels(self, records: Sequence[LabelRecord]) -> None:
        """Labels of frames that were written before, in any order; visible after `flush`."""
        for record in records:
            pixels = little(record.labels, "uint32")
            for level, image in enumerate(label_levels(pixels, self._levels)):
                self._stage(f"{LABELS}/{level}", record.slot, image, durable=level == 0)
            row = LabelRow(
                record.slot, crc32c(pixels), record.particles, record.area_fraction, record.model, record.agreement
            )
            self._labels.append(row)

    def write_finals(self, shifts: Mapping[int, tuple[float, float]]) -> None:
        """Final shifts (dy, dx) px of frames that were written before, by slot; visible after `flush`."""
        self._finals += [FinalRow(slot, (float(dy), float(dx))) for slot, (dy, dx) in shifts.items()]

    def flush(self) -> None:
        """Commit everything written since the last flush, and publish it when that is due.

        raises : OSError when the disk is full or broken: `discard`, and write the same again later
        """
        if self._frames or self._labels or self._finals:
            self._check_space()
            group = len(self._frames)
            with self._timed("fsync", group):
                self._staged.commit()
            with self._timed("ledger", group):
                settled = self._unsettled()
                self.ledger.commit(self.row.id, self._frames, self._labels, self._finals, settled)
                self._settled = self._settled if settled is None else settled
            if self._frames:
                self._origins.append(self.ledger.frames(self.row.id, self._frames[0].slot))
                failpoint("journal.written")
                self.n = max(self.n, self._frames[-1].slot + 1)
            self.columns.put_frames(self._frames)
            self.columns.put_labels(self._labels)
            self.columns.put_finals(self._finals)
            self._frames, self._labels, self._finals = [], [], []
            self._dirty = True
        self.idle()

    def discard(self) -> None:
        """Forget what was written since the last flush, after an error."""
        self._staged.discard()
        self._frames, self._labels, self._finals = [], [], []

    def idle(self) -> None:
        """Publish what was committed, when it is time to."""
        if self._dirty and time.monotonic() - self._published_at >= self.options.publish_every_s:
            with self._timed("publish", max(0, self.n - self.published)):
                self.publish()
            self._sync_sometimes()

    def publish(self) -> None:
        """Let readers see all committed frames: coarse levels, labels, columns, and level 0 last, each by atomic replace."""
        if not self.n:
            return
        for name, chunk, rows in self.columns.changed():
            file = self.path / "frames" / name / layout.column_chunk_name(name, chunk)
            replace(file, b"".join(encode(rows, "none")))
        failpoint("publish.columns")
        if (settled := self.columns.settled()) > self._settled:
            self.ledger.set_run(self.row.id, settled=settled)
            self._settled = settled
        if self.n != self.published:
            first = self.published == 0
            for name in layout.COLUMNS:
                self._put_metadata(f"frames/{name}", self.layout.array(f"frames/{name}", self.n))
            *others, last = self.layout.images()
            for path in others:
                self._put_metadata(path, self.layout.array(path, self.n))
                failpoint("publish.level")
            if first:
                self._put_groups(but_root=True)
            self._put_metadata(last, self.layout.array(last, self.n))
            failpoint("publish.shape")
            if first:
                self._set_state("live")
            self.published = self.n
        self._published_at = time.monotonic()
        self._dirty = False

    # -- the run as a whole

    def table(self, name: str, schema: Mapping[str, Any]) -> TableWriter:
        """The growing table tables/NAME.parquet."""
        self._make_folders()
        if name not in self._tables:
            self._tables[name] = TableWriter(self.path / "tables" / f"{name}.parquet", schema, fsync=self.options.fsync)
        return self._tables[name]

    def flush_tables(self) -> None:
        """Let readers see all rows that were appended."""
        for table in self._tables.values():
            table.flush()

    def set_attrs(self, **attrs: Any) -> None:
        """Add to, or change, `attributes.emstream`: models, anchors, camera …"""
        self.attrs.update(attrs)
        self.ledger.set_run(self.row.id, attrs=self.attrs)
        if self.published:
            self._put_groups()

    def add_model(self, name: str, sha256: str, frame: int = 0) -> None:
        """Tell that labels of this run come from a model, first those of `frame`; `frames/model` tells it of each frame."""
        key = model_key(name, sha256)
        if key not in self.columns.models:
            self.set_attrs(
                models=[*self.attrs.get("models", []), {"name": name, "sha256": sha256, "from_frame": frame}]
            )
            self.columns.models.append(key)

    def write_state(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep arrays (the drift's state, the tracks) for the next start; the older ones are replaced whole."""
        import io

        self.state_folder.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        named: dict[str, Any] = {k: np.asarray(v) for k, v in arrays.items()}
        np.savez(buffer, **named)
        replace(self.state_folder / f"{self.name}.{name}.npz", buffer.getvalue(), self.options.fsync)

    def read_state(self, name: str) -> dict[str, np.ndarray] | None:
        """What `write_state` kept; None when there is none."""
        return read_state(self.ledger, self.name, name)

    def reopen(self) -> None:
        """A closed or recovered run goes on."""
        if self.published:
            self._set_state("live")

    def close(self, tables: Mapping[str, Any] | None = None) -> None:
        """Flush, write the tables whole, and say `closed`. Writing more calls for `reopen`.

        tables : name -> columns of tables that are written only now
        """
        self.flush()
        self.publish()
        for table in self._tables.values():
            table.flush()
        if not self.n:
            return
        for name, columns in (tables or {}).items():
            write_table(self.path / "tables" / f"{name}.parquet", columns)
        write_table(self.path / "tables" / "frames.parquet", self.columns.as_table(self.n))
        if self._leftovers:
            self._sweep(self.layout.images())
        self._set_state("closed")

    # -- inside

    def _unsettled(self) -> int | None:
        """Where the columns will begin to differ from their files, when that is before where they did."""
        slots = [r.slot for rows in (self._frames, self._labels, self._finals) for r in rows]
        first = min(slots) // layout.COLUMN_CHUNK * layout.COLUMN_CHUNK
        return first if first < self._settled else None

    def _write_frame(self, record: FrameRecord, slot: int) -> None:
        pixels = little(record.pixels, self.row.dtype)
        if pixels.shape != self.row.shape:
            raise ValueError(f"a frame of {pixels.shape} does not fit the run {self.name} of {self.row.shape} px")
        for level, image in enumerate(levels(pixels, self._levels)):
            self._stage(str(level), slot, image, durable=level == 0)
        if "window" not in self.attrs:
            self._begin(image)
        written = next((p for p in (record.source, record.raw) if p is not None), pixels)
        source = little(written, self.row.dtype)
        if self.layout.keep_raw:
            self._stage("raw/0", slot, source, durable=True)
        index = record.source_index if record.source_index >= 0 else slot
        self._frames.append(
            FrameRow(
                slot,
                crc32c(pixels),
                crc32c(source),
                record.time_s,
                (float(record.shift[0]), float(record.shift[1])),
                record.confidence,
                record.anchor,
                int(record.status),
                index,
            )
        )
        failpoint("frame.staged")

    def _stage(self, array: str, slot: int, image: np.ndarray, durable: bool) -> None:
        path = self.path / array / layout.chunk_name(slot)
        self._staged.write(path, encode(image, self.layout.compressor_of(array)), durable)

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.path).free
        if free < self.options.low_water_mb * 2**20:
            wanted = f"store.low_water_mb = {self.options.low_water_mb}"
            raise OSError(
                errno.ENOSPC, f"{free >> 20} MB free, {wanted}: make room, writing goes on by itself", str(self.path)
            )

    def _sweep(self, large: Iterable[str]) -> None:
        """Delete what a kill left half written; folders with a chunk for each frame only when they are named."""
        small = {p for path in (*self.layout.images(), "frames/x", "tables/x") for p in Path(path).parents}
        tables = (f"tables/{p.name}" for p in self.path.glob("tables/*.parquet"))
        for folder in (*map(str, small), *(f"frames/{name}" for name in layout.COLUMNS), *tables, *large):
            remove_partial(self.path / folder)

    def _make_folders(self) -> None:
        """Once in a life: a power cut may have left some of them."""
        if self._folders_made:
            return
        made = {self.path.parent, self.path}
        for array in (*self.layout.images(), *(f"frames/{name}" for name in layout.COLUMNS), "tables"):
            folder = self.path / array
            folder.mkdir(parents=True, exist_ok=True)
            made |= {folder, *(self.path / p for p in Path(array).parents)}
        if self.options.fsync:  # a synced chunk is of no use in a folder that a power cut takes away
            for folder in sorted(made):
                sync_folder(folder)
        self._folders_made = True

    def _sync_sometimes(self) -> None:
        """Sync what is not synced as it is written, beside the work."""
        if not self.options.fsync or time.monotonic() - self._checkpoint_at < CHECKPOINT_S:
            return
        if self._checkpoint is None or not self._checkpoint.is_alive():
            self._checkpoint_at = time.monotonic()
            self._checkpoint = threading.Thread(target=self._sync, args=(self.n,), daemon=True, name="checkpoint")
            self._checkpoint.start()

    def _sync(self, n: int) -> None:
        """All that the first n frames are made of is on the disk."""
        try:
            sync_file_system(self.path)
            self.ledger.set_run(self.row.id, checkpoint=n)
        except (OSError, sqlite3.Error):
            return  # the disk is full or away, or the ledger was closed: a later one, or the look after a reboot

    def _put_metadata(self, path: str, document: Mapping[str, Any]) -> None:
        replace(self.path / path / "zarr.json", layout.dumps(document))

    def _put_groups(self, but_root: bool = False) -> None:
        window = self.attrs["window"]
        told = {
            "format": layout.FORMAT,
            "state": self.attrs.get("state", "live"),
            "pixel_size_nm": self.row.pixel_size_nm,
            "time_sampling": "variable; see frames/time_s",
            "models": [],
            "anchors": [],
        }
        told |= {k: v for k, v in self.attrs.items() if k not in ("window", "layout")}
        if self.row.pixel_size_nm is None:
            told["note"] = "the pixel size is unknown: lengths are in pixels, whatever the axes' unit says"
        told = json.loads(json.dumps(told, default=str))
        groups = self.layout.groups(
            self.name, self.row.pixel_size_nm, told, (window[0], window[1]), versions(self.path)
        )
        for path, document in groups.items():
            if path or not but_root:
                self._put_metadata(path, document)

    def _set_state(self, state: str) -> None:
        self.attrs["state"] = state
        self._put_groups()
        if state == "closed" and self.options.fsync:  # nobody looks at a closed run again after a reboot
            if self._checkpoint is not None:
                self._checkpoint.join()
            sync_file_system(self.path)
            self.ledger.set_run(self.row.id, checkpoint=self.n)
        self.ledger.set_run(self.row.id, state=state, attrs=self.attrs)

    def _begin(self, coarsest: np.ndarray) -> None:
        """Fix, with the first frame, what stays for the whole run: the layout, and the grey levels from black to white."""
        low, high = np.percentile(coarsest, (0.2, 99.8))
        self.attrs["window"] = [float(low), float(max(high, low + 1))]
        self.ledger.set_run(self.row.id, attrs=self.attrs)

    def _resume(self, anew: bool) -> None:
        """Go on where the ledger says the run ended; what lies beyond is left over from a kill and overwritten."""
        self._make_folders()
        rebooted = self.ledger.recovery.rebooted and self.row.state not in ("closed", "recovered")
        anew = anew or rebooted
        self._sweep(self.layout.images() if anew else ())
        if rebooted and len(self.layout.levels) > 1:
            rows = self.ledger.frames(self.row.id, self.row.checkpoint)
            mend_coarse(self.path, self.layout, rows, self.options.fsync)
        self.columns.renew(0 if anew else self.row.settled, self.n)
        last = None if anew else self._origins.last()
        if last is None:
            blocks = range(0, self.n, layout.COLUMN_CHUNK)
            self._origins.renew(self.ledger.frames(self.row.id, i, i + layout.COLUMN_CHUNK) for i in blocks)
        elif last + 1 < self.n:
            self._origins.append(self.ledger.frames(self.row.id, last + 1))
        self._dirty = True
        self.published = -1  # whatever the metadata says now
        self._put_groups(but_root=True)
        self.publish()
        if self.row.state in ("closed", "recovered"):
            self._put_groups()
        else:
            self._set_state("live")
        if rebooted:
            self._sync(self.n)


def read_state(ledger: Ledger, run: str, name: str) -> dict[str, np.ndarray] | None:
    """What `RunWriter.write_state` kept of a run; None when there is none."""
    path = ledger.folder / "state" / f"{run}.{name}.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        return {k: stored[k] for k in stored.files}
