"""Checkpoints on a real Kafka: all of it or nothing, and never by one who was replaced; by both protocols."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.structs import TopicPartition

from walstream.engine import protocol
from walstream.engine.output import Output
from walstream.engine.producer import TransactionalProducer

MakeTopic = Callable[..., str]


class Cluster:
    """The session's Kafka as an owner of a partition sees it."""

    def __init__(self, brokers: str, prefix: str) -> None:
        self.connection = {"bootstrap_servers": brokers}
        self.group = f"{prefix}.group"
        self._prefix = prefix
        self._producers: list[TransactionalProducer] = []
        self._consumers: list[AIOKafkaConsumer] = []

    async def owner(self) -> TransactionalProducer:
        """Take the partition over."""
        self._producers.append(TransactionalProducer(self.connection, f"{self._prefix}.0"))
        await self._producers[-1].start()
        return self._producers[-1]

    async def consumer(self, **options: Any) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **self.connection, enable_auto_commit=False, auto_offset_reset="earliest", **options
        )
        self._consumers.append(consumer)
        await consumer.start()
        return consumer

    async def values(self, topic: str) -> list[bytes | None]:
        """Everything that is committed. A commit is answered before its markers are written; it waits for them."""
        consumer, everything = await self.consumer(isolation_level="read_committed"), await self.consumer()
        tp = TopicPartition(topic, 0)
        consumer.assign([tp])
        last = (await everything.end_offsets([tp]))[tp]
        with contextlib.suppress(TimeoutError):  # a transaction that is meant to stay open
            async with asyncio.timeout(2):
                while (await consumer.end_offsets([tp]))[tp] < last:  # noqa: ASYNC110 - only the broker knows
                    await asyncio.sleep(0.02)
        end = (await consumer.end_offsets([tp]))[tp]
        values = []
        while await consumer.position(tp) < end:
            values += [
                record.value for records in (await consumer.getmany(timeout_ms=500)).values() for record in records
            ]
        return values

    async def close(self) -> None:
        for producer in self._producers:
            await producer.abandon()
        for consumer in self._consumers:
            await consumer.stop()


def speak(patch: pytest.MonkeyPatch, version: int) -> None:
    """Let the cluster say that it speaks this transaction protocol; it understands both."""

    async def features(_client: Any) -> dict[str, int]:
        return {protocol.FEATURE: version}

    patch.setattr(protocol, "features", features)


@pytest.fixture(params=[1, 2], ids=["first protocol", "second protocol"])
async def cluster(
    brokers: str, prefix: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Cluster]:
    speak(monkeypatch, request.param)
    cluster = Cluster(brokers, prefix)
    yield cluster
    await cluster.close()


def batches(producer: TransactionalProducer, *values: bytes, size: int = 1) -> list[Any]:
    output = Output(producer.new_batch)
    for value in values:
        output.append(1_000, None, value * size)
    return output.seal()


async def test_batches_and_offsets_are_one_transaction(cluster: Cluster, make_topic: MakeTopic) -> None:
    source, out = make_topic("source"), make_topic("out")
    owner = await cluster.owner()
    placed = await owner.commit({(out, 0): batches(owner, b"a", b"b")}, {TopicPartition(source, 0): 5}, cluster.group)
    assert placed == {(out, 0): [0]}
    placed = await owner.commit({(out, 0): batches(owner, b"c")}, {TopicPartition(source, 0): 6}, cluster.group)
    assert placed == {(out, 0): [3]}, "a marker stands between them"
    assert await cluster.values(out) == [b"a", b"b", b"c"]


async def test_several_batches_of_a_partition_stay_in_order(cluster: Cluster, make_topic: MakeTopic) -> None:
    out = make_topic("out", max_message_bytes="2000000")
    owner = await cluster.owner()
    many = batches(owner, *(b"%03d" % number for number in range(60)), size=20_000)
    assert len(many) > 1
    placed = await owner.commit({(out, 0): many}, {}, cluster.group)
    counts = [batch.record_count() for batch in many]
    assert placed[out, 0] == [sum(counts[:number]) for number in range(len(many))]
    assert [value[:3] for value in await cluster.values(out) if value] == [b"%03d" % number for number in range(60)]


async def test_offsets_alone_and_batches_alone(cluster: Cluster, make_topic: MakeTopic) -> None:
    source, out = make_topic("source"), make_topic("out")
    owner = await cluster.owner()
    assert await owner.commit({}, {TopicPartition(source, 0): 5}, cluster.group) == {}
    assert await owner.commit({(out, 0): batches(owner, b"a")}, {}, cluster.group) == {(out, 0): [0]}
    consumer = await cluster.consumer(group_id=cluster.group)
    assert await consumer.committed(TopicPartition(source, 0)) == 5


