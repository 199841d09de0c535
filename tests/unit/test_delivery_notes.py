"""What somebody notes who fills a target: its partition keeps it, over crashes, as marks that commands read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from walstream import control, marks
from walstream.control import Control, Kind
from walstream.indexes.records import Shape
from walstream.marks import Noted
from walstream.testing.delivering import DeliveryPartition

Make = Callable[..., Awaitable[DeliveryPartition]]


def noted(one: DeliveryPartition, name: bytes) -> str | None:
    row = one.rows("marks").get(name)
    return None if row is None else marks.decode(Noted, row).said


async def test_the_last_note_stands(make_partition: Make) -> None:
    one = await make_partition()
    assert noted(one, marks.NOTE) is None
    for said in ("a tenth", "half"):
        one.say(control.encode(Control(Kind.NOTE, reason=said)))
    await one.settle()
    assert noted(one, marks.NOTE) == "half"
    await one.crash()
    assert noted(one, marks.NOTE) == "half" and noted(one, marks.READY) is None


async def test_that_it_is_ready_is_known_when_all_in_front_was_taken(make_partition: Make) -> None:
    one = await make_partition()
    one.say(control.encode(Control(Kind.PAUSE)))
    one.say(control.encode(Control(Kind.READY, reason="all")))
    await one.settle()
    assert noted(one, marks.READY) == "all", "also while it is paused: what stood in front is in the schedule"


async def test_at_a_bounded_rate_what_comes_from_outside_waits_where_it_is(make_partition: Make) -> None:
    one = await make_partition(limits={"rate": "8000/s"})  # of which each partition has its share
    shape = Shape("flights.base", "walstream.mutation")
    count = 3_000
    for number in range(count):
        one.say(shape.message(b"k%d" % number, b"{}", number, b"%d" % number))
    one.say(control.encode(Control(Kind.READY, reason="all")))
    waited = 0
    while noted(one, marks.READY) is None:
        await one.work()
        waited = max(waited, len(one.rows("schedule")) - 1)
        await one.later(0.1)
    await one.until_done()
    assert len(one.sink.entries) == count and waited <= 0
    assert [entry.time for entry in one.sink.entries] == list(range(count)), "they are in their order"
