"""Dead letters keep what they are about, byte for byte, behind a block of headers that says what happened."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream import deadletter
from walstream.entry import Entry
from walstream.headers import Header, log_headers, strip_headers
from walstream.record import encode

names = st.text(min_size=1, max_size=12)
headers = st.lists(st.tuples(names, st.none() | st.binary(max_size=20)), max_size=6)
payloads = st.none() | st.binary(max_size=300)


@given(payloads, payloads, headers)
def test_a_refused_record_stays_what_it_was(key: bytes | None, value: bytes | None, given_: list[Header]) -> None:
    message = deadletter.refused(key, value, given_, code="bad-time", reason="why", position=7, timestamp=8, now=9)
    assert (message.key, message.value, strip_headers(message.headers)) == (key, value, strip_headers(given_))
    assert dict(message.headers[:6]) == {
        "walstream-version": b"1",
        "walstream-error-code": b"bad-time",
        "walstream-error": b"why",
        "walstream-when": b"9",
        "walstream-position": b"7",
        "walstream-timestamp": b"8",
    }


@given(payloads, payloads, headers, st.integers(1, 200))
def test_an_oversized_record_is_cut_to_the_limit(
    key: bytes | None, value: bytes | None, given_: list[Header], limit: int
) -> None:
    message = deadletter.oversized(key, value, given_, limit=limit, position=7, timestamp=8, now=9)
    added = dict(message.headers[:8])
    kept = message.headers[8:]
    assert deadletter.size_of(message.key, message.value, kept) <= limit
    assert (message.key is None, message.value is None) == (key is None, value is None)
    assert (key or b"").startswith(message.key or b"") and (value or b"").startswith(message.value or b"")
    assert added["walstream-size"] == b"%d" % deadletter.size_of(key, value, given_)
    assert added["walstream-digest"] == hashlib.sha256(value or b"").hexdigest().encode()
    assert added["walstream-error-code"] == b"too-large"


def entry() -> Entry:
    message = encode(b"v", key=b"k", id="1", source="s", type="t", time=5)
    added = log_headers(message.headers, time_us=53, position=11, timestamp_ms=99)
    return Entry.from_log(2, 17, b"k", b"v", added, 1_000)


def test_a_dead_entry_says_where_when_and_why() -> None:
    message = deadletter.dead(entry(), target="flights.base", reason="no", attempt=3, now=9, first="maybe")
    assert dict(message.headers[:10]) == {
        "walstream-version": b"1",
        "walstream-time": b"53",
        "walstream-position": b"11",
        "walstream-timestamp": b"99",
        "walstream-target": b"flights.base",
        "walstream-log-position": b"17",
        "walstream-attempt": b"3",
        "walstream-error": b"no",
        "walstream-when": b"9",
        "walstream-error-first": b"maybe",
    }
    assert (message.key, message.value, message.headers[10:]) == (b"k", b"v", entry().headers)


def test_a_dead_entry_says_what_it_has_to_say_and_no_more() -> None:
    outside = Entry(2, -1, b"k", b"v", [("own", b"1")], 99, 53, -1, b"west,east")
    message = deadletter.dead(outside, target="flights.base", reason="no", attempt=3, now=9, age=700)
    added = dict(message.headers)
    assert (added["walstream-path"], added["walstream-age"]) == (b"west,east", b"700")
    assert "walstream-log-position" not in added
    assert message.headers[-1:] == [("own", b"1")]
    assert (
        not {"walstream-path", "walstream-age"}
        & dict(deadletter.dead(entry(), target="flights.base", reason="no", attempt=1, now=9).headers).keys()
    )


@pytest.mark.parametrize("first", [None, "no"])
def test_a_first_error_that_says_nothing_new_is_left_out(first: str | None) -> None:
    message = deadletter.dead(entry(), target="t", reason="no", attempt=1, now=9, first=first)
    assert "walstream-error-first" not in dict(message.headers)


def test_errors_are_cut() -> None:
    message = deadletter.dead(entry(), target="t", reason="é" * 5_000, attempt=1, now=9, first="x" * 5_000)
    added = dict(message.headers)
    assert added["walstream-error"] == "é".encode() * 1_000
    assert added["walstream-error-first"] == b"x" * 1_000


def test_whatever_an_error_says_can_be_written() -> None:
    message = deadletter.dead(entry(), target="t", reason="half a \udc80 character", attempt=1, now=9, first="\ud800")
    assert b"half a" in (dict(message.headers)["walstream-error"] or b"")
