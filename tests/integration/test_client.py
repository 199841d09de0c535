"""The client, against a real Kafka."""

import asyncio
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from walstream import AsyncClient, Client, Durable, Receipt, RecordRefused, Write, put
from walstream.errors import TopicMismatch
from walstream.record import parse
from walstream.testing.history import Observed
from walstream.testing.readback import Readback

PARTITIONS = 4
LIMIT = 64 * 1024  # max.message.bytes of the topic, small so that batches of the usual size do not fit


@pytest.fixture(scope="module")
def readback(brokers: str) -> Readback:
    return Readback({"bootstrap.servers": brokers})


@pytest.fixture
def namespace(brokers: str) -> Iterator[str]:
    """Make a namespace: nothing but its ingress topic."""
    name = f"client-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": brokers})
    topic = NewTopic(f"{name}.ingress", PARTITIONS, 1, config={"max.message.bytes": str(LIMIT)})
    admin.create_topics([topic])[topic.topic].result()
    yield name
    admin.delete_topics([topic.topic])[topic.topic].result()


def by_place(readback: Readback, namespace: str) -> dict[tuple[int, int], Observed]:
    return {(each.partition, each.offset): each for each in readback.records(f"{namespace}.ingress")}


def id_of(observed: Observed) -> str:
    return parse(observed.key, observed.value, list(observed.headers), 0).id


def place(receipt: Receipt) -> tuple[int, int]:
    assert receipt.durable is Durable.TRUE, receipt
    assert receipt.partition is not None
    assert receipt.offset is not None
    return receipt.partition, receipt.offset


async def test_a_receipt_says_where_the_record_is(brokers: str, namespace: str, readback: Readback) -> None:
    async with AsyncClient(brokers) as client:
        first = await client.write(
            namespace, b"one", key="UA1", id="a", source="ops", delay="5m", headers=[("h", None)]
        )
        second = await client.write(namespace, None, key="UA1")
    assert first.raise_for_durability().topic == f"{namespace}.ingress"
    assert (first.namespace, first.id, first.error) == (namespace, "a", None)
    seen = by_place(readback, namespace)
    assert len(seen) == 2
    record = seen[place(first)]
    parsed = parse(record.key, record.value, list(record.headers), 0)
    assert (parsed.key, parsed.value, parsed.id, parsed.source, parsed.delay) == (
        b"UA1",
        b"one",
        "a",
        "ops",
        300_000_000,
    )
    assert record.headers[-1] == ("h", None)
    assert seen[place(second)].value is None
    assert id_of(seen[place(second)]) == second.id


async def test_many_records_keep_their_order_by_key(brokers: str, namespace: str, readback: Readback) -> None:
    writes = [Write(os.urandom(100), key=f"k{n % 50}", id=str(n)) for n in range(5_000)]
    async with AsyncClient(brokers) as client:
        receipts = await client.write_many(namespace, iter(writes))
    assert [receipt.id for receipt in receipts] == [write.id for write in writes]
    seen = by_place(readback, namespace)
    assert len(seen) == len(writes)
    last: dict[bytes, int] = {}
    for write, receipt in zip(writes, receipts, strict=True):
        record = seen[place(receipt)]
        assert (record.value, id_of(record)) == (write.payload, write.id)
        assert record.key is not None
        assert last.get(record.key, -1) < record.offset
        last[record.key] = record.offset


async def test_writes_at_the_same_time_travel_together(brokers: str, namespace: str, readback: Readback) -> None:
    async with AsyncClient(brokers) as client:
        receipts = await asyncio.gather(*(client.write(namespace, b"", id=str(n)) for n in range(500)))
    seen = by_place(readback, namespace)
    assert [id_of(seen[place(receipt)]) for receipt in receipts] == [str(n) for n in range(500)]
    assert {receipt.partition for receipt in receipts} == set(range(PARTITIONS))


async def test_partitions_are_those_of_librdkafka(brokers: str, namespace: str, readback: Readback) -> None:
    keys = [os.urandom(n % 23) for n in range(1, 200)]
    producer = Producer({"bootstrap.servers": brokers, "partitioner": "murmur2_random"})
    for key in keys:
        producer.produce(f"{namespace}.ingress", key=key)
    assert producer.flush(10) == 0
    theirs = {each.key: each.partition for each in by_place(readback, namespace).values()}
    async with AsyncClient(brokers) as client:
        receipts = await client.write_many(namespace, (Write(b"", key=key) for key in keys))
    assert [receipt.partition for receipt in receipts] == [theirs[key] for key in keys]


