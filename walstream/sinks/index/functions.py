"""What is made of a column's bytes: the values it is indexed by, and what a condition says of them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

from cassandra import cqltypes

from walstream.sinks.cassandra.types import PROTOCOL, BadValue, encoder
from walstream.sinks.index.options import Condition

Values = Callable[[bytes], Iterable[bytes]]
"""A column's value -> what it is found by: none, one, or as many as a collection has."""

_INT = struct.Struct(">i").unpack_from
_LONG = struct.Struct(">q")
_FLOATS = {"float": struct.Struct(">f"), "double": struct.Struct(">d")}
_INTEGERS = frozenset({"tinyint", "smallint", "int", "bigint", "varint", "timestamp", "time"})
_BYTES = frozenset({"ascii", "text", "varchar", "blob", "date", "boolean"})

EMPTY_COLLECTION = b"\0\0\0\0"


def lower(value: bytes) -> Iterable[bytes]:
    """A text in lower case, as Python makes it."""
    return (value.decode().lower().encode(),)


def bucket(width: int) -> Values:
    """What makes the beginning of the bucket in which a timestamp is; buckets of that width (ms) begin at 1970."""
    unpack, pack = _LONG.unpack, _LONG.pack

    def values(value: bytes) -> Iterable[bytes]:
        if len(value) != _LONG.size:  # an empty value, which is neither null nor a time
            return ()
        (time,) = unpack(value)
        return (pack(max(time - time % width, -(2**63))),)

    return values


def elements(value: bytes) -> Iterable[bytes]:
    """The elements of a list or set, each once."""
    return {chunk[4:] for chunk in _chunks(value, 1)}


def map_keys(value: bytes) -> Iterable[bytes]:
    """The keys of a map."""
    return {_first(chunk) for chunk in _chunks(value, 2)}


def map_entries(value: bytes) -> Iterable[bytes]:
    """The entries of a map, each a tuple of key and value, whose bytes stand there as they are."""
    return {_first(chunk): chunk for chunk in _chunks(value, 2)}.values()


def _chunks(value: bytes, parts: int) -> Iterable[bytes]:
    """What a collection holds, each of some parts with their sizes before them."""
    (count,) = _INT(value) if value else (0,)
    at = 4
    for _ in range(count):
        start = at
        for _ in range(parts):
            (size,) = _INT(value, at)
            at += 4 + size
        yield value[start:at]


def _first(chunk: bytes) -> bytes:
    (size,) = _INT(chunk)
    return chunk[4 : 4 + size]


# Conditions

Holds = Callable[[bytes | None], bool]


def holds(condition: Condition, cql_type: Any) -> Holds:
    """What says whether a condition holds of a column's value; null is in no order.

    Raises
    ------
    BadValue
        The column cannot have a value that the condition names, or its type has no order.
    """
    order = _order(cql_type)
    encode = encoder(cql_type)
    encoded = [None if value is None else encode(value) for value in condition.values]
    if condition.operator in ("in", "not"):
        # What is equal may have several forms, such as the decimals 1.0 and 1.00.
        convert = order or (lambda value: value)
        values = [None if value is None else convert(value) for value in encoded]
        wanted = condition.operator == "in"
        return lambda value: ((None if value is None else convert(value)) in values) is wanted
    if order is None:
        raise BadValue(f"values of the type {cql_type.cql_parameterized_type()} have no order here")
    (value,) = encoded
    assert value is not None  # by parse_where
    bound = order(value)
    compare: Callable[[Any], bool] = {
        "<": lambda found: bool(found < bound),
        "<=": lambda found: bool(found <= bound),
        ">": lambda found: bool(found > bound),
        ">=": lambda found: bool(found >= bound),
    }[condition.operator]
    return lambda value: value is not None and compare(order(value))


def _order(cql_type: Any) -> Callable[[bytes], Any] | None:
    """What turns bytes of a type into what Python puts in the type's order."""
    name = cql_type.typename
    if name in _INTEGERS:
        return lambda value: int.from_bytes(value, "big", signed=True)
    if name in _BYTES:
        return lambda value: value
    if name in _FLOATS:
        unpack = _FLOATS[name].unpack
        return lambda value: unpack(value)[0] if value else -float("inf")
    if name == "decimal":
        return lambda value: cqltypes.DecimalType.deserialize(value, PROTOCOL) if value else Decimal("-Infinity")
    return None
