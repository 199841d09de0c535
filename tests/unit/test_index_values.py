"""Bytes of CQL types become what a mutation has, and written again they are the same bytes."""

from __future__ import annotations

from typing import Any

import pytest
from cassandra import cqltypes as ct
from hypothesis import given
from hypothesis import strategies as st

from walstream.indexes.values import NoForm, decoder
from walstream.mutation import parse_mutation, put, render_value, to_json
from walstream.sinks.cassandra.types import encoder

LIST = ct.ListType.apply_parameters([ct.DoubleType])
PAIR = ct.TupleType.apply_parameters([ct.UTF8Type, ct.Int32Type])
VECTOR = ct.VectorType.apply_parameters(["org.apache.cassandra.db.marshal.FloatType", 2], None)

KNOWN = [
    (ct.UTF8Type, "añ"), (ct.AsciiType, "a"), (ct.BytesType, "AAE="), (ct.BooleanType, True),
    (ct.ByteType, -3), (ct.ShortType, 3), (ct.Int32Type, -5), (ct.LongType, 2**60),
    (ct.IntegerType, "123456789012345678901234567890"), (ct.IntegerType, -1),
    (ct.DecimalType, "1.00"), (ct.DecimalType, "-1E+3"), (ct.DecimalType, "0.000"),
    (ct.DoubleType, "NaN"), (ct.DoubleType, "-Infinity"), (ct.DoubleType, "0.1"), (ct.FloatType, "0.1"),
    (ct.DateType, "2013-01-01T05:06:07.123Z"), (ct.DateType, -(2**62)), (ct.SimpleDateType, "2013-01-01"),
    (ct.TimeType, "05:06:07.123456789"), (ct.TimeType, "05:06:07"),
    (ct.UUIDType, "12345678-1234-1234-1234-123456789012"),
    (ct.InetAddressType, "::1"), (ct.InetAddressType, "10.0.0.1"),
    (ct.DurationType, "-1y2mo3d4h"), (ct.DurationType, "0d"),
    (LIST, ["1.5", "2"]), (ct.SetType.apply_parameters([ct.UTF8Type]), ["a", "b"]), (PAIR, ["a", None]),
    (ct.MapType.apply_parameters([ct.Int32Type, LIST]), [[1, ["1.5"]], [2, []]]), (VECTOR, ["1", "2.5"]),
    (ct.FrozenType.apply_parameters([LIST]), ["1"]), (ct.ReversedType.apply_parameters([ct.Int32Type]), 7),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), KNOWN, ids=lambda item: str(item)[:40])
@pytest.mark.parametrize("key", [False, True], ids=["cell", "key"])
def test_a_value_comes_back_to_the_same_bytes(kind: Any, value: Any, key: bool) -> None:
    stored = encoder(kind)(value)
    said = decoder(kind, key=key)(stored)
    # On the way it is JSON, as the sink reads it.
    read = parse_mutation(to_json({"op": "put", "key": {"k": 1}, "set": {"v": said}})).set["v"]
    assert encoder(kind)(read) == stored


@given(st.floats(width=32) | st.floats())
def test_every_double_has_a_form(number: float) -> None:
    stored = ct.DoubleType.serialize(number, 4)
    assert encoder(ct.DoubleType)(decoder(ct.DoubleType)(stored)) == stored or number != number


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ct.UTF8Type, "UA1545"), (ct.Int32Type, 7), (ct.BooleanType, True), (ct.DecimalType, "1.50"),
        (ct.DateType, "2013-01-01T05:00:00Z"), (ct.SimpleDateType, "2013-01-01"),
        (ct.UUIDType, "12345678-1234-1234-1234-123456789012"), (ct.IntegerType, 2**70), (ct.DoubleType, "0.5"),
    ],
)  # fmt: skip
def test_a_key_is_what_the_client_makes_of_it(kind: Any, value: Any) -> None:
    stored = encoder(kind)(value)
    by_client = put(key={"k": _python(kind, stored)}).key["k"]
    assert render_value("k", decoder(kind, key=True)(stored)) == render_value("k", by_client)


def _python(kind: Any, stored: bytes) -> Any:
    from datetime import UTC

    value = kind.deserialize(stored, 4)
    if kind is ct.DateType:
        return value.replace(tzinfo=UTC)
    return value.date() if kind is ct.SimpleDateType else value


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (ct.Int32Type, b""), (ct.Int32Type, b"\0"), (ct.DoubleType, b""), (ct.SimpleDateType, b"\0\0\0\0"),
        (ct.UTF8Type, b"\xff"), (ct.IntegerType, b""), (ct.BooleanType, b""), (ct.UUIDType, b"short"),
        (ct.CounterColumnType, b"\0" * 8), (LIST, b"\0\0\0\1\xff\xff\xff\xff"),
    ],
)  # fmt: skip
def test_what_no_mutation_can_have_is_said(kind: Any, stored: bytes) -> None:
    with pytest.raises(NoForm):
        decoder(kind)(stored)
