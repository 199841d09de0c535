"""A task from its opening to its end, between a consumer and a producer that are told what to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from faust.types import TP

from walstream.engine import inbox
from walstream.engine import task as module
from walstream.engine.checkpoint import Checkpoint
from walstream.engine.clock import Clock
from walstream.engine.fetch import Fetch
from walstream.engine.gate import Gate
from walstream.engine.pace import Pace
from walstream.engine.source import Source
from walstream.engine.store import Store
from walstream.engine.task import State, Task
from walstream.engine.topology import TableSpec, Topology
from walstream.errors import LostRange, Unreadable
from walstream.testing.raw_batch import RawRecord, encode_batch
from walstream.wire.batch import Batch
from walstream.wire.builder import BatchBuilder

SOURCE, FIRST = TP("source", 0), TP("first", 0)
LARGE = 1 << 20  # bytes of a fetch
TABLE = TableSpec("seen", "seen.changelog")


class Broker:
    """The source's bounds, the group's offset, and what was committed."""

    def __init__(self) -> None:
        self.committed: int | None = 0
        self.first, self.end, self.log_end, self.changelog_end = 0, 1_000, 50, 0
        self.first_end = 0  # of the source that is read first, where there are two
        self.transactions: list[dict[str, int]] = []
        self.errors: list[BaseException] = []  # of the next commits
        self.slow = 0.0
        self.displaced = 0  # somebody else's records in the log
        self.producers: list[Producer] = []


class Consumer:
    def __init__(self, broker: Broker) -> None:
        self.broker, self.gates = broker, dict[TP, Gate]()
        self.seeks: list[int] = []
        self.started: list[TP] = []
        self.member = True

    async def hold(self, tps: Iterable[TP]) -> None: ...

    async def committed(self, tps: Iterable[TP]) -> dict[TP, int]:
        committed = {SOURCE: self.broker.committed, FIRST: 0}
        return {tp: offset for tp in tps if (offset := committed[tp]) is not None}

    async def bounds(self, tps: Iterable[TP]) -> dict[TP, tuple[int, int]]:
        broker = self.broker
        ends = {"source": (broker.first, broker.end), "log": (0, broker.log_end), "first": (0, broker.first_end)}
        return {tp: ends.get(tp.topic, (0, broker.changelog_end)) for tp in tps}

    async def start_reading(self, positions: Mapping[TP, int]) -> None:
        for tp, position in positions.items():
            self.seeks.append(position)
            self.started.append(tp)
            self.gates[tp].open()

    async def is_member(self) -> bool:
        return self.member

    def wake(self) -> None: ...


class Producer:
    broker: Broker

    def __init__(self, connection: Any, transactional_id: str, clock: Clock) -> None:
        self.abandoned = False
        self.transactional_id = transactional_id
        self.broker.producers.append(self)

    async def start(self) -> None: ...

    def new_batch(self) -> BatchBuilder:
        return BatchBuilder(100_000, None, transactional=True)

    async def commit(self, batches: Mapping[tuple[str, int], Sequence[Any]], offsets: Any, group: str) -> Any:
        assert not self.abandoned
        broker = self.broker
        await asyncio.sleep(broker.slow)
        if broker.errors:
            raise broker.errors.pop(0)
        placed = {}
        for topic, partition in batches:
            count = sum(batch.record_count() for batch in batches[topic, partition])
            if topic == "log":
                placed[topic, partition] = [broker.log_end + broker.displaced]
                broker.log_end += broker.displaced + count + 1
                broker.displaced = 0
            else:
                placed[topic, partition] = [broker.changelog_end]
                broker.changelog_end += count + 1
        moved = {tp.topic: offset for tp, offset in offsets.items()}
        broker.transactions.append(moved)
        broker.committed = moved.get("source", broker.committed)
        return placed

    async def abandon(self) -> None:
        self.abandoned = True


class Processor:
    """Notes what it saw in a table and in the log."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.positions: list[int | None] = []
        self.work: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(0)
        self.at_open: Callable[[Checkpoint], None] = lambda checkpoint: None
        self.closed: list[bool] = []
        self.at_close: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(0)
        self.output = True
        self.due: list[int] = []  # times (µs)
        self.sent: list[int] = []
        self.unwanted: set[str] = set()
        self.topics: list[str] = []
        self.at_once = 10  # records of a stretch
        self.most: int | None = None  # records of a stretch that it works on; the others are put back

    async def open(self, checkpoint: Checkpoint) -> None:
        self.at_open(checkpoint)

    async def process(self, source: Source, checkpoint: Checkpoint) -> None:
        records = source.take(self.at_once)
        await self.work()
        self.topics.append(source.topic)
        if self.most is not None:
            source.put_back(records[self.most :])
            del records[self.most :]
        for record in records:
            self.seen.append(record.offset)
            if self.output:
                self.positions.append(checkpoint.output("log").append(1, None, b"%d" % record.offset))
                checkpoint.table("seen").put(b"%d" % record.offset, b"x", 1)

    def wants(self, topic: str) -> bool:
        return topic not in self.unwanted

    def due_at(self) -> int | None:
        return min(self.due, default=None)

    async def process_due(self, checkpoint: Checkpoint) -> None:
        now = checkpoint.clock.now()
        late = [due for due in self.due if due <= now][:10]
        for due in late:
            self.due.remove(due)
            self.sent.append(due)
            checkpoint.output("log").append(1, None, b"due")

    def finish(self, checkpoint: Checkpoint) -> None: ...

    async def close(self, checkpoint: Checkpoint | None) -> None:
        self.closed.append(checkpoint is not None)
        if checkpoint is not None:
            checkpoint.table("seen").put(b"closed", b"x", 1)
        await self.at_close()


