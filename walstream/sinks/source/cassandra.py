"""Reads rows in tables of Cassandra. How new they are is not known: a delete leaves nothing to see."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar

from cassandra import InvalidRequest
from cassandra.concurrent import execute_concurrent
from cassandra.query import BoundStatement
from cassandra.util import Date, SortedSet, Time
from pydantic import Field

from walstream.errors import SinkError
from walstream.mutation import Mutation
from walstream.namespace import Words
from walstream.sinks.base import TARGET_DOWN, Dead
from walstream.sinks.cassandra import CassandraSink, schema, session
from walstream.sinks.cassandra.sink import Consistency
from walstream.sinks.cassandra.statements import BadMutation, Columns
from walstream.sinks.source.base import Answer, Found, Gone, Source, Wanted

AT_ONCE = 50  # look-ups in flight


class CassandraSourceOptions(Words):
    """Where rows are. Without ``table``, each mutation names its own."""

    keyspace: str = Field(min_length=1)
    table: str | None = Field(default=None, min_length=1)
    consistency: Consistency = "LOCAL_QUORUM"


class CassandraSource(Source):
    """A look-up for each row, many at a time."""

    Options = CassandraSourceOptions
    needs_connection = True
    connection_kind = "cassandra"
    unreachable: ClassVar = (
        *(kind for kind, verdict in CassandraSink.errors.items() if verdict is TARGET_DOWN),
        OSError,
    )

    _session: Any = None

    async def open(self) -> None:
        options = self.options
        self._session = await asyncio.to_thread(session.connect, self.context.connection, options.consistency)
        self._tables: dict[str, tuple[Any, Columns]] = {}

    async def close(self) -> None:
        if self._session is not None:
            await asyncio.to_thread(session.disconnect, self._session)

    async def read(self, wanted: Sequence[Wanted]) -> Sequence[Answer]:
        return await asyncio.to_thread(self._read, wanted)

    def _read(self, wanted: Sequence[Wanted]) -> Sequence[Answer]:
        answers: dict[int, Answer] = {}
        statements: dict[int, Any] = {}
        for i, row in enumerate(wanted):
            try:
                statements[i] = self._statement(row)
            except (BadMutation, InvalidRequest) as error:
                answers[i] = Dead(f"it cannot be read at the source: {error}")
        results = execute_concurrent(
            self._session, [(statement, ()) for statement in statements.values()], AT_ONCE, raise_on_first_error=False
        )
        for i, (is_read, result) in zip(statements, results, strict=True):
            if not is_read and isinstance(result, InvalidRequest):
                self._tables.clear()  # one may have been altered
                answers[i] = Dead(f"it cannot be read at the source: {result}")
            elif not is_read:
                raise result
            else:
                answers[i] = _answer(result)
        return [answers[i] for i in range(len(wanted))]

    def _statement(self, row: Wanted) -> BoundStatement:
        """The look-up of a row.

        Raises
        ------
        BadMutation
            There can be no such row.
        """
        name = self.options.table or row.table
        if name is None:
            raise BadMutation("it names no table, and neither does the source")
        if name not in self._tables:
            self._tables[name] = self._prepare(name)
        select, columns = self._tables[name]
        bound = BoundStatement(select)
        bound.values = columns.key(Mutation("delete", row.table, dict(row.key)))
        return bound

    def _prepare(self, name: str) -> tuple[Any, Columns]:
        table = schema.read_table(self._session, self.options.keyspace, name)
        if table is None:
            said = f"there is no table {self.options.keyspace}.{name} at the source"
            raise SinkError(said) if name == self.options.table else BadMutation(said)
        table = replace(table, columns={column: table.columns[column] for column in table.key})
        where = " AND ".join(f"{schema.quote(column)} = ?" for column in table.key)
        select = self._session.prepare(
            f"SELECT * FROM {schema.quote(table.keyspace)}.{schema.quote(table.name)} WHERE {where}"
        )
        select.is_idempotent = True
        return select, Columns(table, [column.type for column in select.column_metadata])


def _answer(result: Any) -> Answer:
    row = result.one()
    return Gone() if row is None else Found(dict(zip(result.column_names, map(_plain, row), strict=True)))


def _plain(value: Any) -> Any:
    """A value as the driver has it, as `walstream.put` takes it."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)
    if isinstance(value, Date | Time):
        return str(value)
    if hasattr(value, "_asdict"):  # of a user-defined type
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | SortedSet):
        return [_plain(item) for item in value]
    return value
