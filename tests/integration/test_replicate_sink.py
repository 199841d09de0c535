"""The replicate sink against a real Kafka, whose topics are the ingress of another region."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka import errors as kafka_errors

from walstream.changes import Action
from walstream.connections import KafkaClusterConnection
from walstream.entry import Entry
from walstream.errors import ConfigurationError, SinkError
from walstream.headers import CANCEL, LOCAL, SCHEDULED, Header, log_headers
from walstream.murmur2 import partition_for
from walstream.record import encode
from walstream.replica import Replica, read_replica
from walstream.sinks import kafka_topic
from walstream.sinks.base import APPLIED, SKIPPED, Dead, Sink, SinkContext, TargetDown
from walstream.sinks.replicate import ReplicateOptions, ReplicateSink
from walstream.structured import ANNOUNCEMENT
from walstream.testing.conformance import SinkConformance, entry
from walstream.testing.raw_batch import batches_of

PARTITIONS = 3
TIME = 1_357_000_000_000_005


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_topic, "TIMEOUT_S", 2.0)
    monkeypatch.setattr(kafka_topic, "APPEARS_WITHIN_S", 0.2)


def context_for(brokers: str, topic: str | None = "t", *, rank: int | None = 1, **options: Any) -> SinkContext:
    connection = {"sink": "kafka", "brokers": [brokers], "rank": rank}
    return SinkContext(
        "flights",
        "west",
        ReplicateOptions.model_validate({"region": "west", "topic": topic, **options}),
        connection=KafkaClusterConnection.model_validate(connection),
        partitions=PARTITIONS,
        extra={"region": "east", "rank": 5},
    )


def logged(
    position: int, own: list[Header], *, key: bytes | None = b"k", value: bytes | None = b"v", path: bytes = b"",
    kind: bytes = b"", partition: int = 0,
) -> Entry:  # fmt: skip
    """An entry as it is fetched."""
    headers = log_headers(own, time_us=TIME, position=position, timestamp_ms=99, path=path, kind=kind)
    record = SimpleNamespace(offset=position, timestamp=5_000, timestamp_type=1, key=key, value=value, headers=headers)
    (batch,) = batches_of([record])
    return Entry.from_record(partition, next(batch.records()))


def event(id: str, **options: Any) -> list[Header]:
    words = {"key": b"k", "source": "s", "type": "test", "time": None, **options}
    return encode(b"v", id=id, **words).headers


async def consume(brokers: str, topic: str) -> list[ConsumerRecord]:
    """Everything that is in a topic now, partition by partition."""
    async with AIOKafkaConsumer(bootstrap_servers=brokers, auto_offset_reset="earliest") as consumer:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        records: list[ConsumerRecord] = []
        while any([await consumer.position(at) < ends[at] for at in partitions]):
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                records += batch
    return sorted(records, key=lambda record: (record.partition, record.offset))


class TestConformance(SinkConformance):
    @pytest.fixture
    def context(self, brokers: str, make_topic: Callable[..., str]) -> SinkContext:
        self.brokers = brokers
        return context_for(brokers, make_topic("ingress", PARTITIONS, message_timestamp_type="LogAppendTime"))

    def make(self, context: SinkContext) -> Sink:
        return ReplicateSink(context)

    def entry(self, key: str, value: int, position: int) -> Entry:
        return entry(position, key=key.encode(), payload=b"%d" % value)

    def refused(self, key: str, position: int) -> Entry:
        return entry(position, key=key.encode(), payload=b"x" * 1_200_000)

    async def state(self, sink: Sink) -> Mapping[str, int]:
        records = await consume(self.brokers, sink.options.topic)
        return {record.key.decode(): int(record.value) for record in records}

    def unreachable(self, context: SinkContext) -> SinkContext:
        connection = {"sink": "kafka", "brokers": ["127.0.0.1:1"], "rank": 1}
        return replace(context, connection=KafkaClusterConnection.model_validate(connection))


@pytest.fixture
def topic(make_topic: Callable[..., str]) -> str:
    return make_topic("ingress", PARTITIONS, message_timestamp_type="LogAppendTime")


@pytest.fixture
async def opened(brokers: str, topic: str) -> AsyncIterator[Callable[..., Any]]:
    sinks = []

    async def open(**options: Any) -> ReplicateSink:
        sink = ReplicateSink(context_for(brokers, topic, **options))
        sinks.append(sink)
        await sink.open()
        return sink

    yield open
    for sink in sinks:
        await sink.close()


ODD: list[Header] = [*event("a"), ("own", None), ("own", b"\xff"), ("walstream", b"no prefix")]


async def test_what_is_sent_is_what_was_written_with_what_travels_in_front(
    brokers: str, topic: str, opened: Any
) -> None:
    sink = await opened()
    without_raw = Entry(0, 1, b"j", None, ODD, 77, TIME, 1)
    assert await sink.write([logged(0, ODD, value=None), without_raw]) == [APPLIED, APPLIED]
    found = {record.key: record for record in await consume(brokers, topic)}
    for key, timestamp in ((b"k", 99), (b"j", 77)):
        record = found[key]
        headers = [(name, text) for name, text in record.headers]
        assert record.value is None
        assert read_replica(headers) == Replica(TIME, timestamp, b"east")
        assert headers[4:] == ODD


async def test_what_was_there_or_is_not_sent_on_is_skipped(brokers: str, topic: str, opened: Any) -> None:
    batch = [
        logged(0, event("here")),
        logged(1, event("elsewhere"), path=b"north"),
        logged(2, event("there"), path=b"west,north"),
        logged(3, event("everywhere"), kind=LOCAL),
        logged(4, event("stop", action="cancel", ref="x"), kind=CANCEL),
        logged(5, event("later", delay=5), kind=SCHEDULED, path=b"north"),
    ]
    mesh = await opened()
    assert await mesh.write(batch) == [APPLIED, SKIPPED, SKIPPED, SKIPPED, APPLIED, SKIPPED]
    ring = await opened(forward=True)
    assert await ring.write(batch) == [APPLIED, APPLIED, SKIPPED, SKIPPED, APPLIED, APPLIED]
    records = await consume(brokers, topic)
    said = [(dict(record.headers)["ce_id"], read_replica(list(record.headers))) for record in records]
    assert [(id, found.path, found.kind) for id, found in said if found] == [
        (b"here", b"east", b""),
        (b"stop", b"east", CANCEL),
        (b"here", b"east", b""),
        (b"elsewhere", b"north,east", b""),
        (b"stop", b"east", CANCEL),
        (b"later", b"north,east", SCHEDULED),
    ]


async def test_a_record_is_always_sent_to_the_same_partition(brokers: str, topic: str, opened: Any) -> None:
    sink = await opened()
    ids = [f"id-{number}" for number in range(8)]
    batch = [
        *(logged(n, event(id, key=None), key=None, partition=n % 2) for n, id in enumerate(ids)),
        logged(8, event("c", key=None, action="cancel", ref="id-0"), key=None, kind=CANCEL),
        logged(9, event("p", key=None, extensions={"partitionkey": "pk"}), key=None),
        logged(10, event("k", key=b"key-1"), key=b"key-1"),
    ]
    assert await sink.write(batch) == [APPLIED] * len(batch)
    found = {dict(record.headers)["ce_id"].decode(): record.partition for record in await consume(brokers, topic)}
    expected = {id: id for id in ids} | {"c": "id-0", "p": "pk", "k": "key-1"}
    assert found == {id: partition_for(word.encode(), PARTITIONS) for id, word in expected.items()}


MUTATION = b'{"op":"put","table":"flights","key":{"flight":"UA1545","price":1.10},"set":{"delay":11}}'


async def test_keys_only(brokers: str, topic: str, opened: Any) -> None:
    sink = await opened(mode="keys")
    plain = event("a", type="walstream.mutation", content_type="application/json", extensions={"traceparent": "t"})
    body = {"specversion": "1.0", "id": "b", "source": "s", "type": "walstream.mutation", "waldelay": "PT1S"}
    whole = orjson.dumps({**body, "data": {"op": "delete", "key": {"flight": "x"}}})
    batch = [
        logged(0, plain, value=MUTATION),
        logged(1, [("content-type", ANNOUNCEMENT + b"+json")], value=whole, kind=SCHEDULED),
        logged(2, event("c")),
        logged(3, event("d", action="cancel", ref="a"), kind=CANCEL, value=None),
    ]
    outcomes = await sink.write(batch)
    assert [type(outcome) for outcome in outcomes] == [type(APPLIED), type(APPLIED), Dead, type(APPLIED)]
    records = {dict(record.headers)["ce_id"]: record for record in await consume(brokers, topic)}
    assert records[b"a"].value == b'{"table":"flights","key":{"flight":"UA1545","price":1.10}}'
    headers = dict(records[b"a"].headers)
    assert (headers["ce_type"], headers["ce_traceparent"]) == (b"walstream.invalidation", b"t")
    assert read_replica(list(records[b"a"].headers)) == Replica(TIME, 99, b"east")
    assert records[b"b"].value == b'{"key":{"flight":"x"}}'
    headers = dict(records[b"b"].headers)
    assert (headers["ce_type"], headers["ce_waldelay"]) == (b"walstream.invalidation", b"PT1S")
    assert records[b"d"].value is None


async def test_a_region_that_goes_away_says_what_it_took(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = await opened()
    send, away = sink._writer._send, partition_for(b"k", PARTITIONS)

    async def failing(builder: Any, lanes: list[tuple[int, int]]) -> None:
        if lanes[0][1] % PARTITIONS == away:
            raise kafka_errors.KafkaConnectionError("away")
        await send(builder, lanes)

    monkeypatch.setattr(sink._writer, "_send", failing)
    other = next(key for key in (b"%d" % n for n in range(99)) if partition_for(key, PARTITIONS) != away)
    with pytest.raises(TargetDown) as caught:
        await sink.write([logged(0, event("a")), logged(1, event("b"), key=other)])
    assert caught.value.outcomes == [None, APPLIED]


async def test_large_calls_keep_each_keys_order(brokers: str, topic: str, opened: Any) -> None:
    sink = await opened()
    keys = [b"a", b"b", b"c", b"d"]
    batch = [logged(n, event(f"{n:05}"), key=keys[n % 4], value=bytes(1_000)) for n in range(4_000)]
    first, second = await asyncio.gather(sink.write(batch[:2_000]), sink.write(batch[2_000:]))
    assert {*first, *second} == {APPLIED}
    for key in keys:
        ids = [dict(r.headers)["ce_id"] for r in await consume(brokers, topic) if r.key == key]
        for half in ([i for i in ids if i < b"02000"], [i for i in ids if i >= b"02000"]):
            assert half == sorted(half) and len(half) == 500


# What cannot be


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"extra": {}}, "this one has no name"),
        ({"extra": {"region": "west", "rank": 5}}, "and that is this one"),
        ({"extra": {"region": "east", "rank": 1}}, "has the rank 1, as this one has"),
        ({"connection": KafkaClusterConnection(sink="kafka", brokers=["h:1"])}, "does not say the region's rank"),
        ({"connection": None}, "names no connection"),
    ],
)
def test_regions_that_cannot_be_told_apart_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        ReplicateSink(replace(context_for("h:1"), **change))


async def test_what_the_other_region_is_like_is_said_and_never_made(brokers: str, topic: str) -> None:
    (change,) = await ReplicateSink(replace(context_for(brokers, topic), partitions=7)).provision(dry_run=False)
    assert (change.action, change.name) == (Action.NONE, f"{topic} of the region west")
    assert change.detail == "3 partitions there, 7 here: a key's partition has another number there"
    missing = f"no-{uuid.uuid4().hex[:8]}"
    (change,) = await ReplicateSink(context_for(brokers, missing)).provision(dry_run=False)
    assert change.action is Action.NONE and "does not exist yet" in change.detail
    (change,) = await ReplicateSink(context_for("127.0.0.1:1", None)).provision(dry_run=False)
    assert change.action is Action.NONE and "does not answer" in change.detail
    assert change.name == "flights.ingress of the region west"
    with pytest.raises(SinkError, match="there is no topic"):
        await ReplicateSink(context_for(brokers, missing)).open()
