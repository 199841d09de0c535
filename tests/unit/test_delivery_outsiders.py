"""What others wrote into the log and the retry topic, and what newer releases did."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from walstream.errors import StateMismatch
from walstream.headers import CONTROL_HEADER, VERSION, log_headers
from walstream.record import Message, encode
from walstream.sinks.base import APPLIED, Retry
from walstream.testing.delivering import DeliveryPartition

Make = Callable[..., Awaitable[DeliveryPartition]]
SECOND = {"initial": "1s", "multiplier": 1, "max": "1s"}


async def test_what_walstream_did_not_write_into_the_log_is_put_aside(make_partition: Make) -> None:
    one = await make_partition()
    first = one.write()
    one.say(Message(b"k", b"v", [("a", b"b")]), one.log_topic)
    last = one.write()
    await one.until_done()
    assert one.sink.applied == [first, last]
    (letter,) = one.topics[one.dlq_topic]
    assert (letter.key, letter.value, letter.headers[-1]) == (b"k", b"v", ("a", b"b"))
    assert letter.header("walstream-error-code") == b"not-an-entry"


@pytest.mark.parametrize("key", [b"k", None])
async def test_an_entry_that_is_no_cloudevent_stops_nobody(make_partition: Make, key: bytes | None) -> None:
    one = await make_partition(retry=SECOND)
    headers = log_headers([("a", b"b")], time_us=1, position=1, timestamp_ms=1)
    one.say(Message(key, b"v", headers), one.log_topic)
    position = one.write()
    await one.until_done()
    assert one.sink.applied == [position] and len(one.topics[one.dlq_topic]) == 1


async def test_a_retry_that_is_no_cloudevent_stops_nobody(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    position = one.write()
    one.sink.answers[position] = [Retry("busy")]
    await one.work()
    record = one.topics[one.retry_topic][0]
    record.headers = [header for header in record.headers if not header[0].startswith("ce_")]
    record.key = None
    other = one.write(b"other")
    await one.until_done()
    assert one.sink.applied == [other, position], "the sink says what becomes of it"


@pytest.mark.parametrize(
    "message",
    [
        Message(b"k", b"v", [("a", b"b")]),
        Message(None, None, []),
        Message(b"k", b"v", [VERSION, ("walstream-attempt", b"x")]),
        Message(b"k", b"v", [(CONTROL_HEADER, b"nonsense"), VERSION]),
        Message(b"k", b"v", [(CONTROL_HEADER, None)]),
        Message(b"k", b"v", [(CONTROL_HEADER, b"quarantine"), VERSION]),
        Message(b"k", b"v", [(CONTROL_HEADER, b"redrive"), VERSION]),
        Message(b"k", b"v", [(CONTROL_HEADER, b"redrive"), VERSION, ("walstream-log-position", b"0")]),
    ],
)
async def test_what_walstream_did_not_write_into_the_retry_topic_is_put_aside(
    make_partition: Make, message: Message
) -> None:
    one = await make_partition()
    one.say(message)
    position = one.write()
    await one.until_done()
    assert one.sink.applied == [position]
    (letter,) = one.topics[one.dlq_topic]
    assert (letter.key, letter.value) == (message.key, message.value)
    assert letter.header("walstream-error") and one.rows("schedule").keys() <= {b"\x00"}


async def test_what_was_put_aside_does_not_count_as_dead(make_partition: Make) -> None:
    one = await make_partition()
    one.say(Message(b"k", b"v", []), one.log_topic)
    one.say(Message(b"k", b"v", []))
    await one.until_done()
    assert len(one.topics[one.dlq_topic]) == 2 and one.dead == {}


async def test_a_plain_cloudevent_in_the_retry_topic_is_put_aside(make_partition: Make) -> None:
    one = await make_partition()
    one.say(encode(b"v", key=b"k", id="1", source="s", type="t", time=None))
    await one.until_done()
    assert one.sink.applied == [] and len(one.topics[one.dlq_topic]) == 1


@pytest.mark.parametrize("topic", ["log", "retry"])
async def test_what_a_newer_release_wrote_stops_the_worker(make_partition: Make, topic: str) -> None:
    one = await make_partition(retry=SECOND)
    position = one.write()
    one.sink.answers[position] = [Retry("busy")]
    if topic == "retry":
        await one.work()
    record = one.topics[one.log_topic if topic == "log" else one.retry_topic][0]
    record.headers = [(name, b"2" if name == "walstream-version" else text) for name, text in record.headers]
    with pytest.raises(StateMismatch):
        await one.settle()


async def test_a_newer_control_stops_the_worker(make_partition: Make) -> None:
    one = await make_partition()
    one.say(Message(None, None, [(CONTROL_HEADER, b"explain"), ("walstream-version", b"2")]))
    with pytest.raises(StateMismatch):
        await one.settle()


async def test_a_retry_that_comes_twice_is_a_record_that_comes_twice(make_partition: Make) -> None:
    """Somebody copied a record of the retry topic: no key waits for ever by it, and nothing is lost."""
    one = await make_partition(retry=SECOND)
    head = one.write()
    one.sink.answers[head] = [Retry("busy")]
    await one.settle()
    record = one.topics[one.retry_topic][0]
    one.say(Message(record.key, record.value, record.headers))
    follower = one.write()
    await one.until_done()
    assert one.sink.applied[-1] == follower or set(one.sink.applied) == {head, follower}
    assert one.blocked == {} and one.dead == {}


async def test_a_retry_that_comes_twice_and_has_no_followers_ends_nobody(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    head = one.write()
    one.sink.answers[head] = [Retry("busy")]
    await one.settle()
    record = one.topics[one.retry_topic][0]
    one.say(Message(record.key, record.value, record.headers))
    await one.until_done()
    assert set(one.sink.applied) == {head} and one.blocked == {}


async def test_a_key_whose_retry_came_twice_is_blocked_by_neither_when_one_is_done(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    head = one.write()
    one.sink.answers[head] = [Retry("busy"), APPLIED, Retry("busy", after=60.0)]
    await one.settle()
    record = one.topics[one.retry_topic][0]
    one.say(Message(record.key, record.value, record.headers))
    await one.later(1.5)
    await one.crash()
    assert one.blocked == {}
    follower = one.write()
    await one.settle()
    assert one.sink.applied == [head, follower]
    await one.until_done()


BLOCK = {
    "walstream-version": b"1",
    "walstream-time": b"10",
    "walstream-position": b"1",
    "walstream-timestamp": b"1",
    "walstream-log-position": b"0",
    "walstream-attempt": b"1",
    "walstream-due": b"5",
    "walstream-when": b"1",
}
HUGE = [b"-%d" % ((1 << 63) + 1), b"%d" % (1 << 63), b"9" * 40]


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("name", ["due", "log-position", "timestamp", "time", "position", "attempt", "when", "age"])
async def test_a_retry_with_a_number_that_is_none_of_ours_is_put_aside(
    make_partition: Make, name: str, number: bytes
) -> None:
    one = await make_partition()
    event = encode(b"v", key=b"k", id="1", source="s", type="t", time=None)
    one.say(Message(b"k", b"v", [*(BLOCK | {f"walstream-{name}": number}).items(), *event.headers]))
    position = one.write()
    await one.until_done()
    assert one.sink.applied == [position] and len(one.topics[one.dlq_topic]) == 1


@pytest.mark.parametrize("number", [b"-1", *HUGE])
@pytest.mark.parametrize("kind", [b"quarantine", b"drop", b"redrive"])
async def test_a_control_about_no_position_that_there_can_be_is_put_aside(
    make_partition: Make, kind: bytes, number: bytes
) -> None:
    one = await make_partition()
    one.say(Message(b"k", b"v", [(CONTROL_HEADER, kind), VERSION, ("walstream-log-position", number)]))
    position = one.write()
    await one.until_done()
    assert one.sink.applied == [position] and len(one.topics[one.dlq_topic]) == 1
