"""Reads the rows of tables as JSON, as Cassandra itself makes it of every type (``SELECT JSON``)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import SimpleStatement

from walstream.errors import SinkError
from walstream.mutation import to_json
from walstream.sinks.cassandra import schema

PAGE = 1_000  # rows
AT_ONCE = 50  # look-ups in flight

_TABLES = "SELECT table_name FROM system_schema.tables WHERE keyspace_name=%s"


class Rows:
    """The rows of one table, or of all of a keyspace. Keys are JSON, and name the table where there are all.

    Parameters
    ----------
    session
        Connected.
    keyspace, table
        Which; None is every table.
    """

    def __init__(self, session: Any, keyspace: str, table: str | None) -> None:
        self._session, self._keyspace, self._table = session, keyspace, table

    async def scan(self) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """All rows, in pages.

        Raises
        ------
        SinkError
            There is no such table.
        """
        names = [self._table] if self._table is not None else await asyncio.to_thread(self._names)
        for name in names:
            table = await asyncio.to_thread(self._read, name)
            statement = SimpleStatement(f"SELECT JSON * FROM {_quoted(table)}", fetch_size=PAGE)
            result = await asyncio.to_thread(self._session.execute, statement)
            while True:
                yield [self._row(table, text) for (text,) in result.current_rows]
                if not result.has_more_pages:
                    break
                await asyncio.to_thread(result.fetch_next_page)

    async def look_up(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What rows have now, in the order of their keys; None where there is none."""
        return await asyncio.to_thread(self._look_up, keys)

    def _look_up(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = [None] * len(keys)
        places: dict[str, list[int]] = {}
        columns: list[dict[str, Any]] = []
        for i, key in enumerate(keys):
            said = _load(key)
            name = self._table if self._table is not None else said["table"]
            columns.append(said if self._table is not None else said["key"])
            places.setdefault(name, []).append(i)
        for name, wanted in places.items():
            table = self._read(name)
            where = " AND ".join(f"{schema.quote(column)} = fromJson(?)" for column in table.key)
            prepared = self._session.prepare(f"SELECT JSON * FROM {_quoted(table)} WHERE {where}")
            arguments = [[to_json(columns[i][column]).decode() for column in table.key] for i in wanted]
            answers = execute_concurrent_with_args(self._session, prepared, arguments, concurrency=AT_ONCE)
            for i, (_, result) in zip(wanted, answers, strict=True):
                row = result.one()
                found[i] = None if row is None else self._row(table, row[0])[1]
        return found

    def _row(self, table: schema.Table, text: str) -> tuple[bytes, bytes]:
        columns = {_unquoted(name): value for name, value in _load(text).items()}
        key: dict[str, Any] = {column: columns[column] for column in table.key}
        if self._table is None:
            key = {"table": table.name, "key": key}
        return to_json(key), to_json({name: columns[name] for name in sorted(columns) if columns[name] is not None})

    def _names(self) -> list[str]:
        return sorted(row.table_name for row in self._session.execute(_TABLES, (self._keyspace,)))

    def _read(self, name: str) -> schema.Table:
        table = schema.read_table(self._session, self._keyspace, name)
        if table is None:
            raise SinkError(f"there is no table {self._keyspace}.{name}")
        return table


def _load(text: bytes | str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(text, parse_float=Decimal)
    return loaded


def _quoted(table: schema.Table) -> str:
    return f"{schema.quote(table.keyspace)}.{schema.quote(table.name)}"


def _unquoted(name: str) -> str:
    """A column's name, which Cassandra puts into quotes inside the JSON where it has capitals."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
