"""The memcached sink without a memcached: rows, options, connections."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from walstream.connections import MemcachedConnection
from walstream.errors import ConfigurationError, StateMismatch
from walstream.sinks.base import SinkContext
from walstream.sinks.memcached import MemcachedOptions, MemcachedSink
from walstream.sinks.row import Row

TIMES = st.integers(0, 4)
PUTS = st.tuples(TIMES, st.dictionaries(st.sampled_from([b'"a"', b'"b"']), st.sampled_from([b"", b"=1", b"=2"])))
WRITES = st.lists(PUTS | TIMES, max_size=12)


def after(writes: list[Any]) -> Row:
    row = Row()
    for write in writes:
        row = row.delete(write) if isinstance(write, int) else row.put(write[0], write[1].items())
    return row


@given(WRITES, st.randoms())
def test_writes_in_any_order_end_alike(writes: list[Any], chance: Any) -> None:
    shuffled = list(writes)
    chance.shuffle(shuffled)
    assert after(shuffled) == after(writes)


@given(WRITES)
def test_what_changes_nothing_is_the_same_row(writes: list[Any]) -> None:
    row = after(writes)
    for write in writes:
        assert (row.delete(write) if isinstance(write, int) else row.put(write[0], write[1].items())) is row


@given(
    st.builds(
        Row,
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.dictionaries(st.binary(), st.tuples(st.integers(-(2**63), 2**63 - 1), st.binary())),
    )
)
def test_rows_are_read_as_they_were_written(row: Row) -> None:
    assert Row.from_bytes(row.to_bytes()) == row


def test_a_row_of_a_newer_format() -> None:
    with pytest.raises(StateMismatch, match="format 9"):
        Row.from_bytes(b"\x09" + bytes(9))


def test_what_the_cache_holds() -> None:
    row = Row(None, {b'"b"': (1, b"=2"), b'"a"': (1, b'="x"'), b'"c"': (1, b"")})
    assert row.json() == b'{"a":"x","b":2}'
    assert Row(None, {b'"c"': (1, b"")}).json() is None
    assert Row(3).json() is None
    assert Row(None, {b"v": (1, b"=")}).column() == b""
    assert Row(None, {b"v": (1, b"")}).column() is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"key": "flight", "value": "json"}, "names no column"),
        ({"key": "flight:{", "value": "json"}, "not a key template"),
        ({"key": "{flight}", "value": "hash"}, "memcached has no hashes"),
        ({"key": "{flight}", "value": ""}, "at least 1 character"),
        ({"key": "{flight}"}, "required"),
        ({"key": "{flight}", "value": "json", "expire": 1}, "not permitted"),
    ],
)
def test_options_that_cannot_be(options: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MemcachedOptions.model_validate(options)


def test_needs_a_connection() -> None:
    with pytest.raises(ConfigurationError, match=r"names no connection"):
        MemcachedSink(SinkContext("n", "t", MemcachedOptions(key="{k}", value="json")))


@pytest.mark.parametrize(
    ("words", "address"),
    [({"host": "cache"}, "cache:11211"), ({"host": "::1", "port": 7000}, "[::1]:7000")],
)
def test_where_a_memcached_is(words: Any, address: str) -> None:
    assert MemcachedConnection.model_validate({"sink": "memcached", **words}).address == address


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "required"),
        ({"host": "cache", "username": "me"}, "belong together"),
        ({"host": "cache", "username": "me", "password": "open"}, "does not stand in the file"),
    ],
)
def test_connections_that_cannot_be(words: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MemcachedConnection.model_validate({"sink": "memcached", **words})
