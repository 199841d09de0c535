"""Reads a table page by page, by ranges of tokens, several at the same time.

Rows come as bytes, as the server sent them. What is held is a page of each range that is being read.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cassandra import InvalidRequest, OperationTimedOut, ReadFailure, ReadTimeout, Unauthorized, Unavailable
from cassandra.cluster import NoHostAvailable
from cassandra.connection import ConnectionBusy, ConnectionException, ConnectionShutdown
from cassandra.protocol import IsBootstrappingErrorMessage, OverloadedErrorMessage

from walstream.errors import SinkError
from walstream.indexes.index import Index
from walstream.sinks.cassandra import schema

LEAST, MOST = -(2**63), 2**63 - 1
"""The tokens of Murmur3, which Cassandra spreads partitions by: the first is no partition's."""

RING = MOST - LEAST

AT_ONCE = 6
"""Ranges that are read at a time. One node is busy with some; the others wait while a page is worked on."""

PAGE, SMALLEST = 5_000, 50
"""Rows of a page; where the server has not enough time for so many, half of them, and again."""

RANGES = 256
"""Into how many ranges a whole table is split: a resumed scan begins at one of them."""

TRIES = 8
"""How often a page is asked for before it is given up."""

TRANSIENT = (
    OperationTimedOut, ReadTimeout, ReadFailure, Unavailable, NoHostAvailable, ConnectionException, ConnectionBusy,
    ConnectionShutdown, OverloadedErrorMessage, IsBootstrappingErrorMessage,
)  # fmt: skip

Row = tuple[bytes | None, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """Tokens above one, up to another which is included."""

    after: int
    upto: int

    @property
    def share(self) -> float:
        """Of all tokens."""
        return (self.upto - self.after) / RING

    def split(self, parts: int) -> list[Range]:
        """The same as so many ranges, in order; fewer where it is too narrow."""
        parts = max(1, min(parts, self.upto - self.after))
        ends = [self.after + (self.upto - self.after) * n // parts for n in range(parts + 1)]
        return [Range(*pair) for pair in pairwise(ends)]


WHOLE = Range(LEAST, MOST)


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a range.

    Parameters
    ----------
    number
        The range's place among those that were asked for.
    is_last
        Whether these are its last.
    """

    number: int
    rows: Sequence[Row]
    is_last: bool


@dataclass(slots=True)
class _Request:
    number: int
    state: bytes | None
    future: Any
    tries: int = 1


class Scan:
    """A table, read by ranges.

    Parameters
    ----------
    index
        Where it is.
    table
        The base table's or the index's name.
    select
        What is selected, as CQL.
    partition
        The columns of the partition key.
    """

    def __init__(self, index: Index, table: str, select: Sequence[str], partition: Sequence[str]) -> None:
        token = f"token({', '.join(map(schema.quote, partition))})"
        self._index, self._name = index, f"{index.options.keyspace}.{table}"
        self._prepared = index.prepare(
            f"SELECT {', '.join(select)} FROM {index.quoted(table)} WHERE {token} > ? AND {token} <= ?"
        )
        self._page = PAGE

    def pages(self, ranges: Sequence[Range]) -> Iterator[Page]:
        """The rows of ranges, page by page; those of one range in order, the ranges interleaved.

        Raises
        ------
        SinkError
            A page could not be read, however often it was asked for.
        """
        left = deque(enumerate(ranges))
        open_ones: deque[_Request] = deque()

        def begin() -> None:
            if left:
                number, _ = left.popleft()
                open_ones.append(_Request(number, None, self._ask(ranges[number], None)))

        for _ in range(AT_ONCE):
            begin()
        while open_ones:
            request = open_ones.popleft()
            result = self._answer(request, ranges[request.number])
            rows, state = result.current_rows, result.paging_state
            # The next page is on its way while this one is worked on.
            if state is None:
                begin()
            else:
                open_ones.append(_Request(request.number, state, self._ask(ranges[request.number], state)))
            yield Page(request.number, rows, state is None)

    def _ask(self, wanted: Range, state: bytes | None) -> Any:
        bound = self._prepared.bind((wanted.after, wanted.upto))
        bound.fetch_size = self._page
        return self._index.ask(bound, state)

    def _answer(self, request: _Request, wanted: Range) -> Any:
        while True:
            try:
                return request.future.result()
            except TRANSIENT as error:
                if request.tries >= TRIES:
                    raise SinkError(f"{self._name} cannot be read: {type(error).__name__}: {error}") from error
                self._page = max(self._page // 2, SMALLEST)
                time.sleep(random.random() * min(0.1 * 2**request.tries, 10.0))
                request.tries += 1
                request.future = self._ask(wanted, request.state)
            except (InvalidRequest, Unauthorized) as error:
                raise SinkError(f"{self._name} cannot be read: {error}") from error
