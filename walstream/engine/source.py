"""A source partition as a processor reads it: what was fetched of it and waits, and how far the work on it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from faust.types import TP

from walstream.engine.fetch import Fetch
from walstream.errors import Unreadable
from walstream.wire import Record

MOST = 2 << 20  # bytes of the fetches that records are taken of at once; a large one is worked on by itself


def _nothing(fetch: Fetch) -> None:
    """Nobody waits for room."""


class Source:
    """What waits of one source partition.

    Parameters
    ----------
    topic, partition
        Which.
    release
        Called with each fetch that is read to its end: another one may come in.

    Attributes
    ----------
    tp, topic
        The source.
    fetches
        What waits, not decoded; the first one may be read in part.
    expected
        Where the next fetch must begin.
    unfinished
        From where on what was taken is still on its way; None where all that was taken is finished.
    end
        Where the source ended when the task opened.
    """

    __slots__ = ("_back", "_release", "end", "expected", "fetches", "topic", "tp", "unfinished")

    def __init__(self, topic: str, partition: int, release: Callable[[Fetch], None] = _nothing) -> None:
        self.topic, self.tp = topic, TP(topic, partition)
        self._release = release
        self.begin(0, 0)

    def begin(self, position: int, end: int) -> None:
        """Be empty, and read from a position."""
        self.fetches: deque[Fetch] = deque()
        self._back: list[Record] = []
        self.expected, self.end = position, end
        self.unfinished: int | None = None

    def append(self, fetch: Fetch) -> None:
        """Let the next fetch wait."""
        self.expected = fetch.next_offset
        self.fetches.append(fetch)

    @property
    def waits(self) -> bool:
        """Whether there is something to take; it may come to nothing, where only gaps are left."""
        return bool(self._back or self.fetches)

    @property
    def size(self) -> int:
        """Bytes of the fetches that wait."""
        return sum(fetch.size for fetch in self.fetches)

    @property
    def position(self) -> int:
        """Up to where all is finished."""
        if self.unfinished is not None:
            return self.unfinished
        if self._back:
            return self._back[0].offset
        return self.fetches[0].position if self.fetches else self.expected

    def take(self, count: int) -> list[Record]:
        """Decode the next records, at most so many; fewer where a large fetch ends, or what follows cannot be read.

        Raises
        ------
        Unreadable
            The next one cannot be decoded. Nothing was taken.
        """
        records, self._back = self._back[:count], self._back[count:]
        size = 0
        while len(records) < count and self.fetches:
            fetch = self.fetches[0]
            if size and size + fetch.size > MOST:
                break
            size += fetch.size
            try:
                records += fetch.take(count - len(records))
            except Unreadable:
                if not records:
                    raise
                break
            if fetch.is_done:
                self._release(self.fetches.popleft())
        return records

    def put_back(self, records: list[Record]) -> None:
        """Give the last records that `take` gave back: they come again.

        Where there is a gap in front of the first one, it has been passed all the same.
        """
        self._back = [*records, *self._back]
