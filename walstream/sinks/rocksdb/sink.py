"""Writes mutations into a RocksDB for each partition, by effective time.

The databases are files of the worker's own machine: who delivers a partition has its database, and no other process can
write there (`Sink.leave` closes it before the partition moves). Other processes read along (`reader`).

Every error of RocksDB, and of the file system, says that the target is down: nothing about a record can cause one. A
mutation that is none, or that options do not fit, is dead.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import field_validator

from walstream.entry import Entry
from walstream.errors import SinkError
from walstream.sinks.base import APPLIED, SKIPPED, TARGET_DOWN, Outcome, Readable, Sink, SinkContext, TargetDown
from walstream.sinks.rocksdb.database import Database
from walstream.sinks.rocksdb.layout import Description
from walstream.sinks.rocksdb.reader import Reader
from walstream.sinks.rows import RowOptions, RowReader, RowWrite, read_all

log = logging.getLogger(__name__)

PAGE = 1_000  # rows that are read at a time


class RocksdbOptions(RowOptions):
    """Where rows are, and how a row becomes a key.

    Parameters
    ----------
    path
        The folder of all stores; the target's own is ``<namespace>.<target>`` in it. If it is not absolute, it counts
        from the process's working directory.
    key
        Text with key columns in braces; ``{{`` and ``}}`` are braces.
    value
        ``json``: one text with all columns; else the column whose value is kept.
    table
        The table whose mutations these are; others are refused. Without it, all are taken.
    """

    path: Path

    @field_validator("value")
    @classmethod
    def _no_hash(cls, value: str) -> str:
        if value == "hash":
            raise ValueError("a row is one value here; write json, or the name of a column")
        return value


class RocksdbSink(Sink, Readable):
    """Every entry's payload is a mutation; those of a batch are one durable write to the partition's database."""

    Options = RocksdbOptions
    late_writes_harmless = True  # by its effective time, a late write changes nothing that is newer
    forgets_deletes = True
    errors: ClassVar = {SinkError: TARGET_DOWN, OSError: TARGET_DOWN}

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        options = self.options
        self.folder = options.path.expanduser() / f"{context.namespace}.{context.target}"
        self._rows = RowReader(options.key, options.value, options.table)
        self._description = Description(context.partitions, context.key_template, options.key, options.value)
        self._databases: dict[int, Database] = {}
        self._opening = threading.Lock()
        self._reader: Reader | None = None

    async def open(self) -> None:
        found = await asyncio.to_thread(Description.read, self.folder)
        if found is not None and found != self._description:
            raise SinkError(
                f"{self.folder} holds rows by other words ({found}): they would be mixed; write another path, or a "
                "target of another name"
            )

    async def close(self) -> None:
        databases, self._databases = list(self._databases.values()), {}
        for database in databases:
            await asyncio.to_thread(database.close)
        if self._reader is not None:
            await asyncio.to_thread(self._reader.close)

    async def leave(self, partition: int) -> None:
        database = self._databases.pop(partition, None)
        if database is not None:
            await asyncio.to_thread(database.close)

    @property
    def form(self) -> str:
        return f"value: {self.options.value} of keys {self.options.key}"

    async def scan(self) -> AsyncIterator[Sequence[tuple[bytes, bytes]]]:
        rows: Iterator[tuple[bytes, bytes]] = self._reading().scan()
        while page := await asyncio.to_thread(lambda: list(itertools.islice(rows, PAGE))):
            yield page

    async def look_up(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        return await asyncio.to_thread(self._reading().find, keys)

    def _reading(self) -> Reader:
        """Beside the worker that writes, which may be another process."""
        if self._reader is None:
            self._reader = Reader(self.folder, max_age=0)
        return self._reader

    async def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        return await asyncio.to_thread(self._write, batch)

    def _write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        found, outcomes = read_all(batch, self._rows.read)
        by_partition: dict[int, dict[int, RowWrite]] = {}
        for i, write in found.items():
            by_partition.setdefault(batch[i].partition, {})[i] = write
        for partition, writes in by_partition.items():
            try:
                changed = self._database(partition).apply(list(writes.values()))
            except SinkError as error:
                raise TargetDown(str(error), outcomes=[outcomes.get(i) for i in range(len(batch))]) from error
            for i, applied in zip(writes, changed, strict=True):
                outcomes[i] = APPLIED if applied else SKIPPED
        return [outcomes[i] for i in range(len(batch))]

    def _database(self, partition: int) -> Database:
        with self._opening:
            found = self._databases.get(partition)
            if found is None:
                path = self.folder / str(partition)
                if not path.exists():
                    self.folder.mkdir(parents=True, exist_ok=True)
                    self._description.write(self.folder)
                    path.mkdir()
                    log.warning(
                        "%s.%s-%d: %s is new, and begins with what is delivered from now on",
                        self.context.namespace, self.context.target, partition, path,
                    )  # fmt: skip
                found = self._databases[partition] = Database(path, self.context.remember)
            return found
