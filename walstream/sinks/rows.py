"""Mutation -> the key and the texts of its row, for stores that keep a row under one key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, TypeVar

import orjson
from pydantic import Field, field_validator

from walstream.entry import Entry
from walstream.errors import RecordRefused
from walstream.invalidation import TYPE as INVALIDATION_TYPE
from walstream.invalidation import parse_invalidation
from walstream.mutation import TYPE as MUTATION_TYPE
from walstream.mutation import KeyTemplate, mutation_parts, to_json
from walstream.namespace import Words
from walstream.sinks.base import SKIPPED, Dead, Outcome

T = TypeVar("T")

NAMES = 256
"""Names of columns whose bytes are kept at hand."""


class RowOptions(Words):
    """How a row becomes a key, as all of these sinks are told.

    Parameters
    ----------
    key
        Text with key columns in braces; ``{{`` and ``}}`` are braces.
    value
        ``json``: one text with all columns; else the column whose value is kept, or what the sink has beside.
    table
        The table whose mutations these are; others are refused. Without it, all are taken.
    """

    key: str = Field(min_length=1)
    value: str = Field(min_length=1)
    table: str | None = Field(default=None, min_length=1)

    @field_validator("key")
    @classmethod
    def _well_formed(cls, key: str) -> str:
        KeyTemplate(key)
        return key


class RowWrite(NamedTuple):
    """What a mutation does to the row of a key.

    Parameters
    ----------
    key
        The row's key at the store.
    time
        The effective time (µs).
    columns
        Of a put: name and text of each column. A text is nothing where the column is null, else it begins with ``=``.
        Of the form ``json`` the names are JSON strings.
    """

    key: bytes
    op: Literal["put", "delete"]
    time: int
    columns: list[tuple[bytes, bytes]]


# Without the constructor in Python that `NamedTuple` makes, which takes three times as long.
_write: Callable[[tuple[Any, ...]], RowWrite] = partial(tuple.__new__, RowWrite)


class RowReader:
    """How a target's mutations are keys and values.

    Parameters
    ----------
    key
        Template of the row's key.
    value
        ``json``, ``hash``, or the column whose value is the key's.
    table
        The only table that mutations may name, or None.
    """

    def __init__(self, key: str, value: str, table: str | None) -> None:
        self._template = KeyTemplate(key)
        self._columns = frozenset(self._template.columns)
        self.form: Literal["json", "hash", "column"]
        self.form = "json" if value == "json" else "hash" if value == "hash" else "column"
        self._column = value
        self._table = table
        self._name: Callable[[str], bytes] = lru_cache(NAMES)(orjson.dumps if self.form == "json" else str.encode)
        self._text = _json_text if self.form == "json" else _text

    def read(self, entry: Entry) -> RowWrite | None:
        """What the entry does, or None where it changes nothing of what is kept.

        Raises
        ------
        RecordRefused
            The entry is no mutation, or not one that this target can take.
        """
        kind = entry.type
        if kind == MUTATION_TYPE:
            op, named, key_columns, changes = mutation_parts(entry.payload)
        elif kind == INVALIDATION_TYPE:
            row = parse_invalidation(entry.payload)
            op, named, key_columns, changes = row.op, row.table, row.key, row.set
        else:
            raise RecordRefused("no-mutation", f"its type is {kind}, and this sink understands {MUTATION_TYPE}")
        if self._table is not None and named is not None and named != self._table:
            raise RecordRefused(
                "wrong-table", f"the mutation is for the table {named}, and the target is for {self._table}"
            )
        key = self._template.render(key_columns)
        if len(key_columns) > len(self._columns):
            more = ", ".join(sorted(key_columns.keys() - self._columns))
            raise RecordRefused(
                "bad-key", f"not in {self._template.template}: {more}; rows that differ in it would have one key"
            )
        if op == "delete":
            return _write((key, op, entry.time, []))
        if self.form == "column":
            column = self._column
            holder = changes if column in changes else key_columns
            if column not in holder:
                return None
            return _write((key, op, entry.time, [(self._name(column), _text(holder[column]))]))
        name, text = self._name, self._text
        columns = [(name(column), text(value)) for column, value in (key_columns | changes).items()]
        return _write((key, op, entry.time, columns))


def read_all(batch: Sequence[Entry], read: Callable[[Entry], T | None]) -> tuple[dict[int, T], dict[int, Outcome]]:
    """Read a batch: what is to be done, and the outcomes of what is not, each by its place.

    Parameters
    ----------
    read
        Reads an entry; None is nothing to do. Whatever it refuses is dead.
    """
    found: dict[int, T] = {}
    outcomes: dict[int, Outcome] = {}
    for place, entry in enumerate(batch):
        try:
            what = read(entry)
        except RecordRefused as refused:
            outcomes[place] = Dead(str(refused))
            continue
        if what is None:
            outcomes[place] = SKIPPED
        else:
            found[place] = what
    return found, outcomes


def _json_text(value: Any) -> bytes:
    if type(value) is str:
        return b"=" + orjson.dumps(value)
    return b"" if value is None else b"=" + to_json(value)


def _text(value: Any) -> bytes:
    if type(value) is str:
        return b"=" + value.encode()
    return b"" if value is None else b"=" + to_json(value)
