"""Bytes of a CQL type -> JSON value, as a mutation has it: the way back from `walstream.sinks.cassandra.types`.

What comes out, written again, has the same bytes. A value of a key column is what walstream's client makes of Python's
value of it, since the record's Kafka key is made of that.
"""

from __future__ import annotations

import base64
import ipaddress
import struct
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from cassandra import cqltypes

from walstream.sinks.cassandra.types import PROTOCOL

Decode = Callable[[bytes], Any]
"""Bytes -> what JSON can hold, and `Decimal`. Raises `NoForm`."""

_INT = struct.Struct(">i").unpack_from
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_NS = 86_400 * 10**9


class NoForm(ValueError):
    """Bytes that no mutation can have written: a value that JSON cannot say, or none of the type."""


def decoder(cql_type: Any, *, key: bool = False) -> Decode:
    """Make the decoder of a type.

    Parameters
    ----------
    cql_type
        The driver's class for the type.
    key
        Whether it is of a key column.
    """
    if issubclass(cql_type, cqltypes.UserType):
        return _user_type(cql_type)
    if issubclass(cql_type, cqltypes.TupleType):
        return _tuple([decoder(subtype) for subtype in cql_type.subtypes])
    if issubclass(cql_type, cqltypes.ListType | cqltypes.SetType):
        return _sequence(decoder(cql_type.subtypes[0]))
    if issubclass(cql_type, cqltypes.MapType):
        return _map(decoder(cql_type.subtypes[0]), decoder(cql_type.subtypes[1]))
    if issubclass(cql_type, cqltypes.VectorType):
        return _vector(cql_type)
    if issubclass(cql_type, cqltypes.FrozenType | cqltypes.ReversedType):
        return decoder(cql_type.subtypes[0], key=key)
    name = cql_type.typename
    found = (_OF_KEYS.get(name) if key else None) or _SIMPLE.get(name)
    return _checked(found, name) if found else _unsupported(name)


def _checked(decode: Decode, name: str) -> Decode:
    def checked(value: bytes) -> Any:
        try:
            return decode(value)
        except (ValueError, struct.error, OverflowError) as error:
            raise NoForm(f"{len(value)} bytes are no {name} that a mutation can have: {error}") from None

    return checked


def _unsupported(name: str) -> Decode:
    def decode(value: bytes) -> Any:
        raise NoForm(f"no mutation has values of the type {name}")

    return decode


# Simple types


def _ascii(value: bytes) -> str:
    return value.decode("ascii")


def _fixed(layout: str) -> Decode:
    unpack = struct.Struct(layout).unpack

    def decode(value: bytes) -> Any:
        return unpack(value)[0]

    return decode


def _floating(layout: str, *, key: bool = False) -> Decode:
    unpack = struct.Struct(layout).unpack
    words = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

    def decode(value: bytes) -> Any:
        text = repr(unpack(value)[0])
        if text in words:
            return words[text]
        # As a string: a number with a fraction makes whoever reads the mutation read it in a slower way.
        return Decimal(text) if key else text

    return decode


def _varint(value: bytes) -> int | str:
    if not value:
        raise ValueError("it is empty")
    number = int.from_bytes(value, "big", signed=True)
    return number if -(2**63) <= number < 2**63 else str(number)


def _varint_key(value: bytes) -> int:
    return int(_varint(value))


def _decimal(value: bytes) -> Decimal:
    (scale,) = _INT(value)
    if len(value) < 5:
        raise ValueError("it is cut off")
    digits = int.from_bytes(value[4:], "big", signed=True)
    return Decimal((digits < 0, tuple(map(int, str(abs(digits)))), -scale))


def _decimal_text(value: bytes) -> str:
    return str(_decimal(value))


def _boolean(value: bytes) -> bool:
    if len(value) != 1:
        raise ValueError("it is not one byte")
    return value != b"\0"


