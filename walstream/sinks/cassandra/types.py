"""JSON value -> bytes of a CQL type, as the native protocol carries them.

JSON has six kinds of value and CQL more than twenty; the column's type, as the server itself names it, says which is
meant. Values go straight to the protocol's bytes (native_protocol_v5.spec, section 6 "Data Type Serialization
Formats"), without a Python object between, because a detour through ``datetime`` or ``set`` loses what those cannot
hold, and costs time.

=========================== ==========================================================================================
CQL type                    JSON
=========================== ==========================================================================================
ascii, text                 string
tinyint … bigint, varint    integer, or string of digits
float, double               number, or string (``"NaN"``, ``"Infinity"``, ``"-Infinity"`` too)
decimal                     number, or string; both keep every digit
boolean                     ``true``, ``false``, or one of these as a string
blob                        string, base64
uuid, timeuuid              string
timestamp                   string, RFC 3339, digits below the millisecond are cut; or integer, milliseconds since 1970
date                        string, ``YYYY-MM-DD``
time                        string, ``hh:mm:ss`` and up to nine digits of a fraction; or integer, nanoseconds
duration                    string, ISO 8601 (``P1Y2M3DT4H5M6S``) or CQL (``1y2mo3d4h5m6s7ms8us9ns``)
inet                        string
list, set, vector           array, no null inside
tuple                       array, one value per element; null is allowed
map                         object, or array of ``[key, value]`` arrays where a key is no string; no null inside
user-defined type           object; an absent field is null
=========================== ==========================================================================================
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import math
import re
import struct
import uuid
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

from cassandra import cqltypes, util
from cassandra.marshal import uvint_pack

from walstream.units import parse_rfc3339
from walstream.wire.plain import COLUMN_KINDS

Encode = Callable[[Any], bytes]
"""JSON value, with `Decimal` for a number with a fraction or an exponent, never None -> bytes. Raises `BadValue`."""

PROTOCOL = 4
"""The version of the protocol that is spoken. Unset values, which puts need, came with it, in Cassandra 2.2.

Without a number the driver first tries two versions that only another server speaks, and warns of each.
"""


class BadValue(ValueError):
    """A JSON value that cannot be a value of the column's type."""


uint16 = struct.Struct(">H").pack
int32 = struct.Struct(">i").pack
int64 = struct.Struct(">q").pack

_NULL = int32(-1)
_DAY_NS = 86_400 * 10**9
_EPOCH = datetime.date(1970, 1, 1).toordinal()
_DIGITS_MAX = 4300  # as many as Python reads from a string; 1e999999999 must not become an integer
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")
_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9])(?:\.([0-9]{1,9}))?)?\Z")
_ISO_DURATION = re.compile(
    r"(?P<sign>-)?P(?=.)(?:(?P<y>\d+)Y)?(?:(?P<mo>\d+)M)?(?:(?P<w>\d+)W)?(?:(?P<d>\d+)D)?"
    r"(?:T(?=.)(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+)(?:\.(?P<fraction>\d{1,9}))?S)?)?\Z",
    re.ASCII,
)
_CQL_DURATION = re.compile(
    r"(?P<sign>-)?(?=.)(?:(?P<y>\d+)y)?(?:(?P<mo>\d+)mo)?(?:(?P<w>\d+)w)?(?:(?P<d>\d+)d)?(?:(?P<h>\d+)h)?"
    r"(?:(?P<m>\d+)m(?!s))?(?:(?P<s>\d+)s)?(?:(?P<ms>\d+)ms)?(?:(?P<us>\d+)(?:us|µs|μs))?(?:(?P<ns>\d+)ns)?\Z",
    re.ASCII | re.IGNORECASE,
)


