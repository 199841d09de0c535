"""A delivery's partition over a real store, without Kafka: checkpoint after checkpoint, by a clock that a test moves.

What a checkpoint wrote to the retry topic is read back once it is committed. A checkpoint may be thrown away, and the
partition opened again from what was committed, as after a crash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from aiokafka.record.memory_records import MemoryRecords
from prometheus_client import CollectorRegistry

from walstream import blocked, control, dead, topics
from walstream.deadletter import ERROR_HEADER, LOG_POSITION_HEADER, WHEN_HEADER
from walstream.delivery.app import topology
from walstream.delivery.dispatch import Dispatcher
from walstream.delivery.metrics import DeliveryMetrics
from walstream.engine.checkpoint import Checkpoint
from walstream.engine.clock import Clock
from walstream.engine.fetch import Fetch
from walstream.engine.source import Source
from walstream.engine.store import Store
from walstream.engine.topology import Processor, Topology
from walstream.entry import Entry
from walstream.headers import Header, log_headers
from walstream.namespace import Namespace
from walstream.record import Message, encode
from walstream.schedule import MARK
from walstream.sinks.base import APPLIED, DEAD, RETRY, TARGET_DOWN, Applied, Dead, Outcome, Retry, Sink, SinkContext
from walstream.stored import load
from walstream.testing.raw_batch import batches_of
from walstream.wire.builder import BatchBuilder

NOW = 1_795_000_000_000  # ms; the same in every process, since tests are named by it
"""When the clock begins, ms."""
SPINS = 50
"""As many rounds in a row may come to nothing before that is taken for a busy loop."""


class Down(Exception):
    """The target is down."""


class Bad(Exception):
    """An entry is bad."""


class Busy(Exception):
    """Not now."""


class Unlisted(Exception):
    """An error that is in no table."""


Script = Callable[[Entry, int], Any]
"""What becomes of an entry at an attempt (from 1): an outcome, or an exception that the whole call raises."""


class ScriptedSink(Sink):
    """A sink that answers as a test says, and notes each call.

    Attributes
    ----------
    script
        What becomes of an entry; without it everything is applied.
    answers
        Of a log position one answer after the other, before the script is asked.
    whole
        Of a call one answer after the other, before entries are looked at: it is raised or given.
    down
        Every call raises `Down`.
    turns
        How many turns of the loop a call waits, by its first entry: before it takes effect, and before its answer.
    stops
        Behind an entry that is to be tried again, or is dead and held, the others of its key are not tried.
    calls
        The log positions of each call that was answered or raised, in order.
    applied
        The log positions of what was applied, in order, again where they came again.
    tries
        How often each log position was tried.
    """

    errors: ClassVar = {Down: TARGET_DOWN, Bad: DEAD, Busy: RETRY}
    late_writes_harmless = True

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        self.script: Script = lambda entry, attempt: APPLIED
        self.answers: dict[int, list[Any]] = {}
        self.whole: list[Any] = []
        self.down = self.stops = False
        self.turns: Callable[[Entry], tuple[int, int]] = lambda entry: (0, 0)
        self.calls: list[list[int]] = []
        self.entries: list[Entry] = []
        self.applied: list[int] = []
        self.tries: dict[int, int] = {}

    async def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        before, after = self.turns(batch[0])
        for _ in range(before):
            await asyncio.sleep(0)
        outcomes = self._write(batch)
        for _ in range(after):
            await asyncio.sleep(0)
        return outcomes

    def _write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        self.calls.append([entry.position for entry in batch])
        self.entries += batch
        if self.down:
            raise Down("it is down")
        if self.whole:
            answer = self.whole.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer  # type: ignore[no-any-return]
        outcomes: list[Any] = []
        waiting: set[bytes | None] = set()
        for entry in batch:
            outcome = Retry("it is behind") if entry.key in waiting else self._outcome(entry)
            if isinstance(outcome, Exception):
                raise outcome
            outcomes.append(outcome)
            if isinstance(outcome, Applied):
                self.applied.append(entry.position)
            elif isinstance(outcome, Retry) or (isinstance(outcome, Dead) and self.context.hold):
                waiting |= {entry.key} - {None} if self.stops else set()
        return outcomes

    def _outcome(self, entry: Entry) -> Any:
        self.tries[entry.position] = self.tries.get(entry.position, 0) + 1
        answers = self.answers.get(entry.position)
        return answers.pop(0) if answers else self.script(entry, self.tries[entry.position])


@dataclass(slots=True)
class Stored:
    """A record of a topic."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[Header]
    timestamp: int
    timestamp_type: int = 1

    def header(self, name: str) -> bytes | None:
        """The value of a header; None where there is none."""
        return dict(self.headers).get(name)