def _blob(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _uuid(value: bytes) -> str:
    return str(uuid.UUID(bytes=value))


def _timestamp_key(value: bytes) -> Any:
    (milliseconds,) = struct.unpack(">q", value)
    try:
        moment = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return milliseconds
    return moment.isoformat().replace("+00:00", "Z")


def _date(value: bytes) -> str:
    (days,) = struct.unpack(">I", value)
    return date.fromordinal(days - 2**31 + _EPOCH_DAY).isoformat()


def _time_key(value: bytes) -> str:
    (nanoseconds,) = struct.unpack(">q", value)
    if not 0 <= nanoseconds < _DAY_NS:
        raise ValueError("it is not within one day")
    seconds, fraction = divmod(nanoseconds, 10**9)
    moment = time(seconds // 3600, seconds // 60 % 60, seconds % 60, fraction // 1000)
    return moment.isoformat() if fraction % 1000 == 0 else f"{moment:%H:%M:%S}.{fraction:09d}"


def _duration(value: bytes) -> str:
    found = cqltypes.DurationType.deserialize(value, PROTOCOL)
    sign = "-" if min(found.months, found.days, found.nanoseconds) < 0 else ""
    return f"{sign}{abs(found.months)}mo{abs(found.days)}d{abs(found.nanoseconds)}ns"


def _inet(value: bytes) -> str:
    return str(ipaddress.ip_address(value))


_SIMPLE: dict[str, Decode] = {
    "ascii": _ascii,
    "bigint": _fixed(">q"),
    "blob": _blob,
    "boolean": _boolean,
    "date": _date,
    "decimal": _decimal_text,
    "double": _floating(">d"),
    "duration": _duration,
    "float": _floating(">f"),
    "inet": _inet,
    "int": _fixed(">i"),
    "smallint": _fixed(">h"),
    "text": bytes.decode,
    "time": _fixed(">q"),
    "timestamp": _fixed(">q"),
    "timeuuid": _uuid,
    "tinyint": _fixed(">b"),
    "uuid": _uuid,
    "varchar": bytes.decode,
    "varint": _varint,
}
_OF_KEYS: dict[str, Decode] = {
    "decimal": _decimal,
    "double": _floating(">d", key=True),
    "float": _floating(">f", key=True),
    "time": _time_key,
    "timestamp": _timestamp_key,
    "varint": _varint_key,
}


# Types made of others


def _parts(value: bytes, count: int, at: int) -> list[bytes | None]:
    parts: list[bytes | None] = []
    for _ in range(count):
        (size,) = _INT(value, at)
        at += 4
        parts.append(None if size < 0 else value[at : at + size])
        at += max(size, 0)
    return parts


def _sequence(element: Decode) -> Decode:
    def decode(value: bytes) -> list[Any]:
        return [_within(element, part) for part in _parts(value, _INT(value)[0], 4)]

    return decode


def _map(key: Decode, element: Decode) -> Decode:
    def decode(value: bytes) -> list[list[Any]]:
        parts = _parts(value, 2 * _INT(value)[0], 4)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return [[_within(key, name), _within(element, part)] for name, part in pairs]

    return decode


def _within(decode: Decode, part: bytes | None) -> Any:
    if part is None:
        raise NoForm("there is a null in a collection")
    return decode(part)


def _fields(decoders: Sequence[Decode], value: bytes) -> list[Any]:
    """The values of a tuple or user-defined type: one that had fewer fields when it was written ends early."""
    parts: list[bytes | None] = []
    at = 0
    while at < len(value):
        (size,) = _INT(value, at)
        parts.append(None if size < 0 else value[at + 4 : at + 4 + size])
        at += 4 + max(size, 0)
    parts += [None] * (len(decoders) - len(parts))
    return [None if part is None else decode(part) for decode, part in zip(decoders, parts, strict=True)]


def _tuple(elements: Sequence[Decode]) -> Decode:
    return lambda value: _fields(elements, value)


def _user_type(cql_type: Any) -> Decode:
    names, decoders = list(cql_type.fieldnames), [decoder(subtype) for subtype in cql_type.subtypes]
    return lambda value: dict(zip(names, _fields(decoders, value), strict=True))


def _vector(cql_type: Any) -> Decode:
    element, size, width = decoder(cql_type.subtype), cql_type.vector_size, cql_type.subtype.serial_size()
    if width is None:
        return _unsupported("vector of a type without a fixed size")
    return lambda value: [element(value[at : at + width]) for at in range(0, size * width, width)]