def encoder(cql_type: Any) -> Encode:
    """Make the encoder of a type.

    Parameters
    ----------
    cql_type
        The driver's class for the type, as in a prepared statement's ``column_metadata``.

    Returns
    -------
    Encode
        For a type that JSON cannot express (a counter, a custom type) it refuses every value.
    """
    if issubclass(cql_type, cqltypes.UserType):  # is a TupleType too
        return _user_type(cql_type)
    if issubclass(cql_type, cqltypes.TupleType):
        return _tuple([encoder(subtype) for subtype in cql_type.subtypes])
    if issubclass(cql_type, cqltypes.ListType | cqltypes.SetType):
        return _sequence(encoder(cql_type.subtypes[0]))
    if issubclass(cql_type, cqltypes.MapType):
        return _map(encoder(cql_type.subtypes[0]), encoder(cql_type.subtypes[1]))
    if issubclass(cql_type, cqltypes.VectorType):
        fixed = cql_type.subtype.serial_size() is not None
        return _vector(encoder(cql_type.subtype), cql_type.vector_size, fixed)
    if issubclass(cql_type, cqltypes.FrozenType | cqltypes.ReversedType):
        return encoder(cql_type.subtypes[0])
    return _SIMPLE.get(cql_type.typename) or _unsupported(cql_type.cql_parameterized_type())


def plain_kind(cql_type: Any) -> int | None:
    """By what `walstream.wire.plain_mutation` makes the bytes of a type, if it can."""
    if issubclass(cql_type, cqltypes.FrozenType | cqltypes.ReversedType):
        return plain_kind(cql_type.subtypes[0])
    name = {"varchar": "text"}.get(cql_type.typename, cql_type.typename)
    return COLUMN_KINDS.index(name) if _SIMPLE.get(cql_type.typename) and name in COLUMN_KINDS else None


def _unsupported(name: str) -> Encode:
    def encode(value: Any) -> bytes:
        raise BadValue(f"values of the type {name} cannot be written from JSON")

    return encode


# Simple types


def _string(value: Any, what: str) -> str:
    if type(value) is not str:
        raise BadValue(f"expected a string ({what}), got {_kind(value)}")
    return value


def _text(value: Any) -> bytes:
    if type(value) is not str:
        raise BadValue(f"expected a string, got {_kind(value)}")
    return value.encode()


def _ascii(value: Any) -> bytes:
    try:
        return _string(value, "ASCII only").encode("ascii")
    except UnicodeEncodeError:
        raise BadValue("expected ASCII characters only") from None


def _whole(value: Any) -> int:
    if type(value) is int:
        return value
    if type(value) is str and _INTEGER.match(value):
        try:
            return int(value)
        except ValueError as error:  # Python reads no number of more than some thousand digits
            raise BadValue(str(error)) from None
    # 1.0 and 1e3 are integers to those who write JSON from a language with one kind of number.
    if (
        type(value) is Decimal
        and value.is_finite()
        and value.adjusted() < _DIGITS_MAX
        and value == value.to_integral_value()
    ):
        return int(value)
    raise BadValue(f"expected an integer, got {_kind(value)}")


def _fixed_integer(layout: str, bits: int) -> Encode:
    pack, low, high = struct.Struct(layout).pack, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def encode(value: Any) -> bytes:
        number = value if type(value) is int else _whole(value)
        if low <= number <= high:
            return pack(number)
        raise BadValue(f"{_short(number)} does not fit into {bits} bits")

    return encode


