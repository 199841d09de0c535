"""Rows of a base table and of its index, as their bytes: what is selected, and what is seen in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from walstream.indexes.pages import Row
from walstream.indexes.values import decoder
from walstream.sinks.cassandra import schema
from walstream.sinks.index.definition import Definition, frozen

Key = tuple[bytes, ...]
"""A base row's key."""


class BaseRows:
    """Rows of the base table.

    Parameters
    ----------
    definition
        Of the index.
    times
        Whether write times are selected, too.

    Attributes
    ----------
    select
        What is selected: the key, the tracked columns, and their write times; and where the row itself is tracked, the
        write times of all other columns, of which the latest says when it was last written.
    """

    def __init__(self, definition: Definition, *, times: bool = False) -> None:
        base = definition.base
        self._definition, self._keys = definition, len(base.key)
        self._row_itself = definition.tracked[0] == ""
        self.tracked = [column for column in definition.tracked if column]
        self.select = [schema.quote(column) for column in (*base.key, *self.tracked)]
        self._times = len(self.select)
        if times:
            self.select += [_time_of(column, base.columns[column]) for column in self.tracked]
            if self._row_itself:
                rest = [c for c in base.columns if c not in (*base.key, *self.tracked) and c not in base.static]
                self.select += [_time_of(column, base.columns[column]) for column in rest]
        self._to_json = [
            (column, decoder(kind, key=True)) for column, kind in zip(base.key, definition.types, strict=False)
        ]

    def key(self, row: Row) -> Key:
        """The row's key."""
        return row[: self._keys]  # type: ignore[return-value]

    def values(self, row: Row) -> Sequence[bytes | None]:
        """The tracked columns, as `Definition.entries` takes them."""
        values = row[self._keys : self._times]
        return (b"", *values) if self._row_itself else values

    def cells(self, row: Row) -> dict[str, tuple[bytes, int]]:
        """The tracked columns that are not null, with their write times (µs); the row itself is called ``""``."""
        return {column: (value, time) for time, values in self.writes(row).items() for column, value in values}

    def writes(self, row: Row) -> dict[int, list[tuple[str, bytes]]]:
        """The same by write time: what is left of each write to the row."""
        writes: dict[int, list[tuple[str, bytes]]] = {}
        written: dict[bytes, list[tuple[str, bytes]]] = {}
        times = row[self._times :]
        for column, value, time in zip(self.tracked, row[self._keys : self._times], times, strict=False):
            if value is not None and time is not None:
                if time in written:
                    written[time].append((column, value))
                else:
                    written[time] = writes[int.from_bytes(time, "big", signed=True)] = [(column, value)]
        if self._row_itself:
            # That of a row that has nothing but its key cannot be read: it counts as the first of all.
            found = [int.from_bytes(time, "big", signed=True) for time in times if time is not None]
            writes.setdefault(max(found, default=1), []).append(("", b""))
        return writes

    def key_json(self, key: Key) -> dict[str, Any]:
        """A key as a mutation has it.

        Raises
        ------
        NoForm
            No mutation can have it.
        """
        return {column: decode(part) for (column, decode), part in zip(self._to_json, key, strict=True)}


class Entries:
    """Rows of the index's table.

    Attributes
    ----------
    select
        What is selected: the key, in its order, and the columns that are copied along.
    """

    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self.key_columns = (*definition.partition, *definition.clustering)
        self.select = [schema.quote(column) for column in (*self.key_columns, *definition.copied)]
        names = [by.name for by in definition.options.columns]
        self.names = names
        place = {column: i for i, column in enumerate(self.key_columns)}
        self.entry = _pick([place[name] for name in names])
        self.key: Callable[[Row], Key] = _pick([place[column] for column in definition.base.key])
        self._count = len(self.key_columns)
        self._rest = definition.rest

    def copies(self, row: Row) -> Row:
        """The columns that are copied along."""
        return row[self._count :]

    def full_key(self, entry: Key, key: Key) -> list[bytes]:
        """The index's key of an entry of a base row."""
        return [*entry, *(key[place] for place in self._rest)]


def _time_of(column: str, kind: str) -> str:
    """The function that selects when a column was last written; one of several cells has as many times."""
    return f"{'WRITETIME' if frozen(kind) == kind else 'MAXWRITETIME'}({schema.quote(column)})"


def _pick(places: Sequence[int]) -> Callable[[Row], Any]:
    """What takes some of a row's values, as a tuple."""
    if list(places) == list(range(places[0], places[0] + len(places))):
        first, end = places[0], places[0] + len(places)
        return lambda row: row[first:end]
    return lambda row: tuple([row[place] for place in places])
