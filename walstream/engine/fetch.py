"""What one fetch brought of one partition: whole record batches, not decoded yet.

Records are decoded where they are worked on, one after the other, and no object of a record lives longer than that.
This is half of what a record costs on its way through Faust. Whole batches need aiokafka's `FetchResult` and
`PartitionRecords`, which are private; `tests/unit/test_engine_seams.py` says when they move.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import chain, dropwhile, islice
from typing import Any, NoReturn, Protocol

from aiokafka.errors import CorruptRecordException
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.structs import TopicPartition

from walstream.errors import Unreadable


class KafkaRecord(Protocol):
    """A decoded record of a batch."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def timestamp_type(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> list[tuple[str, bytes | None]]: ...


class Broken:
    """Stands where records cannot be read, and says so as often as it is asked: nobody gets past it.

    Parameters
    ----------
    error
        Why.
    """

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __iter__(self) -> Broken:
        return self

    def __next__(self) -> NoReturn:
        raise self._error


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
    is_reread
        Whether this is what could be read of a fetch that raised `Unreadable`; see `reread`.
    """

    __slots__ = ("_records", "epoch", "is_reread", "next_offset", "offset", "partition", "position", "size", "topic")

    def __init__(
        self, topic: str, partition: int, offset: int, next_offset: int, batches: list[Any], size: int, epoch: int = 0,
        *, is_reread: bool = False,
    ) -> None:  # fmt: skip
        self.topic, self.partition = topic, partition
        self.offset = self.position = offset
        self.next_offset = next_offset
        self.size, self.epoch, self.is_reread = size, epoch, is_reread
        try:
            # A broker returns the batch that holds the position, which may begin before it. It is decompressed here.
            first: Any = dropwhile(lambda record: record.offset < offset, batches[0]) if batches else ()
        except Exception as exc:
            first = Broken(exc)
        self._records: Iterator[KafkaRecord] = chain(first, *batches[1:])

    def take(self, count: int) -> list[KafkaRecord]:
        """Decode the next records, at most so many; fewer only at the end of the fetch.

        Raises
        ------
        Unreadable
            One of them cannot be decoded. None was taken out: `position` is where it was.
        """
        try:
            records = list(islice(self._records, count))
        except Unreadable:
            raise
        except Exception as exc:
            raise self._unreadable(exc) from exc
        self.position = records[-1].offset + 1 if len(records) == count else self.next_offset
        return records

    def __iter__(self) -> Iterator[KafkaRecord]:
        """Take all the records that are left; a batch cannot be read twice. Raises what `take` raises."""
        while records := self.take(1_000):
            yield from records

    def _unreadable(self, cause: Exception) -> Unreadable:
        error = Unreadable(f"{self.topic}-{self.partition}", self.position, self.next_offset - 1, cause)
        self._records = Broken(error)  # the iterators are of no more use, and would end as if there was nothing more
        return error

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
    offset, size = part.next_fetch_offset, part._records.size_in_bytes()
    batches = read_batches(part)
    result._update_position()
    part._records_iterator = None  # an iterator that was never run to its end keeps the fetched bytes in a cycle
    result._partition_records = None
    return Fetch(tp.topic, tp.partition, offset, part.next_fetch_offset, batches, size, epoch)


def read_batches(part: Any) -> list[Any]:
    """Take the batches out of an aiokafka `PartitionRecords`, but for markers and aborted transactions.

    Of a batch that is damaged nothing is believed, not even its length: in its place stands what raises the error when
    it is its turn, and nothing follows it.
    """
    raw = part._records
    batches: list[Any] = []
    while raw.has_next():
        try:
            batch = raw.next_batch()
            if not batch.validate_crc():
                raise CorruptRecordException(f"wrong checksum at offset {batch.base_offset}")
        except CorruptRecordException as exc:
            part.next_fetch_offset += 1
            return [*batches, Broken(exc)]
        part.next_fetch_offset = batch.next_offset
        if batch.producer_id is not None:
            part._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch:
                # Compaction may have emptied it: aiokafka's own reading takes that for an error.
                marker = next(batch, None)
                if marker is not None and ControlRecord.parse(marker.key) == ABORT_MARKER:
                    part._aborted_producers.discard(batch.producer_id)
                continue
            if batch.is_transactional and batch.producer_id in part._aborted_producers:
                continue
        batches.append(batch)
    return batches


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
