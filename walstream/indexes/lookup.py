"""Base rows and index entries looked up by key: what they are now."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from cassandra.query import BoundStatement

from walstream.errors import SinkError
from walstream.indexes.index import Index
from walstream.indexes.pages import TRANSIENT, TRIES, Row
from walstream.indexes.rows import BaseRows, Entries, Key
from walstream.sinks.cassandra import schema

AT_ONCE = 128
"""Look-ups in flight."""

Cells = Mapping[str, tuple[bytes, int]]
"""Columns that are not null, with their write times (µs)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a base row and its entries.

    Parameters
    ----------
    cells
        Of the base row; None where there is none.
    wanted
        The entries that it should have, and what is copied into each.
    found
        Those that stand in the index, and what is copied there.
    latest
        The highest write time (µs) that was found in them; 0 where none can be read.
    when
        µs since the epoch, before anything was read.
    """

    cells: Cells | None
    wanted: Mapping[Key, Row]
    found: Mapping[Key, Row]
    latest: int = field(compare=False)
    when: int = field(compare=False)

    @property
    def differs(self) -> bool:
        """Whether the entries are not what they should be."""
        return self.wanted != self.found


class Lookup:
    """Reads by key.

    Parameters
    ----------
    index
        Which.

    Raises
    ------
    SinkError
        From `look`: Cassandra does not answer.
    """

    def __init__(self, index: Index) -> None:
        definition = index.definition
        self._index, self._definition = index, definition
        self.rows, self.entries = BaseRows(definition, times=True), Entries(definition)
        where = " AND ".join(f"{schema.quote(column)} = ?" for column in definition.base.key)
        self._base = index.prepare(
            f"SELECT {', '.join(self.rows.select)} FROM {index.quoted(index.options.base)} WHERE {where}"
        )
        where = " AND ".join(f"{schema.quote(column)} = ?" for column in self.entries.key_columns)
        copied = [schema.quote(column) for column in definition.copied]
        times = [f"WRITETIME({column})" for column in copied]  # every copy is of one cell
        select = copied + times or [schema.quote(definition.partition[0])]
        self._entry = index.prepare(
            f"SELECT {', '.join(select)} FROM {index.quoted(index.options.table)} WHERE {where}"
        )

    def look(self, keys: Mapping[Key, Set[Key]]) -> dict[Key, Seen]:
        """What base rows and their entries are now.

        Parameters
        ----------
        keys
            Of base rows, each with the entries that are known to stand in the index, or did.
        """
        when, definition = int(time.time() * 1_000_000), self._definition
        wanted: dict[Key, dict[Key, Row]] = {}
        cells: dict[Key, Cells | None] = {}
        places: list[tuple[Key, Key]] = []
        for key, row in zip(keys, self._all(self._base, keys), strict=True):
            cells[key] = None if row is None else self.rows.cells(row)
            values = [] if row is None else self.rows.values(row)
            entries = frozenset() if row is None else definition.entries(key, values)
            copies = tuple(values[place] for place in definition.copies) if row is not None else ()
            wanted[key] = dict.fromkeys(entries, copies)
            places += [(key, entry) for entry in entries | keys[key]]
        found: dict[Key, dict[Key, Row]] = {key: {} for key in keys}
        latest = dict.fromkeys(keys, 0)
        count = len(definition.copied)
        rows = self._all(self._entry, [self.entries.full_key(entry, key) for key, entry in places])
        for (key, entry), row in zip(places, rows, strict=True):
            if row is not None:
                found[key][entry] = row[:count]
                times = [int.from_bytes(written, "big", signed=True) for written in row[count:] if written and count]
                latest[key] = max(latest[key], *times, 0)
        return {key: Seen(cells[key], wanted[key], found[key], latest[key], when) for key in keys}

    def _all(self, prepared: Any, keys: Iterable[Sequence[bytes]]) -> list[Row | None]:
        """The row of each key, in their order."""
        answers: list[Row | None] = []
        pending: list[tuple[Sequence[bytes], Any]] = []
        for key in keys:
            pending.append((key, self._ask(prepared, key)))
            if len(pending) == AT_ONCE:
                answers += [self._answer(prepared, *one) for one in pending]
                pending.clear()
        return answers + [self._answer(prepared, *one) for one in pending]

    def _ask(self, prepared: Any, key: Sequence[bytes]) -> Any:
        bound = BoundStatement(prepared)
        bound.values = list(key)  # they are bytes of their types already
        return self._index.ask(bound)

    def _answer(self, prepared: Any, key: Sequence[bytes], future: Any) -> Row | None:
        tries = 1
        while True:
            try:
                row: Row | None = future.result().one()
                return row
            except TRANSIENT as error:
                if tries >= TRIES:
                    raise SinkError(f"Cassandra cannot be read: {type(error).__name__}: {error}") from error
                time.sleep(0.1 * 2**tries)
                tries += 1
                future = self._ask(prepared, key)
