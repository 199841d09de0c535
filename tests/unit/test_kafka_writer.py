"""Lanes: which records share a batch, and what waits for what."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aiokafka import errors as kafka_errors

from walstream.kafka import KafkaConnection
from walstream.sinks import kafka_writer
from walstream.sinks.kafka_writer import KafkaWriter
from walstream.wire import RecordWriter
from walstream.wire.builder import BatchBuilder

PARTITIONS = 2


class Sender:
    """Notes the partition and the number of records of each batch, and answers when it is told."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []
        self.answers: list[asyncio.Future[None]] = []
        self.is_closed = False

    async def close(self) -> None:
        self.is_closed = True

    async def send(self, partition: int, batch: BatchBuilder) -> None:
        self.sent.append((partition, batch.record_count()))
        self.answers.append(asyncio.get_running_loop().create_future())
        await self.answers[-1]

    async def answer(self, error: Exception | None = None) -> None:
        """Answer what is on its way, and let what follows go."""
        answers, self.answers = self.answers, []
        for answer in answers:
            if error is None:
                answer.set_result(None)
            else:
                answer.set_exception(error)
        await settled()


@pytest.fixture
def sender() -> Sender:
    return Sender()


@pytest.fixture
def writer(sender: Sender) -> KafkaWriter:
    writer = KafkaWriter(KafkaConnection(("nowhere:1",)), "t", PARTITIONS, 1 << 20, lambda _: None)
    writer.sender = cast("Any", sender)
    return writer


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def append(writer: RecordWriter, place: int) -> bool:
    return bool(writer.append(1, None, b"%d" % place, []))


async def start(writer: KafkaWriter, lanes: dict[int, list[int]], source: int = 0) -> asyncio.Task[Any]:
    size = sum(map(len, lanes.values()))
    task = asyncio.create_task(writer.write(lanes, append, source, size))
    await settled()
    return task


async def test_few_records_of_a_partition_share_a_batch(writer: KafkaWriter, sender: Sender) -> None:
    task = await start(writer, {0: [0], 2: [1, 4], 3: [2], 4: [3]})
    assert sorted(sender.sent) == [(0, 4), (1, 1)]
    await sender.answer()
    assert await task == {}


async def test_many_records_go_in_lanes(writer: KafkaWriter, sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_writer, "FEW_BYTES", 3)
    task = await start(writer, {0: [0, 1], 2: [2, 3], 1: [4, 5]})
    assert sorted(sender.sent) == [(0, 2), (0, 2), (1, 2)]
    await sender.answer()
    assert await task == {}


async def test_lanes_with_little_are_put_together(
    writer: KafkaWriter, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_writer, "FEW_BYTES", 3)
    task = await start(writer, {0: [0], 2: [1], 4: [2, 3], 6: [4], 1: [5]})
    assert sorted(sender.sent) == [(0, 2), (0, 3), (1, 1)]
    await sender.answer()
    assert await task == {}


async def test_of_a_lane_one_batch_is_on_its_way(sender: Sender) -> None:
    writer = KafkaWriter(KafkaConnection(("nowhere:1",)), "t", PARTITIONS, 100, lambda _: None)
    writer.sender = cast("Any", sender)
    task = await start(writer, {0: list(range(40)), 1: [40]})
    (_, first), other = sender.sent
    assert first < 40 and other == (1, 1)
    while sender.answers:
        assert len(sender.sent) <= 2 or len(sender.answers) == 1
        await sender.answer()
    assert sum(count for partition, count in sender.sent if partition == 0) == 40
    assert await task == {}


async def test_calls_do_not_wait_for_each_other(writer: KafkaWriter, sender: Sender) -> None:
    """Nothing in one of them must follow something in the other."""
    tasks = [await start(writer, {0: [0], 2: [1]}, source) for source in (0, 0, 1)]
    assert sender.sent == [(0, 2), (0, 2), (0, 2)]
    await sender.answer()
    assert [await task for task in tasks] == [{}, {}, {}]


async def test_who_gives_up_leaves_its_lane_closed_until_the_answer(writer: KafkaWriter, sender: Sender) -> None:
    """What comes next must not overtake what may still arrive."""
    given_up = await start(writer, {0: [0]})
    given_up.cancel()
    await asyncio.wait([given_up])
    following = await start(writer, {0: [1], 1: [2]})
    assert sender.sent == [(0, 1), (1, 1)]
    await sender.answer(kafka_errors.OutOfOrderSequenceNumber())
    assert sender.sent == [(0, 1), (1, 1), (0, 1)]
    await sender.answer()
    assert list(await following) == [2]


async def test_a_source_that_leaves_gives_up_what_it_has_on_its_way(writer: KafkaWriter, sender: Sender) -> None:
    """Its next owner sends the same again, and a late batch of this one would stand behind."""
    leaving, staying = await start(writer, {0: [0]}, source=1), await start(writer, {0: [1]}, source=2)
    leaving.cancel()
    await writer.leave(1)
    gone, kept = sender.answers
    assert gone.cancelled() and not kept.done()
    sender.answers = [kept]
    await sender.answer()
    assert await staying == {}
    again = await start(writer, {0: [0]}, source=1)
    await sender.answer()
    assert await again == {}


async def test_closing_gives_up_what_is_not_answered(
    writer: KafkaWriter, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_writer, "CLOSING_S", 0.01)
    task = await start(writer, {0: [0]})
    task.cancel()
    await writer.close()
    await settled()
    assert sender.is_closed and sender.answers[0].cancelled()


async def test_a_close_that_is_not_waited_for_gives_up_all_the_same(writer: KafkaWriter, sender: Sender) -> None:
    task = await start(writer, {0: [0]})
    task.cancel()
    closing = asyncio.create_task(writer.close())
    await settled()
    closing.cancel()
    await settled()
    assert sender.is_closed and sender.answers[0].cancelled()


async def test_an_error_is_raised_as_it_is(writer: KafkaWriter, sender: Sender) -> None:
    def fail(_writer: RecordWriter, _place: int) -> bool:
        raise LookupError("no such place")

    with pytest.raises(LookupError):
        await writer.write({0: [0], 1: [1]}, fail)
