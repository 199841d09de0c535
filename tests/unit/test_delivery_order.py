"""What cannot be delivered yet, and what follows it: retries, parked followers, ages and attempts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson
import pytest

from walstream.blocked import State
from walstream.headers import log_headers
from walstream.record import Message
from walstream.sinks.base import APPLIED, SKIPPED, Retry
from walstream.testing.delivering import Busy, DeliveryPartition, log_position

Make = Callable[..., Awaitable[DeliveryPartition]]

BUSY = Retry("busy")
SECOND = {"initial": "1s", "multiplier": 1, "max": "1s"}
"""A retry's wait is a random part of a second."""


@pytest.fixture(params=[False, True], ids=["goes on behind", "stops behind"])
def stops(request: pytest.FixtureRequest) -> bool:
    """Sinks write a batch at once, or stop behind the first entry of a key that fails."""
    return bool(request.param)


async def test_what_is_to_be_tried_again_is_finished_by_standing_in_the_retry_topic(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    first, second = one.write(b"a"), one.write(b"b")
    one.sink.answers[first] = [BUSY]
    await one.work()
    assert one.committed[one.log_topic] == second + 1
    (record,) = one.topics[one.retry_topic]
    assert (log_position(record), record.header("walstream-error")) == (first, b"busy")
    assert (record.header("walstream-attempt"), record.key) == (b"1", b"a")
    await one.settle()
    assert one.waits == {"schedule": [first]}
    await one.until_done()
    assert one.sink.applied == [second, first]
    assert one.now - one.topics[one.retry_topic][0].timestamp * 1000 < 1_001_000, "within the first wait"


async def test_followers_wait_and_leave_in_order_and_other_keys_do_not_notice(
    make_partition: Make, stops: bool
) -> None:
    one = await make_partition(retry=SECOND)
    one.sink.stops = stops
    head, other, *followers = one.write(b"a"), one.write(b"b"), one.write(b"a"), one.write(b"a")
    one.sink.answers[head] = [BUSY, BUSY]
    await one.settle()
    late, last = one.write(b"a"), one.write(b"b")
    await one.settle()
    assert one.sink.applied[-1] == last and other in one.sink.applied
    assert one.parked == {b"a": [*followers, late]}
    row = one.blocked[b"a"]
    assert (row.state, row.head, row.tail, row.count) == (State.RETRYING, head, late, 3)
    tries = dict(one.sink.tries)
    await one.until_done()
    of_the_key = [position for position in one.sink.applied if position not in (other, last)]
    assert of_the_key[-4:] == [head, *followers, late]
    assert one.sink.tries[late] == 1 and one.sink.tries[head] == tries[head] + 2
    assert (one.blocked, one.parked, one.rows("blocked"), one.rows("parked")) == ({}, {}, {}, {})


async def test_a_follower_that_fails_holds_those_behind_it_in_turn(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    one.sink.stops = True
    first, second, third = one.write(), one.write(), one.write()
    one.sink.answers = {first: [BUSY], second: [BUSY, BUSY], third: [BUSY]}
    await one.until_done()
    assert one.sink.applied == [first, second, third]
    assert one.sink.tries == {first: 2, second: 3, third: 2}
    assert one.dead == {}


async def test_what_comes_while_followers_leave_goes_behind_them(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND, fetch=1)
    head = one.write()
    one.sink.answers[head] = [BUSY]
    followers = [one.write() for _ in range(5)]
    await one.settle()
    one.now += one.wait or 0
    late = one.write()
    while one.waits:
        await one.work(rounds=1)
        one.now += one.wait or 0
    assert one.sink.applied == [head, *followers, late]


async def test_a_long_run_of_followers_goes_out_in_large_calls(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    one.sink.stops = True
    head = one.write()
    one.sink.answers[head] = [BUSY]
    followers = [one.write() for _ in range(1_500)]
    await one.settle()
    other = one.write(b"b")
    await one.until_done()
    assert [position for position in one.sink.applied if position != other] == [head, *followers]
    assert max(map(len, one.sink.calls)) <= 500
    assert len(one.sink.calls) <= 12


async def test_without_order_nobody_waits(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND, ordering="none")
    head, follower = one.write(), one.write()
    one.sink.answers[head] = [BUSY]
    await one.settle()
    assert (one.sink.applied, one.parked, one.blocked) == ([follower], {}, {})
    await one.until_done()
    assert one.sink.applied == [follower, head]


async def test_records_without_a_key_have_no_followers(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    head, follower = one.write(None), one.write(None)
    one.sink.answers[head] = [BUSY]
    await one.settle()
    assert (one.sink.applied, one.parked, one.blocked) == ([follower], {}, {})
    await one.until_done()
    assert one.sink.applied == [follower, head]


async def test_an_empty_key_is_a_key(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    head = one.write(b"")
    one.sink.answers[head] = [BUSY]
    await one.settle()
    follower = one.write(b"")
    await one.settle()
    assert (one.sink.applied, one.parked) == ([], {b"": [follower]})
    await one.until_done()
    assert one.sink.applied == [head, follower]


async def test_a_partition_key_is_a_key(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    head = one.write(None, extensions={"partitionkey": "a"})
    one.sink.answers[head] = [BUSY]
    await one.settle()
    follower, other = (one.write(None, extensions={"partitionkey": name}) for name in ("a", "b"))
    await one.settle()
    assert one.sink.applied == [other] and one.blocked.keys() == {b"a"}
    await one.until_done()
    assert one.sink.applied == [other, head, follower]


async def test_followers_for_other_targets_are_left_out(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    head = one.write()
    one.sink.answers[head] = [BUSY]
    one.write(targets=["other"])
    follower = one.write(targets=["base"])
    await one.settle()
    assert one.parked == {b"k": [follower]}
    await one.until_done()
    assert one.sink.applied[-2:] == [head, follower]


async def test_skipped_is_as_good_as_applied(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    head, follower = one.write(), one.write()
    one.sink.answers[head] = [BUSY, SKIPPED]
    await one.until_done()
    assert one.sink.applied[-1] == follower and one.dead == {}


async def test_calls_of_one_key_follow_each_other(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    one.sink.batch_size = 2
    one.sink.stops = True
    positions = [one.write() for _ in range(7)]
    other = one.write(b"b")
    one.sink.answers[positions[2]] = [BUSY]
    await one.settle()
    assert [call for call in one.sink.calls if other not in call] == [positions[:2], positions[2:4]]
    assert one.parked == {b"k": positions[3:]} and max(map(len, one.sink.calls)) <= 2
    await one.until_done()
    assert [position for position in one.sink.applied if position != other] == positions


async def test_an_exception_that_says_retry_is_one_answer_for_the_call(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    positions = [one.write(b"a"), one.write(b"b"), one.write(b"a")]
    one.sink.whole = [Busy("not now")]
    await one.settle()
    assert sorted(one.retrying) == positions[:2] and one.parked == {b"a": positions[2:]}
    await one.until_done()
    assert sorted(one.sink.applied) == positions


# ----------------------------------------------------------------------------------------------- attempts and age


async def test_after_so_many_attempts_it_is_dead_with_the_first_error_and_the_last(make_partition: Make) -> None:
    one = await make_partition(retry={**SECOND, "attempts": 3})
    head, follower = one.write(), one.write()
    one.sink.stops = True
    one.sink.answers[head] = [Retry("too early"), Retry("busy"), Retry("still busy"), APPLIED]
    await one.until_done()
    assert (one.sink.tries[head], one.sink.applied) == (3, [follower])
    (letter,) = one.topics[one.dlq_topic]
    assert letter.header("walstream-error-first") == b"too early"
    assert b"still busy" in (letter.header("walstream-error") or b"")
    assert letter.header("walstream-attempt") == b"3"
    assert int(letter.header("walstream-age") or b"") <= 2_000


async def test_with_one_attempt_nothing_is_tried_again(make_partition: Make) -> None:
    one = await make_partition(retry={**SECOND, "attempts": 1})
    head, follower = one.write(), one.write()
    one.sink.answers[head] = [BUSY]
    one.sink.stops = True
    await one.until_done()
    assert (one.sink.applied, one.topics[one.retry_topic], list(one.dead)) == ([follower], [], [head])


async def test_what_is_too_old_is_dead(make_partition: Make) -> None:
    one = await make_partition(retry={"attempts": 1_000, "age": "1m", "initial": "10s", "max": "10s"})
    position = one.write()
    one.sink.script = lambda entry, attempt: BUSY
    began = one.now
    await one.until_done()
    assert list(one.dead) == [position]
    assert one.now - began == 60_000_000, "the last wait is cut to the age that is left"
    (letter,) = one.topics[one.dlq_topic]
    assert letter.header("walstream-age") == b"60000"


async def test_what_the_target_asks_for_is_waited_for(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    position = one.write()
    one.sink.answers[position] = [Retry("busy", after=90.0)]
    began = one.now
    await one.until_done()
    assert one.now - began == 90_000_000


async def test_an_outage_ages_nothing_and_counts_as_no_attempt(make_partition: Make) -> None:
    one = await make_partition(retry={**SECOND, "attempts": 3, "age": "1m"})
    position = one.write()
    one.sink.answers[position] = [BUSY, BUSY, APPLIED]
    await one.settle()
    one.sink.down = True
    await one.later(3_600)
    one.sink.down = False
    await one.until_done()
    assert (one.sink.applied, one.dead, one.sink.tries[position]) == ([position], {}, 3)


async def test_a_worker_that_was_stopped_for_long_ages_nothing(make_partition: Make) -> None:
    one = await make_partition(retry={**SECOND, "age": "1m"})
    position = one.write()
    one.sink.answers[position] = [BUSY, BUSY]
    await one.settle()
    await one.stop()
    one.now += 3_600_000_000
    await one.open()
    await one.until_done()
    assert (one.sink.applied, one.dead) == ([position], {})


# -------------------------------------------------------------------------------------------------------- expired


async def test_what_expires_while_it_waits_is_neither_tried_nor_dead(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    head = one.write(expiry=one.now + 100_000)
    follower = one.write()
    one.sink.stops = True
    one.sink.script = lambda entry, attempt: APPLIED if entry.position != head else Retry("busy", after=0.9)
    await one.until_done()
    assert (one.sink.tries, one.sink.applied, one.dead) == ({head: 1, follower: 1}, [follower], {})
    assert one.counted("expired") == 1


async def test_a_follower_that_expires_while_it_waits_is_left_out(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    head, follower, last = one.write(), one.write(expiry=one.now + 100_000), one.write()
    one.sink.stops = True
    one.sink.answers[head] = [Retry("busy", after=0.9)]
    await one.until_done()
    assert (one.sink.applied, one.sink.tries, one.dead) == ([head, last], {head: 2, last: 1}, {})
    assert follower in one.positions and one.counted("expired") == 1


async def test_what_was_not_tried_yet_is_tried_whatever_its_expiry(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    position = one.write(expiry=one.now - 1)
    await one.settle()
    assert one.sink.applied == [position], "it was in time for the log"


# ------------------------------------------------------------------------------------------------- crashes between


@pytest.mark.parametrize("step", range(6))
async def test_a_crash_at_any_checkpoint_keeps_the_order(make_partition: Make, step: int) -> None:
    one = await make_partition(retry=SECOND, fetch=2)
    one.sink.stops = True
    positions = [one.write() for _ in range(4)]
    one.sink.script = lambda entry, attempt: BUSY if entry.position % 2 == 0 and attempt == 1 else APPLIED
    for number in range(40):
        await one.work(rounds=1, commit=number != step)
        if number == step:
            await one.crash()
        if not one.waits:
            break
        one.now += one.wait or 0
    await one.until_done()
    assert list(dict.fromkeys(reversed(one.sink.applied))) == positions[::-1], one.sink.applied
    assert one.rows("blocked") == one.rows("parked") == {}


async def test_what_stands_in_the_retry_topic_blocks_its_key_after_a_crash(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    head = one.write()
    one.sink.answers[head] = [BUSY]
    await one.work()
    assert one.unread == [head] and one.retrying == []
    await one.crash()
    follower = one.write()
    await one.settle()
    assert (one.sink.applied, one.parked) == ([], {b"k": [follower]})
    await one.until_done()
    assert one.sink.applied == [head, follower]


async def test_a_log_that_is_read_again_parks_nothing_twice(make_partition: Make) -> None:
    """Somebody set the group's offset back, while the tables are what they are."""
    one = await make_partition(retry=SECOND)
    one.sink.stops = True
    head, *followers = one.write(), one.write(), one.write()
    one.sink.answers[head] = [BUSY]
    await one.settle()
    one.committed[one.log_topic] = head
    await one.crash()
    await one.settle()
    assert (one.parked, one.retrying, one.blocked[b"k"].count) == ({b"k": followers}, [head], 2)
    await one.until_done()
    assert one.sink.applied == [head, *followers]


async def test_what_the_target_said_does_not_hide_a_partition_key(make_partition: Make) -> None:
    """In structured mode it stands in the value; the error, in a header, names an attribute of binary mode."""
    one = await make_partition(retry=SECOND)
    event = {"specversion": "1.0", "source": "s", "type": "t", "partitionkey": "p", "data": "x"}
    announced = ("content-type", b"application/cloudevents+json")
    for number in range(2):
        headers = log_headers([announced], time_us=10 + number, position=number, timestamp_ms=1)
        one.say(Message(None, orjson.dumps(event | {"id": str(number)}), headers), one.log_topic)
    one.sink.stops = True
    one.sink.answers[0] = [Retry("ce_specversion is too old")]
    await one.settle()
    assert one.blocked.keys() == {b"p"}
    await one.until_done()
    assert one.sink.applied[-2:] == [0, 1] and one.blocked == {}