class Time:
    """The clock of a worker whose wall clock and broker go as they are told, and else as they do."""

    def __init__(self) -> None:
        self.ahead = 0  # µs of the wall clock
        self.clock = Clock(lambda: time.time_ns() // 1_000 + self.ahead)
        self.confirm()

    def confirm(self) -> None:
        """A broker answers at once."""
        sent = self.clock.boot()
        self.clock.witness(time.time_ns() // 1_000_000, sent, 1)


async def nothing() -> None:
    """All topics are what they were."""


def batch(offset: int, count: int, *, unreadable: bool = False) -> Batch:
    """A batch as it was fetched; one that nobody can read is one that a broker would take all the same."""
    records = [RawRecord(None, b"v", [(b"b\xff", None)])] * count
    compression, trailing = ("gzip", b"rubbish") if unreadable else ("lz4", b"")
    return Batch(encode_batch(records, base=offset, compression=compression, trailing=trailing))


class Worker:
    """A task and all that is around it."""

    def __init__(self, folder: Path, *sources: str) -> None:
        self.folder = folder
        self.broker = Broker()
        self.consumer = Consumer(self.broker)
        self.processor = Processor()
        self.failed: list[BaseException] = []
        self.time = Time()
        self.spawned: list[asyncio.Task[Any]] = []
        self.engine: Any = SimpleNamespace(
            consumer=self.consumer, connection={}, group="group", topic_ids={TABLE.changelog: "id"}, cache=None,
            open_store=lambda topology, partition: Store(folder, topology.tables, {TABLE.changelog: "id"}),
            opening=asyncio.Semaphore(1), fail=self.failed.append,
            make_sure=None, check_topics=nothing, fetch_size=LARGE, clock=self.time.clock, pace=Pace(0),
            spawn=lambda work: self.spawned.append(asyncio.create_task(work)),
        )  # fmt: skip
        topology = Topology("t", sources, 1, (TABLE,), lambda partition: self.processor, ("log",), latency=1_000)
        self.task = Task(self.engine, topology, 0, 2 << 20)

    @property
    def gate(self) -> Gate:
        return self.consumer.gates[SOURCE]

    async def start(self) -> None:
        self.task.start()
        await self.until(lambda: bool(self.consumer.seeks))
        await self.until(lambda: self.task.state is State.IDLE)

    def fetch(
        self, offset: int, count: int = 1, *, epoch: int | None = None, source: TP = SOURCE, size: int = 100
    ) -> None:
        """Let a fetch come in."""
        gate = self.consumer.gates[source]
        gate.take(size)
        epoch = gate.epoch if epoch is None else epoch
        self.task.offer(Fetch(source.topic, 0, offset, offset + count, [batch(offset, count)], size, epoch))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - of what a task does not tell
                await asyncio.sleep(0.001)

    def stored(self) -> list[int]:
        store = Store(self.folder, [TABLE])
        try:
            return sorted(int(key) for _, key, _ in store.items("seen") if key != b"closed")
        finally:
            store.close()


@pytest.fixture
async def worker(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Worker]:
    async def recover(*_: Any) -> int:
        return 0

    worker = Worker(tmp_path / "0", *getattr(request, "param", ["source"]))
    monkeypatch.setattr(Producer, "broker", worker.broker, raising=False)
    monkeypatch.setattr(module, "TransactionalProducer", Producer)
    monkeypatch.setattr(module, "recover", recover)
    monkeypatch.setattr(module, "REOPEN_DELAY", 0.01)
    yield worker
    await worker.task.close(1)


# ------------------------------------------------------------------------------------------------ opening


async def test_opens_at_the_committed_offset(worker: Worker) -> None:
    worker.broker.committed = 77
    await worker.start()
    assert worker.consumer.seeks == [77]
    assert worker.broker.producers[0].transactional_id == "walstream.t.0"


async def test_a_new_group_begins_at_the_start_of_a_whole_topic(worker: Worker) -> None:
    worker.broker.committed = None
    await worker.start()
    assert worker.consumer.seeks == [0]


@pytest.mark.parametrize(
    ("committed", "first", "changelog_end", "reason"),
    [
        (None, 5, 0, "has no committed offset"),
        (None, 0, 5, "has no committed offset"),
        (4, 5, 0, "offsets 4 to 4 were to be read next, but are gone"),
        (1_001, 0, 0, "offset 1001 was to be read next, but the topic ends at 1000"),
    ],
)
async def test_a_lost_range_ends_the_worker(
    worker: Worker, committed: int | None, first: int, changelog_end: int, reason: str
) -> None:
    broker = worker.broker
    broker.committed, broker.first, broker.changelog_end = committed, first, changelog_end
    worker.task.start()
    await worker.until(lambda: bool(worker.failed))
    (failure,) = worker.failed
    assert isinstance(failure, LostRange) and reason in str(failure)
    assert worker.consumer.seeks == []


async def test_what_an_opening_writes_is_committed_with_the_offsets(worker: Worker) -> None:
    worker.broker.committed = None
    worker.processor.at_open = lambda checkpoint: checkpoint.table("seen").put(b"1", b"x", 1)
    await worker.start()
    assert worker.broker.transactions == [{"source": 0}], "rows without an offset would look like a lost range"


async def test_waiting_for_a_target_is_nothing_that_a_watchdog_minds(worker: Worker) -> None:
    opened = asyncio.Event()

    async def wait(checkpoint: Checkpoint) -> None:
        await opened.wait()

    worker.processor.open = wait  # type: ignore[method-assign]
    worker.task.start()
    await worker.until(lambda: worker.task.state is State.WAITING and bool(worker.broker.producers))
    assert worker.engine.opening.locked() is False, "others may open meanwhile"
    opened.set()
    await worker.until(lambda: worker.task.state is State.IDLE)


# ------------------------------------------------------------------------------------------------ fetches


async def test_fetches_become_checkpoints_and_the_store_follows(worker: Worker) -> None:
    await worker.start()
    worker.fetch(0, 3)
    await worker.until(lambda: worker.broker.committed == 3)
    worker.fetch(3, 2)
    await worker.until(lambda: worker.broker.committed == 5)
    assert worker.task.committed == {"source": 5}
    assert worker.processor.positions == [50, 51, 52, 54, 55], "behind the marker of the first transaction"
    await worker.task.close(1)
    assert worker.stored() == [0, 1, 2, 3, 4]


async def test_fetches_of_an_older_epoch_are_dropped(worker: Worker) -> None:
    await worker.start()
    worker.fetch(0, epoch=0)
    worker.fetch(0)
    await worker.until(lambda: worker.broker.committed == 1)
    assert worker.processor.seen == [0]


async def test_a_gap_is_sought_back(worker: Worker) -> None:
    await worker.start()
    worker.fetch(0)
    worker.fetch(2)
    await worker.until(lambda: worker.consumer.seeks == [0, 1])
    worker.fetch(1, 2)
    await worker.until(lambda: worker.broker.committed == 3)
    assert worker.processor.seen == [0, 1, 2]


async def test_a_fetch_that_never_arrives_is_sought_back(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "LOST_FETCH", 0.02)
    await worker.start()
    worker.gate.take(100)
    worker.task.check_lost()
    assert worker.consumer.seeks == [0]
    await asyncio.sleep(0.03)
    worker.task.check_lost()
    await worker.until(lambda: worker.consumer.seeks == [0, 0])
    assert worker.gate.waiting == 0
    worker.task.check_lost()
    await asyncio.sleep(0.03)
    worker.task.check_lost()
    assert worker.consumer.seeks == [0, 0]


async def test_a_backlog_is_committed_as_it_is_worked_off(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink outside Kafka leaves no output, so that the size of a checkpoint never ends it."""
    monkeypatch.setattr(module, "CHECKPOINT_AGE", 20)
    monkeypatch.setattr(module, "BACKLOG", 1)
    worker.processor.output = False
    await worker.start()
    offset = 0

    async def more() -> None:
        nonlocal offset
        worker.fetch(offset := offset + 1)
        await asyncio.sleep(0.005)

    worker.processor.work = more
    worker.fetch(0)
    await worker.until(lambda: len(worker.broker.transactions) >= 2)
    worker.processor.work = lambda: asyncio.sleep(0)


async def test_a_trickle_that_never_ends_keeps_nothing_that_is_done(worker: Worker) -> None:
    """Small fetches keep coming: a checkpoint goes on for no longer than records may wait."""
    object.__setattr__(worker.task.topology, "latency", 20)
    await worker.start()
    offset = 0

    async def more() -> None:
        nonlocal offset
        worker.fetch(offset := offset + 1)
        await asyncio.sleep(0.005)

    worker.processor.work = more
    worker.fetch(0)
    await worker.until(lambda: len(worker.broker.transactions) >= 2)
    worker.processor.work = lambda: asyncio.sleep(0)


async def look_on(worker: Worker) -> list[Checkpoint]:
    """Start with work on its way that is never answered, and a fetch; give each look at it, as they come."""
    looks: list[Checkpoint] = []

    async def wait(checkpoint: Checkpoint) -> None:
        looks.append(checkpoint)
        await checkpoint.news.wait()

    worker.processor.process_due = wait  # type: ignore[method-assign]
    await worker.start()
    worker.processor.due = [0]
    worker.fetch(0)
    return looks


async def test_what_is_done_does_not_wait_for_what_is_on_its_way(worker: Worker) -> None:
    """A processor waits for an answer, for which it is asked again and again, and there is something to commit."""
    object.__setattr__(worker.task.topology, "latency", 20)
    looks = await look_on(worker)
    await worker.until(lambda: worker.broker.committed == 1 and len(looks) > 1)


async def test_where_nothing_may_wait_work_on_its_way_is_not_looked_at_all_the_time(worker: Worker) -> None:
    object.__setattr__(worker.task.topology, "latency", 0)
    looks = await look_on(worker)
    await worker.until(lambda: worker.broker.committed == 1)
    before, began = len(looks), time.monotonic()
    await worker.until(lambda: len(looks) >= before + 5)
    assert time.monotonic() - began >= 4 * module.LOOK_LEAST / 1_000 * 0.9


async def test_the_next_checkpoint_is_built_while_one_is_committed(worker: Worker) -> None:
    await worker.start()
    worker.broker.slow = 0.05
    worker.fetch(0)
    await worker.until(lambda: worker.processor.seen == [0])
    worker.fetch(1)
    await worker.until(lambda: worker.processor.seen == [0, 1])
    assert worker.broker.transactions == []
    await worker.until(lambda: worker.broker.committed == 2)
    assert worker.broker.transactions == [{"source": 1}, {"source": 2}]


async def test_offsets_alone_are_committed_together(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for them: of a trickle into a sink outside Kafka, each record would else cost a transaction."""
    monkeypatch.setattr(module, "OFFSETS_AGE", 100)
    worker.processor.output = False
    await worker.start()
    for offset in range(3):
        worker.fetch(offset)
        await worker.until(lambda offset=offset: worker.processor.seen == list(range(offset + 1)))  # type: ignore[misc]
        await worker.until(lambda: worker.task.state is State.IDLE)
    assert worker.broker.transactions == []
    await worker.until(lambda: worker.broker.committed == 3)
    assert worker.broker.transactions == [{"source": 3}]
    worker.fetch(3)
    await worker.until(lambda: worker.broker.committed == 4)


async def hold_offsets(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a record worked on that leaves nothing but its offset, which then waits for long."""
    monkeypatch.setattr(module, "OFFSETS_AGE", 60_000)
    worker.processor.output = False
    await worker.start()
    worker.fetch(0)
    await worker.until(lambda: worker.processor.seen == [0] and worker.task.state is State.IDLE)


async def test_output_does_not_wait_with_the_offsets_before_it(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    await hold_offsets(worker, monkeypatch)
    worker.processor.output = True
    worker.fetch(1)
    await worker.until(lambda: worker.broker.committed == 2)
    assert worker.broker.transactions == [{"source": 2}]
    assert worker.broker.log_end == 52, "a record and a marker"


async def test_a_close_commits_the_offsets_that_waited(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    await hold_offsets(worker, monkeypatch)
    await worker.task.close(5)
    assert worker.broker.transactions[0] == {"source": 1}
    assert worker.processor.closed == [True]


async def test_what_fails_takes_the_offsets_that_waited_along(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were worked on, and come again: nothing is committed of what a failed stretch was built on."""
    await hold_offsets(worker, monkeypatch)

    async def fail() -> None:
        raise KafkaConnectionError

    worker.processor.work = fail
    worker.fetch(1)
    await worker.until(lambda: worker.consumer.seeks == [0, 0])
    assert worker.broker.transactions == []


async def test_what_nobody_reads_does_not_keep_the_offsets_that_waited(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hold_offsets(worker, monkeypatch)
    worker.gate.take(100)
    worker.task.offer(Fetch("source", 0, 1, 2, [batch(1, 1, unreadable=True)], 100, worker.gate.epoch))
    await worker.until(lambda: bool(worker.failed))
    assert isinstance(worker.failed[0], Unreadable)
    assert worker.broker.transactions == [{"source": 1}]


async def test_a_worker_learns_how_long_its_transactions_take(worker: Worker) -> None:
    worker.engine.pace = Pace(1)
    worker.broker.slow = 0.1
    await worker.start()
    worker.fetch(0)
    await worker.until(lambda: worker.broker.committed == 1)
    await worker.until(lambda: worker.engine.pace.wait >= 20)


async def test_small_fetches_that_came_meanwhile_are_worked_on_together(worker: Worker) -> None:
    goes_on, calls = asyncio.Event(), 0

    async def far_away() -> None:
        nonlocal calls
        calls += 1
        await goes_on.wait()

    worker.processor.work = far_away
    await worker.start()
    worker.fetch(0)
    await worker.until(lambda: calls == 1)
    for offset in range(1, 6):
        assert worker.gate.has_room
        worker.fetch(offset)
    goes_on.set()
    await worker.until(lambda: worker.broker.committed == 6)
    assert (calls, worker.processor.seen, worker.gate.waiting) == (2, [0, 1, 2, 3, 4, 5], 0)


# ------------------------------------------------------------------------------------------------ what is not wanted


async def test_what_is_not_wanted_waits_and_is_neither_read_on_nor_lost(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "LOST_FETCH", 0)
    worker.processor.unwanted = {"source"}
    await worker.start()
    worker.fetch(0, size=LARGE)
    worker.fetch(1, size=LARGE)
    for _ in range(3):
        worker.task.check_lost()
        worker.task.check_due()
        await asyncio.sleep(0.002)
    assert (worker.task.state, worker.processor.topics, worker.consumer.seeks) == (State.IDLE, [], [0])
    assert not worker.gate.has_room, "no more than two large ones are held"
    worker.processor.unwanted = set()
    worker.task.check_due()
    await worker.until(lambda: worker.broker.committed == 2)
    assert worker.processor.seen == [0, 1] and worker.gate.has_room


async def test_what_waited_before_a_seek_does_not_count_for_what_was_fetched_since(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "LOST_FETCH", 0)
    worker.processor.unwanted = {"source"}
    await worker.start()
    worker.fetch(0)
    worker.fetch(2)
    await worker.until(lambda: worker.consumer.seeks == [0, 1])
    worker.gate.take(100)
    worker.task.check_lost()
    worker.task.check_lost()
    await worker.until(lambda: worker.consumer.seeks == [0, 1, 1])
    worker.fetch(1)

    async def once() -> None:
        worker.processor.unwanted = {"source"}

    worker.processor.work, worker.processor.at_once = once, 1
    worker.processor.unwanted = set()
    worker.task.check_due()
    await worker.until(lambda: worker.broker.committed == 1)
    assert (worker.gate.waiting, worker.processor.seen) == (1, [0])


async def test_the_time_to_ask_again_is_when_work_falls_due(worker: Worker) -> None:
    worker.processor.unwanted = {"source"}
    worker.processor.due = [worker.time.clock.now() + 20_000]

    async def process_due(checkpoint: Checkpoint) -> None:
        worker.processor.due.clear()
        worker.processor.unwanted.clear()

    worker.processor.process_due = process_due  # type: ignore[method-assign]
    await worker.start()
    worker.fetch(0)
    await worker.until(lambda: worker.broker.committed == 1)
    assert worker.broker.transactions == [{"source": 1}]


async def test_a_commit_is_noticed_though_nothing_is_wanted(worker: Worker) -> None:
    await worker.start()
    worker.broker.slow = 0.02
    worker.fetch(0)
    await worker.until(lambda: worker.task.state is State.COMMITTING)
    worker.processor.unwanted = {"source"}
    worker.fetch(1)
    await worker.until(lambda: worker.task.state is State.IDLE)
    assert worker.broker.transactions == [{"source": 1}]
    worker.broker.errors = [KafkaConnectionError("gone")]
    worker.processor.unwanted = set()
    worker.task.check_due()
    await worker.until(lambda: worker.processor.seen == [0, 1])
    worker.processor.unwanted = {"source"}
    await worker.until(lambda: worker.consumer.seeks == [0, 1])


async def test_a_close_leaves_what_is_not_wanted(worker: Worker) -> None:
    worker.processor.unwanted = {"source"}
    await worker.start()
    worker.fetch(0)
    await worker.task.close(5)
    assert worker.processor.closed == [True] and worker.processor.topics == []
    assert worker.broker.transactions == [{"source": 0}]


async def test_what_is_put_back_comes_again_and_is_not_committed(worker: Worker) -> None:
    worker.processor.most = 2
    await worker.start()
    worker.fetch(0, 5)
    await worker.until(lambda: worker.broker.committed == 5)
    assert worker.processor.seen == [0, 1, 2, 3, 4]


async def test_a_failed_commit_is_noticed_by_who_puts_everything_back(worker: Worker) -> None:
    """Again and again, without a moment to wait in."""
    await worker.start()
    worker.broker.slow = 0.01
    worker.broker.errors = [KafkaConnectionError("gone")]
    object.__setattr__(worker.task.topology, "latency", 0)
    worker.fetch(0)
    await worker.until(lambda: worker.task.state is State.COMMITTING)
    worker.processor.most = 0
    worker.fetch(1)
    await worker.until(lambda: worker.consumer.seeks == [0, 0])


async def test_nothing_is_committed_where_everything_was_put_back(worker: Worker) -> None:
    worker.processor.most = 0
    await worker.start()
    worker.processor.work = lambda: asyncio.sleep(0.001)
    object.__setattr__(worker.task.topology, "latency", 1)
    worker.fetch(0, 2)
    await worker.until(lambda: len(worker.processor.topics) > 5)
    assert worker.broker.transactions == []
    worker.processor.most = None
    await worker.until(lambda: worker.broker.committed == 2)
    assert worker.broker.transactions == [{"source": 2}] and worker.processor.seen == [0, 1]


# ------------------------------------------------------------------------------------------------ several sources

two_sources = pytest.mark.parametrize("worker", [["first", "source"]], indirect=True)


@two_sources
async def test_an_opening_reads_the_first_source_to_its_end_and_then_the_next(worker: Worker) -> None:
    worker.broker.first_end, worker.broker.committed = 5, 77
    seen: list[dict[str, int]] = []
    worker.processor.at_open = lambda checkpoint: seen.append(dict(checkpoint.committed))
    await worker.start()
    assert seen == [{"first": 0, "source": 77}]
    worker.fetch(0, 3, source=FIRST)
    await worker.until(lambda: worker.broker.transactions == [{"first": 3, "source": 77}])
    assert worker.consumer.started == [FIRST]
    worker.fetch(3, 3, source=FIRST)
    await worker.until(lambda: worker.consumer.started == [FIRST, SOURCE])
    assert worker.consumer.seeks == [0, 77]
    worker.fetch(77)
    await worker.until(lambda: worker.task.committed == {"first": 6, "source": 78})
    worker.fetch(6, source=FIRST)
    await worker.until(lambda: worker.task.committed == {"first": 7, "source": 78})
    assert worker.broker.transactions[-1] == {"first": 7}, "only what moved"
    assert worker.consumer.started == [FIRST, SOURCE]


@two_sources
async def test_nothing_is_due_before_the_first_source_was_read_to_its_end(worker: Worker) -> None:
    worker.broker.first_end, worker.processor.due = 2, [1, 2]
    await worker.start()
    worker.fetch(0, source=FIRST)
    await worker.until(lambda: worker.task.committed["first"] == 1)
    assert worker.processor.sent == []
    worker.fetch(1, source=FIRST)
    await worker.until(lambda: worker.processor.sent == [1, 2])
    assert worker.processor.seen == [0, 1]


@two_sources
async def test_all_sources_are_read_at_once_where_nothing_waits_in_the_first(worker: Worker) -> None:
    await worker.start()
    assert worker.consumer.started == [FIRST, SOURCE]


@two_sources
async def test_what_was_put_back_in_the_first_keeps_the_next_from_being_read(worker: Worker) -> None:
    worker.broker.first_end, worker.processor.most = 2, 1
    worker.processor.work = lambda: asyncio.sleep(0.001)
    await worker.start()
    worker.fetch(0, 2, source=FIRST)
    await worker.until(lambda: len(worker.processor.seen) == 1)
    assert worker.consumer.started == [FIRST]
    await worker.until(lambda: worker.consumer.started == [FIRST, SOURCE])
    assert worker.processor.seen == [0, 1]


@two_sources
async def test_sources_take_turns(worker: Worker) -> None:
    worker.processor.unwanted = {"first", "source"}
    worker.processor.at_once = 2
    await worker.start()
    worker.fetch(0, 2, size=LARGE)
    worker.fetch(2, size=LARGE)
    worker.fetch(0, 2, source=FIRST, size=LARGE)
    worker.fetch(2, source=FIRST, size=LARGE)
    worker.processor.unwanted = set()
    worker.task.check_due()
    await worker.until(lambda: worker.broker.transactions != [])
    assert worker.processor.topics == ["first", "source"] * 2
    assert worker.broker.transactions == [{"first": 3, "source": 3}]


@two_sources
async def test_a_source_goes_on_while_another_is_not_wanted(worker: Worker) -> None:
    worker.processor.unwanted = {"source"}
    await worker.start()
    worker.fetch(0)
    for offset in range(3):
        worker.fetch(offset, source=FIRST)
        await worker.until(lambda offset=offset: worker.task.committed["first"] == offset + 1)
    assert set(worker.processor.topics) == {"first"} and worker.broker.committed == 0
    worker.processor.unwanted = set()
    worker.task.check_due()
    await worker.until(lambda: worker.broker.committed == 1)


@two_sources
async def test_an_opening_again_begins_with_the_first_source_again(worker: Worker) -> None:
    await worker.start()
    worker.broker.first_end = 1
    worker.broker.errors = [KafkaConnectionError("gone")]
    worker.fetch(0)
    await worker.until(lambda: worker.consumer.started == [FIRST, SOURCE, FIRST])
    worker.fetch(0, source=FIRST)
    await worker.until(lambda: worker.consumer.started == [FIRST, SOURCE, FIRST, SOURCE])
    assert worker.consumer.seeks == [0, 0, 0, 0]


@two_sources
async def test_a_close_while_the_next_source_is_begun_is_at_once(worker: Worker) -> None:
    worker.broker.first_end = 1
    await worker.start()
    begun = asyncio.Event()

    async def hang(positions: Mapping[TP, int]) -> None:
        begun.set()
        await asyncio.Event().wait()

    worker.consumer.start_reading = hang  # type: ignore[method-assign]
    worker.fetch(0, source=FIRST)
    await begun.wait()
    await worker.task.close(0.01)
    assert worker.broker.transactions == [] and worker.broker.producers[0].abandoned
    assert not any(gate.is_open for gate in worker.consumer.gates.values())


@two_sources
async def test_a_task_that_closes_begins_no_other_source(worker: Worker) -> None:
    worker.broker.first_end = 1
    await worker.start()
    closing: list[asyncio.Task[None]] = []

    async def close() -> None:
        closing.append(asyncio.create_task(worker.task.close(5)))
        await asyncio.sleep(0)

    worker.processor.work = close
    worker.fetch(0, source=FIRST)
    await worker.until(lambda: bool(closing))
    await closing[0]
    assert worker.consumer.started == [FIRST] and worker.task.committed["first"] == 1


@two_sources
async def test_what_nobody_reads_in_one_source_ends_the_worker_when_all_else_is_committed(worker: Worker) -> None:
    await worker.start()
    worker.fetch(0, 2)
    gate = worker.consumer.gates[FIRST]
    gate.take(100)
    worker.task.offer(Fetch("first", 0, 0, 1, [batch(0, 1, unreadable=True)], 10, gate.epoch))
    await worker.until(lambda: bool(worker.failed))
    assert isinstance(worker.failed[0], Unreadable) and worker.failed[0].where == "first-0"
    assert worker.broker.producers[0].abandoned


# ------------------------------------------------------------------------------------------------ what falls due


async def test_an_idle_task_wakes_when_something_is_due(worker: Worker) -> None:
    due = worker.time.clock.now() + 300_000
    worker.processor.due = [due]
    await worker.start()
    assert worker.processor.sent == []
    await worker.until(lambda: worker.broker.log_end == 52)
    assert worker.processor.sent == [due] and worker.time.clock.now() >= due
    assert worker.broker.transactions == [{"source": 0}], "the first checkpoint says where the group begins"
    worker.processor.due = [worker.time.clock.now() + 1_000]
    worker.fetch(0)
    await worker.until(lambda: len(worker.processor.sent) == 2 and worker.broker.committed == 1)


async def test_nothing_is_due_by_a_wall_clock_that_no_broker_has_confirmed(worker: Worker) -> None:
    worker.engine.clock = worker.time.clock = Clock()
    worker.processor.due = [1]
    await worker.start()
    worker.fetch(0)
    await worker.until(lambda: worker.broker.committed == 1)
    assert worker.processor.sent == []
    worker.time.confirm()
    worker.task.check_due()
    await worker.until(lambda: worker.processor.sent == [1])


async def test_a_wall_clock_that_jumps_forward_makes_nothing_early(worker: Worker) -> None:
    worker.processor.due = [worker.time.clock.now() + 3_600_000_000]
    await worker.start()
    worker.time.ahead = 7_200_000_000
    worker.task.check_due()
    worker.fetch(0)
    await worker.until(lambda: worker.broker.committed == 1)
    assert worker.processor.sent == []


async def test_a_wall_clock_that_was_behind_is_noticed_when_it_is_set(worker: Worker) -> None:
    """So is a machine that was suspended, which timers do not count."""
    worker.time.ahead = -3_600_000_000
    worker.processor.due = [time.time_ns() // 1_000]
    await worker.start()
    worker.task.check_due()
    assert worker.processor.sent == []
    worker.time.ahead = 0
    worker.task.check_due()
    await worker.until(lambda: len(worker.processor.sent) == 1)


async def test_fetches_and_due_work_take_turns(worker: Worker) -> None:
    """However much is due, or has come, neither waits for all of the other."""
    await worker.start()
    worker.processor.at_once = 1
    order: list[str] = []

    async def note() -> None:
        order.append("fetch")

    worker.processor.work = note
    process_due = worker.processor.process_due

    async def due(checkpoint: Checkpoint) -> None:
        order.append("due")
        await process_due(checkpoint)

    worker.processor.process_due = due  # type: ignore[method-assign]
    worker.processor.due = list(range(30))
    for offset in range(3):
        worker.fetch(offset, size=LARGE)
    await worker.until(lambda: worker.processor.due == [] and worker.broker.committed == 3)
    assert order == ["fetch", "due"] * 3
    assert worker.broker.transactions == [{"source": 3}], "all in one checkpoint"


async def test_a_backlog_of_due_work_is_committed_as_it_is_worked_off(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.task, "_checkpoint_size", 200)
    worker.processor.due = list(range(100))
    await worker.start()
    await worker.until(lambda: worker.processor.due == [])
    await worker.task.close(1)
    assert len(worker.broker.transactions) > 5
    assert worker.processor.sent == list(range(100))


async def test_due_work_whose_commit_fails_comes_again(worker: Worker) -> None:
    worker.broker.errors = [KafkaConnectionError("gone")]
    kept = [1, 2]
    worker.processor.at_open = lambda checkpoint: worker.processor.due.__setitem__(slice(None), kept)
    await worker.start()
    await worker.until(lambda: worker.broker.transactions == [{"source": 0}])
    assert worker.processor.sent == [1, 2, 1, 2]


async def test_due_work_that_comes_to_nothing_commits_nothing(worker: Worker) -> None:
    async def forget(checkpoint: Checkpoint) -> None:
        worker.processor.due.clear()

    worker.processor.process_due = forget  # type: ignore[method-assign]
    worker.processor.due = [1]
    await worker.start()
    await worker.until(lambda: worker.processor.due == [])
    await worker.task.close(1)
    assert [producer.abandoned for producer in worker.broker.producers] == [True]
    assert worker.broker.transactions == [{"source": 0}], "that of the end"


async def test_a_task_that_closes_leaves_what_is_due(worker: Worker) -> None:
    await worker.start()
    closing: list[asyncio.Task[None]] = []

    async def close(checkpoint: Checkpoint) -> None:
        worker.processor.due.pop()
        closing.append(asyncio.create_task(worker.task.close(5)))
        await asyncio.sleep(0)

    worker.processor.process_due = close  # type: ignore[method-assign]
    worker.processor.due = [1, 2, 3]
    worker.task.check_due()
    await worker.until(lambda: bool(closing))
    await closing[0]
    assert len(worker.processor.due) == 2 and worker.processor.closed == [True]


# ------------------------------------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize("error", [KafkaConnectionError("gone"), TimeoutError()])
async def test_a_failed_commit_takes_what_was_built_on_it_along(worker: Worker, error: BaseException) -> None:
    await worker.start()
    worker.broker.slow = 0.02
    worker.broker.errors = [error]
    worker.fetch(0)
    await worker.until(lambda: worker.processor.seen == [0])
    worker.fetch(1)
    await worker.until(lambda: len(worker.consumer.seeks) == 2)
    assert worker.consumer.seeks == [0, 0]
    assert worker.broker.transactions == []
    assert [producer.abandoned for producer in worker.broker.producers] == [True, False]
    worker.fetch(0, 2)
    await worker.until(lambda: worker.broker.committed == 2)
    await worker.task.close(1)
    assert worker.stored() == [0, 1]
    assert worker.failed == []


async def test_nobody_opens_again_who_is_no_member(worker: Worker) -> None:
    await worker.start()
    worker.consumer.member = False
    worker.broker.errors = [KafkaConnectionError("gone")]
    worker.fetch(0)
    await worker.until(lambda: worker.broker.producers[0].abandoned)
    await asyncio.sleep(0.1)
    assert len(worker.broker.producers) == 1, "it would fence its successor"


async def test_records_that_stand_elsewhere_than_the_tables_say(worker: Worker) -> None:
    await worker.start()
    worker.broker.displaced = 10
    worker.fetch(0)
    await worker.until(lambda: len(worker.consumer.seeks) == 2)
    assert worker.consumer.seeks == [0, 1], "they are committed"
    worker.fetch(1)
    await worker.until(lambda: worker.broker.committed == 2)
    assert worker.processor.positions == [50, 62]


async def test_an_error_that_nobody_foresaw_ends_the_worker(worker: Worker) -> None:
    await worker.start()

    async def fail() -> None:
        raise ZeroDivisionError

    worker.processor.work = fail
    worker.fetch(0)
    await worker.until(lambda: bool(worker.failed))
    assert isinstance(worker.failed[0], ZeroDivisionError) and len(worker.failed) == 1
    assert worker.broker.producers[0].abandoned and worker.broker.transactions == []


# ------------------------------------------------------------------------------------------------ the end


async def test_a_close_leaves_everything_in_order(worker: Worker) -> None:
    await worker.start()
    worker.fetch(0)
    await worker.task.close(1)
    assert worker.processor.closed == [True]
    assert worker.broker.producers[0].abandoned
    store = Store(worker.folder, [TABLE])
    assert store.get("seen", b"closed") == b"x"
    store.close()


async def test_a_close_whose_last_commit_fails_opens_nothing_again(worker: Worker) -> None:
    await worker.start()
    worker.broker.errors = [KafkaConnectionError("gone")]
    began = time.monotonic()
    await worker.task.close(5)
    assert time.monotonic() - began < 2
    assert [producer.abandoned for producer in worker.broker.producers] == [True]


async def test_a_close_does_not_wait_for_a_slow_sink(worker: Worker) -> None:
    await worker.start()
    worker.processor.work = lambda: asyncio.sleep(60)
    worker.fetch(0)
    await worker.until(lambda: worker.task.state is State.WORKING)
    began = time.monotonic()
    await worker.task.close(0.05)
    assert time.monotonic() - began < 2
    assert worker.processor.closed == [False] and worker.broker.transactions == []


async def test_a_close_during_an_opening_is_at_once(worker: Worker) -> None:
    worker.processor.open = lambda checkpoint: asyncio.sleep(60)  # type: ignore[method-assign]
    worker.task.start()
    await worker.until(lambda: worker.task.state is State.WAITING and bool(worker.broker.producers))
    began = time.monotonic()
    await worker.task.close(5)
    assert time.monotonic() - began < 2
    assert worker.broker.producers[0].abandoned
    assert worker.stored() == [], "the store is free for the next owner"


async def test_a_close_waits_for_a_release_that_is_under_way(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a task of the same process would find the store locked."""
    released = asyncio.Event()

    async def slowly(producer: Producer) -> None:
        await released.wait()

    monkeypatch.setattr(Producer, "abandon", slowly)
    await worker.start()
    worker.broker.errors = [KafkaConnectionError("gone")]
    worker.fetch(0)
    await worker.until(lambda: worker.broker.errors == [])
    await asyncio.sleep(0.02)
    closing = asyncio.create_task(worker.task.close(0.02))
    await asyncio.sleep(0.1)
    assert not closing.done()
    released.set()
    await closing
    assert worker.stored() == []


@pytest.mark.parametrize("trouble", ["hangs", "fails"])
async def test_a_sink_that_cannot_be_closed_keeps_nothing(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "RELEASE_TIMEOUT", 0.05)
    await worker.start()
    worker.processor.work = lambda: asyncio.sleep(60)
    worker.processor.at_close = fail if trouble == "fails" else lambda: asyncio.sleep(60)
    worker.fetch(0)
    await worker.until(lambda: worker.task.state is State.WORKING)
    await worker.task.close(0.05)
    assert worker.broker.producers[0].abandoned
    assert worker.stored() == []


# ------------------------------------------------------------------------------------------------ what is not decoded


@pytest.mark.parametrize("first", [2, 1_500])
async def test_what_nobody_reads_ends_the_worker_when_all_before_it_is_committed(worker: Worker, first: int) -> None:
    """However much of the fetch was taken out before."""
    await worker.start()
    worker.broker.slow = 0.05
    worker.gate.take(100)
    batches = [batch(0, first), batch(first, 2, unreadable=True), batch(first + 2, 1)]
    worker.task.offer(Fetch("source", 0, 0, first + 3, batches, 10, worker.gate.epoch))
    worker.fetch(first + 3, 2)
    await worker.until(lambda: bool(worker.failed))
    (failure,) = worker.failed
    assert isinstance(failure, Unreadable)
    assert (failure.where, failure.first, failure.last) == ("source-0", first, first + 1)
    assert "BadGzipFile" in str(failure) and "--group group" in str(failure)
    assert (worker.processor.seen, worker.broker.committed) == (list(range(first)), first)
    assert worker.stored() == list(range(first))


async def test_what_nobody_reads_ends_the_next_worker_too(worker: Worker) -> None:
    worker.broker.committed = 2
    await worker.start()
    worker.gate.take(100)
    batches = [batch(0, 4, unreadable=True), batch(4, 1)]
    worker.task.offer(Fetch("source", 0, 2, 5, batches, 10, worker.gate.epoch))
    await worker.until(lambda: bool(worker.failed))
    (failure,) = worker.failed
    assert isinstance(failure, Unreadable) and (failure.first, failure.last) == (2, 3)
    assert (worker.processor.seen, worker.broker.committed) == ([], 2), "nothing is skipped"
