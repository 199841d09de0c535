"""What is known of a row: its columns with their times, and its last delete.

Of two writes of a column the one with the later effective time stands; of two with one time the delete, before null,
before the larger text, as in Cassandra.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from walstream.errors import StateMismatch

FORMAT = 1
_HEAD = struct.Struct(">B?q")  # format, was it ever deleted, when (µs)
_COLUMN = struct.Struct(">IIq")  # bytes of the name, bytes of the text, time (µs)


@dataclass(frozen=True, slots=True)
class Row:
    """A row; it is never changed, a write makes another.

    Parameters
    ----------
    deleted
        The effective time (µs) of the last delete.
    columns
        Name -> the effective time (µs) of its last write, and its text as of `walstream.sinks.rows.RowWrite`. A column
        that is null stays, for its time.
    """

    deleted: int | None = None
    columns: Mapping[bytes, tuple[int, bytes]] = field(default_factory=dict)

    def put(self, time: int, columns: Iterable[tuple[bytes, bytes]]) -> Row:
        """The row after a put; this very one where the put changes nothing."""
        if self.deleted is not None and time <= self.deleted:
            return self
        changed = dict(self.columns)
        for name, text in columns:
            before = changed.get(name)
            if before is None or before[0] < time or (before[0] == time and _stands_before(text, before[1])):
                changed[name] = time, text
        return self if changed == self.columns else Row(self.deleted, changed)

    def delete(self, time: int) -> Row:
        """The row after a delete; this very one where there was a later one."""
        if self.deleted is not None and time <= self.deleted:
            return self
        return Row(time, {name: column for name, column in self.columns.items() if column[0] > time})

    @property
    def is_empty(self) -> bool:
        """Whether nothing has a value: there is no such row for who reads."""
        return not any(text for _, text in self.columns.values())

    @property
    def newest(self) -> int:
        """The time (µs) of the last write of which something is known, in a row that was ever written."""
        times = [time for time, _ in self.columns.values()]
        return max(times if self.deleted is None else [self.deleted, *times])

    def json(self) -> bytes | None:
        """All columns that are not null as one JSON object, sorted by name; None where there is none."""
        members = [name + b":" + text[1:] for name, (_, text) in sorted(self.columns.items()) if text]
        return b"{" + b",".join(members) + b"}" if members else None

    def column(self) -> bytes | None:
        """The text of the only column that is kept; None where it is null."""
        return next((text[1:] for _, text in self.columns.values() if text), None)

    def to_bytes(self) -> bytes:
        parts = [_HEAD.pack(FORMAT, self.deleted is not None, self.deleted or 0)]
        for name, (time, text) in self.columns.items():
            parts += (_COLUMN.pack(len(name), len(text), time), name, text)
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, stored: bytes) -> Row:
        """Read what `to_bytes` wrote.

        Raises
        ------
        StateMismatch
            It is of a newer format.
        """
        if stored[0] != FORMAT:
            raise StateMismatch(f"a row is of format {stored[0]}; this version of walstream reads {FORMAT}")
        _, was_deleted, deleted = _HEAD.unpack_from(stored)
        columns = {}
        at = _HEAD.size
        while at < len(stored):
            name_size, text_size, time = _COLUMN.unpack_from(stored, at)
            at += _COLUMN.size
            columns[stored[at : at + name_size]] = time, stored[at + name_size : at + name_size + text_size]
            at += name_size + text_size
        return cls(deleted if was_deleted else None, columns)


def _stands_before(text: bytes, other: bytes) -> bool:
    """Whether one text stands, of two that were written at one time."""
    return other != b"" and (text == b"" or text > other)
