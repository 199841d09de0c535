"""The state of one task: a RocksDB with a column family per table, or per segment of a table.

The store is always a prefix of the committed changelog: a checkpoint's changes are written after its transaction is
committed, in one write batch with the changelog's next offset. Beside the offset stands the changelog's topic id, so
that a store which belongs to a deleted and re-created topic is noticed and rebuilt.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rocksdict import AccessType, BlockBasedOptions, Cache, Options, Rdict, ReadOptions, WriteBatch

from walstream.engine.topology import TableSpec
from walstream.errors import StateMismatch

log = logging.getLogger(__name__)

FORMAT = b"1"
OFFSET = struct.Struct(">Q")
CONDEMNED = "condemned"
WRITE_BUFFER = 8 << 20  # bytes per column family, where few partitions share the process
ORDERED_BLOCK = 16 << 10  # bytes that are read at once; the index of all blocks is in memory

Writes = Mapping[str, Mapping[int, Mapping[bytes, bytes | None]]]
"""table -> segment (0 where the table has none) -> key -> value, or None for a delete."""


def rocksdb_options(cache: Cache | None = None, *, ordered: bool = False, write_buffer: int = WRITE_BUFFER) -> Options:
    """Options for many small rows that are mostly looked up in vain, or read in the order of their keys.

    Bloom filters in the files and in the memtable answer most look-ups of a new id without a search.
    """
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    blocks = BlockBasedOptions()
    if ordered:
        blocks.set_block_size(ORDERED_BLOCK)
    else:
        blocks.set_bloom_filter(10, False)
        options.set_memtable_prefix_bloom_ratio(0.1)
        options.set_memtable_whole_key_filtering(True)
        # Keys are random: files are merged with all that is there, and twice as many at once are half of the work.
        options.set_level_zero_file_num_compaction_trigger(8)
    if cache is not None:
        blocks.set_block_cache(cache)
    options.set_block_based_table_factory(blocks)
    options.set_write_buffer_size(write_buffer)
    options.set_max_write_buffer_number(3)
    options.set_max_open_files(256)
    options.set_keep_log_file_num(2)
    options.set_max_total_wal_size(64 << 20)
    return options


def _is_damage(error: Exception) -> bool:
    """Whether an error at the opening is about the files themselves, so that there is nothing to keep.

    RocksDB's own errors come as bare exceptions. Some of them are about the machine: another try may succeed.
    """
    passing = ("/LOCK:", "No space left", "Permission denied", "Read-only file system", "Too many open files")
    return type(error) is Exception and not any(reason in str(error) for reason in passing)


class Store:
    """The tables of one partition number.

    Parameters
    ----------
    path
        The folder; made where it does not exist.
    tables
        What is in it.
    topic_ids
        The id of each changelog topic. A store that was filled from other topics is emptied.
    cache
        A block cache that the stores of a process share.
    write_buffer
        Bytes that RocksDB gathers in memory for each column family, before it writes a file.
    secondary
        A scratch folder: opens the store for reading beside the worker that owns it.

    Raises
    ------
    StateMismatch
        The store is of a newer format.
    OSError
        From reading and writing: the files are damaged. The next to open the store rebuilds it.
    """

    def __init__(
        self,
        path: Path,
        tables: Sequence[TableSpec],
        topic_ids: Mapping[str, str] | None = None,
        *,
        cache: Cache | None = None,
        write_buffer: int = WRITE_BUFFER,
        secondary: Path | None = None,
    ) -> None:
        self.path = path
        self._tables = {table.name: table for table in tables}
        self._cache, self._write_buffer = cache, write_buffer
        self._secondary = secondary
        self._families: dict[str, dict[int, tuple[Rdict, Any]]] = {}
        self._topic_ids: dict[str, bytes] = {}
        if secondary is None and (path / CONDEMNED).exists():
            log.warning("%s was found damaged; it is rebuilt from its changelogs", path)
            shutil.rmtree(path)
        if secondary is None:
            path.mkdir(parents=True, exist_ok=True)
        try:
            self._open()
        except Exception as exc:
            if secondary is not None or not _is_damage(exc):
                raise
            log.warning("%s cannot be opened (%s); it is rebuilt from its changelogs", path, exc)
            shutil.rmtree(path)
            path.mkdir(parents=True)
            self._open()
        if topic_ids is not None:
            self._check_topic_ids(topic_ids)

    def _open(self) -> None:
        options = rocksdb_options(self._cache)
        names = ["default"]
        if (self.path / "CURRENT").exists():
            names = Rdict.list_cf(str(self.path), options)
        access = AccessType.read_write()
        if self._secondary is not None:
            access = AccessType.secondary(str(self._secondary))
        families = {name: self._options(name.rpartition("@")[0]) for name in names}
        self._db = Rdict(str(self.path), options, column_families=families, access_type=access)
        stored = self._db.get(b"format")
        if stored is None and self._secondary is None:
            self._db.put(b"format", FORMAT)
        elif stored is not None and int(stored) > int(FORMAT):
            self._db.close()
            raise StateMismatch(f"{self.path} has format {int(stored)}; this release knows up to {int(FORMAT)}")
        self._families = {name: {} for name in self._tables}
        for family in names:
            table, _, segment = family.rpartition("@")
            if table in self._tables:
                self._families[table][int(segment)] = self._handles(family)
        if self._secondary is None:
            for name, spec in self._tables.items():
                if not spec.span and not self._families[name]:
                    self._create(name, 0)
                self._drop_old(name)

    def _check_topic_ids(self, topic_ids: Mapping[str, str]) -> None:
        changelogs = [table.changelog for table in self._tables.values()]
        stored = {changelog: self._db.get(b"topic:" + changelog.encode()) for changelog in changelogs}
        current = self._topic_ids = {changelog: topic_ids[changelog].encode() for changelog in changelogs}
        if any(old is not None and old != current[changelog] for changelog, old in stored.items()):
            log.warning("%s was filled from a topic that was deleted since; it is rebuilt", self.path)
            self.clear()
        self._note_topic_ids()

    def _note_topic_ids(self) -> None:
        for changelog, topic_id in self._topic_ids.items():
            self._db.put(b"topic:" + changelog.encode(), topic_id)

    def _options(self, table: str) -> Options:
        ordered = table in self._tables and self._tables[table].ordered
        return rocksdb_options(self._cache, ordered=ordered, write_buffer=self._write_buffer)

    def _handles(self, family: str) -> tuple[Rdict, Any]:
        return self._db.get_column_family(family), self._db.get_column_family_handle(family)

    def _create(self, table: str, segment: int) -> tuple[Rdict, Any]:
        family = f"{table}@{segment}"
        self._db.create_column_family(family, self._options(table))
        handles = self._families[table][segment] = self._handles(family)
        return handles

    def _drop_old(self, table: str) -> None:
        span = self._tables[table].span
        if span:
            newest = self.newest_segment(table)
            for segment in [old for old in self._families[table] if old <= newest - span]:
                self._drop(table, segment)

    def _drop(self, table: str, segment: int) -> None:
        del self._families[table][segment]
        self._db.drop_column_family(f"{table}@{segment}")

    # Reading

    def segments(self, table: str) -> list[int]:
        """The segments that exist, oldest first."""
        return sorted(self._families[table])

    def newest_segment(self, table: str) -> int:
        """The youngest segment, or 0 where the table is empty."""
        return max(self._families[table], default=0)

    def get(self, table: str, key: bytes) -> bytes | None:
        """Look a key up, in the youngest segment first."""
        return self.get_many(table, [key])[0]

    def get_many(self, table: str, keys: list[bytes]) -> list[bytes | None]:
        """Look keys up, in the youngest segment first; None for what is not there."""
        with self._condemning():
            return self._get_many(table, keys)

    def _get_many(self, table: str, keys: list[bytes]) -> list[bytes | None]:
        families = self._families[table]
        found: list[bytes | None] = [None] * len(keys)
        for segment in sorted(families, reverse=True):
            part: Any = families[segment][0]
            unknown = found.count(None)
            if unknown == len(keys):
                found = part.get(keys)
                continue
            if not unknown:
                break
            missing = [index for index, value in enumerate(found) if value is None]
            for index, value in zip(missing, part.get([keys[index] for index in missing]), strict=True):
                found[index] = value
        return found

    def range(self, table: str, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """The first rows of a table without segments with start <= key < stop, in the order of their keys."""
        options = ReadOptions()
        options.set_iterate_upper_bound(stop)
        with self._condemning():
            rows: Any = self._families[table][0][0].iter(options)
            rows.seek(start)
            valid, key, value, advance = rows.valid, rows.key, rows.value, rows.next
            found: list[tuple[bytes, bytes]] = []
            while len(found) < limit and valid():
                found.append((key(), value()))
                advance()
            rows.status()  # at damaged files it ends as if there was nothing more
        return found

    def items(self, table: str, stop: bytes | None = None) -> Iterator[tuple[int, bytes, bytes]]:
        """All rows as (segment, key, value), segment by segment, each in the order of the keys and before the stop."""
        options = ReadOptions()
        if stop is not None:
            options.set_iterate_upper_bound(stop)
        for segment in self.segments(table):
            rows: Any = self._families[table][segment][0].iter(options)
            with self._condemning():
                rows.seek_to_first()
            while rows.valid():
                yield segment, rows.key(), rows.value()
                rows.next()
            with self._condemning():
                rows.status()  # at damaged files it ends as if there was nothing more

    def estimate(self, table: str) -> tuple[int, int]:
        """RocksDB's own estimate of the number of rows, and their bytes on disk and in memory."""
        rows = size = 0
        for part, _ in self._families[table].values():
            rows += part.property_int_value("rocksdb.estimate-num-keys") or 0
            size += part.property_int_value("rocksdb.total-sst-files-size") or 0
            size += part.property_int_value("rocksdb.cur-size-all-mem-tables") or 0
        return rows, size

    def offset(self, changelog: str) -> int:
        """The next offset of the changelog that is not in the store."""
        stored = self._db.get(b"offset:" + changelog.encode())
        return 0 if stored is None else OFFSET.unpack(stored)[0]

    def age(self) -> float:
        """Seconds since something was written into it; 0 where nothing was."""
        stored = self._db.get(b"written")
        return 0.0 if stored is None else max(0.0, time.time() - OFFSET.unpack(stored)[0])

    def catch_up(self) -> None:
        """Bring a secondary up to what the owner has written by now."""
        self._db.try_catch_up_with_primary()

    # Writing

    def write(self, writes: Writes, offsets: Mapping[str, int]) -> None:
        """Write changes and the changelogs' next offsets, all or nothing."""
        batch = WriteBatch(raw_mode=True)
        for table, segments in writes.items():
            families = self._families[table]
            span = self._tables[table].span
            for segment, rows in segments.items():
                if span and segment <= self.newest_segment(table) - span:
                    continue  # expired already; only a recovery from an old changelog meets it
                _, handle = families.get(segment) or self._create(table, segment)
                put, delete = batch.put, batch.delete
                for key, value in rows.items():
                    if value is None:
                        delete(key, handle)
                    else:
                        put(key, value, handle)
        for changelog, offset in offsets.items():
            batch.put(b"offset:" + changelog.encode(), OFFSET.pack(offset))
        batch.put(b"written", OFFSET.pack(int(time.time())))
        with self._condemning():
            self._db.write(batch)
            for table in writes:
                self._drop_old(table)

    def clear(self) -> None:
        """Empty the store, so that it is rebuilt from its changelogs."""
        self.close()
        shutil.rmtree(self.path)
        self.path.mkdir(parents=True)
        self._open()
        self._note_topic_ids()

    @contextlib.contextmanager
    def _condemning(self) -> Iterator[None]:
        """Note that the files are damaged where RocksDB finds it so: whoever opens the store next rebuilds it."""
        try:
            yield
        except Exception as exc:
            if not str(exc).startswith("Corruption"):
                raise
            with contextlib.suppress(OSError):
                (self.path / CONDEMNED).touch()
            raise OSError(f"{self.path} is damaged: {exc}") from exc

    def close(self) -> None:
        """Close the files and release the lock."""
        self._families = {}
        self._db.close()
