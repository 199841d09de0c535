"""Outputs: what a checkpoint writes to one partition of one topic, as record batches that are filled on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from walstream.headers import Header
from walstream.wire import Record
from walstream.wire.builder import BatchBuilder


class Output:
    """The batches for one partition of one topic.

    Parameters
    ----------
    new_batch
        Makes an empty batch builder.
    position
        The offset that the next record will have in the topic, where this task is its only writer; else None.
    """

    __slots__ = ("_new_batch", "_writer", "batches", "position", "start")

    def __init__(self, new_batch: Callable[[], BatchBuilder], position: int | None = None) -> None:
        self._new_batch = new_batch
        self.start = self.position = position
        self.batches: list[BatchBuilder] = []
        self._roll()

    def _roll(self) -> None:
        batch = self._new_batch()
        self.batches.append(batch)
        self._writer = batch.writer

    def append(
        self, timestamp: int, key: bytes | None, value: bytes | None, headers: list[Header] | None = None
    ) -> int | None:
        """Add a record (timestamp in ms), and return the offset that it will have, where that is known."""
        if not self._writer.append(timestamp, key, value, headers):
            self._roll()
            self._writer.append(timestamp, key, value, headers)
        return self._next()

    def append_rows(self, timestamp: int, rows: Sequence[tuple[bytes, bytes | None]], prefix: bytes = b"") -> None:
        """Add rows of a table (timestamp in ms), each with a prefix in front of its key; None is a delete."""
        done = self._writer.append_rows(timestamp, prefix, rows, 0)
        while done < len(rows):
            self._roll()
            done = self._writer.append_rows(timestamp, prefix, rows, done)
        if self.position is not None:
            self.position += len(rows)

    def append_entry(self, record: Record, time: int) -> int | None:
        """Add a record of the ingress as an entry of the log; see `RecordWriter.append_entry`."""
        if not self._writer.append_entry(record, time):
            self._roll()
            self._writer.append_entry(record, time)
        return self._next()

    def append_received(self, record: Record) -> int | None:
        """Add a record that another region sent as an entry of the log; see `RecordWriter.append_received`."""
        if not self._writer.append_received(record):
            self._roll()
            self._writer.append_received(record)
        return self._next()

    def append_original(self, record: Record, timestamp: int) -> int | None:
        """Add an entry of the log as it was before; see `RecordWriter.append_original`."""
        if not self._writer.append_original(record, timestamp):
            self._roll()
            self._writer.append_original(record, timestamp)
        return self._next()

    def _next(self) -> int | None:
        if self.position is None:
            return None
        self.position += 1
        return self.position - 1

    def seal(self) -> list[BatchBuilder]:
        """Close the batches, and return those that have records."""
        for batch in self.batches:
            batch.close()
        return [batch for batch in self.batches if batch.record_count()]

    @property
    def is_empty(self) -> bool:
        return not self._writer.count and len(self.batches) == 1

    @property
    def size(self) -> int:
        """Bytes, not compressed."""
        return sum(batch.size() for batch in self.batches)
