"""Records of one partition that travel together, and what became of them."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Sequence

from aiokafka.producer.message_accumulator import BatchBuilder

from walstream.client.producer import new_builder
from walstream.client.receipt import Durable, Receipt

Headers = Sequence[tuple[str, bytes | None]]


class Batch:
    """Records for one partition. They are encoded at once, so that a million in memory are not millions of objects.

    Parameters
    ----------
    namespace, topic, partition
        Where the records go.
    deadline
        When to give up, on the event loop's clock (seconds).
    """

    __slots__ = ("_outcomes", "_stops", "builder", "deadline", "done", "ids", "namespace", "partition", "size", "topic")

    def __init__(self, namespace: str, topic: str, partition: int, deadline: float) -> None:
        self.namespace, self.topic, self.partition, self.deadline = namespace, topic, partition, deadline
        self.ids: list[str] = []
        self.builder: BatchBuilder | None = new_builder()
        self.size = 0
        self.done = asyncio.Event()
        self._stops: list[int] = []
        self._outcomes: list[tuple[Durable, int | None, Exception | None]] = []

    def add(self, id_: str, timestamp: int, key: bytes | None, value: bytes | None, headers: Headers) -> int:
        """Append a record, with a Kafka timestamp in milliseconds.

        Returns
        -------
        int
            The bytes that it takes.
        """
        assert self.builder is not None, "nothing is added to a batch that was settled"
        size: int = self.builder.append(timestamp=timestamp, key=key, value=value, headers=headers).size
        self.ids.append(id_)
        self.size += size
        return size

    def settle(self, count: int, durable: Durable, offset: int | None = None, error: Exception | None = None) -> None:
        """Say what became of the next `count` records that are not settled yet.

        Parameters
        ----------
        offset
            Where the first of them is in the topic; None if that is not known.
        """
        stop = count + (self._stops[-1] if self._stops else 0)
        self._stops.append(stop)
        self._outcomes.append((durable, offset, error))
        if stop == len(self.ids):
            self.builder = None  # callers keep the batch, for its receipts, much longer than its bytes are needed
            self.done.set()

    def receipt(self, index: int) -> Receipt:
        """Make the receipt of one record; only after `done`."""
        part = bisect.bisect_right(self._stops, index)
        durable, base, error = self._outcomes[part]
        if durable is not Durable.TRUE:
            return Receipt(durable, self.namespace, self.ids[index], self.topic, None, None, error)
        offset = None if base is None else base + index - (self._stops[part - 1] if part else 0)
        return Receipt(durable, self.namespace, self.ids[index], self.topic, self.partition, offset)


class Places:
    """Where records wait for their answers, in the order in which they were written."""

    __slots__ = ("_batches", "_indexes")

    def __init__(self) -> None:
        # Two flat lists, and no pair for each record: the garbage collector would visit each again and again.
        self._batches: list[Batch | Receipt] = []
        self._indexes: list[int] = []

    def answered(self, receipt: Receipt) -> None:
        """Add a record that is not sent at all."""
        self._batches.append(receipt)
        self._indexes.append(0)

    def waiting(self, batch: Batch) -> None:
        """Add the last record of a batch."""
        self._batches.append(batch)
        self._indexes.append(len(batch.ids) - 1)

    def extend(self, places: Places) -> None:
        """Add more."""
        self._batches += places._batches
        self._indexes += places._indexes

    async def receipts(self) -> list[Receipt]:
        """Wait for all answers, and return them in order."""
        receipts: list[Receipt] = []
        for batch, index in zip(self._batches, self._indexes, strict=True):
            if isinstance(batch, Receipt):
                receipts.append(batch)
                continue
            if not batch.done.is_set():
                await batch.done.wait()
            receipts.append(batch.receipt(index))
        return receipts
