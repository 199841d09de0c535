"""Mutation -> what is to be executed: the prepared statements of one table, and its columns' encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cassandra.query import UNSET_VALUE

from walstream.mutation import Mutation
from walstream.sinks.cassandra import schema
from walstream.sinks.cassandra.types import BadValue, Encode, encoder, int64, uint16

Bound = tuple[Any, list[Any], bytes]
"""A prepared statement, its values as bytes, and the routing key: the bytes of the partition key.

The driver's own BoundStatement would be one more object a row, and a batch needs none.
"""


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
        self._key = [(column, self._columns.pop(column)[1]) for column in table.key]
        self._partition = len(table.partition)
        self._unset = [UNSET_VALUE] * len(self._columns)

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
        columns, column = mutation.key, ""
        try:
            key = []
            for column, encode in self._key:
                value = columns.get(column)
                if value is None:
                    raise BadMutation(f"column {column} of the primary key is missing or null")
                key.append(encode(value))
            if len(columns) > len(key):
                names = ", ".join(sorted(columns.keys() - set(self.table.key)))
                raise BadMutation(f"not in the primary key of {self.table}: {names}")
            routing_key = key[0] if self._partition == 1 else _composite(key[: self._partition])
            if mutation.op == "delete":
                return self._delete, [int64(time), *key], routing_key
            values = key + self._unset
            for column, value in mutation.set.items():
                known = self._columns.get(column)
                if known is None:
                    raise BadMutation(self._no_column(column))
                index, encode = known
                values[index] = None if value is None else encode(value)
        except BadValue as error:
            raise BadMutation(f"column {column} ({self.table.columns[column]}): {error}") from None
        values.append(int64(time))
        return self._insert, values, routing_key

    def _no_column(self, column: str) -> str:
        if column in self.table.key:
            return f"column {column} is in the primary key; it belongs in `key`, not in `set`"
        return f"{self.table} has no column {column}"


def _composite(parts: Sequence[bytes]) -> bytes:
    """The bytes of a partition key of several columns, as Cassandra hashes them; a part has 65,535 bytes at most.

    Cassandra refuses a longer one, whatever node it is sent to.
    """
    return b"".join(uint16(min(len(part), 0xFFFF)) + part + b"\0" for part in parts)
