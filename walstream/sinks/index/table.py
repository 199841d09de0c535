"""What a call works with: the index as the schema now defines it, and the statements that write its entries."""

from __future__ import annotations

from typing import Any

from cassandra.query import UNSET_VALUE

from walstream.errors import RecordRefused
from walstream.mutation import Mutation
from walstream.sinks.cassandra import schema
from walstream.sinks.cassandra.batches import Row as Write
from walstream.sinks.cassandra.statements import Columns, routing_key
from walstream.sinks.cassandra.types import int32, int64
from walstream.sinks.index.definition import BadDefinition, Definition
from walstream.sinks.index.functions import EMPTY_COLLECTION
from walstream.sinks.index.options import IndexOptions
from walstream.sinks.index.repair import Repair
from walstream.sinks.index.state import Codec
from walstream.sinks.index.steps import Mend, Step, Taken


def read_definition(session: Any, options: IndexOptions) -> Definition | None:
    """The index of a base table as it is now; None where there is no base table. Blocks.

    Raises
    ------
    BadDefinition
        The base table cannot have it.
    """
    base = schema.read_table(session, options.keyspace, options.base)
    if base is None:
        return None
    if base.is_counter:
        raise BadDefinition(f"{base} holds counters, which no mutation writes")
    # The server's answer names each column's type with everything inside it.
    columns = ", ".join(map(schema.quote, base.columns))
    prepared = session.prepare(f"SELECT {columns} FROM {schema.quote(base.keyspace)}.{schema.quote(base.name)}")
    return Definition(options, base, [kind for *_, kind in prepared.result_metadata])


class IndexTable:
    """The index's table.

    Parameters
    ----------
    session
        A connected session of the driver.
    """

    def __init__(self, session: Any, definition: Definition) -> None:
        self.definition = definition
        self.codec = Codec(len(definition.tracked), definition.fingerprint)
        options, base = definition.options, definition.base
        name = f"{schema.quote(options.keyspace)}.{schema.quote(options.table)}"
        key = [schema.quote(column) for column in (*definition.partition, *definition.clustering)]
        columns = [*key, *map(schema.quote, definition.copied)]
        self._insert = session.prepare(
            f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) USING TIMESTAMP ?"
        )
        where = " AND ".join(f"{column} = ?" for column in key)
        self._delete = session.prepare(f"DELETE FROM {name} USING TIMESTAMP ? WHERE {where}")
        self._insert.is_idempotent = self._delete.is_idempotent = True
        self._leading = len(definition.partition)

        self._columns = Columns(base, definition.types)
        self._unset = [UNSET_VALUE] * (len(base.columns) - len(base.key))
        places = {column: i for i, column in enumerate(base.columns)}
        # Where the values stand among all columns, and whether an empty one is null: a collection of several cells.
        self._tracked = [
            (places[column], slot, base.columns[column].startswith(("set<", "list<", "map<")))
            for slot, column in enumerate(definition.tracked)
            if column
        ]
        self._written_by_every_put = definition.tracked[0] == ""

    def step(self, place: int, mutation: Mutation, time: int) -> Step | None:
        """What a mutation of the base table is to the index; None where it names nothing that matters.

        Raises
        ------
        BadMutation
            The base table cannot take it.
        """
        key = self._columns.key(mutation)
        row_key = _row_key(key)
        if mutation.op == "delete":
            return Step(place, row_key, key, None, time)
        values = key + self._unset
        self._columns.fill(mutation, values)
        cells: list[tuple[int, bytes | None]] = [(0, b"")] if self._written_by_every_put else []
        for index, slot, collection in self._tracked:
            value = values[index]
            if value is not UNSET_VALUE:
                cells.append((slot, None if collection and value == EMPTY_COLLECTION else value))
        return Step(place, row_key, key, cells, time) if cells else None

    def mend(self, place: int, repair: Repair) -> Mend:
        """What a repair is to the index.

        Raises
        ------
        BadMutation, RecordRefused
            It is for a row that cannot be, or for an index of another definition.
        """
        key = self._columns.key(repair.mutation)
        slots = {column: slot for slot, column in enumerate(self.definition.tracked)}
        row = repair.row
        by = len(self.definition.options.by)
        if not slots.keys() >= (row or {}).keys() or any(len(entry) != by for entry in repair.stale):
            raise RecordRefused("bad-repair", "the repair is for an index of another definition")
        cells = None if row is None else {slots[column]: cell for column, cell in row.items()}
        return Mend(place, _row_key(key), key, None, repair.seen, cells, repair.above, repair.stale)

    def writes(self, number: int, taken: Taken) -> list[Write]:
        """What is to be executed for a row."""
        definition, row = self.definition, taken.row
        time = int64(row.clock)
        rest = [taken.key[place] for place in definition.rest]
        name, leading = definition.options.table, self._leading
        writes = []
        for entry in taken.removed:
            values: list[Any] = [time, *entry, *rest]
            writes.append(Write(number, name, _size(values), self._delete, values, routing_key(entry[:leading])))
        if written := taken.written:
            given = taken.copies
            copies = [given.get(place, UNSET_VALUE) for place in definition.copies]
            for entry in written:
                values = [*entry, *rest, *copies, time]
                writes.append(Write(number, name, _size(values), self._insert, values, routing_key(entry[:leading])))
        return writes


def _row_key(key: list[bytes]) -> bytes:
    return key[0] if len(key) == 1 else b"".join([int32(len(part)) + part for part in key])


def _size(values: list[Any]) -> int:
    return sum([len(value) for value in values if type(value) is bytes])
