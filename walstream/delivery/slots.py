"""Bounds what is at a target and not answered yet: calls, their records, and the bytes of these."""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """Places for calls, given in the order in which they were asked for.

    A call that is larger than a bound goes when it is alone.

    Parameters
    ----------
    calls, records, size
        How many there may be at a time; `size` in bytes.

    Attributes
    ----------
    calls, records, size
        How many there are.
    """

    def __init__(self, calls: int, records: int, size: int) -> None:
        self._most_calls, self._most_records, self._most_size = calls, records, size
        self.calls = self.records = self.size = 0
        self._waiting: deque[tuple[asyncio.Future[None], int, int]] = deque()

    @property
    def limit(self) -> int:
        """How many calls there may be; where there are more of them, none begins until enough have ended."""
        return self._most_calls

    @limit.setter
    def limit(self, calls: int) -> None:
        if calls != self._most_calls:
            self._most_calls = calls
            self._give()

    def take(self, records: int, size: int) -> bool:
        """Take a place if that needs no waiting; whether it did not."""
        if self._waiting or not self._fits(records, size):
            return False
        self._take(records, size)
        return True

    async def acquire(self, records: int, size: int) -> None:
        """Wait for a place, and take it; it is given back by `release` with the same numbers."""
        if self.take(records, size):
            return
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((given, records, size))
        try:
            await given
        except asyncio.CancelledError:
            if given.cancelled():
                self._give()  # those behind may fit where this one did not
            else:  # it was given, and the caller cancelled before it knew
                self.release(records, size)
            raise

    def release(self, records: int, size: int) -> None:
        """Give a place back, to those who wait."""
        self.calls, self.records, self.size = self.calls - 1, self.records - records, self.size - size
        if self._waiting:
            self._give()

    def _fits(self, records: int, size: int) -> bool:
        return self.calls == 0 or (
            self.calls < self._most_calls
            and self.records + records <= self._most_records
            and self.size + size <= self._most_size
        )

    def _take(self, records: int, size: int) -> None:
        self.calls, self.records, self.size = self.calls + 1, self.records + records, self.size + size

    def _give(self) -> None:
        """Give places to the first of those who wait, as long as they fit."""
        while self._waiting:
            given, records, size = self._waiting[0]
            if not given.cancelled():
                if not self._fits(records, size):
                    return
                self._take(records, size)
                given.set_result(None)
            self._waiting.popleft()