class DeliveryPartition:
    """One partition of a target ``base`` of a namespace ``flights``. `open` comes first.

    Parameters
    ----------
    folder
        For the store.
    partition
        Its number.
    sink
        The target's sink, which outlives crashes; by default one that answers by a script.
    fetch
        Records of one fetch, at most.
    words
        Of the target in the namespace file.

    Attributes
    ----------
    now
        The brokers' time, the worker's wall clock and (in seconds) its monotonic clock, µs.
    topics
        What is in each topic, markers of transactions being gaps in the offsets.
    committed
        The committed offset of each source.
    """

    def __init__(
        self, folder: Path, partition: int = 2, *, sink: Sink | None = None, fetch: int = 10_000, **words: Any
    ) -> None:
        targets = {"base": {"sink": "cassandra", **words}, "other": {"sink": "kafka"}}
        self.namespace = Namespace.model_validate(
            {"version": 1, "namespace": "flights", "latency": "0ms", "targets": targets}
        )
        self.partition, self.fetch = partition, fetch
        self._context = SinkContext("flights", "base", None, hold=self.namespace.targets["base"].on_dead == "hold")
        self.sink: Any = sink or ScriptedSink(self._context)
        if self.sink.stateful:
            kept = {**self.namespace.targets, "base": self.namespace.targets["base"].with_state()}
            self.namespace = self.namespace.model_copy(update={"targets": kept})
        self._kind: Any = type("Kind", (ScriptedSink,), {"for_context": lambda context: self.sink})
        self.log_topic = topics.log(self.namespace).name
        self.retry_topic = topics.retry(self.namespace, "base").name
        self.dlq_topic = topics.target_dlq(self.namespace, "base").name
        self.topics: dict[str, list[Stored]] = {self.log_topic: [], self.retry_topic: [], self.dlq_topic: []}
        self.ends = dict.fromkeys(self.topics, 0)
        self.committed = {self.log_topic: 0, self.retry_topic: 0}
        self.now = NOW * 1000
        self.clock = Clock(lambda: self.now, lambda: self.now)
        self._folder = folder
        self._sources: dict[str, Source] = {}
        self._positions: dict[str, int] = {}
        self._first_ends: dict[str, int] = {}
        self._news = asyncio.Event()
        self._before: Checkpoint | None = None  # it is being committed
        self._store: Store | None = None
        self.topology: Topology
        self.processor: Processor

    # Writing

    def write(self, key: bytes | None = b"k", *, gap: int = 0, **options: Any) -> int:
        """Append a record to the log, as the router does; its position.

        Parameters
        ----------
        gap
            Offsets in front of it that have no record.
        options
            As of `walstream.record.encode`; the id is the position unless one is given.
        """
        position = self.ends[self.log_topic] + gap
        payload = options.pop("payload", b"v%d" % position)
        options = {"id": str(position), "source": "s", "type": "t", "time": None, **options}
        message = encode(payload, key=key, **options)
        headers = log_headers(
            message.headers, time_us=self.now - self.now % 10, position=position + 100, timestamp_ms=1_000 + position
        )
        self._append(self.log_topic, key, message.value, headers, gap)
        return position

    def say(self, message: Message, topic: str | None = None) -> int:
        """Append a record to the retry topic, or to another one, as somebody else does; its offset."""
        self._append(topic or self.retry_topic, message.key, message.value, message.headers)
        return self.ends[topic or self.retry_topic] - 1

    def redrive(self, position: int) -> None:
        """Have the latest dead letter of a log position tried again, as ``walstream dlq redrive`` does."""
        (*_, letter) = [each for each in self.topics[self.dlq_topic] if log_position(each) == position]
        self.say(control.redrive(letter.key, letter.value, letter.headers))

    def drop(self, position: int) -> None:
        """Give the latest dead letter of a log position up, as ``walstream dlq drop`` does."""
        (*_, letter) = [each for each in self.topics[self.dlq_topic] if log_position(each) == position]
        when = int(letter.header(WHEN_HEADER) or b"")
        self.say(control.encode(control.Control(control.Kind.DROP, position, when), letter.key))

    def _append(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[Header], gap: int = 0
    ) -> None:
        offset = self.ends[topic] + gap
        self.topics[topic].append(Stored(offset, key, value, list(headers), self.now // 1000))
        self.ends[topic] = offset + 1
        self._news.set()

    # Working

    async def open(self) -> Self:
        """Begin with what is committed, in a worker of its own; everything else is gone."""
        self.registry = CollectorRegistry()
        metrics = DeliveryMetrics(self.registry)
        dispatcher = Dispatcher(
            self._context,
            self._kind,
            self.namespace.targets["base"],
            metrics,
            monotonic=lambda: (self.now - NOW * 1000) / 1e6,
        )
        self.topology = topology(self.namespace, "base", dispatcher, metrics)
        if self._store is None:
            self._store = Store(self._folder, self.topology.tables)
        self.processor = self.topology.processor(self.partition)
        self._before = None
        self._positions = dict(self.committed)
        self._first_ends = dict(self.ends)
        self._sources = {topic: Source(topic, self.partition) for topic in self.topology.sources}
        for topic, source in self._sources.items():
            source.begin(self.committed[topic], self.ends[topic])
        self.clock.witness(self.now // 1000, self.now, 0)
        checkpoint = self._begin()
        await self.processor.open(checkpoint)
        if not checkpoint.is_empty:
            checkpoint.seal()
            self._commit(checkpoint)
        return self

    async def crash(self, *, committed: bool = True) -> Self:
        """The worker dies, and another one begins.

        Parameters
        ----------
        committed
            Whether a checkpoint that was being committed was.
        """
        if self._before is not None and committed:
            self._commit(self._before)
        await self.processor.close(None)
        return await self.open()

    async def stop(self) -> None:
        """The worker leaves in order."""
        self.flush()
        last = self._begin()
        await self.processor.close(last)
        self._note_positions(last)
        last.seal()
        self._commit(last)

    async def work(self, *, rounds: int = 10_000, commit: bool = True, ahead: bool = False) -> None:
        """Make one checkpoint: as much as there is to do by now, or so many rounds of it.

        Parameters
        ----------
        commit
            False: it is thrown away; call `crash` next.
        ahead
            It is committed only when the next one is complete.
        """
        building = self._begin()
        spins, before = 0, None
        for _ in range(rounds):
            await self._round(building)
            if not self._has_work:
                break
            progress = dict(self._positions), building.size, len(getattr(self.sink, "calls", ()))
            spins = spins + 1 if progress == before else 0
            before = progress
            assert spins < SPINS, f"it says that there is work and does none: {self._why()}"
        self.processor.finish(building)
        if not commit:
            return
        self.flush()
        building.seal()
        self._before = building
        if not ahead:
            self.flush()

    def flush(self) -> None:
        """Let what is being committed be so."""
        before, self._before = self._before, None
        if before is not None:
            self._commit(before)

    async def _round(self, building: Checkpoint) -> None:
        building.news.clear()
        if any(source.expected < self.ends[topic] for topic, source in self._sources.items()):
            building.news.set()  # it is on its way here
        for topic in self.topology.sources:
            source = self._read(topic)
            if source is not None and self.processor.wants(topic):
                await self.processor.process(source, building)
                self._note_positions(building)
        if self.is_due:
            await self.processor.process_due(building)
            self._note_positions(building)
        await asyncio.sleep(0)  # what is on its way goes on

    def _note_positions(self, building: Checkpoint) -> None:
        for topic, source in self._sources.items():
            if source.position != self._positions[topic]:
                assert source.position > self._positions[topic]
                building.offsets[topic] = self._positions[topic] = source.position

    def _read(self, topic: str) -> Source | None:
        """The source of a topic, if something of it waits that may be read."""
        for earlier in self.topology.sources[: self.topology.sources.index(topic)]:
            if self._positions[earlier] < self._first_ends[earlier]:
                return None
        source = self._sources[topic]
        if not source.waits and (position := source.expected) < self.ends[topic]:
            there = [record for record in self.topics[topic] if record.offset >= position]
            part = there[: self.fetch]
            end = self.ends[topic] if len(part) == len(there) else part[-1].offset + 1
            source.append(Fetch(topic, self.partition, position, end, batches_of(part), 0))
        return source if source.waits else None

    @property
    def is_due(self) -> bool:
        """Whether the task would let the processor do what is due."""
        earlier = self.topology.sources[:-1]
        if any(self._positions[topic] < self._first_ends[topic] for topic in earlier):
            return False
        due = self.processor.due_at()
        return due is not None and due <= self.clock.now()

    @property
    def wait(self) -> int | None:
        """How long it is until something falls due, µs; None is for ever."""
        due = self.processor.due_at()
        return None if due is None else max(0, due - self.clock.now())  # which is behind `now`, by up to 1 ms

    @property
    def _has_work(self) -> bool:
        return self.is_due or any(self._read(t) is not None and self.processor.wants(t) for t in self.topology.sources)

    def _why(self) -> str:
        wanted = {topic: self.processor.wants(topic) for topic in self.topology.sources}
        return f"at {self.now}, due {self.processor.due_at()}, wanted {wanted}, positions {self._positions}"

    async def settle(self) -> None:
        """Make checkpoint after checkpoint, until there is nothing more to do by now."""
        await self.work()
        while self._has_work:
            await self.work()

    async def later(self, seconds: float) -> None:
        """Let so much time pass, doing what falls due when it is due."""
        until = self.now + round(seconds * 1e6)
        await self.settle()
        while (wait := self.wait) is not None and self.now + wait <= until:
            self.now += wait
            await self.settle()
        self.now = until
        await self.settle()

    async def until_done(self, most: int = 2_000) -> None:
        """Let time pass until nothing waits, in so many steps at most."""
        for _ in range(most):
            await self.settle()
            if not self.waits:
                return
            assert self.wait is not None, f"something waits for ever: {self._why()}, {self.waits}"
            self.now += self.wait
        raise AssertionError(f"after {most} steps something waits still: {self._why()}, {self.waits}")

    def _begin(self) -> Checkpoint:
        assert self._store is not None
        return Checkpoint(
            self.partition, lambda: BatchBuilder(1_000_000, "lz4", transactional=True), self._store,
            self.topology.tables, {}, self._before, clock=self.clock, committed=self.committed, ends=self._first_ends,
            news=self._news,
        )  # fmt: skip

    def _commit(self, checkpoint: Checkpoint) -> None:
        assert self._store is not None
        for (topic, partition), batches in checkpoint.batches.items():
            if topic not in self.topics:
                continue
            assert partition == self.partition
            for batch in batches:
                for record in MemoryRecords(bytes(batch._build())).next_batch():
                    self._append(topic, record.key, record.value, record.headers)
            self.ends[topic] += 1  # the transaction's marker
        self._store.write(checkpoint.writes, {})
        self.committed.update(checkpoint.offsets)
        checkpoint.is_committed = True

    # Seeing

    def rows(self, table: str) -> dict[bytes, bytes]:
        """The committed rows of one of the target's tables."""
        assert self._store is not None
        return {key: value for _, key, value in self._store.items(f"flights.base.{table}")}

    @property
    def retrying(self) -> list[int]:
        """Log positions in the schedule, in the order in which they are due."""
        rows = {key: value for key, value in self.rows("schedule").items() if key != MARK}
        return [_position(dict(load(rows[key], 0).headers)) for key in sorted(rows)]

    @property
    def parked(self) -> dict[bytes | None, list[int]]:
        """Log positions of parked records, by key."""
        found: dict[bytes | None, list[int]] = {}
        for key, value in sorted(self.rows("parked").items()):
            found.setdefault(load(value, 0).key, []).append(blocked.parked_position(key))
        return found

    @property
    def blocked(self) -> dict[bytes, blocked.Blocked]:
        """The rows of keys that wait."""
        return {row.key: row for row in map(blocked.decode, self.rows("blocked").values())}

    @property
    def dead(self) -> dict[int, dead.State]:
        """What became of what died, by log position."""
        return {dead.position_of(key): dead.decode(value).state for key, value in self.rows("dead").items()}

    @property
    def unread(self) -> list[int]:
        """Log positions on the retry topic that were not read yet."""
        at = self.committed[self.retry_topic]
        return [_position(dict(record.headers)) for record in self.topics[self.retry_topic] if record.offset >= at]

    @property
    def buried(self) -> list[tuple[int, str]]:
        """Log position and reason of each record in the DLQ, in order."""
        letters = self.topics[self.dlq_topic]
        return [(log_position(letter), (letter.header(ERROR_HEADER) or b"").decode()) for letter in letters]

    @property
    def waits(self) -> dict[str, Any]:
        """All that waits, by where; nothing, where nothing does."""
        behind = {topic: self.ends[topic] - at for topic, at in self.committed.items() if self.ends[topic] > at}
        found = {**behind, "schedule": self.retrying, "parked": self.parked}
        return {name: what for name, what in found.items() if what}

    @property
    def positions(self) -> list[int]:
        """Log positions that have a record."""
        return [record.offset for record in self.topics[self.log_topic]]

    def record(self, position: int) -> Stored:
        """The record at a log position."""
        return next(record for record in self.topics[self.log_topic] if record.offset == position)

    def counted(self, outcome: str) -> int:
        """How many entries had an outcome, as the metrics say."""
        labels = {"namespace": "flights", "target": "base", "outcome": outcome}
        return int(self.registry.get_sample_value("walstream_delivery_entries_total", labels) or 0)

    def close(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            self._store.close()


def log_position(record: Stored) -> int:
    """The log position that a record of the retry topic or of the DLQ names; -1 where it names none."""
    return _position(dict(record.headers))


def _position(headers: dict[str, bytes | None]) -> int:
    return int(headers.get(LOG_POSITION_HEADER) or b"-1")
