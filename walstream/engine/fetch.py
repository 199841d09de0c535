"""What one fetch brought of one partition: whole record batches, not decoded yet.

Records are decoded where they are worked on, one after the other, and no object of a record lives longer than that.
This is half of what a record costs on its way through Faust. Whole batches need aiokafka's `MemoryRecords`,
`FetchResult` and `PartitionRecords`, which are private; `tests/unit/test_engine_seams.py` says when they move.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import dropwhile, islice
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from walstream.errors import Unreadable
from walstream.wire import Record
from walstream.wire.batch import NO_PRODUCER, Batch, split


class RawRecords(MemoryRecords):  # type: ignore[misc]
    """aiokafka's view of fetched bytes, with the bytes themselves."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.raw = raw


fetcher.MemoryRecords = RawRecords


class Fetch:
    """Whole record batches of one partition, without control batches and without aborted transactions.

    Attributes
    ----------
    offset
        The position that was asked for: the first record is this one or, where there are gaps, a later one.
    position
        The position after the records that were taken out so far.
    next_offset
        The position after the fetch; gaps and transaction markers at the end are before it.
    size
        Bytes, as they came over the wire.
    epoch
        The gate's epoch when the fetch was taken; a seek starts a new one.
    """

    __slots__ = (
        "_batches", "_records", "epoch", "next_offset", "offset", "partition", "position", "size", "topic",
    )  # fmt: skip

    def __init__(
        self, topic: str, partition: int, offset: int, next_offset: int, batches: Iterable[Batch], size: int,
        epoch: int = 0,
    ) -> None:  # fmt: skip
        self.topic, self.partition = topic, partition
        self.offset = self.position = offset
        self.next_offset = next_offset
        self.size, self.epoch = size, epoch
        self._batches = deque(batches)
        self._records: Iterator[Record] = iter(())

    def take(self, count: int) -> list[Record]:
        """Decode the next records, at most so many; fewer where the fetch ends, or what follows cannot be read.

        Raises
        ------
        Unreadable
            The next one cannot be decoded. Nothing was taken out: `position` is where it was.
        """
        records = list(islice(self._records, count))
        while len(records) < count and self._batches:
            try:
                self._records = self._decoded(self._batches[0])
            except Exception as exc:
                if records:
                    break
                raise self._unreadable(self._batches[0], exc) from exc
            self._batches.popleft()
            records += islice(self._records, count - len(records))
        if len(records) < count and not self._batches:
            self.position = self.next_offset
        elif records:
            self.position = records[-1].offset + 1
        return records

    def __iter__(self) -> Iterator[Record]:
        """Take all the records that are left; a batch cannot be read twice. Raises what `take` raises."""
        while records := self.take(1_000):
            yield from records

    def _decoded(self, batch: Batch) -> Iterator[Record]:
        if not batch.is_intact():
            raise CorruptRecordException(f"wrong checksum at offset {batch.base_offset}")
        records = batch.records()
        if batch.base_offset < self.offset:
            # A broker returns the batch that holds the position, which may begin before it.
            return dropwhile(lambda record: record.offset < self.offset, records)
        return records

    def _unreadable(self, batch: Batch, cause: Exception) -> Unreadable:
        last = max(batch.next_offset - 1, self.position)
        return Unreadable(f"{self.topic}-{self.partition}", self.position, last, cause)

    @property
    def is_done(self) -> bool:
        """Whether every record was taken out."""
        return self.position == self.next_offset


def take(tp: TopicPartition, result: Any, epoch: int = 0) -> Fetch | None:
    """Take everything out of an aiokafka `FetchResult`, and move the consumer's position behind it.

    Returns
    -------
    Fetch or None
        None where the result is stale: the partition was sought elsewhere, paused or lost since.
    """
    if not result.has_more() or not result.check_assignment(tp):
        return None
    part = result._partition_records
    offset, raw = part.next_fetch_offset, part._records.raw
    batches = read_batches(part)
    result._update_position()
    part._records_iterator = None  # an iterator that was never run to its end keeps the fetched bytes in a cycle
    result._partition_records = None
    return Fetch(tp.topic, tp.partition, offset, part.next_fetch_offset, batches, len(raw), epoch)


def read_batches(part: Any) -> list[Batch]:
    """Take the batches out of an aiokafka `PartitionRecords`, but for markers and aborted transactions.

    Of a batch that is damaged nothing is believed, not even its length: it comes last, and is an error when it is read.
    """
    batches: list[Batch] = []
    for batch in split(part._records.raw):
        if not batch.is_intact():
            part.next_fetch_offset += 1
            return [*batches, batch]
        part.next_fetch_offset = batch.next_offset
        if batch.producer_id != NO_PRODUCER:
            part._consume_aborted_up_to(batch.base_offset)
            if batch.is_control:
                # Compaction may have emptied it.
                marker = next(batch.records(), None)
                if marker is not None and ControlRecord.parse(marker.key) == ABORT_MARKER:
                    part._aborted_producers.discard(batch.producer_id)
                continue
            if batch.is_transactional and batch.producer_id in part._aborted_producers:
                continue
        batches.append(batch)
    return batches


def explained(error: Unreadable, group: str) -> Unreadable:
    """The error of records that cannot be read, with what the group's owner can do about it."""
    topic, _, partition = error.where.rpartition("-")
    return Unreadable(
        error.where, error.first, error.last, error.cause,
        "all before them is done. If another replica of the partition is sound, make it the leader. To give them up, "
        f"stop the workers of the group, and: kafka-consumer-groups.sh --bootstrap-server … --group {group} "
        f"--topic {topic}:{partition} --reset-offsets --to-offset {error.last + 1} --execute",
    )  # fmt: skip


def drain(fetcher: Any, room: Any) -> tuple[list[Fetch], dict[TopicPartition, Exception]]:
    """Take what an aiokafka `Fetcher` holds ready, for the partitions that have room.

    Parameters
    ----------
    fetcher
        The private fetcher of a consumer, on that consumer's own event loop.
    room
        Called with a `TopicPartition`; answers the gate's epoch, or None where nothing is to be taken.

    Returns
    -------
    tuple
        The fetches, and the errors of partitions that have room.
    """
    fetches: list[Fetch] = []
    errors: dict[TopicPartition, Exception] = {}
    for tp in list(fetcher._records):
        epoch = room(tp)
        result = fetcher._records[tp]
        if not hasattr(result, "check_raise"):
            if epoch is None:
                if not fetcher._subscriptions.is_assigned(tp):
                    del fetcher._records[tp]
                continue
            fetch = take(tp, result, epoch)
            if fetch is not None:
                fetches.append(fetch)
        elif epoch is not None:
            try:
                result.check_raise()
            except Exception as exc:
                errors[tp] = exc
        del fetcher._records[tp]
        fetcher._notify(fetcher._wait_consume_future)
    return fetches, errors


async def wait_ready(fetcher: Any, timeout: float) -> None:
    """Wait until an aiokafka `Fetcher` may hold something new, or for the timeout (seconds).

    Raises
    ------
    Exception
        What ended the fetcher or the group's membership.
    """
    waiter = fetcher._create_fetch_waiter()
    await asyncio.wait([waiter], timeout=timeout)
    if not waiter.done():
        waiter.cancel()
    elif not waiter.cancelled() and waiter.exception() is not None:
        raise waiter.exception()
    if fetcher.error_future.done() and not fetcher.error_future.cancelled():
        fetcher.error_future.result()
