"""Stretches of the log that are on their way to the target at the same time, and end in their order.

A target far away takes its time to answer, however little it has to do. What comes meanwhile need not wait for that: it
follows before, as long as none of its keys is on its way. Only what is in front may end; where it is not finished, all
behind it comes again with it, and what became of that does not count.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from walstream.blocked import Blocked
from walstream.delivery.order import order_key
from walstream.delivery.settlement import Item
from walstream.entry import Entry
from walstream.errors import RecordRefused
from walstream.sinks.base import Outcome
from walstream.wire import Record as KafkaRecord

MOST = 4  # stretches
BYTES = 1 << 20  # of records, with which none follows: they are read ahead beside what waits


@dataclass(slots=True, eq=False)
class Stretch:
    """Records of the log that were taken at once.

    Parameters
    ----------
    records
        All of them.
    items
        Those that are attempted.
    refused
        Those that cannot be read, and why.
    behind
        Those whose key waits, and its row.
    """

    records: list[KafkaRecord]
    items: list[Item]
    refused: list[tuple[KafkaRecord, RecordRefused]]
    behind: list[tuple[Blocked, Entry]]

    @property
    def size(self) -> int:
        """Bytes of what is attempted."""
        return sum(item.entry.size for item in self.items)


Outcomes = Sequence[Outcome | None]


class Underway:
    """What is on its way, of one partition.

    Parameters
    ----------
    ordered
        Whether what has one key must follow each other.
    gap
        Seconds from one to the next, at least: what comes meanwhile goes with that one.

    Attributes
    ----------
    keys
        Those that nothing else may have now.
    """

    def __init__(self, ordered: bool, gap: float) -> None:
        self._ordered, self._gap = ordered, gap
        self._next_at = 0.0  # by the loop's clock
        self._stretches: deque[tuple[Stretch, asyncio.Task[Outcomes]]] = deque()
        self._is_closed = False
        self._size = 0  # bytes
        self.keys: set[bytes] = set()

    def __bool__(self) -> bool:
        return bool(self._stretches)

    @property
    def has_room(self) -> bool:
        """Whether another stretch may follow."""
        if not self._stretches:
            return True
        if self._is_closed or len(self._stretches) >= MOST or self._size >= BYTES:
            return False
        return asyncio.get_running_loop().time() >= self._next_at

    def close(self) -> None:
        """Let nothing follow until the first one has ended: what would be next has to wait for one of these."""
        self._is_closed = True

    @property
    def first_offset(self) -> int | None:
        """Where the first one begins."""
        return self._stretches[0][0].records[0].offset if self._stretches else None

    @property
    def is_answered(self) -> bool:
        """Whether the first one is."""
        return bool(self._stretches) and self._stretches[0][1].done()

    def start(self, stretch: Stretch, attempt: Coroutine[Any, Any, Outcomes], news: asyncio.Event) -> None:
        """Send a stretch; the event is set when it is answered, and when the next one may follow."""
        task = asyncio.create_task(attempt)
        task.add_done_callback(lambda _: news.set())
        loop = asyncio.get_running_loop()
        self._next_at = loop.time() + self._gap
        loop.call_at(self._next_at, news.set)
        self._stretches.append((stretch, task))
        self._size += stretch.size
        if self._ordered:
            self.keys |= _keys(stretch)

    async def end(self) -> tuple[Stretch, Outcomes]:
        """Wait for the first one, and let go of it.

        Raises
        ------
        Exception
            What its attempt raised.
        """
        stretch, task = self._stretches[0]
        await asyncio.wait([task])
        self._stretches.popleft()
        self._size -= stretch.size
        self._is_closed = False
        if self._ordered:
            self.keys -= _keys(stretch)
        return stretch, task.result()

    async def recall(self) -> list[KafkaRecord]:
        """Wait for all, and give back their records, whatever became of them."""
        records: list[KafkaRecord] = []
        while self._stretches:
            stretch, _ = await self.end()
            records += stretch.records
        return records

    async def give_up(self) -> None:
        """End all of it, without knowing how."""
        tasks = [task for _, task in self._stretches]
        self._stretches.clear()
        self._size, self.keys = 0, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _keys(stretch: Stretch) -> set[bytes]:
    return {key for item in stretch.items if (key := order_key(item.entry)) is not None}
