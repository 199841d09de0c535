"""Work that falls due: by the broker's clock, inside a transaction, and again after a crash."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from faust.types import TP

from walstream.engine.checkpoint import Checkpoint
from walstream.engine.clock import Clock
from walstream.engine.gate import Gate
from walstream.engine.pace import Pace
from walstream.engine.producer import TransactionalProducer
from walstream.engine.source import Source
from walstream.engine.store import Store
from walstream.engine.task import State, Task
from walstream.engine.topology import TableSpec, Topology

MakeTopic = Callable[..., str]
TIMERS, FEW = 40, 10  # all, and how many a checkpoint may have


class Consumer:
    """The group's consumer, as far as a task asks it; nothing is fetched here."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer, self.gates = consumer, dict[TP, Gate]()

    async def hold(self, tps: Iterable[TP]) -> None:
        self._consumer.assign([TopicPartition(*tp) for tp in tps])

    async def committed(self, tps: Iterable[TP]) -> dict[TP, int]:
        found = {tp: await self._consumer.committed(TopicPartition(*tp)) for tp in tps}
        return {tp: offset for tp, offset in found.items() if offset is not None}

    async def bounds(self, tps: Iterable[TP]) -> dict[TP, tuple[int, int]]:
        wanted = [TopicPartition(*tp) for tp in tps]
        first, end = await self._consumer.beginning_offsets(wanted), await self._consumer.end_offsets(wanted)
        return {TP(tp.topic, tp.partition): (first[tp], end[tp]) for tp in wanted}

    async def start_reading(self, positions: Mapping[TP, int]) -> None:
        for tp in positions:
            self.gates[tp].open()

    async def is_member(self) -> bool:
        return True


class Timers:
    """Emits each row of a table when it is due; what opens first makes the rows."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._rows: list[int] = []
        self.due: list[int] = []

    async def open(self, checkpoint: Checkpoint) -> None:
        table = checkpoint.table("timers")
        self._rows = [int.from_bytes(key) for key, _ in table.items() if key]
        made = table.get(b"")
        table.put(b"", b"made", 1)  # also in order to learn the broker's time
        if made is None:
            now = time.time_ns() // 1_000
            self._rows = [now + number * 5_000 for number in range(TIMERS)]
            for due in self._rows:
                table.put(due.to_bytes(8), b"x", 1)

    async def process(self, source: Source, checkpoint: Checkpoint) -> None:
        raise AssertionError("nothing comes")

    def wants(self, topic: str) -> bool:
        return True

    def due_at(self) -> int | None:
        return min(self._rows, default=None)

    async def process_due(self, checkpoint: Checkpoint) -> None:
        now = checkpoint.clock.now()
        for due in [due for due in self._rows if due <= now][:FEW]:
            checkpoint.output(self._output).append(1, None, due.to_bytes(8))
            checkpoint.table("timers").delete(due.to_bytes(8), 1)
            self._rows.remove(due)
            self.due.append(due)

    def finish(self, checkpoint: Checkpoint) -> None: ...

    async def close(self, checkpoint: Checkpoint | None) -> None: ...


class Owner:
    """A task on partition 0, with nothing on its disk, whose wall clock is an hour ahead."""

    def __init__(self, consumer: AIOKafkaConsumer, brokers: str, folder: Path, topics: tuple[str, str, str]) -> None:
        source, output, changelog = topics
        self.processor = Timers(output)
        self.failed: list[BaseException] = []
        clock = Clock(lambda: time.time_ns() // 1_000 + 3_600_000_000)
        engine: Any = SimpleNamespace(
            consumer=Consumer(consumer), connection={"bootstrap_servers": brokers}, group=f"{source}.group",
            open_store=lambda topology, partition: Store(folder, topology.tables, {changelog: "id"}),
            opening=asyncio.Semaphore(1), fail=self.failed.append, make_sure=None, clock=clock,
            pace=Pace(0), fetch_size=1 << 20,
        )  # fmt: skip
        tables = (TableSpec("timers", changelog),)
        self.task = Task(engine, Topology(source, (source,), 1, tables, lambda partition: self.processor), 0, 1)

    async def crash(self) -> None:
        """End in the middle of whatever it does."""
        assert self.task._runner is not None
        self.task._runner.cancel()
        await asyncio.wait({self.task._runner})


@pytest.fixture
async def make_owner(brokers: str, tmp_path: Path, make_topic: MakeTopic) -> AsyncIterator[Callable[[], Owner]]:
    arrival = {"message_timestamp_type": "LogAppendTime"}
    topics = (make_topic("source"), make_topic("out", **arrival), make_topic("timers.changelog", **arrival))
    owners: list[Owner] = []
    async with AIOKafkaConsumer(
        bootstrap_servers=brokers, group_id=f"{topics[0]}.group", enable_auto_commit=False,
        isolation_level="read_committed",
    ) as consumer:  # fmt: skip

        def make() -> Owner:
            owners.append(Owner(consumer, brokers, tmp_path / str(len(owners)), topics))
            return owners[-1]

        yield make
        for owner in owners:
            await owner.task.close(1)


async def emitted(brokers: str, topic: str) -> list[tuple[int, int]]:
    """What is committed: the due time (µs), and when the broker appended it (ms)."""
    async with AIOKafkaConsumer(bootstrap_servers=brokers, isolation_level="read_committed") as consumer:
        tp = TopicPartition(topic, 0)
        consumer.assign([tp])
        await consumer.seek_to_beginning(tp)
        found: list[tuple[int, int]] = []
        async with asyncio.timeout(20):
            while len(found) < TIMERS:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found += [(int.from_bytes(record.value), record.timestamp) for record in records]
        return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - of what a task does not tell
            await asyncio.sleep(0.002)


async def test_timers_fire_once_and_never_early_whoever_crashes(
    make_owner: Callable[[], Owner], brokers: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, sent, hangs = TransactionalProducer._end, list[None](), asyncio.Event()

    async def end_two(producer: TransactionalProducer) -> None:
        """The opening's, and one with timers; then all is sent, but not committed any more."""
        sent.append(None)
        if len(sent) > 2:
            hangs.set()
            await asyncio.Event().wait()
        await end(producer)

    first = make_owner()
    with monkeypatch.context() as patch:
        patch.setattr(TransactionalProducer, "_end", end_two)
        first.task.start()
        await asyncio.wait_for(hangs.wait(), 20)
        await first.crash()
    second = make_owner()
    second.task.start()
    await until(lambda: second.processor.due_at() is None and second.task.state is State.IDLE)
    again = set(first.processor.due) & set(second.processor.due)
    assert again, "what was not committed comes again"
    found = await emitted(brokers, f"{prefix}.out")
    made = [due for due, _ in found]
    assert made == sorted(set(first.processor.due) | set(second.processor.due)) and len(made) == TIMERS
    assert all(appended >= due // 1_000 for due, appended in found), "early by the broker's clock"
    assert first.failed == second.failed == []