async def test_what_is_too_large_stops_nothing_else(brokers: str, namespace: str, readback: Readback) -> None:
    writes = [Write(os.urandom(1000), key="k", id=str(n)) for n in range(300)]
    writes[150] = Write(os.urandom(2 * LIMIT), key="k", id="150")
    async with AsyncClient(brokers) as client:
        receipts = await client.write_many(namespace, writes)
        after = await client.write(namespace, b"after", key="k")
    assert [receipt.id for receipt in receipts if receipt.durable is not Durable.TRUE] == ["150"]
    assert receipts[150].durable is Durable.FALSE
    assert "MessageSizeTooLarge" in repr(receipts[150].error)
    seen = by_place(readback, namespace)
    assert len(seen) == 300
    for write, receipt in zip(writes, receipts, strict=True):
        if receipt.durable is Durable.TRUE:
            assert seen[place(receipt)].value == write.payload
    assert seen[place(after)].value == b"after"


async def test_what_the_contract_forbids_is_not_sent(brokers: str, namespace: str, readback: Readback) -> None:
    async with AsyncClient(brokers) as client:
        good, bad = await client.write_many(namespace, [Write(b"", id="good"), Write(b"", id="bad", delay=-1)])
        unkeyed = await client.write(namespace, put(key={"flight": "UA1"}))
    assert good.durable is Durable.TRUE
    assert (bad.durable, bad.id) == (Durable.FALSE, "bad")
    assert isinstance(bad.error, RecordRefused)
    assert unkeyed.durable is Durable.FALSE
    assert len(by_place(readback, namespace)) == 1


async def test_a_topic_that_is_missing(brokers: str) -> None:
    name = f"client-{uuid.uuid4().hex[:8]}"
    async with AsyncClient(brokers) as client:
        receipt = await client.write(name, b"")
    assert receipt.durable is Durable.FALSE
    assert isinstance(receipt.error, TopicMismatch)
    assert "walstream apply" in str(receipt.error)


async def test_the_namespace_file_gives_key_and_topic(
    brokers: str, namespace: str, readback: Readback, tmp_path: Path
) -> None:
    (tmp_path / "flights.yaml").write_text(
        f"""
version: 1
namespace: flights
topics: {{partitions: {PARTITIONS}, max_record: 32KB, names: {{ingress: {namespace}.ingress}}}}
key: "{{carrier}}-{{number}}"
targets:
  copy: {{sink: kafka, options: {{topic: copy}}}}
"""
    )
    async with AsyncClient(brokers, config=tmp_path) as client:
        receipt = await client.write("flights", put(key={"carrier": "UA", "number": 1}, set={"delay": 3}))
        large = await client.write("flights", os.urandom(33 * 1024))
    assert by_place(readback, namespace)[place(receipt)].key == b"UA-1"
    assert isinstance(large.error, RecordRefused)


async def test_more_than_fits_in_memory_waits(brokers: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walstream.client.sender.PENDING_BYTES", 100_000)
    async with AsyncClient(brokers) as client:
        receipts = await client.write_many(namespace, (Write(os.urandom(1000)) for _ in range(5_000)))
        assert {receipt.durable for receipt in receipts} == {Durable.TRUE}
        assert client._sender._pending == 0


def test_the_blocking_client(brokers: str, namespace: str, readback: Readback) -> None:
    with Client([brokers]) as client:
        receipts: list[Receipt] = []

        def write(worker: int) -> None:
            receipts.extend(client.write(namespace, b"", id=f"{worker}-{n}") for n in range(20))

        threads = [threading.Thread(target=write, args=(worker,)) for worker in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        receipts += client.write_many(namespace, (Write(b"", id=f"many-{n}") for n in range(2_500)))
    seen = by_place(readback, namespace)
    assert len(seen) == 8 * 20 + 2_500
    assert all(id_of(seen[place(receipt)]) == receipt.id for receipt in receipts)
    client.close()  # closing again does nothing
    with pytest.raises(Exception, match="the client is closed"):
        client.write(namespace, b"")
