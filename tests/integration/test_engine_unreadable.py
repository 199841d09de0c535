"""Records that aiokafka cannot decode, and records that nobody can, on a real Kafka, in front of real workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import OffsetOutOfRangeError
from aiokafka.structs import TopicPartition

from walstream.engine.changelog import FETCH_SIZE, ChangelogReader
from walstream.engine.fetch import Fetch, drain, wait_ready
from walstream.errors import Unreadable
from walstream.testing.raw_batch import CODECS, RawRecord, encode_batch, produce_batch
from walstream.testing.sandbox import COPY, Sandbox

MakeTopic = Callable[..., str]
GOOD = RawRecord(b"key", b"value", [(b"h", b"1")])
BAD = RawRecord(b"key", b"value", [(b"b\xffd", b"2")])


def spoilt(count: int) -> bytes:
    """A batch that a broker takes, since its own decompression stops in time, and no decoder of ours reads."""
    return encode_batch([GOOD] * count, compression="gzip", trailing=b"rubbish")


async def read(brokers: str, topic: str, position: int, end: int) -> list[Fetch]:
    """Fetch a partition up to an end, as changelogs are."""
    tp = TopicPartition(topic, 0)
    fetches: list[Fetch] = []
    async with ChangelogReader({"bootstrap_servers": brokers}, {tp: position}) as reader, asyncio.timeout(20):
        while reader.positions[tp] < end:
            fetches += await reader.fetch()
    return fetches


async def test_every_compression_is_read_whatever_the_names(brokers: str, make_topic: MakeTopic) -> None:
    topic = make_topic()
    for compression in CODECS:
        await produce_batch(brokers, topic, 0, encode_batch([GOOD, BAD, GOOD], compression=compression))
    end = 3 * len(CODECS)
    fetches = await read(brokers, topic, 1, end)
    assert (fetches[0].offset, fetches[-1].next_offset) == (1, end)
    records = [record for fetch in fetches for record in fetch]
    assert [record.offset for record in records] == list(range(1, end)), "and nothing from before the position"
    assert [record.offset for record in records if record.misnamed] == list(range(1, end, 3))
    assert {record.timestamp_type for record in records} == {0}


async def test_what_is_more_than_one_answer(brokers: str, make_topic: MakeTopic) -> None:
    topic = make_topic()
    large = RawRecord(b"key", b"x" * 300_000, [(b"\xff", None)])
    count = 3 * FETCH_SIZE // 300_000
    for _ in range(count):
        await produce_batch(brokers, topic, 0, encode_batch([large]))
    fetches = await read(brokers, topic, 0, count)
    assert len(fetches) > 1
    assert [record.offset for fetch in fetches for record in fetch] == list(range(count))


async def test_what_is_gone_meanwhile_is_an_error(brokers: str, make_topic: MakeTopic) -> None:
    topic = make_topic()
    await produce_batch(brokers, topic, 0, encode_batch([BAD]))
    consumer = AIOKafkaConsumer(bootstrap_servers=brokers, auto_offset_reset="none")
    await consumer.start()
    try:
        consumer.assign([tp := TopicPartition(topic, 0)])
        consumer.seek(tp, 5)
        fetcher = consumer._fetcher
        errors: dict[TopicPartition, Exception] = {}
        async with asyncio.timeout(20):
            while not errors:
                await wait_ready(fetcher, 1)
                with fetcher._subscriptions.fetch_context():
                    fetches, errors = drain(fetcher, lambda _: 0)
                assert fetches == []
    finally:
        await consumer.stop()
    assert isinstance(errors[tp], OffsetOutOfRangeError)


async def test_what_cannot_be_read_comes_behind_all_that_can(brokers: str, make_topic: MakeTopic) -> None:
    topic = make_topic()
    for batch in (encode_batch([BAD, GOOD]), spoilt(3), encode_batch([GOOD])):
        await produce_batch(brokers, topic, 0, batch)
    (fetch, *_) = await read(brokers, topic, 0, 6)
    assert [record.offset for record in fetch.take(100)] == [0, 1]
    for _ in range(2):
        with pytest.raises(Unreadable, match=f"{topic}-0: offsets 2 to 4 cannot be read"):
            fetch.take(1)
    # Who gives them up goes on behind them.
    (fetch, *_) = await read(brokers, topic, 5, 6)
    assert [record.offset for record in fetch] == [5]


def event(number: int, *headers: tuple[bytes, bytes]) -> RawRecord:
    names = {b"ce_specversion": b"1.0", b"ce_id": b"%d" % number, b"ce_source": b"/raw", b"ce_type": b"t"}
    return RawRecord(b"key", b"%d" % number, [*names.items(), *headers])


def produce(sandbox: Sandbox, topic: str, *batches: bytes) -> None:
    for batch in batches:
        asyncio.run(produce_batch(sandbox.brokers, topic, 0, batch))


def test_a_header_s_name_that_is_not_utf8_stops_no_partition(make_sandbox: Callable[..., Sandbox]) -> None:
    sandbox = make_sandbox(partitions=1)
    sandbox.start()
    bad = event(2, (b"caf\xe9", b"x"))
    batch = encode_batch([event(1), bad, event(3)], compression="lz4")
    produce(sandbox, sandbox.ingress, batch, encode_batch([event(4), event(1)]))
    sandbox.drain()
    log, copied = (sandbox.readback.records(topic) for topic in (sandbox.log, sandbox.copy))
    assert [record.value for record in log] == [record.value for record in copied] == [b"1", b"3", b"4"]
    (refused,) = sandbox.readback.records(f"{sandbox.name}.dlq")
    headers = dict(refused.headers)
    assert (refused.key, refused.value) == (b"key", b"2")
    assert headers["walstream-error-code"] == b"not-utf8" and headers["walstream-position"] == b"1"
    assert headers["caf\\xe9"] == b"x"

    # On the log it can only be somebody else's.
    produce(sandbox, sandbox.log, encode_batch([bad]))
    produce(sandbox, sandbox.ingress, encode_batch([event(5)]))
    sandbox.drain()
    assert sandbox.readback.records(sandbox.copy)[-1].value == b"5"
    (foreign,) = sandbox.readback.records(f"{sandbox.name}.{COPY}.dlq")
    assert dict(foreign.headers)["walstream-error-code"] == b"not-utf8"


def test_what_nobody_can_read_stops_the_worker_with_the_place(make_sandbox: Callable[..., Sandbox]) -> None:
    sandbox = make_sandbox(partitions=1)
    (router,) = sandbox.start("router")
    produce(sandbox, sandbox.ingress, encode_batch([event(1), event(2)]), spoilt(3), encode_batch([event(3)]))
    for _ in range(2):  # a restart changes nothing
        assert router.wait(60) == 1
        assert [record.value for record in sandbox.readback.records(sandbox.log)] == [b"1", b"2"]
        assert sandbox.position("router") == 2, "all before it is done, and nothing is skipped"
        router.start()
    assert router.wait(60) == 1
    output = router.output()
    assert f"Unreadable: {sandbox.ingress}-0: offsets 2 to 4 cannot be read" in output
    assert f"--group {sandbox.group('router')} --topic {sandbox.ingress}:0 --reset-offsets --to-offset 5" in output
    assert "Traceback" not in output
