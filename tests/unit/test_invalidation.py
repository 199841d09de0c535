"""Invalidations: what is sent of a mutation where copies are to be forgotten, and what stores of copies make of it."""

from __future__ import annotations

import pytest

from walstream.entry import Entry
from walstream.errors import RecordRefused
from walstream.invalidation import TYPE, invalidation, parse_invalidation
from walstream.mutation import Mutation
from walstream.record import Message, encode, parse
from walstream.sinks.rows import RowReader, RowWrite

PUT = b'{"op": "put", "table": "flights", "key": {"flight": "UA1545", "leg": 1.10}, "set": {"gate": "C3"}}'


def entry(message: Message) -> Entry:
    return Entry(0, 1, message.key, message.value, message.headers, 5, 77, 1)


def mutation(payload: bytes = PUT, type: str = "walstream.mutation") -> Entry:
    return entry(encode(
        payload, key=b"k", id="a", source="s", type=type, time=5, content_type="application/json", delay=7,
        targets=["base", "west"], extensions={"traceparent": "t"},
    ))  # fmt: skip


def test_it_is_the_same_record_with_the_key_alone() -> None:
    message = invalidation(mutation())
    assert message.value == b'{"table":"flights","key":{"flight":"UA1545","leg":1.10}}'
    before = parse(b"k", PUT, mutation().headers, 5)
    after = parse(message.key, message.value, message.headers, 5)
    assert after.type == TYPE and after.content_type == "application/json"
    for name in ("id", "source", "time", "delay", "targets", "key"):
        assert getattr(after, name) == getattr(before, name), name
    assert ("ce_traceparent", b"t") in message.headers
    assert invalidation(mutation(b'{"op":"delete","key":{"flight":1}}')).value == b'{"key":{"flight":1}}'


@pytest.mark.parametrize(
    ("payload", "type", "code"), [(b"{}", "walstream.mutation", "bad-mutation"), (PUT, "test", "no-mutation")]
)
def test_what_it_would_be_about_is_not_guessed(payload: bytes, type: str, code: str) -> None:
    with pytest.raises(RecordRefused, match=code):
        invalidation(mutation(payload, type))


def test_it_is_a_delete_to_a_store_of_copies() -> None:
    message = invalidation(mutation())
    found = parse_invalidation(message.value)
    assert (found.op, found.table, str(found.key["leg"]), found.set) == ("delete", "flights", "1.10", {})
    reader = RowReader("f:{flight}:{leg}", "json", "flights")
    assert reader.read(entry(message)) == RowWrite(b"f:UA1545:1.10", "delete", 77, [])
    assert parse_invalidation(b' {"key": {"a": 1}}') == Mutation("delete", None, {"a": 1}, {})


@pytest.mark.parametrize(
    "payload",
    [
        None,
        b"",
        b"[]",
        b"{}",
        b"5",
        b'{"key": {}}',
        b'{"key": {"a": null}}',
        b'{"op": "put", "key": {"a": 1}}',
        b'{"key"',
    ],
)
def test_what_is_none_is_refused(payload: bytes | None) -> None:
    with pytest.raises(RecordRefused, match="bad-mutation"):
        parse_invalidation(payload)