async def test_whoever_was_replaced_commits_nothing(cluster: Cluster, make_topic: MakeTopic) -> None:
    source, out = TopicPartition(make_topic("source"), 0), make_topic("out")
    former = await cluster.owner()
    await former.commit({(out, 0): batches(former, b"a")}, {source: 1}, cluster.group)
    new = await cluster.owner()
    with pytest.raises(KafkaError):
        await former.commit({(out, 0): batches(former, b"zombie")}, {source: 99}, cluster.group)
    await new.commit({(out, 0): batches(new, b"b")}, {source: 2}, cluster.group)
    with pytest.raises((KafkaError, AssertionError)):
        await former.commit({(out, 0): batches(former, b"zombie")}, {source: 99}, cluster.group)
    assert await cluster.values(out) == [b"a", b"b"]
    consumer = await cluster.consumer(group_id=cluster.group)
    assert await consumer.committed(source) == 2


async def test_a_fence_ends_what_the_former_owner_had_begun(cluster: Cluster, make_topic: MakeTopic) -> None:
    source, out = TopicPartition(make_topic("source"), 0), make_topic("out")
    former = await cluster.owner()
    await former.commit({}, {source: 1}, cluster.group)
    await former.write({(out, 0): batches(former, b"half")}, {source: 99}, cluster.group)
    new = await cluster.owner()
    consumer = await cluster.consumer(group_id=cluster.group)
    assert await consumer.committed(source) == 1
    await new.commit({(out, 0): batches(new, b"whole")}, {source: 2}, cluster.group)
    assert await cluster.values(out) == [b"whole"]


async def test_a_committed_offset_is_read_right_behind_the_fence(cluster: Cluster, make_topic: MakeTopic) -> None:
    source, out = TopicPartition(make_topic("source"), 0), make_topic("out")
    consumer = await cluster.consumer(group_id=cluster.group)
    for offset in range(1, 11):
        owner = await cluster.owner()
        await owner.commit({(out, 0): batches(owner, b"x")}, {source: offset}, cluster.group)
        await owner.abandon()
        await cluster.owner()
        found = await consumer._coordinator.fetch_committed_offsets([source])
        assert found[source].offset == offset


async def test_an_abandoned_producer_sends_nothing_and_is_quick(cluster: Cluster, make_topic: MakeTopic) -> None:
    out = make_topic("out")
    owner = await cluster.owner()
    committing = asyncio.create_task(owner.commit({(out, 0): batches(owner, b"never")}, {}, cluster.group))
    await asyncio.sleep(0)
    await owner.abandon()
    await owner.abandon()
    with pytest.raises(KafkaError):
        await committing
    await cluster.owner()
    assert await cluster.values(out) == []


async def test_a_lost_answer_changes_nothing(
    cluster: Cluster, make_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = TopicPartition(make_topic("source"), 0), make_topic("out")
    owner = await cluster.owner()
    send, lost = owner._client.send, dict[str, int]()

    async def lose(node: int, request: Any, **options: Any) -> Any:
        answer = await send(node, request, **options)
        kind = type(request).__name__
        lost[kind] = lost.get(kind, 0) + 1
        if lost[kind] % 2:
            raise KafkaConnectionError("the answer is lost")
        return answer

    monkeypatch.setattr(owner._client, "send", lose)
    for number, value in enumerate((b"a", b"b", b"c"), 1):
        await owner.commit({(out, 0): batches(owner, value)}, {source: number}, cluster.group)
    assert {"ProduceRequest", "TxnOffsetCommitRequest", "EndTxnRequest"} <= lost.keys()
    assert await cluster.values(out) == [b"a", b"b", b"c"]
    consumer = await cluster.consumer(group_id=cluster.group)
    assert await consumer.committed(source) == 3


async def test_brokers_that_became_too_old_are_an_error_after_which_a_task_opens_again(
    cluster: Cluster, make_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = await cluster.owner()

    async def refuse(_node: int, request: Any, **_options: Any) -> Any:
        raise NotImplementedError(f"Support for {type(request).__name__} v11 has not yet been added")

    monkeypatch.setattr(owner._client, "send", refuse)
    with pytest.raises(KafkaError):
        await owner.commit({(make_topic("out"), 0): batches(owner, b"a")}, {}, cluster.group)


async def test_an_owner_may_speak_another_protocol_than_the_one_before(
    brokers: str, prefix: str, make_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = TopicPartition(make_topic("source"), 0), make_topic("out")
    cluster = Cluster(brokers, prefix)
    for number, version in enumerate((1, 2, 1, 2), 1):
        speak(monkeypatch, version)
        owner = await cluster.owner()
        for half in (b"a", b"b"):
            value = b"%d%b" % (number, half)
            await owner.commit({(out, 0): batches(owner, value)}, {source: number}, cluster.group)
        await owner.write({(out, 0): batches(owner, b"half")}, {source: 99}, cluster.group)
    await cluster.owner()
    assert await cluster.values(out) == [b"%d%b" % (number, half) for number in (1, 2, 3, 4) for half in (b"a", b"b")]
    consumer = await cluster.consumer(group_id=cluster.group)
    assert await consumer.committed(source) == 4
    await cluster.close()


async def test_a_cluster_tells_its_features(brokers: str, prefix: str) -> None:
    cluster = Cluster(brokers, prefix)
    owner = await cluster.owner()
    assert (await protocol.features(owner._client))[protocol.FEATURE] == protocol.SECOND
    await cluster.close()
