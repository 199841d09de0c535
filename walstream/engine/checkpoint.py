"""What a stretch of work causes inside Kafka, and which records are finished by it: all of it or nothing.

A processor appends to outputs, writes to tables and the task notes the source positions. The task then commits it as
one Kafka transaction, and writes the same changes into the store.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from walstream.engine.store import Store
from walstream.engine.topology import TableSpec

Headers = list[tuple[str, bytes | None]]
SEGMENT = struct.Struct(">I")  # in front of the key, in the changelog of a table with segments


class Output:
    """The batches for one partition of one topic.

    Parameters
    ----------
    new_batch
        Makes an empty batch builder of aiokafka's.
    position
        The offset that the next record will have in the topic, where this task is its only writer; else None.
    """

    __slots__ = ("_append", "_count", "_new_batch", "batches", "position", "size_before", "start")

    def __init__(self, new_batch: Callable[[], Any], position: int | None = None) -> None:
        self._new_batch = new_batch
        self.start = self.position = position
        self.batches: list[Any] = []
        self.size_before = 0
        self._roll()

    def _roll(self) -> None:
        batch = self._new_batch()
        self.batches.append(batch)
        # Straight to the compiled builder: the wrapper around it costs as much as the append itself.
        self._append = batch._builder.append
        self._count = 0

    def append(
        self, timestamp: int, key: bytes | None, value: bytes | None, headers: Headers | None = None
    ) -> int | None:
        """Add a record (timestamp in ms), and return the offset that it will have, where that is known."""
        if headers is None:
            headers = []
        if self._append(self._count, timestamp, key, value, headers) is None:
            self._seal()
            self._roll()
            if self._append(0, timestamp, key, value, headers) is None:
                raise ValueError("a batch did not take its first record")
        self._count += 1
        if self.position is None:
            return None
        position = self.position
        self.position = position + 1
        return position

    def _seal(self) -> None:
        batch = self.batches[-1]
        batch._relative_offset = self._count
        batch.close()
        self.size_before += batch.size()

    def seal(self) -> list[Any]:
        """Close the batches, and return those that have records."""
        self._seal()
        return [batch for batch in self.batches if batch.record_count()]

    @property
    def is_empty(self) -> bool:
        return self._count == 0 and len(self.batches) == 1

    @property
    def size(self) -> int:
        """Bytes, uncompressed."""
        return self.size_before + (self.batches[-1].size() if not self.batches[-1].closed() else 0)


class TableWriter:
    """A table as a processor sees it: the store, and over it what is not committed yet.

    Parameters
    ----------
    spec, store
        The table, and where its committed rows are.
    changelog
        The output for its changes.
    layers
        Changes of earlier checkpoints that are being committed, the youngest first.
    """

    __slots__ = ("_changelog", "_layers", "_store", "spec", "writes")

    def __init__(
        self,
        spec: TableSpec,
        store: Store,
        changelog: Output,
        layers: Sequence[Mapping[int, Mapping[bytes, bytes | None]]],
    ) -> None:
        self.spec = spec
        self._store = store
        self._changelog = changelog
        self.writes: dict[int, dict[bytes, bytes | None]] = {}
        self._layers = [self.writes, *layers]

    def get(self, key: bytes) -> bytes | None:
        return self.get_many([key])[0]

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """Look keys up; None for what is not there. One look into the store for all of them."""
        found = self._store.get_many(self.spec.name, keys)
        for layer in reversed(self._layers):
            for segment in sorted(layer):
                rows = layer[segment]
                for index, key in enumerate(keys):
                    if key in rows:
                        found[index] = rows[key]
        return found

    def pending(self, key: bytes) -> bytes | None:
        """Look a key up among what this checkpoint itself has put: what `get_many` was asked too early for."""
        for rows in self.writes.values():
            if key in rows:
                return rows[key]
        return None

    def newest_segment(self) -> int:
        return max([self._store.newest_segment(self.spec.name), *(max(layer, default=0) for layer in self._layers)])

    def items(self) -> list[tuple[bytes, bytes]]:
        """All rows in the order of their keys; for a small table without segments."""
        rows: dict[bytes, bytes | None] = {key: value for _, key, value in self._store.items(self.spec.name)}
        for layer in reversed(self._layers):
            rows.update(layer.get(0, {}))
        return sorted((key, value) for key, value in rows.items() if value is not None)

    def put(self, key: bytes, value: bytes, timestamp: int, segment: int = 0) -> None:
        """Set a row, and write its change to the changelog (timestamp in ms)."""
        try:
            self.writes[segment][key] = value
        except KeyError:
            self.writes[segment] = {key: value}
        changelog_key = SEGMENT.pack(segment) + key if self.spec.span else key
        self._changelog.append(timestamp, changelog_key, value)

    def delete(self, key: bytes, timestamp: int) -> None:
        """Remove a row of a table without segments."""
        self.writes.setdefault(0, {})[key] = None
        self._changelog.append(timestamp, key, None)


async def _sure() -> None:
    """Nothing is in doubt."""


class Checkpoint:
    """One stretch of work of one task.

    Parameters
    ----------
    partition
        The task's partition number.
    new_batch
        Makes an empty batch builder.
    store, tables
        The task's state.
    positions
        The next offset of each tracked output topic, at the task's partition number.
    before
        The checkpoint that is being committed, if there is one.
    make_sure
        Raises where this worker may have been frozen, and may own the partition no more. To be awaited right before
        something leaves Kafka that a new owner could be doing as well.
    """

    def __init__(
        self,
        partition: int,
        new_batch: Callable[[], Any],
        store: Store,
        tables: Sequence[TableSpec],
        positions: Mapping[str, int],
        before: Checkpoint | None = None,
        make_sure: Callable[[], Awaitable[None]] = _sure,
    ) -> None:
        self.partition = partition
        self.make_sure = make_sure
        self.outputs: dict[tuple[str, int], Output] = {}
        self.offsets: dict[str, int] = {}
        self.batches: dict[tuple[str, int], list[Any]] = {}
        self._new_batch = new_batch
        self._positions = positions
        self._tables: dict[str, TableWriter] = {}
        for spec in tables:
            layers = [before._tables[spec.name].writes] if before is not None else []
            self._tables[spec.name] = TableWriter(spec, store, self.output(spec.changelog), layers)

    def output(self, topic: str, partition: int | None = None) -> Output:
        """The output for a topic, by default at the task's own partition number."""
        at = (topic, self.partition if partition is None else partition)
        output = self.outputs.get(at)
        if output is None:
            position = self._positions.get(topic) if at[1] == self.partition else None
            output = self.outputs[at] = Output(self._new_batch, position)
        return output

    def emit(
        self, topic: str, partition: int, timestamp: int, key: bytes | None, value: bytes | None, headers: Headers
    ) -> None:
        """Add a record to any partition of any topic of the cluster."""
        self.output(topic, partition).append(timestamp, key, value, headers)

    def table(self, name: str) -> TableWriter:
        return self._tables[name]

    @property
    def writes(self) -> dict[str, dict[int, dict[bytes, bytes | None]]]:
        """The changes of all tables, as the store takes them."""
        return {name: table.writes for name, table in self._tables.items() if table.writes}

    @property
    def size(self) -> int:
        """Bytes of all outputs, uncompressed."""
        return sum(output.size for output in self.outputs.values())

    def seal(self) -> None:
        """Close all outputs; `batches` then has what is to be sent, by topic and partition."""
        self.batches = {at: sealed for at, output in self.outputs.items() if (sealed := output.seal())}

    @property
    def is_empty(self) -> bool:
        return not self.offsets and all(output.is_empty for output in self.outputs.values())
