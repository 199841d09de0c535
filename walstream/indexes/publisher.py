"""Many records into a topic, in batches as a client sends them, from a thread that does something else meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from walstream.admin import Partition
from walstream.client.background import Background
from walstream.client.batch import Batch
from walstream.client.receipt import Durable
from walstream.client.sender import Sender
from walstream.errors import NotDurable
from walstream.kafka import KafkaConnection
from walstream.record import Message

TIMEOUT = 30.0
"""Seconds within which a record is acknowledged, or counts as not written."""

GRACE = 2.0
"""Seconds for what is on its way when the rest is given up."""


class Publisher:
    """Writes records to partitions that are given, acknowledged by all in-sync replicas.

    Parameters
    ----------
    connection
        The cluster.
    topic, partitions
        Where to, and how many partitions that has.

    Attributes
    ----------
    acknowledged
        The highest offset of what was written, by partition.
    """

    def __init__(self, connection: KafkaConnection, topic: str, partitions: int) -> None:
        self._topic, self._partitions = topic, partitions
        self._sender = Sender(connection.aiokafka(), timeout=TIMEOUT)
        self._batches: dict[Batch, None] = {}  # those that are not known to be there yet, in their order
        self.acknowledged: dict[Partition, int] = {}
        self._background: Background

    def __enter__(self) -> Self:
        self._background = Background("walstream-publisher")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self._background.run(self._close())
            self._background.stop()

    def write(self, records: Iterable[tuple[int, Message]]) -> None:
        """Hand records over, each with its partition; wait first while too many are not acknowledged.

        Raises
        ------
        NotDurable
            Something was not written, or may not be: of these, or of those before.
        """
        self._background.run(self._write(records))

    def flush(self) -> None:
        """Wait until all is acknowledged.

        Raises
        ------
        NotDurable
            Something was not written, or may not be.
        """
        self._background.run(self._flush())

    async def _write(self, records: Iterable[tuple[int, Message]]) -> None:
        sender, batches, lanes = self._sender, self._batches, self._sender.lanes(self._topic, self._partitions)
        clock = asyncio.get_running_loop().time
        while sender.full:
            await sender.room(clock() + TIMEOUT)
        add, topic = sender.add, self._topic
        now, deadline = int(time.time() * 1000), clock() + TIMEOUT
        for number, record in records:
            batches[add(lanes[number], topic, "", now, record.key, record.value, record.headers, deadline)] = None
        self._settle()

    async def _flush(self) -> None:
        for batch in self._batches:
            await batch.done.wait()
        self._settle()

    async def _close(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await self._sender.close()

    def _settle(self) -> None:
        """Look at what is answered."""
        failures: Counter[str] = Counter()
        for batch in [batch for batch in self._batches if batch.done.is_set()]:
            del self._batches[batch]
            for receipt in batch.receipts:
                if receipt.durable is not Durable.TRUE:
                    failures[str(receipt.error)] += 1
            last = batch.receipts[-1]
            if last.offset is not None:
                place = (self._topic, batch.partition)
                self.acknowledged[place] = max(self.acknowledged.get(place, -1), last.offset)
        if failures:
            said = ", ".join(failures)
            raise NotDurable(f"{failures.total()} records were not written to {self._topic}, or may not be: {said}")
