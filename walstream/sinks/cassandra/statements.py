"""Mutation -> what is to be executed: the prepared statements of one table, and its columns' encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cassandra.query import UNSET_VALUE

from walstream.mutation import Mutation
from walstream.sinks.cassandra import schema
from walstream.sinks.cassandra.types import BadValue, Encode, encoder, int64, plain_kind, uint16
from walstream.wire import plain_mutation

Bound = tuple[Any, list[Any], bytes]
"""A prepared statement, its values as bytes, and the routing key: the bytes of the partition key.

The driver's own BoundStatement would be one more object a row, and a batch needs none.
"""

Read = tuple[bool, str | None, list[bytes], list[tuple[int, bytes | None]]]
"""A mutation: whether it is a put, its table, the primary key, and place (in the order of the table) and value of the
other columns, None for null."""


class BadMutation(ValueError):
    """A mutation that the table cannot take, as far as we know its schema."""


class Columns:
    """A table's columns, and what makes their bytes of a mutation's values.

    Parameters
    ----------
    types
        The driver's class of each column's type, in the order of `table.columns`: the server's own answer, which names
        a type with everything inside it, user-defined types too.
    """

    def __init__(self, table: schema.Table, types: Sequence[Any]) -> None:
        self.table = table
        encoders: list[Encode] = [encoder(kind) for kind in types]
        self._columns = {column: (i, encoders[i]) for i, column in enumerate(table.columns)}
        self._key = [(column, self._columns.pop(column)[1]) for column in table.key]
        codes = {
            column: i << 4 | kind
            for i, column in enumerate(table.columns)
            if i < 64 and (kind := plain_kind(types[i])) is not None
        }
        self._plain_key = {column.encode(): code for column, code in codes.items() if column in table.key}
        self._plain_others = {column.encode(): code for column, code in codes.items() if column not in table.key}
        self._is_plain = len(self._plain_key) == len(table.key)

    def read(self, payload: bytes | None) -> Read | None:
        """A payload as what its values are in the table, if it is of the common kind; else it has to be parsed."""
        if payload is None or not self._is_plain:
            return None
        return plain_mutation(payload, self._plain_key, self._plain_others)

    def key(self, mutation: Mutation) -> list[bytes]:
        """The primary key's values.

        Raises
        ------
        BadMutation
            The mutation has other key columns, or one cannot hold its value.
        """
        columns, column = mutation.key, ""
        key = []
        try:
            for column, encode in self._key:
                value = columns.get(column)
                if value is None:
                    raise BadMutation(f"column {column} of the primary key is missing or null")
                key.append(encode(value))
        except BadValue as error:
            raise self._bad_value(column, error) from None
        if len(columns) > len(key):
            names = ", ".join(sorted(columns.keys() - set(self.table.key)))
            raise BadMutation(f"not in the primary key of {self.table}: {names}")
        return key

    def fill(self, mutation: Mutation, values: list[Any] | dict[int, Any]) -> None:
        """Put the values of a mutation's other columns, None for null, where they stand in the order of the table.

        Raises
        ------
        BadMutation
            The table has no such column, or the column cannot hold the value.
        """
        column = ""
        try:
            for column, value in mutation.set.items():
                known = self._columns.get(column)
                if known is None:
                    raise BadMutation(self._no_column(column))
                index, encode = known
                values[index] = None if value is None else encode(value)
        except BadValue as error:
            raise self._bad_value(column, error) from None

    def _bad_value(self, column: str, error: BadValue) -> BadMutation:
        return BadMutation(f"column {column} ({self.table.columns[column]}): {error}")

    def _no_column(self, column: str) -> str:
        if column in self.table.key:
            return f"column {column} is in the primary key; it belongs in `key`, not in `set`"
        return f"{self.table} has no column {column}"


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
        self._columns = Columns(table, [column.type for column in self._insert.column_metadata[:-1]])
        self._partition = len(table.partition)
        self._unset = [UNSET_VALUE] * (len(table.columns) - len(table.key))

    def bind(self, mutation: Mutation, time: int) -> Bound:
        """Make what is to be executed for a mutation.

        Parameters
        ----------
        time
            The effective time, microseconds.

        Raises
        ------
        BadMutation
            Where the table has no such column, or the column cannot hold the value.
        """
        key = self._columns.key(mutation)
        partition = routing_key(key[: self._partition])
        if mutation.op == "delete":
            return self._delete, [int64(time), *key], partition
        values = key + self._unset
        self._columns.fill(mutation, values)
        values.append(int64(time))
        return self._insert, values, partition


def routing_key(parts: Sequence[bytes]) -> bytes:
    """The bytes of a partition key, of its columns', as Cassandra hashes them.

    One of several has 65,535 bytes at most; Cassandra refuses a longer one, whatever node it is sent to.
    """
    if len(parts) == 1:
        return parts[0]
    return b"".join(uint16(min(len(part), 0xFFFF)) + part + b"\0" for part in parts)
