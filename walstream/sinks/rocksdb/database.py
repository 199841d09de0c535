"""The database of one partition, as its only writer has it.

Rows are in the default column family: the row's key -> its columns with their times, and its last delete. The family
``deleted`` has when a row without a value is forgotten: 8 bytes of a time (ms since the epoch) and the row's key -> the
newest time (µs) that the row had then. A row that has changed since is left alone, and has another such entry if it has
no value again.

Every call is one write batch, and is on the disk (fsync) before it is answered: the delivery's position goes on by it.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from rocksdict import BlockBasedOptions, DbClosedError, Options, Rdict, ReadOptions, WriteBatch, WriteOptions

from walstream.errors import SinkError
from walstream.sinks.row import Row
from walstream.sinks.rows import RowWrite

DELETED: Final = "deleted"
WRITE_BUFFER = 16 << 20  # bytes that RocksDB gathers in memory before it writes a file
LOG_MAX = 64 << 20  # bytes of its write-ahead log, which readers go through when they open the database
FORGET_AT_ONCE = 1_000  # rows in one call, at most
FORGET_EVERY = 1.0  # s

_DUE = struct.Struct(">Q")
_NEWEST = struct.Struct(">q")


def rocksdb_options() -> Options:
    """Options of both sides: rows are looked up by their keys, and many look-ups are in vain."""
    options = Options(raw_mode=True)
    blocks = BlockBasedOptions()
    blocks.set_bloom_filter(10, False)
    options.set_block_based_table_factory(blocks)
    options.set_write_buffer_size(WRITE_BUFFER)
    options.set_max_total_wal_size(LOG_MAX)
    options.set_keep_log_file_num(2)
    return options


@contextlib.contextmanager
def saying(path: Path, what: str) -> Iterator[None]:
    """Make a `SinkError` of RocksDB's own errors, which come as bare exceptions.

    Parameters
    ----------
    what
        What cannot be done to the database, such as ``opened``.
    """
    try:
        yield
    except SinkError:
        raise
    except Exception as error:
        if type(error) not in (Exception, DbClosedError) and not isinstance(error, OSError):
            raise
        said = str(error)
        if "/LOCK" in said:
            said = "another process has it, or had it a moment ago; a store belongs to the workers of one target"
        raise SinkError(f"{path} cannot be {what}: {said}") from error


class Database:
    """The rows of one partition. Methods block; they may be called from several threads.

    Parameters
    ----------
    path
        The folder; made with the first row.
    remember
        How long (ms) a row that was deleted is remembered.
    """

    def __init__(self, path: Path, remember: int) -> None:
        self._path, self._remember = path, remember
        self._lock = threading.Lock()
        self._db: Any = None
        self._is_closed = False
        self._forgets_at = 0.0  # monotonic seconds
        self._durable = WriteOptions()
        self._durable.sync = True

    def apply(self, writes: Sequence[RowWrite]) -> list[bool]:
        """Write, and tell of each write whether it changed anything.

        Raises
        ------
        SinkError
            The database cannot be opened or written, or was closed.
        """
        with self._lock:
            if self._is_closed:
                raise SinkError(f"{self._path} was given up")
            try:
                with saying(self._path, "written"):
                    return self._apply(writes)
            except SinkError:
                self._shut()  # RocksDB writes nothing more after some errors, until it is opened anew
                raise

    def close(self) -> None:
        """Let another process have it. Waits for a call that is at work; every later one fails."""
        with self._lock:
            self._is_closed = True
            self._shut()

    def _shut(self) -> None:
        if self._db is not None:
            db, self._db = self._db, None
            db.close()

    def _open(self) -> Any:
        if self._db is None:
            self._path.mkdir(parents=True, exist_ok=True)
            options = rocksdb_options()
            options.create_if_missing(True)
            options.create_missing_column_families(True)
            families = {"default": options, DELETED: rocksdb_options()}
            self._db = Rdict(str(self._path), options, column_families=families)
        return self._db

    def _apply(self, writes: Sequence[RowWrite]) -> list[bool]:
        db = self._open()
        keys = list({write.key: None for write in writes})
        found = zip(keys, db.get(keys), strict=True)
        before = {key: Row() if stored is None else Row.from_bytes(stored) for key, stored in found}
        rows = dict(before)
        changed = []
        for write in writes:
            row = rows[write.key]
            after = row.delete(write.time) if write.op == "delete" else row.put(write.time, write.columns)
            changed.append(after is not row)
            rows[write.key] = after
        batch = WriteBatch(raw_mode=True)
        deleted = db.get_column_family_handle(DELETED)
        self._forget(batch, deleted, rows)
        due = _DUE.pack(int(time.time() * 1e3) + self._remember)
        for key, row in rows.items():
            if row is not before[key]:
                batch.put(key, row.to_bytes())
                if row.is_empty:
                    batch.put(due + key, _NEWEST.pack(row.newest), deleted)
        if batch.len():
            db.write(batch, self._durable)
        return changed

    def _forget(self, batch: WriteBatch, deleted: Any, kept: dict[bytes, Row]) -> None:
        """Remove rows that were deleted long ago, but for those of this call."""
        if time.monotonic() < self._forgets_at:
            return
        options = ReadOptions()
        options.set_iterate_upper_bound(_DUE.pack(int(time.time() * 1e3)))
        entries = self._db.get_column_family(DELETED).iter(options)
        entries.seek_to_first()
        seen = 0
        while seen < FORGET_AT_ONCE and entries.valid():
            entry, newest = entries.key(), _NEWEST.unpack(entries.value())[0]
            key = entry[_DUE.size :]
            stored = None if key in kept else self._db.get(key)
            if stored is not None:
                row = Row.from_bytes(stored)
                if row.is_empty and row.newest <= newest:
                    batch.delete(key)
            batch.delete(entry, deleted)
            entries.next()
            seen += 1
        entries.status()  # at damaged files it ends as if there was nothing more
        if seen < FORGET_AT_ONCE:
            self._forgets_at = time.monotonic() + FORGET_EVERY
