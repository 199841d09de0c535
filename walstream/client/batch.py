"""Records of one partition that travel together, and what became of them."""

from __future__ import annotations

import asyncio

from walstream.client.producer import new_builder
from walstream.client.receipt import Durable, Receipt
from walstream.headers import Header
from walstream.wire.builder import BatchBuilder


class Batch:
    """Records for one partition. They are encoded at once, so that a million in memory are not millions of objects.

    Parameters
    ----------
    namespace, topic, partition
        Where the records go.
    deadline
        When to give up, on the event loop's clock (seconds).

    Attributes
    ----------
    ids
        Of the records, in their order.
    size
        Bytes, uncompressed.
    receipts
        Of the records that are settled, in the order of `ids`: all of them, when `done` is set.
    """

    __slots__ = ("_writer", "builder", "deadline", "done", "ids", "namespace", "partition", "receipts", "size", "topic")

    def __init__(self, namespace: str, topic: str, partition: int, deadline: float) -> None:
        self.namespace, self.topic, self.partition, self.deadline = namespace, topic, partition, deadline
        self.ids: list[str] = []
        self.builder: BatchBuilder | None = new_builder()
        self._writer = self.builder.writer
        self.size = 0
        self.receipts: list[Receipt] = []
        self.done = asyncio.Event()

    def add(self, id_: str, timestamp: int, key: bytes | None, value: bytes | None, headers: list[Header]) -> int:
        """Append a record, with a Kafka timestamp in milliseconds.

        Returns
        -------
        int
            The bytes that it takes.
        """
        writer = self._writer
        writer.append(timestamp, key, value, headers)
        self.ids.append(id_)
        before, self.size = self.size, writer.size
        return self.size - before

    def settle(self, count: int, durable: Durable, offset: int | None = None, error: Exception | None = None) -> None:
        """Say what became of the next `count` records that are not settled yet.

        Parameters
        ----------
        offset
            Where the first of them is in the topic; None if that is not known.
        """
        settled, namespace, topic = len(self.receipts), self.namespace, self.topic
        ids = self.ids[settled : settled + count]
        partition = self.partition if durable is Durable.TRUE else None
        if offset is None:
            self.receipts += [Receipt(durable, namespace, id_, topic, partition, None, error) for id_ in ids]
        else:
            self.receipts += [
                Receipt(durable, namespace, id_, topic, partition, position) for position, id_ in enumerate(ids, offset)
            ]
        if len(self.receipts) == len(self.ids):
            del self._writer
            self.builder = None  # callers keep the batch, for its receipts, much longer than its bytes are needed
            self.done.set()


class Places:
    """Where records wait for their answers, in the order in which they were written."""

    __slots__ = ("_batches", "_indexes", "_receipts")

    def __init__(self) -> None:
        # Flat lists, and no pair for each record: the garbage collector would visit each again and again.
        self._receipts: list[list[Receipt]] = []
        self._indexes: list[int] = []
        self._batches: set[Batch] = set()

    def answered(self, receipt: Receipt) -> None:
        """Add a record that is not sent at all."""
        self._receipts.append([receipt])
        self._indexes.append(0)

    def waiting(self, batch: Batch) -> None:
        """Add the last record of a batch."""
        self._receipts.append(batch.receipts)
        self._indexes.append(len(batch.ids) - 1)
        self._batches.add(batch)

    def extend(self, places: Places) -> None:
        """Add more."""
        self._receipts += places._receipts
        self._indexes += places._indexes
        self._batches |= places._batches

    async def receipts(self) -> list[Receipt]:
        """Wait for all answers, and return them in order."""
        for batch in self._batches:
            await batch.done.wait()
        return [receipts[index] for receipts, index in zip(self._receipts, self._indexes, strict=True)]
