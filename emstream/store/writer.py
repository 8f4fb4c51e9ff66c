"""A run that grows: reserve, write chunks, sync, count in the ledger, and only then let readers see."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from emstream.messages import Origin
from emstream.store import StoreOptions, layout
from emstream.store.checkpoint import Checkpoints
from emstream.store.chunks import Staged, crc32c, encode, little, replace
from emstream.store.columns import Columns, model_key
from emstream.store.failpoints import failpoint
from emstream.store.folders import check_space, make_folders, sweep
from emstream.store.layout import LABELS, Layout
from emstream.store.ledger import Ledger
from emstream.store.metadata import Metadata
from emstream.store.origins import Origins
from emstream.store.pyramid import label_levels, levels
from emstream.store.reboot import mend_coarse
from emstream.store.records import FrameRecord, LabelRecord
from emstream.store.rows import FinalRow, FrameRow, LabelRow, RunRow
from emstream.store.state import read_state, write_state
from emstream.store.tables import TableWriter, write_table

Timed: TypeAlias = Callable[[str, int], AbstractContextManager[None]]


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
        self.attrs: dict[str, Any] = {"series": row.series} | dict(attrs or {}) | dict(row.attrs)
        fixed = self.attrs.setdefault("layout", {"compressor": options.compressor, "keep_raw": options.keep_raw})
        self.layout = Layout(row.shape, row.dtype, fixed["compressor"], fixed["keep_raw"])
        self.n = row.n  # frames committed
        self.published = 0
        models = [model_key(m["name"], m["sha256"]) for m in self.attrs.get("models", [])]
        self.columns = Columns(self.path / "frames", lambda start, stop: ledger.frames(row.id, start, stop), models)
        self._metadata = Metadata(self.path, self.layout, row.name, row.pixel_size_nm)
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
        self._checkpoints = Checkpoints(self.path, row.id, ledger)
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
            check_space(self.path, self.options.low_water_mb)
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
            if self.options.fsync:
                self._checkpoints.sometimes(self.n)

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
            self._metadata.grow(self.n, self.attrs if first else None)
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
            self._metadata.put_groups(self.attrs)

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
        write_state(self.ledger, self.name, name, arrays, self.options.fsync)

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
            sweep(self.path, self.layout, self.layout.images())
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

    def _make_folders(self) -> None:
        """Once in a life."""
        if not self._folders_made:
            make_folders(self.path, self.layout, self.options.fsync)
            self._folders_made = True

    def _set_state(self, state: str) -> None:
        self.attrs["state"] = state
        self._metadata.put_groups(self.attrs)
        if state == "closed" and self.options.fsync:
            self._checkpoints.last(self.n)
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
        sweep(self.path, self.layout, self.layout.images() if anew else ())
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
        self._metadata.put_groups(self.attrs, but_root=True)
        self.publish()
        if self.row.state in ("closed", "recovered"):
            self._metadata.put_groups(self.attrs)
        else:
            self._set_state("live")
        if rebooted:
            self._checkpoints.sync(self.n)
