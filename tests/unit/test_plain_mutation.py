"""Mutations of the common kind are read without an object for their JSON, and say what parsing them says."""

from __future__ import annotations

import json
from typing import Any

import cassandra.cqltypes as cql
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from walstream import mutation
from walstream.errors import RecordRefused
from walstream.mutation import mutation_parts, parse_mutation
from walstream.sinks.cassandra.schema import Table
from walstream.sinks.cassandra.statements import BadMutation, Columns
from walstream.wire import COMPILED, plain_key

TYPES: dict[str, Any] = {
    "id": cql.UTF8Type,
    "n": cql.Int32Type,
    "text": cql.UTF8Type,
    "ascii": cql.AsciiType,
    "yes": cql.BooleanType,
    "tiny": cql.ByteType,
    "small": cql.ShortType,
    "big": cql.ReversedType.apply_parameters([cql.LongType]),
    "ö": cql.UTF8Type,
    "float": cql.DoubleType,
}
NAMES = sorted(TYPES)
COLUMNS = Columns(Table("k", "t", dict.fromkeys(TYPES, ""), ("id",), ("n",)), list(TYPES.values()))

needs_compiler = pytest.mark.skipif(not COMPILED, reason="walstream was installed without a C compiler")

edges = [2**7, 2**15, 2**31, 2**63, 10**18, 0]
integers = st.integers() | st.builds(lambda edge, step: edge + step, st.sampled_from(edges), st.integers(-1, 1))
values = st.none() | st.booleans() | integers | integers.map(lambda n: -n) | st.floats() | st.text(max_size=5)
fitting = st.fixed_dictionaries(
    {},
    optional={
        "text": st.none() | st.text(st.characters(codec="utf-8"), max_size=5),
        "ascii": st.text(max_size=3),
        "yes": st.booleans(),
        "tiny": st.integers(-(2**7), 2**7 - 1),
        "small": st.integers(-(2**15), 2**15 - 1),
        "big": integers,
        "ö": st.text(max_size=2),
    },
)
others = fitting | st.dictionaries(st.sampled_from([*NAMES, "", "unknown"]), values | st.lists(values), max_size=3)
keys = st.fixed_dictionaries({"id": st.text(max_size=5), "n": integers}) | others
mutations = st.fixed_dictionaries(
    {"op": st.sampled_from(["put", "put", "put", "delete", "x"]), "key": keys},
    optional={"set": others | st.none(), "table": st.sampled_from(["t", "ü", "", None, 1]), "more": st.none()},
)
spaces = st.sampled_from(["", " ", "\n\t\r", "\v"])


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """Mutations as many would write them, and what is left of them after a change of some bytes."""
    space = draw(spaces)
    written = json.dumps(
        draw(mutations), ensure_ascii=draw(st.booleans()), separators=(f"{space},", f":{space}")
    ).encode(errors="surrogatepass")
    payload = bytearray(written)
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        at = draw(st.integers(0, len(payload)))
        payload[at : at + draw(st.integers(0, 2))] = draw(
            st.sampled_from([b"", b" ", b'"', b"\\", b"\xff", b"\0", b"0", b"-", b".", b"1", b"e", b"null", b",", b"}"])
        )
    return bytes(payload)


def parsed(payload: bytes) -> tuple[object, ...] | None:
    """What the payload is without any short cut; None where it is refused."""
    try:
        found = parse_mutation(payload)
        values: dict[int, bytes | None] = {}
        key = COLUMNS.key(found)
        COLUMNS.fill(found, values)
    except (RecordRefused, BadMutation):
        return None
    return found.op == "put", found.table, key, values


@given(payloads())
@example(b'{"op":"put","key":{"id":"a","n":1},"set":{"n":1}}')
@example(b'{"op":"put","key":{"id":"a","n":1,"n":1},"set":{}}')
@example(b'{"op":"put","key":{"id":"a","n":1},"key":{"id":"a","n":1},"set":{}}')
@example(b'{"op":"put","key":{"id":"a","n":-0},"set":{}}')
@example(b'{"op":"put","key":{"id":"a","n":01},"set":{}}')
@example(b'{"op":"put","key":{"id":"\xed\xa0\x80","n":1},"set":{}}')
@example(b'{"op":"put","key":{"id":"a","n":1},"set":{"text":"a\tb"}}')
@example(b'{"op":"put","key":{"id":"a","n":1},"set":{"text":"b"},}')
@example(b'{"op":"put","key":{"id":"a","n":1},"set":{"tiny":128}}')
@example(b'{"op":"put","key":{"id":"a","n":1},"set":{"tiny":-128}} ')
def test_what_is_read_at_once_is_what_parsing_says(payload: bytes) -> None:
    read = COLUMNS.read(payload)
    if read is not None:
        is_put, table, key, found = read
        assert (is_put, table, key, dict(found)) == parsed(payload)
        assert len(dict(found)) == len(found)


