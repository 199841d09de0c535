"""Batches over a bad network to a real Kafka: each stands there once, and those that wait for each other in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from walstream.kafka import KafkaConnection
from walstream.sinks import kafka_sender
from walstream.sinks.kafka_sender import CONNECTIONS, KafkaSender
from walstream.testing.proxy import Direction, Proxy
from walstream.testing.servers import Server
from walstream.wire.builder import BatchBuilder

LANES, BATCHES = 10, 30


@pytest.fixture
def topic(kafka: Server) -> Iterator[str]:
    admin = AdminClient({"bootstrap.servers": kafka.address})
    admin.create_topics([NewTopic("sent", 1, 1)])["sent"].result()
    yield "sent"
    admin.delete_topics(["sent"])["sent"].result()


@pytest.fixture
async def sender(proxy: Proxy, topic: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KafkaSender]:
    monkeypatch.setattr(kafka_sender, "REQUEST_TIMEOUT", 1_000)
    monkeypatch.setattr(kafka_sender, "RETRY", 0.01)
    sender = KafkaSender(KafkaConnection((proxy.address,)), topic)
    await sender.open()
    yield sender
    await sender.close()


def batch(value: bytes) -> BatchBuilder:
    builder = BatchBuilder(1_000, "lz4", transactional=False)
    assert builder.writer.append(1, None, value, [])
    return builder


async def values(proxy: Proxy, topic: str) -> list[bytes]:
    async with AIOKafkaConsumer(bootstrap_servers=proxy.address, auto_offset_reset="earliest") as consumer:
        at = TopicPartition(topic, 0)
        consumer.assign([at])
        end = (await consumer.end_offsets([at]))[at]
        found: list[bytes] = []
        while await consumer.position(at) < end:
            found += [record.value for record in (await consumer.getmany(timeout_ms=500)).get(at, [])]
        return found


async def test_what_arrived_and_was_not_answered_stands_once(sender: KafkaSender, proxy: Proxy, topic: str) -> None:
    await sender.send(0, batch(b"first"))
    proxy.drop(Direction.RESPONSES)
    passed = proxy.passed[Direction.REQUESTS]
    sending = asyncio.create_task(sender.send(0, batch(b"second")))
    async with asyncio.timeout(10):
        while proxy.passed[Direction.REQUESTS] == passed:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    proxy.reset()
    proxy.heal()
    await sending
    await sender.send(0, batch(b"third"))
    assert await values(proxy, topic) == [b"first", b"second", b"third"]


async def test_a_silent_connection_is_given_up(sender: KafkaSender, proxy: Proxy, topic: str) -> None:
    await sender.send(0, batch(b"first"))
    before = proxy.connections
    proxy.drop(Direction.RESPONSES)
    sending = asyncio.create_task(sender.send(0, batch(b"second")))
    async with asyncio.timeout(10):
        while proxy.connections == before:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    assert not sending.done()
    proxy.heal()
    await sending
    assert await values(proxy, topic) == [b"first", b"second"]


async def test_lanes_keep_their_order_while_connections_break(sender: KafkaSender, proxy: Proxy, topic: str) -> None:
    done = 0

    async def lane(number: int) -> None:
        nonlocal done
        for count in range(BATCHES):
            await sender.send(0, batch(b"%d %d" % (number, count)))
            done += 1

    async def breaking() -> None:
        broken = 0
        while done < LANES * BATCHES:
            await asyncio.sleep(0.005)
            if done // 30 > broken:
                broken += 1
                proxy.reset()

    before = proxy.connections
    breaker = asyncio.create_task(breaking())
    await asyncio.gather(*(lane(number) for number in range(LANES)))
    await breaker
    assert proxy.connections - before > CONNECTIONS
    found = [tuple(map(int, value.split())) for value in await values(proxy, topic)]
    for number in range(LANES):
        assert [count for lane, count in found if lane == number] == list(range(BATCHES))
