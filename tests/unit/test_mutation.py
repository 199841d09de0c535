from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream.errors import RecordRefused
from walstream.mutation import KeyTemplate, Mutation, delete, key_mismatch, parse_mutation, put

columns = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
numbers = (
    st.integers(-(2**100), 2**100)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30)
)
scalars = st.booleans() | numbers | st.text(st.characters(codec="utf-8"), max_size=8)
values = st.recursive(
    st.none() | scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(columns, inner, max_size=3),
    max_leaves=5,
)


def refused(payload: bytes | None) -> str:
    with pytest.raises(RecordRefused) as caught:
        parse_mutation(payload)
    assert caught.value.code == "bad-mutation"
    return caught.value.reason


@given(
    st.dictionaries(columns, scalars, min_size=1, max_size=3),
    st.dictionaries(columns, values, max_size=3),
    st.none() | columns,
)
def test_what_is_written_comes_back(key: dict[str, Any], changes: dict[str, Any], table: str | None) -> None:
    changes = {column: value for column, value in changes.items() if column not in key}
    for mutation in (put(key=key, set=changes, table=table), delete(key=key, table=table)):
        assert parse_mutation(mutation.to_bytes()) == mutation
        assert json.loads(mutation.to_bytes())["op"] == mutation.op


@given(st.dictionaries(st.sampled_from("abc"), scalars, min_size=3))
def test_the_key_is_the_same_before_and_after_the_wire(key: dict[str, Any]) -> None:
    template = KeyTemplate("{a}/{b}-{c}")
    mutation = put(key=key)
    rendered = template.render(mutation.key)
    assert template.render(key) == rendered
    assert template.render(parse_mutation(mutation.to_bytes()).key) == rendered
    assert key_mismatch(template, parse_mutation(mutation.to_bytes()).key, rendered) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2013, 1, 1, 5, 17, tzinfo=UTC), "2013-01-01T05:17:00Z"),
        (datetime(2013, 1, 1, 5, 17, 0, 5, timezone(timedelta(hours=-5))), "2013-01-01T05:17:00.000005-05:00"),
        (date(2013, 1, 1), "2013-01-01"),
        (time(5, 17), "05:17:00"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"\x00\xff", "AP8="),
        ({"b", "a"}, ["a", "b"]),
        (frozenset({2, 1}), [1, 2]),
        ((1, None), [1, None]),
        ({1: "x", date(2013, 1, 1): [UUID(int=1)]}, {"1": "x", "2013-01-01": [str(UUID(int=1))]}),
        (0.1, Decimal("0.1")),
        (Decimal("1.10"), Decimal("1.10")),
    ],
)
def test_values_of_python_have_a_form_in_json(value: Any, expected: Any) -> None:
    mutation = put(key={"id": 1}, set={"value": value})
    assert mutation.set == {"value": expected}
    assert parse_mutation(mutation.to_bytes()) == mutation


def test_the_payload_is_what_the_documentation_says() -> None:
    one = put(key={"flight": "UA1545"}, set={"gate": None, "delay": 2}, table="flights")
    assert one.to_bytes() == b'{"op":"put","table":"flights","key":{"flight":"UA1545"},"set":{"gate":null,"delay":2}}'
    assert delete(key={"flight": "UA1545"}).to_bytes() == b'{"op":"delete","key":{"flight":"UA1545"}}'


def test_numbers_keep_their_digits() -> None:
    payload = (
        b'{"op":"put","key":{"id":123456789012345678901234567890},"set":{"a":1.10,"b":[0.12345678901234567890123]}}'
    )
    mutation = parse_mutation(payload)
    assert mutation.key == {"id": 123456789012345678901234567890}
    assert str(mutation.set["a"]) == "1.10"
    assert str(mutation.set["b"][0]) == "0.12345678901234567890123"
    assert mutation.to_bytes() == payload


