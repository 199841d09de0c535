"""Deadlines: a call that takes too long ends as by `asyncio.timeout`, and nobody else notices."""

from __future__ import annotations

import asyncio

import pytest

from walstream.delivery.deadline import Deadline

FOREVER = 3600.0


async def test_a_call_in_time_gives_its_result() -> None:
    deadline = Deadline(FOREVER)
    assert await deadline.run(asyncio.sleep(0, "answer")) == "answer"


async def test_of_many_calls_those_that_take_too_long_end_each_by_itself() -> None:
    deadline = Deadline(0.05)

    async def call(seconds: float) -> str:
        try:
            return await deadline.run(asyncio.sleep(seconds, "answer"))
        except TimeoutError:
            return "too late"

    found = await asyncio.gather(*(call(seconds) for seconds in (FOREVER, 0, FOREVER)))
    assert found == ["too late", "answer", "too late"]
    assert await call(FOREVER) == "too late", "a timer is set again"


async def test_who_is_cancelled_is_so_and_not_too_late() -> None:
    deadline = Deadline(FOREVER)
    task = asyncio.create_task(deadline.run(asyncio.sleep(FOREVER)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_is_cancelled_while_it_is_too_late_is_cancelled() -> None:
    deadline = Deadline(0.01)

    async def slow_to_end() -> None:
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            task.cancel()
            raise

    task = asyncio.create_task(deadline.run(slow_to_end()))
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_call_that_answers_though_it_was_cancelled_has_answered() -> None:
    deadline = Deadline(0.01)

    async def stubborn() -> str:
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            return "answer"
        raise AssertionError("never")

    assert await deadline.run(stubborn()) == "answer"
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0
