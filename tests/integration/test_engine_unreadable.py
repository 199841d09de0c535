"""Records that aiokafka cannot decode, on a real Kafka, in front of real workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from aiokafka.errors import OffsetOutOfRangeError

from walstream.engine.fetch import Fetch
from walstream.engine.record_batch import DecodedRecord
from walstream.engine.reread import FETCH_SIZE, reread
from walstream.errors import Unreadable
from walstream.testing.raw_batch import CODECS, RawRecord, encode_batch, produce_batch
from walstream.testing.sandbox import COPY, Sandbox

MakeTopic = Callable[..., str]
GOOD = RawRecord(b"key", b"value", [(b"h", b"1")])
BAD = RawRecord(b"key", b"value", [(b"b\xffd", b"2")])


def spoilt(count: int) -> bytes:
    """A batch that a broker takes, since its own decompression stops in time, and no decoder of ours reads."""
    return encode_batch([GOOD] * count, compression="gzip", trailing=b"rubbish")


async def test_every_compression_is_read_again(brokers: str, make_topic: MakeTopic) -> None:
    topic = make_topic()
    for compression in CODECS:
        await produce_batch(brokers, topic, 0, encode_batch([GOOD, BAD, GOOD], compression=compression))
    end = 3 * len(CODECS)
    fetch = Fetch(topic, 0, 1, end, [], 100, epoch=7)
    (part,) = await reread({"bootstrap_servers": brokers}, fetch, "group")
    assert (part.offset, part.next_offset, part.epoch, part.is_reread) == (1, end, 7, True)
    records = part.take(100)
    assert [record.offset for record in records] == list(range(1, end)), "what was taken out does not come again"
    misnamed = [record.offset for record in records if isinstance(record, DecodedRecord) and record.misnamed]
    assert misnamed == list(range(1, end, 3))


async def test_what_is_more_than_one_answer(brokers: str, make_topic: MakeTopic) -> None:
    topic = make_topic()
    large = RawRecord(b"key", b"x" * 300_000, [(b"\xff", None)])
    count = 3 * FETCH_SIZE // 300_000
    for _ in range(count):
        await produce_batch(brokers, topic, 0, encode_batch([large]))
    (part,) = await reread({"bootstrap_servers": brokers}, Fetch(topic, 0, 0, count - 1, [], 0), "group")
    assert [record.offset for record in part] == list(range(count - 1)), "and nothing behind the fetch"


async def test_what_is_gone_meanwhile_is_an_error(brokers: str, make_topic: MakeTopic) -> None:
    topic = make_topic()
    await produce_batch(brokers, topic, 0, encode_batch([BAD]))
    with pytest.raises(OffsetOutOfRangeError):
        await reread({"bootstrap_servers": brokers}, Fetch(topic, 0, 5, 6, [], 0), "group")


async def test_what_cannot_be_read_comes_behind_all_that_can(brokers: str, make_topic: MakeTopic) -> None:
    topic = make_topic()
    for batch in (encode_batch([BAD, GOOD]), spoilt(3), encode_batch([GOOD])):
        await produce_batch(brokers, topic, 0, batch)
    before, spoils = await reread({"bootstrap_servers": brokers}, Fetch(topic, 0, 0, 6, [], 0), "group")
    assert [record.offset for record in before] == [0, 1]
    with pytest.raises(Unreadable, match=f"{topic}-0: offsets 2 to 4 cannot be read"):
        spoils.take(1)


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