def test_a_put_may_set_nothing_and_null_is_absent() -> None:
    expected = Mutation("put", None, {"id": 1}, {})
    assert parse_mutation(b'{"op":"put","key":{"id":1}}') == expected
    assert parse_mutation(b'{"op":"put","key":{"id":1},"set":null,"table":null}') == expected


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (None, "the payload is null"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"op":"put","key":{"id":NaN}}', "not JSON"),
        (b"[1.5]", "not a JSON object"),
        (b"1.5", "not a JSON object"),
        (b"{}", "op is missing"),
        (b'{"op":"upsert","key":{"id":1}}', "op is 'upsert'; it can be put or delete"),
        (b'{"op":[],"key":{"id":1}}', "op is []"),
        (b'{"op":"put"}', "key is missing"),
        (b'{"op":"put","key":null}', "key is missing"),
        (b'{"op":"put","key":[1]}', "key is not an object"),
        (b'{"op":"put","key":{}}', "key is empty"),
        (b'{"op":"put","key":{"id":null}}', "the key column 'id' is null"),
        (b'{"op":"put","key":{"":1}}', "empty name"),
        (b'{"op":"put","key":{"id":1},"set":{"":1}}', "empty name"),
        (b'{"op":"put","key":{"id":1},"set":{"id":1}}', "in key and in set: id"),
        (b'{"op":"put","key":{"id":1},"set":[1]}', "set is not an object"),
        (b'{"op":"delete","key":{"id":1},"set":{"a":1}}', "a delete removes the row, so it has no set"),
        (b'{"op":"put","key":{"id":1},"table":""}', "table is not the name"),
        (b'{"op":"put","key":{"id":1},"table":5}', "table is not the name"),
        (b'{"op":"put","key":{"id":1},"values":{},"if":1}', "but not if, values"),
        (b'{"op":"put","key":{"id":1.5,"big":' + b"9" * 5000 + b"}}", ""),
    ],
)
def test_what_is_no_mutation_is_refused(payload: bytes | None, words: str) -> None:
    assert words in refused(payload)


@given(st.binary(max_size=40) | values.map(lambda value: json.dumps(value, default=str).encode()))
def test_whatever_comes_is_refused_or_read(payload: bytes) -> None:
    assert refused(payload)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"key": {}}, "key is empty"),
        ({"key": {"id": None}}, "is null"),
        ({"key": {"id": 1}, "set": {"id": 2}}, "in key and in set"),
        ({"key": {1: 1}}, "1 is not the name of a column"),
        ({"key": {"id": 1}, "table": ""}, "table"),
        ({"key": {"id": float("nan")}}, "nan, which has no form in JSON"),
        ({"key": {"id": 1}, "set": {"a": [Decimal("Infinity")]}}, "no form in JSON"),
        ({"key": {"id": datetime(2013, 1, 1)}}, "without a time zone"),
        ({"key": {"id": 1}, "set": {"a": object()}}, "of type object"),
        ({"key": {"id": 1}, "set": {"a": {None: 1}}}, "null"),
    ],
)
def test_what_would_be_refused_is_not_made(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(RecordRefused, match=words):
        put(**arguments)


# The key template


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{flight}", b"UA1545"),
        ("{flight}-{day}", b"UA1545-2"),
        ("{{{flight}}}", b"{UA1545}"),
        ("{day}{ok}{price}é", "2true1.10é".encode()),
    ],
)
def test_a_template_puts_columns_into_text(template: str, expected: bytes) -> None:
    row = {"flight": "UA1545", "day": 2, "ok": True, "price": Decimal("1.10"), "other": None}
    assert KeyTemplate(template).render(row) == expected


def test_a_template_names_its_columns() -> None:
    assert KeyTemplate("{carrier}-{flight}").columns == ("carrier", "flight")


@pytest.mark.parametrize(
    "template",
    [
        "",
        "flights",
        "{{flight}}",
        "{}",
        "{0}",
        "{flight",
        "flight}",
        "{flight!r}",
        "{flight:>5}",
        "{a.b}",
        "{a[0]}",
        "{a }",
    ],
)
def test_what_is_no_template_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"is not a key template|names no column") as caught:
        KeyTemplate(template)
    assert repr(template) in str(caught.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "no key column 'flight', which {flight} needs"),
        ({"flight": [1]}, "a collection"),
        ({"flight": None}, "is null"),
    ],
)
def test_a_row_without_the_column_has_no_key(row: dict[str, Any], words: str) -> None:
    with pytest.raises(RecordRefused, match=words) as caught:
        KeyTemplate("{flight}").render(row)
    assert caught.value.code == "bad-key"


def test_a_wrong_key_is_named_beside_the_right_one() -> None:
    template, mutation = KeyTemplate("{flight}"), delete(key={"flight": "UA1545"})
    assert key_mismatch(template, mutation.key, b"UA1545") is None
    assert key_mismatch(template, mutation.key, b"\xff") == (
        "the Kafka key is '\\\\xff', but the key template {flight} makes 'UA1545' of the row"
    )
    assert "the Kafka key is none" in str(key_mismatch(template, mutation.key, None))
