"""Delayed records as they are stored: byte for byte, and as Kafka's own records are laid out."""

from __future__ import annotations

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from walstream.errors import StateMismatch
from walstream.router.delayed import (
    HEAD,
    NEVER,
    WHEN_DUE,
    Delayed,
    Kind,
    decode_delayed,
    decode_forget,
    encode_delayed,
    encode_forget,
    kind_of,
)

numbers = st.integers(-(2**63), 2**63 - 1)
identities = st.binary(min_size=16, max_size=16)
contents = st.none() | st.binary(max_size=20) | st.binary(min_size=60, max_size=70) | st.just(b"\xff" * 20_000)
names = st.text(max_size=4) | st.sampled_from(["ce_id", "twice", "x" * 63, "x" * 64, "é" * 40])
headers = st.lists(st.tuples(names, contents), max_size=6)
delayed = st.builds(Delayed, numbers, numbers, numbers, numbers, identities, contents, contents, headers)


def stored(record: Delayed) -> bytes:
    return encode_delayed(*record)


@given(delayed)
def test_a_delayed_record_comes_back(record: Delayed) -> None:
    assert decode_delayed(stored(record)) == record
    assert kind_of(stored(record)) is Kind.WRITE


def test_no_expiry_is_later_than_all_times() -> None:
    record = decode_delayed(encode_delayed(1, WHEN_DUE, 2, None, bytes(16), None, None, []))
    assert (record.expiry, record.time) == (NEVER, WHEN_DUE)


@given(contents, contents, headers)
def test_it_is_laid_out_as_in_a_record_batch(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    builder.append(0, 1, key, value, headers)
    written = encode_delayed(1, 2, 3, None, bytes(16), key, value, headers)
    size, count = HEAD.unpack_from(written)[-2:]
    body = written[HEAD.size :]
    # A record in a batch: its length, then a byte of attributes, two deltas of a byte each, and then as here.
    assert bytes(builder.build()).endswith(b"\0\0\0" + body[:size] + _varint(count) + body[size:])


def _varint(count: int) -> bytes:
    assert count < 64
    return bytes((count * 2,))


@given(identities)
def test_what_is_forgotten_comes_back(name: bytes) -> None:
    assert decode_forget(encode_forget(name)) == name
    assert kind_of(encode_forget(name)) is Kind.FORGET


RECORD = Delayed(1, 2, 3, 4, b"i" * 16, b"key", b"value", [("name", b"text")])


@given(st.integers(0, len(stored(RECORD)) - 1))
def test_what_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(StateMismatch):
        decode_delayed(stored(RECORD)[:length])


def test_what_is_something_else_is_refused() -> None:
    for value in (stored(RECORD) + b"x", encode_forget(bytes(16)), b"", b"\x09"):
        with pytest.raises(StateMismatch):
            decode_delayed(value)
    for value in (stored(RECORD), encode_forget(bytes(16))[:9]):
        with pytest.raises(StateMismatch):
            decode_forget(value)
    with pytest.raises(StateMismatch, match="unknown kind: 09"):
        kind_of(b"\x09")


def test_newer_formats_are_refused() -> None:
    for value, decode in ((stored(RECORD), decode_delayed), (encode_forget(bytes(16)), decode_forget)):
        with pytest.raises(StateMismatch, match="has format 2; this version of walstream reads format 1"):
            decode(value[:1] + b"\x02" + value[2:])
