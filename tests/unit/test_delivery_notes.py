"""What somebody notes who fills a target: its partition keeps it, over crashes, as marks that commands read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from walstream import control, marks
from walstream.control import Control, Kind
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
