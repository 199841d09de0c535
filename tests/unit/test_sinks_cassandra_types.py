"""JSON values -> CQL bytes, checked against the driver's own reading of them."""

from __future__ import annotations

import base64
import contextlib
import datetime
import math
import uuid
from decimal import Decimal
from typing import Any

import orjson
import pytest
from cassandra import cqltypes as cql
from cassandra.util import Duration
from hypothesis import given
from hypothesis import strategies as st

from walstream.sinks.cassandra.types import BadValue, encoder


def read(cql_type: Any, value: Any) -> Any:
    return cql_type.deserialize(encoder(cql_type)(value), 4)


SIMPLE = [
    *(cql.AsciiType, cql.BooleanType, cql.ByteType, cql.BytesType, cql.DecimalType, cql.DoubleType, cql.DurationType),
    *(cql.FloatType, cql.InetAddressType, cql.Int32Type, cql.IntegerType, cql.LongType, cql.ShortType),
    *(cql.SimpleDateType, cql.TimeType, cql.TimestampType, cql.TimeUUIDType, cql.UTF8Type, cql.UUIDType),
]
LIST_OF_INT = cql.ListType.apply_parameters([cql.Int32Type])
SET_OF_TEXT = cql.SetType.apply_parameters([cql.UTF8Type])
MAP_OF_INT = cql.MapType.apply_parameters([cql.UTF8Type, cql.Int32Type])
PAIR = cql.TupleType.apply_parameters([cql.Int32Type, cql.UTF8Type])
PLACE = cql.UserType.make_udt_class("ks", "place", ("name", "floor"), (cql.UTF8Type, cql.Int32Type))


@pytest.mark.parametrize(
    ("cql_type", "value", "expected"),
    [
        (cql.UTF8Type, "héllo", "héllo"),
        (cql.VarcharType, "", ""),
        (cql.AsciiType, "plain", "plain"),
        (cql.Int32Type, -5, -5),
        (cql.Int32Type, Decimal("5.0"), 5),
        (cql.Int32Type, "17", 17),
        (cql.LongType, 2**63 - 1, 2**63 - 1),
        (cql.ShortType, -(2**15), -(2**15)),
        (cql.ByteType, 127, 127),
        (cql.IntegerType, "123456789012345678901234567890", 123456789012345678901234567890),
        (cql.IntegerType, -128, -128),
        (cql.DoubleType, 1, 1.0),
        (cql.DoubleType, "-Infinity", -math.inf),
        (cql.FloatType, Decimal("0.5"), 0.5),
        (cql.DecimalType, Decimal("0.10"), Decimal("0.10")),
        (cql.DecimalType, "12345678901234567890.12", Decimal("12345678901234567890.12")),
        (cql.DecimalType, -7, Decimal(-7)),
        (cql.BooleanType, True, True),
        (cql.BooleanType, "false", False),
        (cql.BytesType, base64.b64encode(b"\x00\xff").decode(), b"\x00\xff"),
        (cql.TimestampType, "2013-01-01T05:15:00.123999Z", datetime.datetime(2013, 1, 1, 5, 15, 0, 123000)),
        (cql.TimestampType, "2013-01-01T05:15:00+05:00", datetime.datetime(2013, 1, 1, 0, 15)),
        (cql.TimestampType, "1969-12-31T23:59:59.9995Z", datetime.datetime(1969, 12, 31, 23, 59, 59, 999000)),
        (cql.TimestampType, 1357017300123, datetime.datetime(2013, 1, 1, 5, 15, 0, 123000)),
        (cql.DurationType, "P1Y2M3DT4H5M6.5S", Duration(14, 3, (4 * 3600 + 5 * 60 + 6) * 10**9 + 500_000_000)),
        (cql.DurationType, "-P2W", Duration(0, -14, 0)),
        (cql.DurationType, "1y2mo3w4d5h6m7s8ms9us10ns", Duration(14, 25, 18367_008_009_010)),
        (cql.DurationType, "5mo", Duration(5, 0, 0)),
        (cql.DurationType, "5m", Duration(0, 0, 300 * 10**9)),
        (cql.DurationType, "5ms", Duration(0, 0, 5_000_000)),
        (cql.InetAddressType, "192.0.2.1", "192.0.2.1"),
        (cql.InetAddressType, "2001:db8::1", "2001:db8::1"),
        (LIST_OF_INT, [3, 1, 2], [3, 1, 2]),
        (LIST_OF_INT, [], []),
        (SET_OF_TEXT, ["b", "a"], {"a", "b"}),
        (MAP_OF_INT, {"a": 1}, {"a": 1}),
        (cql.MapType.apply_parameters([cql.Int32Type, cql.UTF8Type]), {"7": "x"}, {7: "x"}),
        (cql.MapType.apply_parameters([PAIR, cql.Int32Type]), [[[1, "x"], 5]], {(1, "x"): 5}),
        (PAIR, [1, None], (1, None)),
        (PLACE, {"floor": 3}, (None, 3)),
        (cql.ListType.apply_parameters([MAP_OF_INT]), [{"a": 1}, {}], [{"a": 1}, {}]),
    ],
)
def test_a_value_arrives(cql_type: Any, value: Any, expected: Any) -> None:
    assert read(cql_type, value) == expected


