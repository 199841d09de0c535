"""A router's partition over a real store, without Kafka: checkpoint after checkpoint, by a clock that a test moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka.record.memory_records import MemoryRecords
from prometheus_client import CollectorRegistry

from walstream import topics
from walstream.answers import Answer, read_answer
from walstream.dedup import Row, decode_row
from walstream.engine.checkpoint import Checkpoint
from walstream.engine.clock import Clock
from walstream.engine.fetch import Fetch
from walstream.engine.source import Source
from walstream.engine.store import Store
from walstream.entry import Entry
from walstream.headers import Header
from walstream.identity import identity
from walstream.namespace import Namespace
from walstream.record import encode
from walstream.router.app import topology
from walstream.router.metrics import RouterMetrics
from walstream.router.processor import RouterProcessor
from walstream.schedule import MARK
from walstream.testing.raw_batch import batches_of
from walstream.wire.builder import BatchBuilder

NOW = 1_795_000_000_000  # ms; the same in every process, since tests are named by it
"""When records come and the clock begins, unless a test says otherwise, ms."""


@dataclass
class Given:
    """A record of the ingress."""

    offset: int
    key: bytes | None = b"k"
    value: bytes | None = b"v"
    headers: list[Header] = field(default_factory=list)
    timestamp: int = NOW
    timestamp_type: int = 1


def given(
    offset: int, id: str | None = None, *, key: bytes | None = b"k", timestamp: int = NOW, **options: Any
) -> Given:
    """A CloudEvent of the ingress; the options are those of `walstream.record.encode`."""
    options = {"type": "test", "time": None, "source": "s", **options}
    message = encode(options.pop("payload", b"v"), key=key, id=id or str(offset), **options)
    return Given(offset, message.key, message.value, message.headers, timestamp)


class RouterPartition:
    """One partition of a namespace ``flights``; what it sent is read as a broker would. `open` comes first.

    Parameters
    ----------
    folder
        For the store.
    partition
        Its number.
    region, rank
        Where it is.
    words
        Of the namespace file.

    Attributes
    ----------
    now, wall
        The brokers' time, and how far the worker's wall clock is ahead of it, µs.
    log, refused, answers
        What is in these topics.
    """

    def __init__(
        self, folder: Path, partition: int = 0, *, region: str | None = None, rank: int = 3, **words: Any
    ) -> None:
        document = {"version": 1, "namespace": "flights", "targets": {"base": {"sink": "cassandra"}}}
        self.namespace, self.partition = Namespace.model_validate(document | words), partition
        self.registry = CollectorRegistry()
        self.topology = topology(self.namespace, rank, RouterMetrics(self.registry), lambda: None, region)
        self.store = Store(folder, self.topology.tables)
        self.log: list[Entry] = []
        self.refused: list[tuple[bytes | None, bytes | None, list[Header]]] = []
        self.answers: list[Answer] = []
        self.processor: RouterProcessor
        self.now, self.wall = NOW * 1000, 0
        self.clock = Clock(lambda: self.now + self.wall, lambda: self.now)

    async def open(self, *, witnessed: bool = True) -> None:
        """Begin with what is committed; everything else is gone. The opening checkpoint gives the broker's time."""
        self.processor = self.topology.processor(self.partition)  # type: ignore[assignment]
        checkpoint = self._begin()
        await self.processor.open(checkpoint)
        self._commit(checkpoint)
        if witnessed:
            self.clock.witness(self.now // 1000, self.now, 0)

    def _begin(self) -> Checkpoint:
        positions = {topics.log(self.namespace).name: len(self.log)}
        return Checkpoint(
            self.partition, lambda: BatchBuilder(1_000_000, "lz4", transactional=True), self.store,
            self.topology.tables, positions, clock=self.clock,
        )  # fmt: skip

    async def route(self, *fetches: list[Given], commit: bool = True) -> Checkpoint:
        """Route fetches in one checkpoint."""
        checkpoint = self._begin()
        for fetch in fetches:
            first, last = fetch[0].offset, fetch[-1].offset
            source = Source("flights.ingress", self.partition)
            source.begin(first, last + 1)
            source.append(Fetch(source.topic, self.partition, first, last + 1, batches_of(fetch), 0))
            while source.waits:
                await self.processor.process(source, checkpoint)
            assert source.position == last + 1
        self.processor.finish(checkpoint)
        self._commit(checkpoint, store=commit)
        return checkpoint

    async def at(self, now: int, *, commit: bool = True) -> list[Entry]:
        """Let it be that time (µs), do what is due then in one checkpoint, and return what came into the log."""
        self.now = now
        before = len(self.log)
        checkpoint = self._begin()
        while self.is_due:
            await self.processor.process_due(checkpoint)
        self.processor.finish(checkpoint)
        self._commit(checkpoint, store=commit)
        return self.log[before:]

    @property
    def is_due(self) -> bool:
        """Whether the task would let the processor do what is due."""
        due = self.processor.due_at()
        return due is not None and due <= self.clock.now()

    def _commit(self, checkpoint: Checkpoint, *, store: bool = True) -> None:
        checkpoint.seal()
        if not store:
            return
        self.store.write(checkpoint.writes, {})
        for record in self._sent(checkpoint, topics.log(self.namespace).name):
            entry = Entry.from_log(
                self.partition, len(self.log), record.key, record.value, record.headers, record.timestamp
            )
            self.log.append(entry)
        dlq, answers = topics.dlq(self.namespace).name, topics.answers(self.namespace).name
        self.refused += [(record.key, record.value, record.headers) for record in self._sent(checkpoint, dlq)]
        self.answers += [read_answer(each.key, each.value, each.headers) for each in self._sent(checkpoint, answers)]

    def _sent(self, checkpoint: Checkpoint, topic: str) -> Iterator[Any]:
        for batch in checkpoint.batches.get((topic, self.partition), ()):
            yield from MemoryRecords(bytes(batch._build())).next_batch()

    def row(self, key: bytes | None, id: str, source: str = "s") -> Row | None:
        """The committed dedup row of an identity."""
        stored = self.store.get("flights.dedup", identity(key, source, id))
        return None if stored is None else decode_row(stored)

    @property
    def waiting(self) -> int:
        """How many rows wait. Each of the schedule has one in the table of identities, unless something is wrong."""
        scheduled = sum(key != MARK for _, key, _ in self.store.items("flights.schedule"))
        assert scheduled == sum(1 for _ in self.store.items("flights.pending"))
        return scheduled

    @property
    def refusals(self) -> list[tuple[str, bytes | None]]:
        """Code and value of what was refused."""
        return [((dict(headers)["walstream-error-code"] or b"").decode(), value) for _, value, headers in self.refused]

    def counted(self, metric: str, outcome: str) -> int:
        """What a counter says."""
        labels = {"namespace": "flights", "outcome": outcome}
        return int(self.registry.get_sample_value(f"walstream_router_{metric}_total", labels) or 0)
