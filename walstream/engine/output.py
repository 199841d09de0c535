"""Outputs: what a checkpoint writes to one partition of one topic, as record batches that are filled on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Headers = list[tuple[str, bytes | None]]


class Output:
    """The batches for one partition of one topic.

    Parameters
    ----------
    new_batch
        Makes an empty batch builder of aiokafka's.
    position
        The offset that the next record will have in the topic, where this task is its only writer; else None.
    """

    __slots__ = ("_append", "_count", "_new_batch", "batches", "position", "size_before", "start")

    def __init__(self, new_batch: Callable[[], Any], position: int | None = None) -> None:
        self._new_batch = new_batch
        self.start = self.position = position
        self.batches: list[Any] = []
        self.size_before = 0
        self._roll()

    def _roll(self) -> None:
        batch = self._new_batch()
        self.batches.append(batch)
        # Straight to the compiled builder: the wrapper around it costs as much as the append itself.
        self._append = batch._builder.append
        self._count = 0

    def append(
        self, timestamp: int, key: bytes | None, value: bytes | None, headers: Headers | None = None
    ) -> int | None:
        """Add a record (timestamp in ms), and return the offset that it will have, where that is known."""
        if headers is None:
            headers = []
        if self._append(self._count, timestamp, key, value, headers) is None:
            self._seal()
            self._roll()
            if self._append(0, timestamp, key, value, headers) is None:
                raise ValueError("a batch did not take its first record")
        self._count += 1
        if self.position is None:
            return None
        position = self.position
        self.position = position + 1
        return position

    def _seal(self) -> None:
        batch = self.batches[-1]
        batch._relative_offset = self._count
        batch.close()
        self.size_before += batch.size()

    def seal(self) -> list[Any]:
        """Close the batches, and return those that have records."""
        self._seal()
        return [batch for batch in self.batches if batch.record_count()]

    @property
    def is_empty(self) -> bool:
        return self._count == 0 and len(self.batches) == 1

    @property
    def size(self) -> int:
        """Bytes, uncompressed."""
        return self.size_before + (self.batches[-1].size() if not self.batches[-1].closed() else 0)