@needs_compiler
@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters='"\\')),
    st.integers(-(2**31), 2**31 - 1),
    fitting.filter(lambda columns: -(10**18) < columns.get("big", 0) < 10**18),
    st.none() | st.just("t"),
)
def test_the_common_kind_is_read_at_once(id: str, n: int, columns: dict[str, Any], table: str | None) -> None:
    plain = {name: value.replace("\\", "").replace('"', "") if isinstance(value, str) else value
             for name, value in columns.items() if not isinstance(value, str) or value.isprintable()}  # fmt: skip
    plain.pop("ascii", None)
    named = {} if table is None else {"table": table}
    for members in ({"op": "put", **named, "key": {"id": id, "n": n}, "set": plain},
                    {"key": {"n": n, "id": id}, "op": "delete", **named}):  # fmt: skip
        for option in (0, orjson.OPT_INDENT_2):
            payload = orjson.dumps(members, option=option)
            read = COLUMNS.read(payload)
            assert read is not None
            assert (*read[:3], dict(read[3])) == parsed(payload)


def test_a_table_whose_key_is_of_another_type_is_read_by_parsing() -> None:
    columns = Columns(Table("k", "t", {"id": "uuid", "v": "int"}, ("id",), ()), [cql.UUIDType, cql.Int32Type])
    assert columns.read(b'{"op":"put","key":{"id":"00000000-0000-0000-0000-000000000000"},"set":{}}') is None
    assert columns.read(None) is None


@given(payloads())
def test_a_closer_look_changes_nothing(payload: bytes) -> None:
    def result() -> object:
        try:
            found = parse_mutation(payload)
        except RecordRefused as refused:
            return str(refused)
        return found.op, found.table, repr(found.key), repr(found.set)

    at_once = result()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mutation, "_plain_parts", lambda _: None)
        assert result() == at_once


def key_parsed(payload: bytes) -> dict[str, Any] | None:
    """The key without any short cut; None where the payload is refused."""
    try:
        return mutation_parts(payload)[2]
    except RecordRefused:
        return None


@given(payloads())
@example(b'{"op":"put","key":{"id":"a"},"set":{"id":1}}')
@example(b'{"op":"put","key":{"id":"a","id":"b"},"set":{}}')
@example(b'{"op":"put","key":{"id":"a"},"set":{"n":1,"n":2}}')
@example(b'{"op":"put","key":{"id":"a"},"key":{"id":"b"},"set":{}}')
@example(b'{"op":"put","key":{"id":"a"},"set":{"":1}}')
@example(b'{"op":"put","key":{"":"a"},"set":{}}')
@example(b'{"op":"put","key":{},"set":{}}')
@example(b'{"op":"put","key":{"id":null},"set":{}}')
@example(b'{"op":"put","key":{"id":"a"},"set":null}')
@example(b'{"op":"delete","key":{"id":"a"},"set":{}}')
@example(b'{"op":"put","key":{"id":-0},"set":{}}')
@example(b'{"op":"put","key":{"id":1.0},"set":{}}')
@example(b'{"op":"put","key":{"id":1e3},"set":{}}')
@example(b'{"op":"put","key":{"id":"\xed\xa0\x80"},"set":{}}')
@example(b'{"op":"put","key":{"id":"a"},"set":{"text":"\xff"}}')
@example(b'{"op":"put","key":{"id":"a"},"set":{"text":"a\tb"}}')
@example(b'{"op":"put","key":{"id":"a"},"set":{"text":"b"},}')
@example(b'{"op":"put","key":{"id":"a"},"set":{"n":[1]}}')
@example(b'{"op":"put","key":{"id":"a"},"set":{}} x')
def test_a_key_that_is_read_at_once_is_what_parsing_says(payload: bytes) -> None:
    read = plain_key(payload)
    if read is not None:
        expected = key_parsed(payload)
        assert read == expected
        assert expected is not None
        assert [type(value) for value in read.values()] == [type(value) for value in expected.values()]


@needs_compiler
@pytest.mark.parametrize(
    ("payload", "key"),
    [
        (b'{"op":"put","key":{"id":"a","n":-1},"set":{"text":null,"yes":false,"n2":12}}', {"id": "a", "n": -1}),
        (b' { "op" : "delete" , "table" : "t" , "key" : { "yes" : true } } ', {"yes": True}),
        ('{"set":{},"key":{"ö":"ü"},"op":"put"}'.encode(), {"ö": "ü"}),
        (
            orjson.dumps({"op": "put", "key": {"id": 1}, "set": {str(number): number for number in range(63)}}),
            {"id": 1},
        ),
    ],
)
def test_the_key_of_the_common_kind_is_read_at_once(payload: bytes, key: dict[str, Any]) -> None:
    assert plain_key(payload) == key


@needs_compiler
def test_a_mutation_with_many_columns_is_left_to_parsing() -> None:
    columns = {str(number): number for number in range(64)}
    assert plain_key(orjson.dumps({"op": "put", "key": {"id": 1}, "set": columns})) is None
