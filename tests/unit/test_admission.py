"""Records from outside the log at a sink that must be given the same again in the same order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from walstream.delivery import admission
from walstream.indexes.records import Shape
from walstream.sinks.base import Retry, SinkContext
from walstream.testing.delivering import DeliveryPartition, ScriptedSink

Make = Callable[..., Awaitable[DeliveryPartition]]
SECOND = {"initial": "1s", "multiplier": 1, "max": "1s"}
OUTSIDE = -1


class InOrder(ScriptedSink):
    replays_in_order = True


@pytest.fixture
def sink() -> InOrder:
    return InOrder(SinkContext("flights", "base", None))


def say(one: DeliveryPartition, key: bytes = b"k", value: bytes = b"outside") -> None:
    one.say(Shape("flights.base", "t").message(key, value, one.now, value))


async def test_they_are_attempted_when_their_place_is_committed_and_nothing_else_before(
    make_partition: Make, sink: InOrder
) -> None:
    one = await make_partition(sink=sink)
    before = one.write()
    say(one)
    await one.work(ahead=True)
    assert sink.applied == [before], "the log goes on while they are admitted"
    after = one.write()
    await one.work(ahead=True)  # begun before the first checkpoint was committed
    assert sink.applied == [before]
    await one.settle()
    assert sink.applied == [before, OUTSIDE, after]
    assert one.rows("schedule").keys() <= {b"\x00"}


async def test_who_opens_the_partition_finds_them_admitted(make_partition: Make, sink: InOrder) -> None:
    one = await make_partition(sink=sink)
    say(one)
    await one.work()
    after = one.write()
    await one.work(commit=False)
    assert sink.applied == [OUTSIDE, after]
    await one.crash()
    say(one, value=b"another")
    await one.settle()
    assert sink.applied[2:] == [OUTSIDE, after, OUTSIDE]
    assert [entry.value for entry in sink.entries][2:] == [b"outside", b"v%d" % after, b"another"]


async def test_what_was_read_of_the_log_before_they_were_committed_may_come_first_again(
    make_partition: Make, sink: InOrder
) -> None:
    one = await make_partition(sink=sink)
    position = one.write()
    say(one)
    await one.work(commit=False)
    await one.crash()
    await one.settle()
    assert sink.applied == [position, position, OUTSIDE]


async def test_the_log_is_not_worked_on_far_ahead_of_what_is_committed(
    make_partition: Make, sink: InOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "LEAD", 4)
    one = await make_partition(sink=sink)
    positions = [one.write(gap=number % 3) for number in range(8)]
    await one.work(commit=False)
    assert sink.applied == [position for position in positions if position < 4]
    await one.crash()
    say(one)
    sink.applied.clear()
    await one.work()
    assert sink.applied == [position for position in positions if position < 4]
    await one.settle()
    assert sorted(sink.applied) == [OUTSIDE, *positions]
    assert sink.applied.index(OUTSIDE) >= len([position for position in positions if position < 4])


async def test_one_that_is_to_be_tried_again_blocks_its_key(make_partition: Make, sink: InOrder) -> None:
    one = await make_partition(sink=sink, retry=SECOND)
    say(one)
    sink.answers[OUTSIDE] = [Retry("busy"), Retry("busy")]
    await one.settle()
    behind, other = one.write(), one.write(b"other")
    await one.settle()
    say(one, value=b"another")
    await one.settle()
    assert sink.applied == [other] and one.parked == {b"k": [behind]}
    await one.until_done()
    assert sink.applied == [other, OUTSIDE, behind, OUTSIDE]
    assert [entry.value for entry in sink.entries][-1] == b"another" and not one.blocked


async def test_a_dead_one_holds_no_key(make_partition: Make, sink: InOrder) -> None:
    """Nobody could release it: it has no log position that a redrive would name."""
    one = await make_partition(sink=sink, on_dead="hold", retry={**SECOND, "attempts": 2})
    say(one)
    sink.answers[OUTSIDE] = [Retry("busy"), Retry("busy")]
    await one.settle()
    behind = one.write()
    await one.until_done()
    assert sink.applied == [behind] and not one.blocked and len(one.buried) == 1


async def test_they_wait_for_a_target_that_is_down_and_people_are_heard(make_partition: Make, sink: InOrder) -> None:
    one = await make_partition(sink=sink)
    sink.down = True
    for number in range(30):
        say(one, value=b"%d" % number)
    await one.later(5)
    late = one.write()
    say(one, value=b"late")
    await one.later(5)
    assert not sink.applied and not one.unread
    sink.down = False
    await one.until_done()
    assert sink.applied == [OUTSIDE] * 30 + [late, OUTSIDE]
    assert [entry.value for entry in sink.entries][-32:-2] == [b"%d" % number for number in range(30)]


async def test_other_sinks_are_given_them_at_once(make_partition: Make) -> None:
    one = await make_partition()
    position = one.write()
    say(one)
    await one.work(rounds=1, commit=False)
    assert one.sink.applied == [OUTSIDE, position]
