"""A schedule: rows of a table in the order of when they are due, and what is due by now.

It knows neither what the rows are nor how the table is kept; rows are opaque bytes. The table is given to every call,
since a processor gets another one with each checkpoint. A `Schedule` belongs to what has been done so far, committed or
not: where a checkpoint is thrown away, it is too, and another one is opened from the rows that were committed.

The earliest rows are held in memory (a thousand or so, whatever is in the table), so that `Schedule.next_due` is exact
and costs nothing, and taking what is due reads the table once for many rows.

Where the first row is, is a row of the table itself, the mark. A scan starts there and so never walks over what RocksDB
still has of millions of rows that were taken.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Mapping
from typing import Protocol, Self

from walstream.errors import StateMismatch

_KEY = struct.Struct(">QQ")
_pack, _unpack = _KEY.pack, _KEY.unpack

MARK = b"\x00"
"""Key of the mark: shorter than any row's, and before all of them."""
_VERSION = 1
_FIRST = bytes(_KEY.size)
_END = b"\x80"  # after all rows: times are less than 2^63 us

_ROWS = 1_024  # read ahead at once
_BYTES = 1 << 20  # of their values, roughly: a partition's share of the process


class Table(Protocol):
    """What a schedule needs of a table; timestamps in ms are those of the changes in its changelog."""

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""

    def range(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """The first rows from one key on and before another, in the order of the keys; at most so many."""

    def put(self, key: bytes, value: bytes, timestamp: int) -> None:
        """Set a row."""

    def put_many(self, rows: Mapping[bytes, bytes], timestamp: int) -> None:
        """Set rows."""

    def delete(self, key: bytes, timestamp: int) -> None:
        """Remove a row, if it is there."""

    def delete_many(self, keys: list[bytes], timestamp: int) -> None:
        """Remove rows that are there."""


class Schedule:
    """What waits in one table for its time. Made by `Schedule.open`."""

    __slots__ = ("_ahead", "_beyond", "_bytes", "_marked", "_reach")

    def __init__(self, start: bytes) -> None:
        self._ahead: list[tuple[bytes, bytes]] = []  # all rows before self._beyond, in order
        self._beyond = self._marked = start
        self._bytes = 0  # of the values in self._ahead
        self._reach = _ROWS // 16  # rows to read at once; adapted to how large they are

    @classmethod
    def open(cls, table: Table, now_ms: int) -> Self:
        """Take up what the table has. It always writes a row, the mark.

        Parameters
        ----------
        now_ms
            The timestamp of its change, here and in all other methods.

        Raises
        ------
        StateMismatch
            The mark is of a newer format.
        """
        stored = table.get(MARK)
        schedule = cls(first_key(stored))
        schedule._read(table)
        schedule._mark(table, now_ms)
        return schedule

    def next_due(self) -> int | None:
        """When the first row is due, µs since the epoch; None where nothing waits. Exact, at every moment."""
        return int.from_bytes(self._ahead[0][0][:8]) if self._ahead else None

    def add(self, table: Table, due_us: int, sequence: int, value: bytes, now_ms: int) -> None:
        """Put a row into the table, or another value into the row of the same time and sequence.

        Parameters
        ----------
        due_us
            When it is due, µs since the epoch, 0 to 2^63 - 1. It may have passed.
        sequence
            Tells rows apart that are due at the same time, and is their order; 0 to 2^64 - 1.
        """
        self.add_many(table, {_pack(due_us, sequence): value}, now_ms)

    def add_many(self, table: Table, rows: Mapping[bytes, bytes], now_ms: int) -> None:
        """The same for several rows, by their keys, which `key_of` makes."""
        table.put_many(rows, now_ms)
        for key, value in rows.items():
            if key < self._beyond:
                self._insert(key, value)

    def remove(self, table: Table, due_us: int, sequence: int, now_ms: int) -> None:
        """Take a row out before its time; one that is not there may be asked for."""
        key = _pack(due_us, sequence)
        table.delete(key, now_ms)
        ahead = self._ahead
        index = bisect_left(ahead, (key,))
        if index < len(ahead) and ahead[index][0] == key:
            self._bytes -= len(ahead.pop(index)[1])
            if not ahead:
                self._read(table)

    def move(self, table: Table, due_us: int, sequence: int, to_us: int, now_ms: int) -> None:
        """Give a row another time.

        Raises
        ------
        StateMismatch
            There is no such row.
        """
        value = table.get(_pack(due_us, sequence))
        if value is None:
            raise StateMismatch(f"the schedule has no row {sequence} that is due at {due_us}")
        self.add(table, to_us, sequence, value, now_ms)
        if to_us != due_us:
            self.remove(table, due_us, sequence, now_ms)

    def take_due(self, table: Table, now_us: int, limit: int, now_ms: int) -> list[tuple[int, int, bytes]]:
        """Take a stretch of what is due out of the table, oldest first.

        Parameters
        ----------
        now_us
            Rows that are due then, or were before, are taken. µs since the epoch.
        limit
            How many at most. It may be fewer though more are due, which `next_due` then says: no call takes more rows
            or bytes than are held in memory.

        Returns
        -------
        list of (int, int, bytes)
            When each was due (µs), its sequence, and its value.
        """
        ahead = self._ahead
        count = min(bisect_left(ahead, (_pack(now_us + 1, 0),)), limit)
        if count <= 0:
            return []
        taken = ahead[:count]
        del ahead[:count]
        table.delete_many([key for key, _ in taken], now_ms)
        self._bytes -= sum([len(value) for _, value in taken])
        if not ahead:
            self._read(table)
        return [(*_unpack(key), value) for key, value in taken]

    def finish(self, table: Table, now_ms: int) -> None:
        """Write the mark down where it moved; to be called once per checkpoint, when nothing more comes into it."""
        if self._first() != self._marked:
            self._mark(table, now_ms)

    def _first(self) -> bytes:
        return self._ahead[0][0] if self._ahead else _END

    def _mark(self, table: Table, now_ms: int) -> None:
        self._marked = self._first()
        table.put(MARK, bytes((_VERSION,)) + self._marked, now_ms)

    def _insert(self, key: bytes, value: bytes) -> None:
        ahead = self._ahead
        index = bisect_left(ahead, (key,))
        if index < len(ahead) and ahead[index][0] == key:
            self._bytes -= len(ahead[index][1])
            ahead[index] = key, value
        else:
            ahead.insert(index, (key, value))
        self._bytes += len(value)
        if len(ahead) > 2 * _ROWS or (self._bytes > 2 * _BYTES and len(ahead) > 1):
            keep = len(ahead) // 2
            self._beyond = ahead[keep][0]
            self._bytes -= sum(len(value) for _, value in ahead[keep:])
            del ahead[keep:]

    def _read(self, table: Table) -> None:
        """Read on, where all that was held is gone."""
        if self._beyond == _END:
            return
        rows = self._ahead = table.range(self._beyond, _END, self._reach)
        self._bytes = sum(len(value) for _, value in rows)
        self._beyond = rows[-1][0] + b"\x00" if len(rows) == self._reach else _END
        if rows:
            self._reach = min(max(1, _BYTES * len(rows) // (self._bytes + 1)), _ROWS)


def decode_key(key: bytes) -> tuple[int, int] | None:
    """What the key of a stored row says: when it is due (µs), and its sequence; None is the mark."""
    return None if key == MARK else _unpack(key)


def first_key(mark: bytes | None) -> bytes:
    """Where to start a scan of the table, given the value of its mark.

    Raises
    ------
    StateMismatch
        It is of a newer format.
    """
    return _FIRST if mark is None else _read_mark(mark)


def key_of(due_us: int, sequence: int = 0) -> bytes:
    """The key of a row; with the sequence 0 it is before all rows that are due then."""
    return _pack(due_us, sequence)


def _read_mark(stored: bytes) -> bytes:
    if stored[:1] != bytes((_VERSION,)):
        raise StateMismatch(
            f"the mark of a schedule has format {stored[0] if stored else None};"
            f" this version of walstream reads format {_VERSION}"
        )
    return stored[1:]
