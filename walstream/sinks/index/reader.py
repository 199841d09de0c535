"""Reading by an index: the rows that have a value, if need be compared with the base table.

An index follows the log, as all targets do: what was written is found a moment later, and until then what was there
before. So an entry may be stale. Who must not see one asks for rows that are checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from cassandra.cluster import EXEC_PROFILE_DEFAULT
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import dict_factory

from walstream.errors import SinkError
from walstream.sinks.cassandra import schema
from walstream.sinks.cassandra.types import PROTOCOL
from walstream.sinks.index.definition import BadDefinition
from walstream.sinks.index.options import By, IndexOptions
from walstream.sinks.index.table import read_definition

# Rows whose base rows are read at the same time.
CHECKED_TOGETHER = 100

Row = dict[str, Any]
"""Columns of the index's table: those of ``by``, the base table's key, and the copies, as the driver reads them."""


class IndexReader:
    """Reads rows by an index.

    Parameters
    ----------
    session
        A connected session of the application's own driver (``cassandra.cluster.Session``).
    options
        Those of the index's target.

    Raises
    ------
    SinkError
        There is no such base table, or it cannot have the index.

    Examples
    --------
    ::

        reader = IndexReader(session, IndexOptions(keyspace="flights", base="flights", table="by_tail", by=["tailnum"]))
        for row in reader.find(tailnum="N14228"):
            print(row["flight"])
    """

    def __init__(self, session: Any, options: IndexOptions) -> None:
        self._session, self._options = session, options
        self._profile = session.execution_profile_clone_update(EXEC_PROFILE_DEFAULT, row_factory=dict_factory)
        try:
            definition = read_definition(session, options)
        except BadDefinition as error:
            raise SinkError(f"the index {options.keyspace}.{options.table} cannot be: {error}") from error
        if definition is None:
            raise SinkError(f"there is no table {options.keyspace}.{options.base}")
        self._definition, self._by = definition, options.columns
        base = definition.base
        self._columns = [*base.key, *(column for column in definition.tracked if column)]
        self._get = session.prepare(
            f"SELECT {', '.join(map(schema.quote, self._columns))} FROM {_name(base.keyspace, base.name)} WHERE "
            + " AND ".join(f"{schema.quote(column)} = ?" for column in base.key)
        )
        self._finds: dict[int, Any] = {}

    def find(self, *, check: bool = False, **values: Any) -> Iterator[Row]:
        """The rows that have the values. Blocks.

        Parameters
        ----------
        check
            Whether each row is compared with its base row as that is now: one that no longer has the values is left
            out, and copies are the base row's. It costs a read of each.
        values
            By the index's columns: all that name a partition, and as many of the next of ``by`` as are known. Functions
            are applied: any time in a bucket finds the bucket, and text is made lower case where the index is.
        """
        named = [by for by in self._by if by.name in values]
        leading = len(self._definition.partition)
        if len(named) < max(len(values), leading) or named != self._by[: len(named)]:
            names = ", ".join(by.name for by in self._by)
            raise ValueError(f"the index is looked up by the first {leading} or more of {names}, in this order")
        asked = [_applied(by, values[by.name]) for by in named]
        prepared = self._prepared(len(named))
        rows = iter(self._session.execute(prepared, asked, execution_profile=self._profile))
        if not check:
            yield from rows
            return
        while chunk := list(islice(rows, CHECKED_TOGETHER)):
            yield from self._checked(prepared, chunk)

    def _prepared(self, count: int) -> Any:
        if count not in self._finds:
            where = " AND ".join(f"{schema.quote(by.name)} = ?" for by in self._by[:count])
            name = _name(self._options.keyspace, self._options.table)
            self._finds[count] = self._session.prepare(f"SELECT * FROM {name} WHERE {where}")
        return self._finds[count]

    def _checked(self, found: Any, rows: Sequence[Row]) -> Iterator[Row]:
        definition = self._definition
        keys = [[row[column] for column in definition.base.key] for row in rows]
        answers = execute_concurrent_with_args(
            self._session, self._get, keys, concurrency=CHECKED_TOGETHER, execution_profile=self._profile
        )
        types = {name: kind for _, _, name, kind in found.result_metadata}
        for row, (_, answer) in zip(rows, answers, strict=True):
            base = next(iter(answer), None)
            if base is None:
                continue
            stored = [_bytes(kind, base[name]) for _, _, name, kind in self._get.result_metadata]
            key, cells = stored[: len(definition.base.key)], stored[len(definition.base.key) :]
            values = [b"", *cells] if definition.tracked[0] == "" else cells
            entry = tuple(_bytes(types[by.name], row[by.name]) for by in self._by)
            if entry in definition.entries([part or b"" for part in key], values):
                yield row | {column: base[column] for column in definition.copied}


def _name(keyspace: str, table: str) -> str:
    return f"{schema.quote(keyspace)}.{schema.quote(table)}"


def _bytes(kind: Any, value: Any) -> bytes | None:
    """A value that the driver read, as the bytes that it was read from."""
    return None if value is None else bytes(kind.to_binary(value, PROTOCOL))


def _applied(by: By, value: Any) -> Any:
    if by.function == "lower" and isinstance(value, str):
        return value.lower()
    if by.function == "bucket" and isinstance(value, datetime):
        time = value if value.tzinfo is not None else value.replace(tzinfo=UTC)  # as the driver takes it
        milliseconds = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        return milliseconds - milliseconds % by.width
    return value
