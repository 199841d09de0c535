"""What a stretch of work causes inside Kafka, and which records are finished by it: all of it or nothing.

A processor appends to outputs, writes to tables and the task notes the source positions. The task then commits it as
one Kafka transaction, and writes the same changes into the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from walstream.engine.clock import Clock
from walstream.engine.output import Output
from walstream.engine.store import Store
from walstream.engine.table_writer import TableWriter
from walstream.engine.topology import TableSpec
from walstream.headers import Header
from walstream.wire import Record
from walstream.wire.builder import BatchBuilder


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
    clock
        The time by which work falls due.
    committed
        The offset of each source that the group has committed by now; at the opening, where the task begins to read.
    ends
        Where each source ended when the partition was opened.
    news
        Set where something comes that the task should look at: a fetch, or its own end. A processor with work on its
        way waits for it, and sets it when some of that is done.

    Attributes
    ----------
    is_committed
        Whether it took place: whoever opens the partition from then on begins behind it.
    """

    def __init__(
        self,
        partition: int,
        new_batch: Callable[[], BatchBuilder],
        store: Store,
        tables: Sequence[TableSpec],
        positions: Mapping[str, int],
        before: Checkpoint | None = None,
        make_sure: Callable[[], Awaitable[None]] = _sure,
        clock: Clock | None = None,
        committed: Mapping[str, int] | None = None,
        ends: Mapping[str, int] | None = None,
        news: asyncio.Event | None = None,
    ) -> None:
        self.partition = partition
        self.make_sure = make_sure
        self.clock = clock or Clock()
        self.committed = {} if committed is None else committed
        self.ends = ends or {}
        self.news = news or asyncio.Event()
        self.is_committed = False
        self.outputs: dict[tuple[str, int], Output] = {}
        self.offsets: dict[str, int] = {}
        self.batches: dict[tuple[str, int], list[BatchBuilder]] = {}
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
        self, topic: str, partition: int, timestamp: int, key: bytes | None, value: bytes | None, headers: list[Header]
    ) -> None:
        """Add a record to any partition of any topic of the cluster."""
        self.output(topic, partition).append(timestamp, key, value, headers)

    def emit_original(self, topic: str, partition: int, raw: Record, timestamp: int) -> None:
        """Add an entry of the log as it was before the router added headers (timestamp in ms)."""
        self.output(topic, partition).append_original(raw, timestamp)

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
    def is_offsets(self) -> bool:
        """Whether there is nothing but offsets to commit."""
        return bool(self.offsets) and all(output.is_empty for output in self.outputs.values())

    @property
    def is_empty(self) -> bool:
        return not self.offsets and all(output.is_empty for output in self.outputs.values())
