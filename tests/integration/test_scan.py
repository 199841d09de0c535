"""Topics read to the end that they had, and records written as they are given."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer

from walstream.admin import Admin
from walstream.errors import NotDurable, TopicMismatch
from walstream.headers import Header
from walstream.kafka import KafkaConnection
from walstream.record import Message
from walstream.scan import Scanner
from walstream.testing.readback import Readback
from walstream.writer import Writer

HEADERS: list[Header] = [("a", b""), ("a", None), ("é", b"\x00\xff")]


@pytest.fixture
def connection(brokers: str) -> KafkaConnection:
    return KafkaConnection((brokers,))


@pytest.fixture
def scanner(connection: KafkaConnection) -> Scanner:
    return Scanner(connection, Admin(connection))


def test_what_is_written_is_read_byte_for_byte(
    connection: KafkaConnection, scanner: Scanner, make_topic: Callable[..., str], brokers: str
) -> None:
    topic = make_topic(partitions=3)
    messages = [Message(None, None, []), Message(b"", b"", HEADERS), Message(b"\xff", b"\x00" * 5_000, [])]
    with Writer(connection, largest=1 << 20) as writer:
        for number, message in enumerate(messages):
            writer.write(topic, number, message, timestamp=7 + number)
    assert writer.acknowledged == {(topic, number): 0 for number in range(3)}
    everything = scanner.bounds([(topic, number) for number in range(3)])
    found = {record.partition: record for record in scanner.records(everything)}
    for number, message in enumerate(messages):
        record = found[number]
        assert (record.key, record.value, record.headers, record.timestamp) == (*message, 7 + number)
    observed = Readback({"bootstrap.servers": brokers}).records(topic)
    assert [(o.key, o.value, list(o.headers)) for o in observed] == [tuple(message) for message in messages]


def test_only_what_is_committed_and_was_there_at_the_start(
    scanner: Scanner, make_topic: Callable[..., str], brokers: str, prefix: str
) -> None:
    topic = make_topic()
    producer = Producer({"bootstrap.servers": brokers, "transactional.id": prefix})
    producer.init_transactions(10)
    for commits, value in ((True, b"1"), (False, b"2"), (True, b"3")):
        producer.begin_transaction()
        for _ in range(3):
            producer.produce(topic, value)
        producer.flush(10)
        producer.commit_transaction(10) if commits else producer.abort_transaction(10)
    bounds = scanner.bounds([(topic, 0)])
    assert bounds == {(topic, 0): (0, 12)}
    producer.begin_transaction()
    producer.produce(topic, b"open")
    producer.flush(10)
    assert scanner.bounds([(topic, 0)]) == bounds
    producer.commit_transaction(10)
    assert [record.value for record in scanner.records(bounds)] == [b"1"] * 3 + [b"3"] * 3
    assert [record.offset for record in scanner.records({(topic, 0): (2, 9)})] == [2, 8]

    record = scanner.record((topic, 0), 8)
    assert record is not None and record.value == b"3"
    for nothing in (3, 5, 14, 100):  # an end of a transaction, one that was aborted, no record yet
        assert scanner.record((topic, 0), nothing) is None


def test_the_newest_rows_of_a_changelog(
    connection: KafkaConnection, scanner: Scanner, make_topic: Callable[..., str]
) -> None:
    topic = make_topic(partitions=2, cleanup_policy="compact")
    rows: list[tuple[bytes, bytes | None]] = [
        (b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"c", b"1"), (b"b", None), (b"d", b""),
    ]  # fmt: skip
    with Writer(connection, largest=1 << 20) as writer:
        for key, value in rows:
            writer.write(topic, 1, Message(key, value, []))
    one = (topic, 1)
    assert scanner.newest([(topic, 0), one]) == {(one, b"a"): b"2", (one, b"c"): b"1", (one, b"d"): b""}
    places = scanner.places(one)
    assert places == {b"a": 2, b"c": 3, b"d": 5}
    assert [(found.key, found.value) for found in scanner.at(one, [5, 2])] == [(b"a", b"2"), (b"d", b"")]
    assert list(scanner.at(one, [])) == []
    assert scanner.places((topic, 0)) == {}


def test_since_and_until(connection: KafkaConnection, scanner: Scanner, make_topic: Callable[..., str]) -> None:
    topic = make_topic()
    with Writer(connection, largest=1 << 20) as writer:
        for timestamp in (1_000, 2_000, 3_000):
            writer.write(topic, 0, Message(None, None, []), timestamp)

    def offsets(**times: Any) -> list[int]:
        return [record.offset for record in scanner.records(scanner.bounds([(topic, 0)], **times))]

    assert offsets(since=2_000_000) == [1, 2]
    assert offsets(since=1_000_001, until=3_000_000) == [1]
    assert offsets(since=9_000_000) == []
    assert offsets(until=500_000) == []


def test_a_topic_that_is_not_there(scanner: Scanner, prefix: str) -> None:
    with pytest.raises(TopicMismatch, match=rf"{prefix}\.none\n.*walstream apply"):
        scanner.bounds([(f"{prefix}.none", 0)])


def test_what_is_too_large_is_not_written(connection: KafkaConnection, make_topic: Callable[..., str]) -> None:
    topic = make_topic(max_message_bytes="2000")
    with pytest.raises(NotDurable, match="1 records were not written"), Writer(connection, largest=1 << 20) as writer:
        writer.write(topic, 0, Message(None, b"x" * 5_000, []))
    with pytest.raises(NotDurable, match="was not written"), Writer(connection, largest=2_000) as writer:
        writer.write(topic, 0, Message(None, b"x" * 5_000, []))


def test_a_rate_is_kept(connection: KafkaConnection, make_topic: Callable[..., str]) -> None:
    topic = make_topic()
    began = time.monotonic()
    with Writer(connection, largest=1 << 20, rate=100) as writer:
        for _ in range(31):
            writer.write(topic, 0, Message(None, None, []))
    assert time.monotonic() - began >= 0.3
