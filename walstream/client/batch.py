"""Records of one partition that travel together, and what became of them."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Sequence

from walstream.client.receipt import Durable, Receipt

Headers = Sequence[tuple[str, bytes | None]]

OVERHEAD = 200  # bytes assumed for a record's headers and framing; batches need no better, so nothing is summed up


class Batch:
    """Up to `limit` bytes of records for one partition.

    Parameters
    ----------
    namespace, topic, partition
        Where the records go.
    deadline
        When to give up, on the event loop's clock (seconds).
    """

    __slots__ = ("_outcomes", "_stops", "deadline", "done", "ids", "namespace", "partition", "records", "size", "topic")

    def __init__(self, namespace: str, topic: str, partition: int, deadline: float) -> None:
        self.namespace, self.topic, self.partition, self.deadline = namespace, topic, partition, deadline
        self.ids: list[str] = []
        self.records: list[tuple[bytes | None, bytes | None, Headers]] = []
        self.size = 0
        self.done = asyncio.Event()
        self._stops: list[int] = []
        self._outcomes: list[tuple[Durable, int | None, Exception | None]] = []

    def add(self, id_: str, key: bytes | None, value: bytes | None, headers: Headers) -> int:
        """Append a record.

        Returns
        -------
        int
            Its index in the batch.
        """
        self.ids.append(id_)
        self.records.append((key, value, headers))
        self.size += OVERHEAD + (len(key) if key else 0) + (len(value) if value else 0)
        return len(self.ids) - 1

    def settle(self, stop: int, durable: Durable, offset: int | None = None, error: Exception | None = None) -> None:
        """Say what became of the records from where the last call ended up to `stop` (exclusive).

        Parameters
        ----------
        offset
            Where the first of them is in the topic; None if that is not known.
        """
        self._stops.append(stop)
        self._outcomes.append((durable, offset, error))
        if stop == len(self.ids):
            self.records.clear()  # callers may keep the batch, for its receipts, much longer than its bytes are needed
            self.done.set()

    def receipt(self, index: int) -> Receipt:
        """Make the receipt of one record; only after `done`."""
        part = bisect.bisect_right(self._stops, index)
        durable, base, error = self._outcomes[part]
        if durable is not Durable.TRUE:
            return Receipt(durable, self.namespace, self.ids[index], self.topic, error=error)
        offset = None if base is None else base + index - (self._stops[part - 1] if part else 0)
        return Receipt(durable, self.namespace, self.ids[index], self.topic, self.partition, offset)