def _varint(value: Any) -> bytes:
    number = _whole(value)
    # Shortest two's complement: in a key, other bytes would be another row.
    magnitude = number if number >= 0 else ~number
    return number.to_bytes(magnitude.bit_length() // 8 + 1, "big", signed=True)


def _floating(layout: str) -> Encode:
    pack = struct.Struct(layout).pack

    def encode(value: Any) -> bytes:
        if type(value) not in (Decimal, int, str):
            raise BadValue(f"expected a number, got {_kind(value)}")
        try:
            number = float(value)
            if math.isfinite(number) or value in _NOT_FINITE:
                return pack(number)
        except OverflowError:
            pass
        except ValueError:
            raise BadValue(f"{_short(value)} is not a number") from None
        raise BadValue(f"{_short(value)} is too large for the type")

    return encode


def _decimal(value: Any) -> bytes:
    if type(value) not in (Decimal, int, str):
        raise BadValue(f"expected a number or a string of digits, got {_kind(value)}")
    try:
        number = Decimal(value)
        if number.is_finite():
            return bytes(cqltypes.DecimalType.serialize(number, PROTOCOL))
    except (InvalidOperation, struct.error):
        pass
    raise BadValue(f"{_short(value)} is not a decimal number")


def _boolean(value: Any) -> bytes:
    if value is True or value == "true":
        return b"\x01"
    if value is False or value == "false":
        return b"\x00"
    raise BadValue(f"expected true or false, got {_kind(value)}")


def _blob(value: Any) -> bytes:
    try:
        return base64.b64decode(_string(value, "base64"), validate=True)
    except BadValue:
        raise
    except ValueError:
        raise BadValue("expected base64 (standard alphabet, with padding)") from None


def _uuid(value: Any) -> bytes:
    return _parse_uuid(value).bytes


def _timeuuid(value: Any) -> bytes:
    parsed = _parse_uuid(value)
    if parsed.version != 1:
        raise BadValue(f"{value} is not a time-based UUID (version 1)")
    return parsed.bytes


def _parse_uuid(value: Any) -> uuid.UUID:
    try:
        return uuid.UUID(_string(value, "UUID"))
    except BadValue:
        raise
    except ValueError:
        raise BadValue(f"{_short(value)} is not a UUID") from None


def _timestamp(value: Any) -> bytes:
    if type(value) is str:
        try:
            return int64(parse_rfc3339(value) // 1000)
        except ValueError as error:
            raise BadValue(str(error)) from None
    if type(value) not in (int, Decimal):
        raise BadValue(f"expected an RFC 3339 time or integer milliseconds, got {_kind(value)}")
    return _BIGINT(value)


def _date(value: Any) -> bytes:
    try:
        if _DATE.match(_string(value, "YYYY-MM-DD")):
            # Days since 1970-01-01, with that day in the middle of the unsigned range.
            return struct.pack(">I", datetime.date.fromisoformat(value).toordinal() - _EPOCH + 2**31)
    except BadValue:
        raise
    except ValueError:
        pass
    raise BadValue(f"{_short(value)} is not a date YYYY-MM-DD")


def _time(value: Any) -> bytes:
    if type(value) is str:
        match = _TIME.match(value)
        if not match:
            raise BadValue(f"{_short(value)} is not a time hh:mm:ss.fraction")
        hours, minutes, seconds, fraction = match.groups(default="0")
        nanoseconds = (int(hours) * 3600 + int(minutes) * 60 + int(seconds)) * 10**9 + int(fraction.ljust(9, "0"))
    else:
        nanoseconds = _whole(value)
    if not 0 <= nanoseconds < _DAY_NS:
        raise BadValue(f"{nanoseconds} nanoseconds are not within one day")
    return int64(nanoseconds)


def _duration(value: Any) -> bytes:
    text = _string(value, "duration")
    match = _ISO_DURATION.match(text) or _CQL_DURATION.match(text)
    if not match:
        raise BadValue(f"{_short(value)} is not a duration; write it as P1Y2M3DT4H5M6S or 1y2mo3d4h5m6s")
    part = {unit: int(digits) for unit, digits in match.groupdict("0").items() if unit not in ("sign", "fraction")}
    fraction = match.groupdict().get("fraction") or ""
    sign = -1 if match["sign"] else 1
    months = part["y"] * 12 + part["mo"]
    days = part["w"] * 7 + part["d"]
    nanoseconds = (part["h"] * 3600 + part["m"] * 60 + part["s"]) * 10**9 + int(fraction.ljust(9, "0"))
    nanoseconds += part.get("ms", 0) * 10**6 + part.get("us", 0) * 10**3 + part.get("ns", 0)
    if months >= 2**31 or days >= 2**31 or nanoseconds >= 2**63:
        raise BadValue(f"{_short(value)} is too long for a duration")
    return bytes(
        cqltypes.DurationType.serialize(util.Duration(sign * months, sign * days, sign * nanoseconds), PROTOCOL)
    )


def _inet(value: Any) -> bytes:
    text = _string(value, "address")
    try:
        if "%" not in text:  # a zone names an interface of one machine, and cannot be stored
            return ipaddress.ip_address(text).packed
    except ValueError:
        pass
    raise BadValue(f"{_short(value)} is not an IP address")


_BIGINT = _fixed_integer(">q", 64)

_SIMPLE: dict[str, Encode] = {
    "ascii": _ascii,
    "bigint": _BIGINT,
    "blob": _blob,
    "boolean": _boolean,
    "date": _date,
    "decimal": _decimal,
    "double": _floating(">d"),
    "duration": _duration,
    "float": _floating(">f"),
    "inet": _inet,
    "int": _fixed_integer(">i", 32),
    "smallint": _fixed_integer(">h", 16),
    "text": _text,
    "time": _time,
    "timestamp": _timestamp,
    "timeuuid": _timeuuid,
    "tinyint": _fixed_integer(">b", 8),
    "uuid": _uuid,
    "varchar": _text,
    "varint": _varint,
}
SIMPLE = frozenset(_SIMPLE)
"""The names of types that are not made of others."""


# Types made of others


def _array(value: Any) -> list[Any]:
    if type(value) is not list:
        raise BadValue(f"expected an array, got {_kind(value)}")
    return value


def _element(encode: Encode, value: Any) -> bytes:
    if value is None:
        raise BadValue("null cannot stand inside a collection")
    return encode(value)


def _sized(parts: Iterable[bytes]) -> bytes:
    return b"".join(int32(len(part)) + part for part in parts)


def _sequence(element: Encode) -> Encode:
    def encode(value: Any) -> bytes:
        items = _array(value)
        return int32(len(items)) + _sized(_element(element, item) for item in items)

    return encode


def _map(key: Encode, value: Encode) -> Encode:
    def encode(mapping: Any) -> bytes:
        if type(mapping) is dict:
            pairs: list[Any] = list(mapping.items())
        elif type(mapping) is list and all(type(pair) is list and len(pair) == 2 for pair in mapping):
            pairs = mapping
        else:
            raise BadValue(f"expected an object, or an array of [key, value] arrays, got {_kind(mapping)}")
        parts = (part for k, v in pairs for part in (_element(key, k), _element(value, v)))
        return int32(len(pairs)) + _sized(parts)

    return encode


def _nullable(encode: Encode, value: Any) -> bytes:
    if value is None:
        return _NULL
    part = encode(value)
    return int32(len(part)) + part


def _tuple(elements: list[Encode]) -> Encode:
    def encode(value: Any) -> bytes:
        items = _array(value)
        if len(items) != len(elements):
            raise BadValue(f"expected {len(elements)} values in the tuple, got {len(items)}")
        return b"".join(map(_nullable, elements, items))

    return encode


def _user_type(cql_type: Any) -> Encode:
    fields = dict(zip(cql_type.fieldnames, map(encoder, cql_type.subtypes), strict=True))
    name = cql_type.typename

    def encode(value: Any) -> bytes:
        if type(value) is not dict:
            raise BadValue(f"expected an object (the fields of {name}), got {_kind(value)}")
        unknown = value.keys() - fields.keys()
        if unknown:
            raise BadValue(f"the type {name} has no field {', '.join(sorted(unknown))}")
        return b"".join(_nullable(encode_field, value.get(field)) for field, encode_field in fields.items())

    return encode


def _vector(element: Encode, size: int, fixed: bool) -> Encode:
    def encode(value: Any) -> bytes:
        items = _array(value)
        if len(items) != size:
            raise BadValue(f"expected {size} values in the vector, got {len(items)}")
        parts = [_element(element, item) for item in items]
        # Elements of a fixed size follow each other; others have their size before them, as an unsigned vint.
        return b"".join(parts if fixed else (bytes(uvint_pack(len(part))) + part for part in parts))

    return encode


# Words for messages


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    return f"the string {_short(value)}" if isinstance(value, str) else f"the number {_short(value)}"


def _short(value: Any) -> str:
    """The value for a message, of which a record may hold a megabyte."""
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
