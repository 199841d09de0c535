"""Reads a store beside the worker that writes it: secondary instances of RocksDB, which follow the writer's files.

::

    from walstream.sinks.rocksdb import Reader

    with Reader("/var/lib/flights/flights.local") as flights:
        print(flights.get({"flight": "UA1545"}))

https://github.com/facebook/rocksdb/wiki/Read-only-and-Secondary-instances
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from rocksdict import AccessType, Rdict

from walstream.errors import SinkError
from walstream.murmur2 import partition_for
from walstream.mutation import KeyTemplate
from walstream.sinks.rocksdb.database import rocksdb_options, saying
from walstream.sinks.rocksdb.layout import Description
from walstream.sinks.row import Row

PAGE = 1_000  # rows that are scanned at a time
TRIES: Final = 5  # the writer may replace files between two steps of an opening


class _Following:
    """One partition's database, followed."""

    def __init__(self, path: Path, scratch: Path) -> None:
        self._path, self._scratch = path, scratch
        self._db: Any = None
        self._asked_at = float("-inf")  # monotonic seconds

    def upto(self, max_age: float) -> Any:
        """The database as it was at most so many seconds ago, or None where there is none yet."""
        now = time.monotonic()
        if now - self._asked_at >= max_age:
            self._catch_up()
            self._asked_at = now
        return self._db

    def _catch_up(self) -> None:
        for left in reversed(range(TRIES)):
            try:
                with saying(self._path, "read"):
                    if self._db is not None:
                        self._db.try_catch_up_with_primary()
                    elif (self._path / "CURRENT").exists():
                        options = rocksdb_options()
                        # The writer deletes files that were merged; what is open can still be read.
                        options.set_max_open_files(-1)
                        access = AccessType.secondary(str(self._scratch))
                        self._db = Rdict(
                            str(self._path), options, column_families={"default": options}, access_type=access
                        )
                return
            except SinkError:
                self.close()
                if not left:
                    raise
                time.sleep(0.05)

    def close(self) -> None:
        if self._db is not None:
            db, self._db = self._db, None
            db.close()


class Reader:
    """Reads the rows of a target of the sink ``rocksdb``, from any process that may read the files.

    It may be used by several threads. Of a row it gives what the target keeps: with ``value: json`` a JSON object of
    all columns, else the text of the column; None where the row does not exist, or was deleted.

    Parameters
    ----------
    folder
        The target's own: ``<namespace>.<target>`` in the ``path`` of its options.
    max_age
        Seconds by which it may be behind the writer. What was looked at longer ago is looked at anew before it is read,
        which takes a millisecond or two; 0 always does, and `refresh` does now.

    Raises
    ------
    SinkError
        From the reading methods: the files cannot be read.
    StateMismatch
        A newer walstream has written them.
    """

    def __init__(self, folder: str | Path, *, max_age: float = 1.0) -> None:
        self.folder, self._max_age = Path(folder).expanduser(), max_age
        self._lock = threading.RLock()
        self._scratch = Path(tempfile.mkdtemp(prefix="walstream-reader-"))
        self._description: Description | None = None
        self._key: KeyTemplate
        self._kafka_key: KeyTemplate | None = None
        self._partitions: list[_Following] = []

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get(self, key: Mapping[str, Any]) -> bytes | None:
        """The row with this primary key: column -> value, as in a mutation."""
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[Mapping[str, Any]]) -> list[bytes | None]:
        """The rows with these primary keys, in their order."""
        with self._lock:
            description = self._open()
            if description is None:
                return [None] * len(keys)
            homes = None
            if self._kafka_key is not None:
                homes = [partition_for(self._kafka_key.render(key), description.partitions) for key in keys]
            return self._find([self._key.render(key) for key in keys], homes)

    def find(self, row_keys: Sequence[bytes]) -> list[bytes | None]:
        """The rows with these keys as they are made by the option ``key``, in their order."""
        with self._lock:
            return self._find(row_keys, None) if self._open() is not None else [None] * len(row_keys)

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        """All rows, as pairs of the row's key, as it is made by the option ``key``, and the text.

        In the order of the keys within a partition. What is written meanwhile may be in it or not.
        """
        with self._lock:
            description = self._open()
        if description is None:
            return
        for number in range(description.partitions):
            after = b""
            while True:
                page, last = self._page(number, after)
                for key, stored in page:
                    text = description.text(Row.from_bytes(stored))
                    if text is not None:
                        yield key, text
                if last is None:
                    break
                after = last + b"\0"

    def refresh(self) -> None:
        """Catch up with the writer."""
        with self._lock:
            if self._open() is not None:
                for partition in self._partitions:
                    partition.upto(0)

    def close(self) -> None:
        """Let go of all files."""
        with self._lock:
            for partition in self._partitions:
                partition.close()
            self._partitions, self._description = [], None
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _open(self) -> Description | None:
        """The description, once there is one."""
        if self._description is None:
            self._description = Description.read(self.folder)
            if (description := self._description) is not None:
                self._key = KeyTemplate(description.key)
                self._kafka_key = None if description.kafka_key is None else KeyTemplate(description.kafka_key)
                self._partitions = [
                    _Following(self.folder / str(number), self._scratch / str(number))
                    for number in range(description.partitions)
                ]
        return self._description

    def _find(self, row_keys: Sequence[bytes], homes: Sequence[int] | None) -> list[bytes | None]:
        """The rows, looked for first in the partitions where they should be.

        A producer with another partitioner may have written them elsewhere.
        """
        assert self._description is not None
        found: dict[int, bytes] = {}
        if homes is not None:
            for number in set(homes):
                self._look(number, row_keys, [i for i, home in enumerate(homes) if home == number], found)
        for number in range(len(self._partitions)):
            missing = [i for i in range(len(row_keys)) if i not in found and (homes is None or homes[i] != number)]
            if missing:
                self._look(number, row_keys, missing, found)
        text = self._description.text
        return [text(Row.from_bytes(found[i])) if i in found else None for i in range(len(row_keys))]

    def _look(self, number: int, row_keys: Sequence[bytes], wanted: Sequence[int], found: dict[int, bytes]) -> None:
        db = self._partitions[number].upto(self._max_age)
        if db is None:
            return
        with saying(self.folder / str(number), "read"):
            rows = db.get([row_keys[i] for i in wanted])
        found.update((i, row) for i, row in zip(wanted, rows, strict=True) if row is not None)

    def _page(self, number: int, start: bytes) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Rows of a partition from a key on, and the last one's key if there may be more."""
        with self._lock, saying(self.folder / str(number), "read"):
            db = self._partitions[number].upto(self._max_age) if self._partitions else None
            if db is None:
                return [], None
            rows = db.iter()
            rows.seek(start)
            page: list[tuple[bytes, bytes]] = []
            while len(page) < PAGE and rows.valid():
                page.append((rows.key(), rows.value()))
                rows.next()
            rows.status()  # at damaged files it ends as if there was nothing more
            return page, page[-1][0] if len(page) == PAGE else None
