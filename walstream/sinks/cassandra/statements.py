"""Mutation -> bound statement: the prepared statements of one table, and its columns' encoders."""

from __future__ import annotations

from typing import Any

from cassandra.query import UNSET_VALUE, BoundStatement

from walstream.mutation import Mutation
from walstream.sinks.cassandra import schema
from walstream.sinks.cassandra.types import BadValue, Encode, encoder, int64


class BadMutation(ValueError):
    """A mutation that the table cannot take, as far as we know its schema."""


class Statements:
    """What writes to one table, as its schema was when this was made.

    One INSERT names every column, and columns that a mutation leaves out are sent as *unset*, which leaves their cells
    alone, where null would delete them. So a table needs two prepared statements, however many sets of columns its
    mutations have.

    Both carry the timestamp as a value of their own, since every mutation has its own effective time. That is also why
    nothing here keeps order: Cassandra keeps, cell by cell, the write with the highest timestamp, whichever comes
    first, and no two mutations of a partition of the log have the same one.
    """

    def __init__(self, session: Any, table: schema.Table) -> None:
        self.table = table
        name = f"{schema.quote(table.keyspace)}.{schema.quote(table.name)}"
        columns = [schema.quote(column) for column in table.columns]
        where = " AND ".join(f"{schema.quote(column)} = ?" for column in table.key)
        self._insert = session.prepare(
            f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) USING TIMESTAMP ?"
        )
        self._delete = session.prepare(f"DELETE FROM {name} USING TIMESTAMP ? WHERE {where}")
        self._insert.is_idempotent = self._delete.is_idempotent = True
        # The server's answer names each column's type with everything inside it, user-defined types too.
        encoders: list[Encode] = [encoder(column.type) for column in self._insert.column_metadata[:-1]]
        self._columns = {column: (i, encoders[i]) for i, column in enumerate(table.columns)}
        self._key = [(column, *self._columns.pop(column)) for column in table.key]
        self._unset = [UNSET_VALUE] * len(columns)

    def bind(self, mutation: Mutation, time: int) -> BoundStatement:
        """Make the statement for a mutation.

        Parameters
        ----------
        time
            The effective time, microseconds.

        Raises
        ------
        BadMutation
            Where the table has no such column, or the column cannot hold the value.
        """
        key = [self._encode(column, encode, mutation.key.get(column)) for column, _, encode in self._key]
        if len(mutation.key) > len(key):
            names = ", ".join(sorted(mutation.key.keys() - set(self.table.key)))
            raise BadMutation(f"not in the primary key of {self.table}: {names}")
        if mutation.op == "delete":
            return _bound(self._delete, [int64(time), *key])
        values = self._unset.copy()
        values[: len(key)] = key
        for column, value in mutation.set.items():
            known = self._columns.get(column)
            if known is None:
                if column in self.table.key:
                    raise BadMutation(f"column {column} is in the primary key; it belongs in `key`, not in `set`")
                raise BadMutation(f"{self.table} has no column {column}")
            index, encode = known
            values[index] = None if value is None else self._encode(column, encode, value)
        values.append(int64(time))
        return _bound(self._insert, values)

    def _encode(self, column: str, encode: Encode, value: Any) -> bytes:
        if value is None:
            raise BadMutation(f"column {column} of the primary key is missing or null")
        try:
            return encode(value)
        except BadValue as error:
            kind = self.table.columns[column]
            raise BadMutation(f"column {column} ({kind}): {error}") from None


def _bound(prepared: Any, values: list[Any]) -> BoundStatement:
    """Bind values that are bytes already; the driver's own `bind` would encode Python objects."""
    statement = BoundStatement(prepared)
    statement.values = values
    return statement
