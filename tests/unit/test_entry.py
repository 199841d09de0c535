from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream.entry import Entry
from walstream.errors import RecordRefused, StateMismatch
from walstream.headers import Header, log_headers, strip_headers
from walstream.record import encode

MESSAGE = encode(b"payload", key=b"k", id="1", source="/flights", type="departed", time=0, content_type="text/plain")

headers_of_theirs = st.lists(
    st.tuples(st.text(max_size=12).filter(lambda name: name[:10].lower() != "walstream-"), st.none() | st.binary()),
    max_size=6,
)


def entry(headers: list[Header], *, value: bytes | None = b"payload") -> Entry:
    return Entry.from_log(3, 42, b"k", value, log_headers(headers, time_us=1, position=2, timestamp_ms=3), 99)


@given(headers_of_theirs, st.integers(-(2**62), 2**62), st.integers(0, 2**62), st.integers(-1, 2**62), st.binary())
def test_what_goes_to_the_log_comes_back(
    headers: list[Header], time: int, position: int, timestamp: int, path: bytes
) -> None:
    added = log_headers(headers, time_us=time, position=position, timestamp_ms=timestamp, path=path)
    assert strip_headers(added) == headers
    one = Entry.from_log(3, 42, b"k", None, added, 99)
    assert (one.partition, one.position, one.key, one.value) == (3, 42, b"k", None)
    assert (one.time, one.ingress_position, one.timestamp, one.path) == (time, position, timestamp, path)
    assert list(one.headers) == headers


def test_the_added_headers_are_what_the_documentation_says() -> None:
    added = log_headers([("a", None)], time_us=1357017420123450, position=7, timestamp_ms=-1, path=b"eu,us")
    assert added == [
        ("walstream-version", b"1"),
        ("walstream-time", b"1357017420123450"),
        ("walstream-position", b"7"),
        ("walstream-timestamp", b"-1"),
        ("walstream-path", b"eu,us"),
        ("a", None),
    ]


def test_further_headers_of_ours_are_taken_off_too() -> None:
    added = [*log_headers([], time_us=1, position=2, timestamp_ms=3), ("walstream-attempt", b"4"), ("a", b"b")]
    assert list(Entry.from_log(0, 0, None, None, added, 0).headers) == [("a", b"b")]


def test_the_record_is_the_one_that_was_written() -> None:
    one = entry(MESSAGE.headers)
    assert (one.id, one.source, one.type, one.payload) == ("1", "/flights", "departed", b"payload")
    assert one.record.timestamp == one.timestamp == 3
    assert one.record is one.record


@pytest.mark.parametrize("version", [b"2", b"10"])
def test_headers_of_a_newer_format_are_refused(version: bytes) -> None:
    headers = [("walstream-version", version), *log_headers([], time_us=1, position=2, timestamp_ms=3)[1:]]
    said = f"added headers of format {version.decode()}; this version of walstream reads 1"
    with pytest.raises(StateMismatch, match=said):
        Entry.from_log(0, 0, None, None, headers, 0)


@pytest.mark.parametrize("broken", range(4))
@pytest.mark.parametrize("text", [None, b"", b"x", ...])
def test_a_record_without_our_headers_is_refused(broken: int, text: bytes | None) -> None:
    headers = log_headers(MESSAGE.headers, time_us=1, position=2, timestamp_ms=3)
    if text is ...:
        del headers[broken]
    else:
        headers[broken] = (headers[broken][0], text)
    with pytest.raises(RecordRefused, match="position 42 of partition 3 was not written by walstream"):
        Entry.from_log(3, 42, None, None, headers, 0)


@pytest.mark.parametrize("read_before", [False, True])
@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ([*MESSAGE.headers, ("ce_waltargets", b"base, copy")], b""),
        ([("content-type", b"application/cloudevents+json")], b'"waltargets":"base,copy"'),
        ([], b'"waltargets":"base,copy"'),
        # The content type decides, whatever else there is.
        ([*MESSAGE.headers[:4], ("Content-Type", b"application/cloudevents+json")], b'"waltargets":"base,copy"'),
    ],
)
def test_an_entry_is_for_the_targets_that_it_names(headers: list[Header], value: bytes, read_before: bool) -> None:
    one = entry(headers, value=b'{"specversion":"1.0","id":"1","source":"s","type":"t",%b}' % value)
    if read_before:
        assert one.record
    assert one.is_for("base")
    assert one.is_for("copy")
    assert not one.is_for("other")


def test_an_entry_that_names_no_targets_is_for_all() -> None:
    assert entry(MESSAGE.headers).is_for("other")
    assert entry([], value=b'{"specversion":"1.0","id":"1","source":"s","type":"t"}').is_for("other")
