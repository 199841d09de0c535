"""Lanes: which records share a batch, and what waits for what."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from walstream.kafka import KafkaConnection
from walstream.sinks import kafka_writer
from walstream.sinks.kafka_writer import KafkaWriter
from walstream.wire import RecordWriter
from walstream.wire.builder import BatchBuilder

PARTITIONS = 2


class Producer:
    """Notes the partition and the number of records of each batch, and answers when it is told."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []
        self.answers: list[asyncio.Future[None]] = []

    async def send_batch(self, builder: BatchBuilder, topic: str, *, partition: int) -> asyncio.Future[None]:
        self.sent.append((partition, builder.record_count()))
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]

    async def answer(self) -> None:
        """Answer what is on its way, and let what follows go."""
        answers, self.answers = self.answers, []
        for answer in answers:
            answer.set_result(None)
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
def producer() -> Producer:
    return Producer()


@pytest.fixture
def writer(producer: Producer) -> KafkaWriter:
    writer = KafkaWriter(KafkaConnection(("nowhere:1",)), "t", PARTITIONS, 1 << 20, lambda _: None, lanes=4)
    found: Any = writer.producers
    found.append(producer)
    return writer


def append(writer: RecordWriter, place: int) -> bool:
    return bool(writer.append(1, None, b"%d" % place, []))


async def start(writer: KafkaWriter, lanes: dict[int, list[int]], source: int = 0) -> asyncio.Task[Any]:
    task = asyncio.create_task(writer.write(lanes, append, source))
    for _ in range(20):
        await asyncio.sleep(0)
    return task


async def test_few_records_of_a_partition_share_a_batch(writer: KafkaWriter, producer: Producer) -> None:
    task = await start(writer, {0: [0], 2: [1, 4], 3: [2], 4: [3]})
    assert sorted(producer.sent) == [(0, 4), (1, 1)]
    await producer.answer()
    assert await task == {}


async def test_many_records_go_in_lanes(
    writer: KafkaWriter, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_writer, "FEW", 3)
    task = await start(writer, {0: [0, 1], 2: [2, 3], 1: [4, 5]})
    assert sorted(producer.sent) == [(0, 2), (0, 2), (1, 2)]
    await producer.answer()
    assert await task == {}


async def test_a_shared_batch_waits_for_each_of_its_lanes_and_they_for_it(
    writer: KafkaWriter, producer: Producer
) -> None:
    """What is in one lane stays in order, whether it shares a batch or not."""
    first = await start(writer, {2: [0]})
    shared = await start(writer, {0: [1], 2: [2]})
    last = await start(writer, {2: [3, 4, 5]})
    assert producer.sent == [(0, 1)]
    await producer.answer()
    assert producer.sent == [(0, 1), (0, 2)]
    assert first.done() and not shared.done()
    await producer.answer()
    assert producer.sent == [(0, 1), (0, 2), (0, 3)]
    await producer.answer()
    assert [await first, await shared, await last] == [{}, {}, {}]


async def test_another_source_waits_for_nobody(writer: KafkaWriter, producer: Producer) -> None:
    tasks = [await start(writer, {0: [0], 2: [1]}, source) for source in (0, 1)]
    assert producer.sent == [(0, 2), (0, 2)]
    await producer.answer()
    assert [await task for task in tasks] == [{}, {}]
