"""A deadline for calls, with one timer for all: `asyncio.timeout` sets one for each, which is dear for short calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Deadline:
    """Ends calls that take too long.

    Parameters
    ----------
    seconds
        How long each may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: dict[asyncio.Task[object], float] = {}  # those at work, in the order in which they are due
        self._expired: set[asyncio.Task[object]] = set()  # of these
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, call: Awaitable[T]) -> T:
        """Await a call; a task may have one at a time.

        Raises
        ------
        TimeoutError
            It took too long, and was cancelled.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        self._due[task] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._look)
        try:
            return await call
        except asyncio.CancelledError as cancelled:
            if task in self._expired and task.cancelling() <= cancelling + 1:
                raise TimeoutError(f"no answer within {self._seconds:g} s") from cancelled
            raise
        finally:
            del self._due[task]
            if task in self._expired:
                self._expired.discard(task)
                task.uncancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        for task, due in self._due.items():
            if due > loop.time():
                self._timer = loop.call_at(due, self._look)
                return
            if task not in self._expired:
                self._expired.add(task)
                task.cancel()
        self._timer = None
