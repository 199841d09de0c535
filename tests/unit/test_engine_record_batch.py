"""The patient decoder reads what aiokafka's reads, and records whose headers have names that are not UTF-8."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

from walstream.engine.record_batch import HEADER, decode_batch, last_offset, refuse_misnamed, split_batches
from walstream.errors import RecordRefused
from walstream.testing.raw_batch import ATTRIBUTES_AT, CODECS, RawRecord, encode_batch, seal

GOOD = RawRecord(b"key", b"value", [("größe".encode(), b"1"), (b"h", None), (b"h", b"")])
BAD = RawRecord(b"key", b"value", [(b"good", b"1"), (b"b\xffd", b"2")])

blobs = st.none() | st.binary(max_size=40)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=10).map(str.encode)
records = st.builds(RawRecord, blobs, blobs, st.lists(st.tuples(names, blobs), max_size=3))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(records, min_size=1, max_size=5), st.integers(0, 2**50), st.integers(0, 2**41),
    st.sampled_from(list(CODECS)), st.booleans(),
)  # fmt: skip
def test_reads_what_aiokafka_reads(
    given: list[RawRecord], base: int, timestamp: int, compression: str, append_time: bool
) -> None:
    batch = encode_batch(given, base=base, timestamp=timestamp, compression=compression)
    if append_time:
        changed = bytearray(batch)
        changed[ATTRIBUTES_AT + 1] |= 0x08
        batch = seal(bytes(changed))
    theirs = MemoryRecords(batch).next_batch()
    assert theirs.validate_crc()
    fields = ("offset", "timestamp", "timestamp_type", "key", "value", "headers")
    expected = [tuple(getattr(record, field) for field in fields) for record in theirs]
    assert [tuple(getattr(record, field) for field in fields) for record in decode_batch(batch)] == expected
    assert last_offset(batch) == base + len(given) - 1


@pytest.mark.parametrize("compression", CODECS)
def test_a_name_that_is_not_utf8_spoils_only_its_record(compression: str) -> None:
    batch = encode_batch([GOOD, BAD, GOOD], base=7, compression=compression)
    with pytest.raises(UnicodeDecodeError):
        list(MemoryRecords(batch).next_batch())
    first, second, third = decode_batch(batch)
    assert [record.offset for record in (first, second, third)] == [7, 8, 9]
    assert first.headers == third.headers == [("größe", b"1"), ("h", None), ("h", b"")]
    assert (second.key, second.value) == (b"key", b"value")
    assert second.headers == [("good", b"1"), ("b\\xffd", b"2")]
    assert [record.misnamed for record in (first, second, third)] == [(), ("b\\xffd",), ()]


def test_who_has_such_a_name_is_refused() -> None:
    good, bad = decode_batch(encode_batch([GOOD, BAD]))
    refuse_misnamed(good)
    refuse_misnamed(SimpleNamespace(headers=[]))
    with pytest.raises(RecordRefused, match=r"not-utf8: .*b\\xffd"):
        refuse_misnamed(bad)


def test_a_name_that_looks_like_a_replaced_one_is_good() -> None:
    (record,) = decode_batch(encode_batch([RawRecord(None, None, [(b"b\\xffd", None)])]))
    assert record.headers == [("b\\xffd", None)]
    refuse_misnamed(record)


def body_of(*records: RawRecord) -> bytearray:
    return bytearray(encode_batch(records))


def test_what_does_not_follow_the_format_is_an_error() -> None:
    longer = body_of(GOOD)
    longer[HEADER.size] += 2  # the record's length, by one
    with pytest.raises(ValueError, match="ends -1 bytes behind"):
        decode_batch(bytes(longer))
    with pytest.raises(ValueError, match="2 bytes stand behind the last record"):
        decode_batch(bytes(body_of(GOOD)) + b"xx")
    with pytest.raises(ValueError, match="in the middle of a record"):
        decode_batch(bytes(body_of(GOOD))[:-1])
    old = body_of(GOOD)
    old[16] = 1
    with pytest.raises(ValueError, match="format 1"):
        decode_batch(bytes(old))
    endless = body_of(GOOD)
    endless[HEADER.size :] = b"\xff" * 40
    with pytest.raises(ValueError, match="more than ten bytes"):
        decode_batch(bytes(endless))


def test_compression_that_nobody_knows_or_has(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = body_of(GOOD)
    unknown[ATTRIBUTES_AT + 1] |= 6
    with pytest.raises(ValueError, match="compression 6 is unknown"):
        decode_batch(bytes(unknown))
    with pytest.raises(OSError, match="gzip"):
        decode_batch(encode_batch([GOOD], compression="gzip", trailing=b"rubbish"))
    compressed = encode_batch([GOOD], compression="zstd")
    monkeypatch.setattr("aiokafka.codec.has_zstd", lambda: False)
    with pytest.raises(ValueError, match=r'not installed: pip install "aiokafka\[zstd\]"'):
        decode_batch(compressed)


def test_whole_batches_are_split() -> None:
    one, two = encode_batch([GOOD, GOOD], base=3), encode_batch([BAD], base=9)
    assert split_batches(one + two) == {3: one, 9: two}
    assert split_batches(one + two[:-1]) == {3: one}
    assert split_batches(one + two[:5]) == {3: one}
    assert split_batches(one + bytes(100)) == {3: one}
    assert split_batches(b"") == {}
