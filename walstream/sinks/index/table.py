"""What a call works with: the index as the schema now defines it, and the statements that write its entries."""

from __future__ import annotations

from typing import Any

from cassandra.query import UNSET_VALUE

from walstream.errors import RecordRefused
from walstream.mutation import parse_mutation
from walstream.sinks.cassandra import schema
from walstream.sinks.cassandra.batches import Row as Write
from walstream.sinks.cassandra.statements import Columns, Read, routing_key
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
        self._has_whole_key = definition.rest == list(range(len(base.key)))

        self._columns = Columns(base, definition.types)
        places = {column: i for i, column in enumerate(base.columns)}
        # By where the columns stand among all: their slots, and whether an empty value is null: a collection of cells.
        self._tracked = {
            places[column]: (slot, base.columns[column].startswith(("set<", "list<", "map<")))
            for slot, column in enumerate(definition.tracked)
            if column
        }
        self._written_by_every_put = definition.tracked[0] == ""

    def step(self, place: int, payload: bytes | None, time: int) -> Step | None:
        """What a mutation is to the index; None where it is of another table, or names nothing that matters.

        Raises
        ------
        RecordRefused
            The payload is no mutation.
        BadMutation
            The base table cannot take it.
        """
        is_put, table, key, values = self._columns.read(payload) or self._parse(payload)
        if table is not None and table != self.definition.options.base:
            return None
        row_key = _row_key(key)
        if not is_put:
            return Step(place, row_key, key, None, time)
        cells: list[tuple[int, bytes | None]] = [(0, b"")] if self._written_by_every_put else []
        for index, value in values:
            if index in self._tracked:
                slot, collection = self._tracked[index]
                cells.append((slot, None if collection and value == EMPTY_COLLECTION else value))
        return Step(place, row_key, key, cells, time) if cells else None

    def _parse(self, payload: bytes | None) -> Read:
        mutation = parse_mutation(payload)
        if mutation.table is not None and mutation.table != self.definition.options.base:
            return False, mutation.table, [], []
        key = self._columns.key(mutation)
        values: dict[int, bytes | None] = {}
        self._columns.fill(mutation, values)
        return mutation.op == "put", mutation.table, key, list(values.items())

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
        removed, written = taken.removed, taken.written
        if not removed and not written:
            return []
        definition, leading = self.definition, self._leading
        time, name = int64(taken.row.clock), definition.options.table
        rest = taken.key if self._has_whole_key else [taken.key[place] for place in definition.rest]
        size = len(time) + sum(map(len, rest))
        writes = []
        for entry in removed:
            key = entry[0] if leading == 1 else routing_key(entry[:leading])
            values = [time, *entry, *rest]
            writes.append(Write(number, name, size + sum(map(len, entry)), self._delete, values, key))
        if written:
            copies: list[Any] = []
            if definition.copies:
                given = taken.copies
                copies = [given.get(place, UNSET_VALUE) for place in definition.copies]
                size += sum([len(value) for value in copies if type(value) is bytes])
            for entry in written:
                key = entry[0] if leading == 1 else routing_key(entry[:leading])
                values = [*entry, *rest, *copies, time]
                writes.append(Write(number, name, size + sum(map(len, entry)), self._insert, values, key))
        return writes


def _row_key(key: list[bytes]) -> bytes:
    return key[0] if len(key) == 1 else b"".join([int32(len(part)) + part for part in key])
