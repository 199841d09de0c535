"""Mutations: the payload that the built-in datastore sinks understand, one put or delete of one row.

As JSON::

    {"op": "put", "table": "flights", "key": {"flight": "UA1545"}, "set": {"arrived": "08:30", "gate": null}}

A put inserts: a column that is absent is untouched, null deletes the cell, a collection is replaced whole. A delete
removes the row. ``table`` may be left out where the target names one.
"""

from __future__ import annotations

import base64
import json
import math
import string
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import orjson

from walstream.errors import RecordRefused

TYPE = "walstream.mutation"
"""The CloudEvents type of a record whose payload is a mutation."""
CONTENT_TYPE = "application/json"
Op = Literal["put", "delete"]
Parts = tuple[Op, str | None, dict[str, Any], dict[str, Any]]
"""What a `Mutation` is made of."""

_WORDS = frozenset({"op", "table", "key", "set"})
# What nothing has to be looked up about: a key column of these, and another column that may be null as well.
_SIMPLE = frozenset({str, int, bool})
_SIMPLE_OR_NULL = _SIMPLE | {type(None)}


@dataclass(frozen=True, slots=True)
class Mutation:
    """One put or delete of one row.

    Parameters
    ----------
    op
        What is done.
    table
        Where; None leaves it to the target.
    key
        The columns of the primary key. Values are what JSON has, with `decimal.Decimal` for a number with a fraction or
        an exponent, so that none loses digits.
    set
        The other columns, of a put.
    """

    op: Op
    table: str | None
    key: dict[str, Any]
    set: dict[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The payload."""
        members: dict[str, Any] = {"op": self.op}
        if self.table is not None:
            members["table"] = self.table
        members["key"] = self.key
        if self.op == "put":
            members["set"] = self.set
        return to_json(members)


def put(*, key: Mapping[str, Any], set: Mapping[str, Any] | None = None, table: str | None = None) -> Mutation:
    """A mutation that inserts a row, or changes some columns of it.

    Parameters
    ----------
    key
        The columns of the primary key.
    set
        The columns to change: None deletes a cell, what is not named is untouched.
    table
        Left out where the target names one.

    Values may be what JSON has, and `Decimal`, `datetime` (with a time zone), `date`, `time`, `UUID`, bytes (written as
    Base64), sets, tuples, and mappings of these.

    Raises
    ------
    RecordRefused
        A key is missing or null, a column is named twice, or a value has no form in JSON.
    """
    return _checked(Mutation("put", table, _plain_columns(key), _plain_columns(set or {})))


def delete(*, key: Mapping[str, Any], table: str | None = None) -> Mutation:
    """A mutation that removes a row; parameters and errors as of `put`."""
    return _checked(Mutation("delete", table, _plain_columns(key)))


def parse_mutation(payload: bytes | None) -> Mutation:
    """Read a payload.

    Raises
    ------
    RecordRefused
        It is not a mutation; the code is ``bad-mutation``.
    """
    return Mutation(*mutation_parts(payload))


def mutation_parts(payload: bytes | None) -> Parts:
    """Read a payload as `parse_mutation` does, for who needs no object: to make one takes as long as to read JSON.

    Raises
    ------
    RecordRefused
        As of `parse_mutation`.
    """
    if payload is None:
        raise _refused("the payload is null")
    try:
        members = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise _refused(f"the payload is not JSON: {error}") from None
    if type(members) is not dict:
        raise _refused("the payload is not a JSON object")
    plain = _plain_parts(members)
    if plain is not None:
        return plain
    if _has_float(members):
        # A float has 15 digits; a decimal, and an integer beyond 64 bits, which orjson makes a float too, have more.
        try:
            members = json.loads(payload, parse_float=Decimal)
        except (ValueError, RecursionError):  # an integer of more than 4,300 digits, or nested beyond Python's stack
            raise _refused("the payload has too long a number, or is nested too deeply") from None
    if not members.keys() <= _WORDS:
        unknown = ", ".join(sorted(members.keys() - _WORDS))
        raise _refused(f"a mutation has op, table, key and set, but not {unknown}")
    op, key, changes = members.get("op"), members.get("key"), members.get("set")
    if op not in ("put", "delete"):
        raise _refused(
            "op is missing; it can be put or delete" if op is None else f"op is {op!r}; it can be put or delete"
        )
    if type(key) is not dict:
        raise _refused("key is missing" if key is None else "key is not an object of columns")
    if changes is None:
        changes = {}
    elif op == "delete":
        raise _refused("a delete removes the row, so it has no set")
    elif type(changes) is not dict:
        raise _refused("set is not an object of columns")
    table = members.get("table")
    _check(table, key, changes)
    return op, table, key, changes


def _plain_parts(members: dict[str, Any]) -> Parts | None:
    """The common kind, in which nothing is wrong: texts, whole numbers, truth values and nulls. None: look closer."""
    get = members.get
    op, table, key, changes = get("op"), get("table"), get("key"), get("set")
    if op == "put":
        if type(changes) is not dict or not _SIMPLE_OR_NULL.issuperset(map(type, changes.values())) or "" in changes:
            return None
        words = 3
    elif op == "delete" and changes is None:
        changes, words = {}, 2
    else:
        return None
    if table is not None:
        if type(table) is not str or not table:
            return None
        words += 1
    if (
        len(members) != words  # a null, or a word that is not known
        or type(key) is not dict
        or not key
        or "" in key
        or not _SIMPLE.issuperset(map(type, key.values()))
        or not key.keys().isdisjoint(changes)
    ):
        return None
    return op, table, key, changes


def _checked(mutation: Mutation) -> Mutation:
    _check(mutation.table, mutation.key, mutation.set)
    return mutation


def _check(table: Any, key: dict[str, Any], changes: dict[str, Any]) -> None:
    if table is not None and (not isinstance(table, str) or not table):
        raise _refused("table is not the name of a table")
    if not key:
        raise _refused("key is empty; it names the row")
    for column, value in key.items():
        if value is None:
            raise _refused(f"the key column {column!r} is null")
    if "" in key or "" in changes:
        raise _refused("a column has an empty name")
    if not key.keys().isdisjoint(changes):
        twice = ", ".join(sorted(key.keys() & changes.keys()))
        raise _refused(f"in key and in set: {twice}; a key column cannot be changed")


def _refused(reason: str) -> RecordRefused:
    return RecordRefused("bad-mutation", reason)


def _has_float(value: Any) -> bool:
    values = value.values() if type(value) is dict else value
    for item in values:
        kind = type(item)
        if kind is float or ((kind is dict or kind is list) and _has_float(item)):
            return True
    return False


def _number(value: Any) -> Any:
    """For orjson, which asks about what it does not know: a Decimal as the JSON number that it is."""
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _large_integers(value: Any) -> Any:
    """The value, with integers that orjson would refuse as the JSON numbers that they are."""
    if type(value) is dict:
        return {name: _large_integers(item) for name, item in value.items()}
    if type(value) is list:
        return [_large_integers(item) for item in value]
    if type(value) is int and not -(2**63) <= value < 2**64:
        return orjson.Fragment(str(value))
    return value


def to_json(value: Any) -> bytes:
    """A value of a `Mutation` as JSON, with every digit."""
    try:
        return orjson.dumps(value, default=_number)
    except TypeError:
        return orjson.dumps(_large_integers(value), default=_number)


# Values of Python as what JSON has. `put` and `delete` do it at once, so that the Kafka key that is made of a mutation
# is the same before it is written and after it is read.


def _plain_columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    plain = {}
    for column, value in columns.items():
        if not isinstance(column, str):
            raise _refused(f"{column!r} is not the name of a column")
        plain[column] = _plain(column, value)
    return plain


def _plain(column: str, value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float | Decimal):
        number = value if isinstance(value, Decimal) else Decimal(repr(float(value)))
        if not math.isfinite(number):
            raise _refused(f"the column {column!r} is {value}, which has no form in JSON")
        return number
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise _refused(f"the column {column!r} is {value.isoformat()}, a time without a time zone")
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {_member_name(column, name): _plain(column, item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(column, item) for item in value]
    if isinstance(value, Set):
        return sorted((_plain(column, item) for item in value), key=repr)  # one set is written in one way
    raise _refused(f"the column {column!r} is of type {type(value).__name__}, which has no form in JSON")


def _member_name(column: str, name: Any) -> str:
    plain = _plain(column, name)
    if isinstance(plain, str):
        return plain
    return render_value(column, plain)


# The Kafka key


class KeyTemplate:
    """How the Kafka key is made from the key columns of a mutation.

    Parameters
    ----------
    template
        Text with columns in braces, such as ``{carrier}-{flight}``; ``{{`` and ``}}`` are braces.

    Raises
    ------
    ValueError
        It is not such a text, or names no column.

    Notes
    -----
    All mutations of a row have one key, since key columns never change. Two rows may have one key as well; they are
    then kept in one order, which is right, and slower.
    """

    __slots__ = ("_parts", "_pattern", "columns", "template")

    def __init__(self, template: str) -> None:
        self.template = template
        parts: list[tuple[str, str | None]] = []  # text, then a column
        try:
            for text, column, spec, conversion in string.Formatter().parse(template):
                if column is not None and (spec or conversion or not column.isidentifier()):
                    raise ValueError(f"only the name of a column can stand in braces, not {column!r}")
                parts.append((text, column))
        except ValueError as error:
            raise ValueError(
                f"{template!r} is not a key template: {error}; write columns in braces, such as {{carrier}}-{{flight}}"
            ) from None
        self._parts = tuple(parts)
        self._pattern = "".join(text.replace("%", "%%") + ("" if column is None else "%s") for text, column in parts)
        self.columns = tuple(column for _, column in parts if column is not None)
        if not self.columns:
            raise ValueError(f"{template!r} names no column, so that all rows would have one key")

    @property
    def prefix(self) -> bytes:
        """What all keys begin with."""
        return self._parts[0][0].encode()

    def render(self, key_columns: Mapping[str, Any]) -> bytes:
        """The Kafka key of a row.

        Raises
        ------
        RecordRefused
            A column of the template is missing, or is a collection; the code is ``bad-key``.
        """
        texts = []
        for column in self.columns:
            if column not in key_columns:
                raise RecordRefused("bad-key", f"the row has no key column {column!r}, which {self.template} needs")
            value = key_columns[column]
            kind = type(value)
            texts.append(value if kind is str else str(value) if kind is int else render_value(column, value))
        return (self._pattern % tuple(texts)).encode()

    def __repr__(self) -> str:
        return f"KeyTemplate({self.template!r})"


def render_value(column: str, value: Any) -> str:
    """One value of a key column as text: the same for a value of Python and for what it is after JSON.

    Raises
    ------
    RecordRefused
        The value is null or a collection; the code is ``bad-key``.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Decimal):
        return str(value)
    if isinstance(value, float):
        return str(Decimal(repr(value)))
    raise RecordRefused("bad-key", f"the column {column!r} is null or a collection, which cannot be in a Kafka key")


def key_mismatch(template: KeyTemplate, key_columns: Mapping[str, Any], key: bytes | None) -> str | None:
    """What is wrong with a record's key for its row, in a sentence; None if it is right."""
    expected = template.render(key_columns)
    if key == expected:
        return None
    shown = "none" if key is None else repr(key.decode(errors="backslashreplace"))
    return f"the Kafka key is {shown}, but the key template {template.template} makes {expected.decode()!r} of the row"
