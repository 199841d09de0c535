"""The kafka sinks, of the namespace's own cluster and of another one, against a real Kafka."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka import errors as kafka_errors

from walstream.changes import Action
from walstream.connections import KafkaClusterConnection
from walstream.entry import Entry
from walstream.errors import ConfigurationError, SinkError
from walstream.headers import log_headers
from walstream.kafka import KafkaConnection
from walstream.murmur2 import partition_for
from walstream.sinks import kafka_topic, kafka_writer
from walstream.sinks.base import APPLIED, TARGET_DOWN, Dead, Retry, Sink, SinkContext
from walstream.sinks.kafka import KafkaOptions, KafkaSink, OwnClusterKafkaSink
from walstream.testing.conformance import Emitted, SinkConformance, Staged, entry
from walstream.testing.raw_batch import batches_of

PARTITIONS = 3


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_topic, "TIMEOUT_S", 2.0)


def own(brokers: str, **options: Any) -> SinkContext:
    options = {"topic": f"sink-{uuid.uuid4().hex[:8]}", "replication": 1, **options}
    return SinkContext(
        "test",
        "copy",
        KafkaOptions.model_validate(options),
        partitions=PARTITIONS,
        extra={"kafka": KafkaConnection((brokers,))},
    )


def other(brokers: str, **options: Any) -> SinkContext:
    connection = KafkaClusterConnection.model_validate({"sink": "kafka", "brokers": [brokers]})
    return replace(own(brokers, **options), connection=connection, extra={})


async def consume(brokers: str, topic: str) -> list[ConsumerRecord]:
    """Everything that is in a topic now, partition by partition."""
    async with AIOKafkaConsumer(bootstrap_servers=brokers, auto_offset_reset="earliest") as consumer:
        partitions = [TopicPartition(topic, p) for p in sorted(await partition_ids(consumer, topic))]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        records: list[ConsumerRecord] = []
        while any([await consumer.position(p) < ends[p] for p in partitions]):
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                records += batch
    return sorted(records, key=lambda record: (record.partition, record.offset))


async def partition_ids(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    async with asyncio.timeout(20):
        while not (found := consumer.partitions_for_topic(topic)):
            consumer._client.add_topic(topic)
            await consumer._client.force_metadata_update()
    return set(found)


class KafkaConformance(SinkConformance):
    def make(self, context: SinkContext) -> Sink:
        return KafkaSink.for_context(context)

    def entry(self, key: str, value: int, position: int) -> Entry:
        return entry(position, key=key.encode(), payload=b"%d" % value)

    def refused(self, key: str, position: int) -> Entry:
        return entry(position, key=key.encode(), payload=b"x" * 1_200_000)

    async def state(self, sink: Sink) -> Mapping[str, int]:
        records = await consume(self.brokers, sink.options.topic)
        return {record.key.decode(): int(record.value) for record in records}

    @pytest.fixture(autouse=True)
    def _keep(self, brokers: str) -> None:
        self.brokers = brokers


class TestOwnCluster(KafkaConformance):
    @pytest.fixture
    def context(self, brokers: str) -> SinkContext:
        return own(brokers)

    def unreachable(self, context: SinkContext) -> SinkContext:
        return replace(context, extra={"kafka": KafkaConnection(("127.0.0.1:1",))})

    async def commit(self, sink: Sink, records: Sequence[Emitted]) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.brokers, linger_ms=20) as producer:
            for topic, partition, timestamp, key, value, headers in records:
                await producer.send(
                    topic, value, key=key, partition=partition, timestamp_ms=timestamp, headers=list(headers)
                )


class TestOtherCluster(KafkaConformance):
    @pytest.fixture
    def context(self, brokers: str) -> SinkContext:
        return other(brokers)

    def unreachable(self, context: SinkContext) -> SinkContext:
        connection = KafkaClusterConnection.model_validate({"sink": "kafka", "brokers": ["127.0.0.1:1"]})
        return replace(context, connection=connection)


@pytest.fixture
async def opened(brokers: str) -> AsyncIterator[KafkaSink]:
    sink = KafkaSink(other(brokers))
    await sink.provision(dry_run=False)
    await sink.open()
    yield sink
    await sink.close()


ODD = Entry(
    2,
    7,
    None,
    None,
    [("twice", b"1"), ("twice", None), ("", b""), ("ce_id", b"\xff")],
    1_234_567_890_123,
    1_357_000_000_000_000,
    3,
)


async def test_everything_arrives_untouched(opened: KafkaSink, brokers: str) -> None:
    plain = Entry(1, 8, b"", b"", [], 1, 1_357_000_000_000_000, 4)
    assert await opened.write([ODD, plain]) == [APPLIED, APPLIED]
    first, second = await consume(brokers, opened.options.topic)
    assert (first.partition, first.key, first.value, first.timestamp) == (1, b"", b"", 1)
    assert first.headers == ()
    assert (second.partition, second.key, second.value, second.timestamp) == (2, None, None, 1_234_567_890_123)
    assert second.timestamp_type == 0  # CreateTime
    assert list(second.headers) == ODD.headers


async def test_the_checkpoint_gets_everything_untouched(brokers: str) -> None:
    sink = KafkaSink.for_context(own(brokers))
    assert isinstance(sink, OwnClusterKafkaSink)
    await sink.provision(dry_run=False)
    await sink.open()
    staged = Staged()
    assert sink.stage([ODD], staged) == [APPLIED]
    assert staged.records == [(sink.options.topic, 2, 1_234_567_890_123, None, None, ODD.headers)]


async def test_the_checkpoint_gets_everything_untouched_that_stands_where_it_was_fetched_to(brokers: str) -> None:
    sink = KafkaSink.for_context(own(brokers))
    assert isinstance(sink, OwnClusterKafkaSink)
    await sink.provision(dry_run=False)
    await sink.open()
    headers = log_headers(ODD.headers, time_us=ODD.time, position=3, timestamp_ms=ODD.timestamp)
    record = SimpleNamespace(offset=7, timestamp=5_000, timestamp_type=1, key=None, value=None, headers=headers)
    (batch,) = batches_of([record])
    odd = Entry.from_record(2, next(batch.records()))
    staged = Staged()
    assert sink.stage([odd], staged) == [APPLIED]
    assert staged.records == [(sink.options.topic, 2, 1_234_567_890_123, None, None, ODD.headers)]


async def test_partitions_where_the_counts_differ(brokers: str) -> None:
    sink = KafkaSink.for_context(own(brokers, partitions=5))
    assert isinstance(sink, OwnClusterKafkaSink)
    await sink.provision(dry_run=False)
    await sink.open()
    staged = Staged()
    keys = [b"a", b"b", b"c", None, None, None]
    sink.stage([entry(i, key=key, payload=b"") for i, key in enumerate(keys)], staged)
    assert [partition for _, partition, *_ in staged.records] == [
        *(partition_for(k, 5) for k in (b"a", b"b", b"c")),
        3,
        4,
        0,
    ]


async def test_what_the_topic_cannot_take_is_dead_before_it_harms_others(brokers: str, make_topic: Any) -> None:
    topic = make_topic("compacted", PARTITIONS, cleanup_policy="compact", max_message_bytes="5000")
    for sink in (KafkaSink.for_context(own(brokers, topic=topic)), KafkaSink(other(brokers, topic=topic))):
        await sink.open()
        batch = [
            entry(0, key=b"k", payload=b"fine"),
            entry(1, key=None, payload=b"no key"),
            entry(2, key=b"k", payload=b"x" * 5000),
        ]
        if isinstance(sink, OwnClusterKafkaSink):
            outcomes = sink.stage(batch, Staged())
        else:
            outcomes = await sink.write(batch)
        assert outcomes[0] is APPLIED
        assert [type(outcome) for outcome in outcomes[1:]] == [Dead, Dead]
        assert "compacted" in outcomes[1].reason
        assert "takes 5000" in outcomes[2].reason
        await sink.close()


async def test_a_timestamp_that_the_topic_refuses_is_one_records_fault(brokers: str, make_topic: Any) -> None:
    topic = make_topic("timestamps", PARTITIONS, message_timestamp_before_max_ms="3600000")
    sink = KafkaSink(other(brokers, topic=topic))
    await sink.open()
    now = int(time.time() * 1000)
    try:
        good = [Entry(0, i, b"k", b"%d" % i, [], now, now * 1000, i) for i in range(3)]
        old = Entry(0, 3, b"k", b"old", [], 1_000_000_000_000, 1, 3)
        outcomes = await sink.write([good[0], old, good[1], good[2]])
    finally:
        await sink.close()
    assert [type(outcome) for outcome in outcomes] == [type(APPLIED), Dead, type(APPLIED), type(APPLIED)]
    assert [record.value for record in await consume(brokers, topic)] == [b"0", b"1", b"2"]


async def test_a_failing_batch_stops_what_follows_it_in_its_partition(
    brokers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_writer, "BATCH_BYTES", 1000)
    opened = KafkaSink(other(brokers))
    await opened.provision(dry_run=False)
    await opened.open()
    send = opened._writer._send
    sent = 0

    async def failing(builder: Any, lanes: list[tuple[int, int]]) -> None:
        nonlocal sent
        sent += lanes == [(1, 1)]
        if lanes == [(1, 1)] and sent == 2:
            raise kafka_errors.NotEnoughReplicasError
        await send(builder, lanes)

    monkeypatch.setattr(opened._writer, "_send", failing)
    batch = [entry(i, key=b"k", payload=b"x" * 600, partition=1) for i in range(4)] + [entry(9, key=b"j", payload=b"")]
    outcomes = await opened.write(batch)
    await opened.close()
    assert [type(outcome) for outcome in outcomes] == [type(APPLIED), Retry, Retry, Retry, type(APPLIED)]
    assert [record.partition for record in await consume(brokers, opened.options.topic)] == [0, 1]


async def test_an_answer_that_does_not_come_is_the_target_down_and_nothing_piles_up(
    opened: KafkaSink, brokers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_writer, "ANSWER_WITHIN_S", 0.2)
    sent: list[asyncio.Future[None]] = []

    async def silent(partition: int, batch: Any) -> None:
        sent.append(asyncio.get_running_loop().create_future())
        await sent[-1]

    with monkeypatch.context() as patch:
        patch.setattr(opened._writer.sender, "send", silent)
        for _ in range(3):
            with pytest.raises(kafka_errors.KafkaTimeoutError) as caught:
                await opened.write([entry(0, key=b"k", payload=b"")])
            assert opened.verdict(caught.value) is TARGET_DOWN
    assert len(sent) == 1
    sent[0].set_result(None)
    assert await opened.write([entry(0, key=b"k", payload=b"")]) == [APPLIED]


async def test_provision_looks_at_what_is_there(brokers: str, make_topic: Any) -> None:
    topic = make_topic("appended", 1, message_timestamp_type="LogAppendTime")
    (change,) = await KafkaSink.for_context(own(brokers, topic=topic)).provision(dry_run=False)
    assert change.action is Action.REFUSE
    small = make_topic("small", 1, max_message_bytes="1000")
    (change,) = await KafkaSink.for_context(own(brokers, topic=small)).provision(dry_run=False)
    assert change.action is Action.NONE
    assert "more than 1000 bytes" in change.detail


async def test_open_names_a_missing_topic(brokers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_topic, "APPEARS_WITHIN_S", 0.2)
    with pytest.raises(SinkError, match="there is no topic"):
        await KafkaSink.for_context(own(brokers)).open()


def test_a_copy_into_the_namespaces_own_topic_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"test\.ingress"):
        KafkaSink.for_context(own("127.0.0.1:1", topic="test.ingress"))
