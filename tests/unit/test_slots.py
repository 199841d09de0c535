from __future__ import annotations

import asyncio
import random

import pytest

from walstream.delivery.slots import Slots


async def settle() -> None:
    """Let everybody go on who can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_fits_is_given_at_once() -> None:
    slots = Slots(2, 100, 1_000)
    for records, size in [(60, 600), (40, 400)]:
        with pytest.raises(StopIteration):
            slots.acquire(records, size).send(None)  # it ends without having waited
    assert (slots.calls, slots.records, slots.size) == (2, 100, 1_000)
    slots.release(60, 600)
    slots.release(40, 400)
    assert (slots.calls, slots.records, slots.size) == (0, 0, 0)


@pytest.mark.parametrize(("records", "size"), [(101, 1), (1, 1_001), (500, 5_000)])
async def test_what_is_larger_than_a_bound_goes_alone(records: int, size: int) -> None:
    slots = Slots(5, 100, 1_000)
    await slots.acquire(1, 1)
    large = asyncio.create_task(slots.acquire(records, size))
    small = asyncio.create_task(slots.acquire(1, 1))
    await settle()
    assert not large.done() and not small.done()  # nobody overtakes it, so it is not starved
    slots.release(1, 1)
    await settle()
    assert large.done() and not small.done()
    slots.release(records, size)
    await settle()
    assert small.done() and slots.calls == 1


async def test_the_bound_of_calls_changes() -> None:
    slots = Slots(1, 100, 1_000)
    tasks = [asyncio.create_task(slots.acquire(1, 1)) for _ in range(5)]
    await settle()
    assert slots.calls == 1
    slots.limit = 3
    await settle()
    assert slots.calls == 3
    slots.limit = 2
    slots.release(1, 1)
    await settle()
    assert slots.calls == 2
    slots.release(1, 1)
    await settle()
    assert slots.calls == 2 and [task.done() for task in tasks] == [True] * 4 + [False]
    tasks[4].cancel()


async def test_behind_one_that_gives_up_the_next_fits() -> None:
    slots = Slots(5, 100, 1_000)
    await slots.acquire(60, 1)
    large = asyncio.create_task(slots.acquire(80, 1))
    small = asyncio.create_task(slots.acquire(40, 1))
    await settle()
    assert not small.done()
    large.cancel()
    await settle()
    assert small.done() and slots.records == 100


async def test_a_place_given_to_one_that_is_cancelled_at_the_same_time_is_not_lost() -> None:
    slots = Slots(1, 100, 1_000)
    await slots.acquire(1, 1)
    first, second = (asyncio.create_task(slots.acquire(1, 1)) for _ in range(2))
    await settle()
    slots.release(1, 1)  # the first is given it
    first.cancel()  # before it has run
    await settle()
    assert first.cancelled() and second.done() and slots.calls == 1


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_happens_bounds_hold_and_everybody_gets_a_place_in_turn(seed: int) -> None:
    draw = random.Random(seed)
    most_calls, most_records, most_size = 3, 50, 500
    slots = Slots(most_calls, most_records, most_size)
    granted: list[int] = []
    holding: dict[int, tuple[int, int]] = {}
    waiting: dict[int, asyncio.Task[None]] = {}

    async def call(number: int, records: int, size: int) -> None:
        await slots.acquire(records, size)
        granted.append(number)
        del waiting[number]
        holding[number] = records, size

    highest = most_calls  # lowered, the bound ends no call
    cancelled = set()
    for number in range(300):
        match draw.choice(["ask", "ask", "release", "cancel", "limit", "settle"]):
            case "ask":
                words = number, draw.randint(1, 60), draw.randint(1, 600)
                waiting[number] = asyncio.create_task(call(*words))
                await settle()  # so that it has asked, before a place is given to another one that has yet to wake up
            case "release" if holding:
                slots.release(*holding.pop(draw.choice(list(holding))))
            case "cancel" if waiting:
                one = draw.choice(list(waiting))
                waiting.pop(one).cancel()
                cancelled.add(one)
            case "limit":
                most_calls = draw.randint(1, 5)
                highest = max(highest, most_calls)
                slots.limit = most_calls
            case _:
                await settle()
        assert slots.calls <= highest
        assert slots.calls == 1 or (slots.records <= most_records and slots.size <= most_size)
    await settle()
    while holding:
        slots.release(*holding.popitem()[1])
        await settle()
    assert not waiting  # when all have left, nobody still waits
    assert granted == sorted(granted)
    assert not cancelled & set(granted) and len(granted) > 20
    assert (slots.calls, slots.records, slots.size) == (0, 0, 0)