def test_values_that_the_driver_reads_as_objects_of_its_own() -> None:
    assert str(read(cql.SimpleDateType, "1912-06-23")) == "1912-06-23"
    assert str(read(cql.TimeType, "23:59:59.123456789")) == "23:59:59.123456789"
    assert read(cql.TimeType, "05:15").nanosecond_time == 18_900 * 10**9
    assert read(cql.TimeType, 1).nanosecond_time == 1
    one = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
    assert read(cql.UUIDType, one) == read(cql.TimeUUIDType, one) == uuid.UUID(one)
    assert math.isnan(read(cql.DoubleType, "NaN"))


def vector(subtype: str, size: int) -> Any:
    return cql.VectorType.apply_parameters([f"org.apache.cassandra.db.marshal.{subtype}", size], None)


def test_vectors() -> None:
    assert read(vector("FloatType", 3), [1, Decimal("2.5"), -3]) == [1.0, 2.5, -3.0]
    assert read(vector("UTF8Type", 2), ["a", "bc"]) == ["a", "bc"]
    with pytest.raises(BadValue, match="expected 3 values"):
        encoder(vector("FloatType", 3))([1])


@pytest.mark.parametrize(
    ("cql_type", "value"),
    [
        (cql.UTF8Type, 5),
        (cql.AsciiType, "é"),
        (cql.Int32Type, 2**31),
        (cql.Int32Type, Decimal("1.5")),
        (cql.Int32Type, True),
        (cql.Int32Type, "1x"),
        (cql.ByteType, 128),
        (cql.IntegerType, Decimal("1e999999999")),
        (cql.DoubleType, "much"),
        (cql.DoubleType, False),
        (cql.FloatType, Decimal("1e39")),
        (cql.DoubleType, Decimal("1e400")),
        (cql.DoubleType, "1e400"),
        (cql.DoubleType, "inf"),
        (cql.DecimalType, "NaN"),
        (cql.DecimalType, "1,5"),
        (cql.DecimalType, True),
        (cql.BooleanType, 1),
        (cql.BytesType, "0xfff"),
        (cql.BytesType, "abc"),
        (cql.UUIDType, "6ba7b810"),
        (cql.TimeUUIDType, "6ba7b810-9dad-41d1-80b4-00c04fd430c8"),
        (cql.TimestampType, "2013-02-30T00:00:00Z"),
        (cql.TimestampType, "2013-01-01"),
        (cql.TimestampType, True),
        (cql.SimpleDateType, "2013-02-30"),
        (cql.SimpleDateType, "20130101"),
        (cql.SimpleDateType, 5),
        (cql.TimeType, "24:00:00"),
        (cql.TimeType, 86_400 * 10**9),
        (cql.DurationType, "P"),
        (cql.DurationType, "PT"),
        (cql.DurationType, ""),
        (cql.DurationType, "1 hour"),
        (cql.DurationType, "P999999999999Y"),
        (cql.InetAddressType, "fe80::1%eth0"),
        (cql.InetAddressType, "localhost"),
        (LIST_OF_INT, [1, None]),
        (LIST_OF_INT, "1,2"),
        (LIST_OF_INT, {"0": 1}),
        (MAP_OF_INT, {"a": None}),
        (MAP_OF_INT, [["a"]]),
        (PAIR, [1]),
        (PLACE, ["x", 1]),
        (cql.CounterColumnType, 1),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_a_reason(cql_type: Any, value: Any) -> None:
    with pytest.raises(BadValue) as refused:
        encoder(cql_type)(value)
    assert len(str(refused.value)) > 10


def test_a_field_that_the_type_does_not_have_is_named() -> None:
    with pytest.raises(BadValue, match="no field colour"):
        encoder(PLACE)({"colour": "red"})


def test_a_reason_does_not_repeat_a_megabyte() -> None:
    with pytest.raises(BadValue) as refused:
        encoder(cql.Int32Type)("x" * 1_000_000)
    assert len(str(refused.value)) < 200


@given(st.integers(-(2**200), 2**200))
def test_a_varint_has_the_bytes_that_java_gives_it(number: int) -> None:
    assert encoder(cql.IntegerType)(str(number)) == cql.IntegerType.serialize(number, 4)


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_decimals_keep_every_digit(number: Decimal) -> None:
    read_back = read(cql.DecimalType, str(number))
    assert read_back.as_tuple()[1:] == number.as_tuple()[1:]
    assert read_back == number


@given(st.dictionaries(st.text(), st.lists(st.integers(-(2**31), 2**31 - 1))))
def test_collections_inside_collections(value: dict[str, list[int]]) -> None:
    kind = cql.MapType.apply_parameters([cql.UTF8Type, LIST_OF_INT])
    assert dict(read(kind, orjson.loads(orjson.dumps(value)))) == value


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.decimals() | st.text(), lambda x: st.lists(x)))
def test_nothing_but_a_bad_value_is_ever_raised(value: Any) -> None:
    if value is None:
        return
    for cql_type in (*SIMPLE, LIST_OF_INT, SET_OF_TEXT, MAP_OF_INT, PAIR, PLACE, vector("FloatType", 2)):
        with contextlib.suppress(BadValue):
            assert isinstance(encoder(cql_type)(value), bytes)
