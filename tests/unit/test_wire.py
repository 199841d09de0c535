"""Records on the wire: both implementations read and write what the other does, and what aiokafka does."""

from __future__ import annotations

import gc
import struct
from types import ModuleType
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

from walstream.entry import Entry, refuse_misnamed
from walstream.errors import RecordRefused
from walstream.headers import log_headers, sent_headers, strip_headers
from walstream.identity import identity
from walstream.murmur2 import partition_for
from walstream.record import parse
from walstream.replica import Replica, read_replica
from walstream.testing.raw_batch import CODECS, RawRecord, encode_batch, seal
from walstream.wire import COMPILED, plain
from walstream.wire.batch import Batch, split
from walstream.wire.builder import BatchBuilder

if COMPILED:
    from walstream.wire import compiled
MODULES: list[ModuleType] = [plain, compiled] if COMPILED else [plain]
NAMES = ["plain", "compiled"][: len(MODULES)]
both = pytest.mark.parametrize("module", MODULES, ids=NAMES)
needs_compiler = pytest.mark.skipif(not COMPILED, reason="walstream was installed without a C compiler")

names = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["ce_id", "ce_source", "ce_type", "ce_time", "ce_specversion", "content-type", "traceparent", "walstream-x"]
)
blocks = st.none() | st.binary(max_size=200)
headers = st.lists(st.tuples(names, blocks), max_size=10)
records = st.lists(
    st.tuples(st.integers(0, 2**50), blocks, blocks, headers), min_size=1, max_size=20
)  # timestamp, key, value, headers


def filled(module: Any, given: list[Any], limit: int = 1 << 20) -> Any:
    writer = module.RecordWriter(limit)
    for record in given:
        assert writer.append(*record)
    return writer


def read(module: Any, writer: Any, base: int = 0) -> list[Any]:
    payload = writer.payload()
    return list(module.RecordReader(payload, 0, len(payload), writer.count, base, writer.first_timestamp))


def raw(name: str) -> bytes:
    return name.encode()


# Writing and reading


@both
@given(records)
def test_what_is_written_is_what_aiokafka_writes(module: Any, given: list[Any]) -> None:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1 << 20)
    for offset, (timestamp, key, value, own) in enumerate(given):
        builder.append(offset, timestamp, key, value, own)
    expected = bytes(builder.build())
    writer = filled(module, given)
    assert writer.size == len(expected) - 61
    assert writer.payload() == expected[61:]
    assert (writer.count, writer.first_timestamp, writer.max_timestamp) == (
        len(given), given[0][0], max(timestamp for timestamp, *_ in given),
    )  # fmt: skip


@both
@pytest.mark.parametrize("writing", MODULES, ids=[f"by-{name}" for name in NAMES])
@given(records)
def test_what_is_written_is_read_again(module: Any, writing: Any, given: list[Any]) -> None:
    found = read(module, filled(writing, given), base=70)
    assert [(r.timestamp, r.key, r.value, r.headers) for r in found] == given
    assert [r.offset for r in found] == list(range(70, 70 + len(given)))
    assert {r.timestamp_type for r in found} == {0}
    assert all(r.misnamed == () for r in found)
    for record, (_, key, value, own) in zip(found, given, strict=True):
        least = len(key or b"") + len(value or b"") + sum(len(raw(name)) + len(text or b"") for name, text in own)
        assert least <= record.size <= least + 10 * len(own)


@both
@given(records)
def test_a_record_is_made_of_its_parts(module: Any, given: list[Any]) -> None:
    for other in MODULES:
        for record in read(module, filled(module, given)):
            fields, count, encoded = record.parts
            again = other.record_of(b"head" + fields + encoded, 4, len(fields), count, 17, 99)
            assert (again.key, again.value, again.headers) == (record.key, record.value, record.headers)
            assert (again.offset, again.timestamp, again.timestamp_type) == (17, 99, 0)


@both
@pytest.mark.parametrize("parts", [(0, 9, 1), (5, 1, 0), (0, 4, 2), (0, 4, -1), (0, 3, 1)])
def test_parts_of_no_record_are_refused(module: Any, parts: tuple[int, int, int]) -> None:
    start, size, count = parts
    module.record_of(b"\x02k\x02v\x02h\x02x", 0, 4, 1, 0, 0)
    with pytest.raises(ValueError, match=r"no bytes|do not follow"):
        module.record_of(b"\x02k\x02v\x02h\x02x", start, size, count, 0, 0)


@both
def test_a_record_that_does_not_fit_is_left_out_but_for_the_first(module: Any) -> None:
    writer = module.RecordWriter(100)
    assert writer.append(1, b"k", bytes(500))
    assert not writer.append(1, b"k", b"v")
    assert writer.count == 1
    writer = module.RecordWriter(200)
    assert writer.append(1, b"k", bytes(50))
    assert not writer.append(1, b"k", bytes(150))
    assert writer.append(1, b"k", b"small")
    assert [record.value for record in read(plain, writer)] == [bytes(50), b"small"]


@both
def test_the_brokers_append_time_is_that_of_all(module: Any) -> None:
    payload = filled(module, [(5, b"a", None, []), (9, b"b", b"", [])]).payload()
    found = list(module.RecordReader(payload, 0, len(payload), 2, 0, 5, 1_234))
    assert [(r.timestamp, r.timestamp_type) for r in found] == [(1_234, 1)] * 2


@given(records, st.data())
def test_a_batch_that_was_cut_or_changed_is_refused_or_read_but_never_crashes(
    given: list[Any], data: st.DataObject
) -> None:
    payload = bytearray(filled(plain, given).payload())
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)))
    broken = bytes(payload[:cut])
    results = []
    for one in MODULES:
        try:
            found = list(one.RecordReader(broken, 0, len(broken), len(given), 0, 0))
            results.append([(r.offset, r.timestamp, r.key, r.value, r.headers, r.misnamed) for r in found])
        except ValueError as error:
            results.append(str(error))
    assert results[0] == results[1]


@both
@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_records_is_refused(module: Any, count: int) -> None:
    payload = filled(module, [(5, b"a", None, []), (9, b"b", b"", [])]).payload()
    with pytest.raises(ValueError, match=r"record 2 of the batch|stand behind"):
        module.RecordReader(payload, 0, len(payload), count, 0, 0)


@both
def test_names_that_are_not_utf8_are_told(module: Any) -> None:
    batch = encode_batch([RawRecord(b"k", b"v", [(b"b\xff", b"1"), ("ä".encode(), None), (b"c", b"2")])])
    payload = batch[61:]
    (record,) = module.RecordReader(payload, 0, len(payload), 1, 0, 0)
    assert record.headers == [("b\\xff", b"1"), ("ä", None), ("c", b"2")]
    assert record.misnamed == ("b\\xff",)


@both
def test_a_record_whose_name_is_not_utf8_is_refused_and_no_other(module: Any) -> None:
    own = [(b"b\\xff", b"1"), (b"\xc3\xa4", b"2")]  # the first looks like what is shown of another
    good, bad = (RawRecord(b"k", b"v", [*own, *more]) for more in ([], [(b"b\xff", b"3")]))
    payload = encode_batch([good, bad, good])[61:]
    first, second, third = module.RecordReader(payload, 0, len(payload), 3, 0, 0)
    refuse_misnamed(first)
    refuse_misnamed(third)
    assert first.headers == third.headers == [("b\\xff", b"1"), ("ä", b"2")]
    with pytest.raises(RecordRefused, match=r"not-utf8: .*b\\xff"):
        refuse_misnamed(second)


@both
def test_many_long_names_are_named_in_short(module: Any) -> None:
    payload = encode_batch([RawRecord(None, None, [(b"\xff" * 500, None)] * 50)])[61:]
    (record,) = module.RecordReader(payload, 0, len(payload), 1, 0, 0)
    assert len(record.misnamed) == 50
    with pytest.raises(RecordRefused) as caught:
        refuse_misnamed(record)
    assert len(str(caught.value)) < 1_000


@both
def test_what_does_not_follow_the_format_is_an_error(module: Any) -> None:
    good = encode_batch([RawRecord(b"key", b"value", [(b"h", b"1")])])[61:]

    def refused(payload: bytes, reason: str, count: int = 1) -> None:
        with pytest.raises(ValueError, match=reason):
            module.RecordReader(payload, 0, len(payload), count, 0, 0)

    broken = "record 0 of the batch does not follow the format"
    refused(bytes([good[0] + 2]) + good[1:], broken)
    refused(bytes([good[0] - 2]) + good[1:], broken)
    refused(b"\0" + good[1:], broken)
    refused(good[:-1], broken)
    refused(b"", broken)
    refused(b"\xff" * 40, broken)  # an integer without end
    refused(good + b"xx", "2 bytes stand behind the last record")
    refused(good, "stand behind", count=0)
    refused(good, "stand behind", count=-1)
    for start, end in ((-1, 5), (5, 4), (0, len(good) + 1)):
        with pytest.raises(ValueError, match="there are no bytes"):
            module.RecordReader(good, start, end, 1, 0, 0)


@both
@pytest.mark.parametrize(
    ("number", "value"),
    [
        (b"\xfe" + b"\xff" * 8 + b"\x01", 2**63 - 1),
        (b"\xff" * 9 + b"\x01", -(2**63)),
        (b"\xff" * 9 + b"\x1d", -(2**63)),
    ],
)
def test_integers_have_64_bits(module: Any, number: bytes, value: int) -> None:
    body = b"\0" + b"\0" + number + b"\x01\x01\0"
    payload = bytes([2 * len(body)]) + body
    (record,) = module.RecordReader(payload, 0, len(payload), 1, 0, 0)
    assert record.offset == value


@both
def test_a_null_name_is_an_empty_one(module: Any) -> None:
    body = b"\0\0\0" + b"\x01\x01" + b"\x02" + b"\x01" + b"\x02v"
    payload = bytes([2 * len(body)]) + body
    (record,) = module.RecordReader(payload, 0, len(payload), 1, 0, 0)
    assert (record.key, record.value, record.headers, record.misnamed) == (None, None, [("", b"v")], ())


@both
def test_records_outlive_what_they_were_read_from(module: Any) -> None:
    payload = filled(module, [(1, b"k%d" % n, bytes(1_000), [("h", b"%d" % n)]) for n in range(100)]).payload()
    copy = bytes(bytearray(payload))
    found = list(module.RecordReader(copy, 0, len(copy), 100, 0, 1))
    del copy
    gc.collect()
    junk = [bytes(len(payload)) for _ in range(20)]
    assert [(r.key, r.headers) for r in found] == [(b"k%d" % n, [("h", b"%d" % n)]) for n in range(100)]
    assert junk


# Batches


@pytest.mark.parametrize("append_time", [False, True])
@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=20)
@given(records, st.integers(0, 2**50), st.integers(0, 2**41))
def test_a_batch_is_read_as_aiokafka_reads_it(
    codec: str, append_time: bool, given: list[Any], base: int, timestamp: int
) -> None:
    own = [RawRecord(key, value, [(raw(name), text) for name, text in own]) for _, key, value, own in given]
    batch = encode_batch(own, base=base, timestamp=timestamp, compression=codec, append_time=append_time)
    theirs = MemoryRecords(batch).next_batch()
    ours = Batch(batch)
    assert theirs.validate_crc() and ours.is_intact()
    fields = ("offset", "timestamp", "timestamp_type", "key", "value", "headers")
    expected = [tuple(getattr(record, field) for field in fields) for record in theirs]
    assert [tuple(getattr(record, field) for field in fields) for record in ours.records()] == expected
    assert (ours.base_offset, ours.next_offset) == (theirs.base_offset, theirs.next_offset)
    assert (ours.is_transactional, ours.is_control, ours.producer_id) == (False, False, -1)


def test_compression_that_nobody_knows_or_has(monkeypatch: pytest.MonkeyPatch) -> None:
    good = RawRecord(b"key", b"value")
    unknown = bytearray(encode_batch([good]))
    unknown[22] |= 6
    with pytest.raises(ValueError, match="compression 6 is unknown"):
        Batch(bytes(unknown)).records()
    with pytest.raises(OSError, match="gzip"):
        Batch(encode_batch([good], compression="gzip", trailing=b"rubbish")).records()
    compressed = encode_batch([good], compression="zstd")
    monkeypatch.setattr("aiokafka.codec.has_zstd", lambda: False)
    with pytest.raises(ValueError, match=r'not installed: pip install "aiokafka\[zstd\]"'):
        Batch(compressed).records()


def test_whole_batches_are_split() -> None:
    good = RawRecord(b"key", b"value")
    one, two = encode_batch([good, good], base=3), encode_batch([good], base=9)

    def offsets(raw: bytes) -> list[int]:
        return [batch.base_offset for batch in split(raw)]

    assert offsets(one + two) == [3, 9]
    assert offsets(one + two[:-1]) == offsets(one + two[:5]) == offsets(one + two[:61]) == [3]
    assert offsets(b"") == []
    (first, zeros) = split(one + bytes(100))
    assert first.is_intact() and not zeros.is_intact(), "a batch that cannot be one comes last"


@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_that_compaction_has_emptied(codec: str) -> None:
    batch = bytearray(encode_batch([RawRecord(b"k", b"v")] * 3, base=4, compression=codec)[:61])
    batch[8:12] = (61 - 12).to_bytes(4)
    batch[57:61] = bytes(4)
    (emptied,) = split(seal(bytes(batch)))
    assert emptied.is_intact() and (emptied.base_offset, emptied.next_offset) == (4, 7)
    assert list(emptied.records()) == []


@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_is_read_whatever_its_compression(codec: str) -> None:
    given = [RawRecord(b"k%d" % i, b"value" * i, [(b"h", b"x")]) for i in range(50)]
    one = encode_batch(given, base=7, timestamp=99, compression=codec)
    two = encode_batch(given[:1], base=57)
    first, second = split(one + two + two[:-1])
    assert (first.base_offset, first.next_offset, second.base_offset, second.next_offset) == (7, 57, 57, 58)
    assert first.is_intact() and second.is_intact()
    found = list(first.records())
    assert [(r.offset, r.timestamp, r.key, r.value) for r in found] == [
        (7 + i, 99 + i, b"k%d" % i, b"value" * i) for i in range(50)
    ]


def test_a_damaged_batch_is_not_intact() -> None:
    batch = bytearray(encode_batch([RawRecord(b"k", b"v")]))
    batch[-1] ^= 1
    (damaged,) = split(bytes(batch))
    assert not damaged.is_intact()
    short = encode_batch([RawRecord(b"k", b"v")])
    (shorter,) = split(short[:8] + struct.pack(">i", 3) + short[12:])
    assert not shorter.is_intact()


@pytest.mark.parametrize("compression", [None, "lz4", "zstd", "gzip", "snappy"])
@given(records)
def test_what_a_builder_sends_is_read_by_aiokafka(compression: str | None, given: list[Any]) -> None:
    builder = BatchBuilder(1 << 20, compression, transactional=True)
    for record in given:
        builder.writer.append(*record)
    builder.writer.append(3, b"filler", bytes(600))
    builder._set_producer_state(5, 6, 7)
    built = builder._build()
    assert builder.closed() and builder.record_count() == len(given) + 1 and builder.size() == len(built)
    batch = MemoryRecords(built).next_batch()
    assert batch.validate_crc() and batch.is_transactional
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (5, 6, 7)
    assert (batch.compression_type == 0) == (compression is None)
    assert [(r.timestamp, r.key, r.value, r.headers) for r in batch][:-1] == given
    assert Batch(built).is_intact()


# CloudEvents where they stand

texts = st.sampled_from(
    [b"", b"1.0", b"x", "ü".encode(), b"\xff", b"application/json", b"application/CloudEvents+json"]
)
moments = st.datetimes().map(lambda moment: f"{moment.isoformat()}Z".encode()) | st.sampled_from(
    [b"2013-02-29T00:00:00Z", b"2012-02-29T23:59:59.123456789Z", b"2013-01-01T00:00:60Z", b"2013-01-01T00:00:00+01:00",
     b"2013-13-01T00:00:00Z", b"2013-04-31T00:00:00Z", b"2013-01-01T24:00:00Z", b"2013-01-01T00:00:00.Z",
     b"0000-01-01T00:00:00Z", b"2013-01-01t00:00:00z", b"", b"now"]
)  # fmt: skip
attributes = st.sampled_from(
    ["ce_walaction", "ce_waldelay", "ce_waldeliverat", "ce_waljitter", "ce_walx", "ce_expirytime", "ce_partitionkey",
     "ce_traceparent", "ce_extension", "content-type", "Content-Type", "walstream-time", "Walstream-Time", "other",
     "ce_", "ce_id", "ce_type"]
)  # fmt: skip
usual = st.fixed_dictionaries(
    {"ce_specversion": st.just(b"1.0"), "ce_id": st.binary(max_size=20), "ce_source": texts, "ce_type": texts},
    optional={"ce_time": moments},
).map(lambda found: list(found.items()))
events = st.builds(
    lambda first, more, order: order.sample(first + more, len(first + more)),
    usual,
    st.lists(st.tuples(attributes, st.none() | texts | moments | st.just(b"PT1S")), max_size=5),
    st.randoms(use_true_random=False),
)


@both
@given(
    st.binary(max_size=4), st.lists(st.tuples(st.binary(max_size=20), st.none() | st.binary(max_size=40)), max_size=40)
)
def test_rows_go_in_as_if_one_by_one_until_they_do_not_fit(module: Any, prefix: bytes, rows: list[Any]) -> None:
    done, written = 0, []
    while done < len(rows):
        alike, writer = module.RecordWriter(300), module.RecordWriter(300)
        until = writer.append_rows(77, prefix, rows, done)
        assert done < until <= len(rows)
        for key, value in rows[done:until]:
            assert alike.append(77, prefix + key, value)
        assert until == len(rows) or not alike.append(77, prefix + rows[until][0], rows[until][1])
        written += [(record.key, record.value, record.timestamp) for record in read(module, writer)]
        done = until
    assert written == [(prefix + key, value, 77) for key, value in rows]


COMMON_KIND = [("ce_specversion", b"1.0"), ("ce_id", b"17"), ("ce_source", b"/a"), ("ce_type", b"t")]


@needs_compiler
@given(blocks, blocks, events)
def test_a_plain_event_is_what_parsing_finds(key: bytes | None, value: bytes | None, own: list[Any]) -> None:
    (record,) = read(compiled, filled(compiled, [(77, key, value, own)]))
    found = compiled.plain_event(record)
    if found is None:
        return
    event = parse(key, value, own, 77)
    asked = (event.delay, event.deliver_at, event.jitter, event.expiry)
    if asked == (None,) * 4:
        asked = None
    assert found == (identity(key, event.source, event.id), event.time, event.type.encode(), asked)
    assert (event.action, event.structured, event.targets) == ("write", False, None)
    assert event.key == key
    assert strip_headers(own) == own


@needs_compiler
@pytest.mark.parametrize(
    "more",
    [[], [("ce_time", b"2013-01-01T05:17:00.25Z")], [("content-type", b"application/json"), ("ce_sequence", b"1")]],
)
def test_the_common_kind_of_record_is_plain(more: list[Any]) -> None:
    own = [("ce_specversion", b"1.0"), ("ce_id", b"17"), ("ce_source", b"/a"), ("ce_type", b"t"), *more]
    (record,) = read(compiled, filled(compiled, [(77, b"key", b"value", own)]))
    assert compiled.plain_event(record) is not None


@needs_compiler
@given(moments)
def test_a_time_is_read_where_it_stands_as_it_is_read_by_parsing(text: bytes) -> None:
    own = [("ce_specversion", b"1.0"), ("ce_id", b"17"), ("ce_source", b"/a"), ("ce_type", b"t"), ("ce_time", text)]
    (record,) = read(compiled, filled(compiled, [(77, b"key", b"value", own)]))
    found = compiled.plain_event(record)
    if found is not None:
        assert found[1] == parse(b"key", b"value", own, 77).time


@needs_compiler
@pytest.mark.parametrize(
    "more",
    [
        {"ce_waldelay": b"PT10M"},
        {"ce_waldelay": b"P1W2DT3H4M5.25S", "ce_waljitter": b"PT1H"},
        {"ce_waldeliverat": b"2033-01-01T05:17:00.25Z", "ce_expirytime": b"2034-01-01T00:00:00Z"},
        {"ce_expirytime": b"1969-01-01T00:00:00Z"},
    ],
)
def test_a_record_that_asks_for_a_time_is_plain(more: dict[str, bytes]) -> None:
    own = [*COMMON_KIND, *more.items()]
    (record,) = read(compiled, filled(compiled, [(77, b"key", b"value", own)]))
    found, event = compiled.plain_event(record), parse(b"key", b"value", own, 77)
    assert found is not None and found[3] == (event.delay, event.deliver_at, event.jitter, event.expiry)


durations = st.one_of(
    st.builds(
        lambda week, day, hour, minute, second: f"P{week}{day}T{hour}{minute}{second}".removesuffix("T").encode(),
        *(st.sampled_from(["", f"7{unit}", f"1.5{unit}", f"0012345{unit}", f"99999999{unit}"]) for unit in "WDHMS"),
    ),
    st.from_regex(rb"\A-?P?T?([0-9]{0,9}([.,][0-9]{0,8})?[WDHMSY]?){0,4}T?\Z"),
)


@needs_compiler
@given(durations)
def test_a_duration_is_read_where_it_stands_as_it_is_read_by_parsing(text: bytes) -> None:
    own = [*COMMON_KIND, ("ce_waldelay", text)]
    (record,) = read(compiled, filled(compiled, [(77, b"key", b"value", own)]))
    found = compiled.plain_event(record)
    if found is not None:
        assert found[3][0] == parse(b"key", b"value", own, 77).delay


# Entries of the log


@needs_compiler
def test_an_entry_whose_record_has_no_headers_has_none() -> None:
    (record,) = read(compiled, filled(compiled, [(77, b"k", b"{}", [])]))
    writer = compiled.RecordWriter(1 << 20)
    writer.append_entry(record, 5)
    (logged,) = read(compiled, writer)
    assert list(Entry.from_record(0, logged).headers) == []


@needs_compiler
@given(blocks, blocks, events)
def test_an_entry_says_the_same_without_being_parsed(key: bytes | None, value: bytes | None, own: list[Any]) -> None:
    own = strip_headers(own)
    (record,) = read(compiled, filled(compiled, [(77, key, value, own)]))
    writer = compiled.RecordWriter(1 << 20)
    writer.append_entry(record, 5)
    (logged,) = read(compiled, writer)
    entry = Entry.from_record(0, logged)
    try:
        event = parse(key, value, own, 77)
    except RecordRefused:
        return  # a router would not have logged it
    assert (entry.type, entry.payload, entry.key, list(entry.headers)) == (event.type, event.payload, key, own)
    assert entry.is_for("any") == (event.targets is None)


@both
@given(blocks, blocks, headers.map(strip_headers), st.integers(0, 2**62), st.integers(0, 2**50))
def test_an_entry_goes_to_the_log_and_back(
    module: Any, key: bytes | None, value: bytes | None, own: list[Any], time: int, timestamp: int
) -> None:
    (record,) = read(module, filled(module, [(timestamp, key, value, own)]), base=41)
    writer = module.RecordWriter(1 << 20)
    assert writer.append_entry(record, time)
    (logged,) = read(module, writer)
    entry = Entry.from_log(3, 9, logged.key, logged.value, logged.headers, logged.timestamp)
    assert (entry.key, entry.value, list(entry.headers), entry.timestamp) == (key, value, own, timestamp)
    assert (entry.time, entry.ingress_position, entry.path) == (time, 41, b"")
    if (found := module.plain_entry(logged)) is not None:
        assert found[:4] == (time, 41, timestamp, b"")
        if found[4]:
            assert entry.is_for("any")
    writer = module.RecordWriter(1 << 20)
    assert writer.append_original(logged, timestamp)
    (original,) = read(module, writer)
    assert (original.key, original.value, original.headers, original.timestamp) == (key, value, own, timestamp)


@needs_compiler
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["walstream-version", "walstream-time", "walstream-position", "walstream-timestamp",
                             "walstream-path", "walstream-other", "ce_specversion", "ce_waltargets"]),
            st.none() | st.sampled_from([b"1", b"2", b"-5", b"", b"x", b"123456789012345678", b"+3", b" 4"]),
        ),
        max_size=8,
    )
)  # fmt: skip
def test_an_entry_that_is_read_where_it_stands_is_what_its_headers_say(own: list[Any]) -> None:
    (record,) = read(compiled, filled(compiled, [(1, b"k", b"v", own)]))
    found = compiled.plain_entry(record)
    if found is None:
        return
    try:
        entry = Entry.from_log(0, 0, b"k", b"v", own, 1)
    except RecordRefused:
        pytest.fail("parsing refuses it")
    assert found[:4] == (entry.time, entry.ingress_position, entry.timestamp, entry.path)


# Between regions

DIGITS = st.integers(-(10**18) + 1, 10**18 - 1)
KINDS = st.sampled_from([b"", b"cancel", b"scheduled"])
PATHS = st.sampled_from([b"east", b"east,north-2"])


@both
@given(blocks, blocks, headers.map(strip_headers), DIGITS, st.integers(0, 2**50), PATHS, KINDS)
def test_a_record_goes_from_one_log_to_another(
    module: Any, key: bytes | None, value: bytes | None, own: list[Any], time: int, timestamp: int, path: bytes,
    kind: bytes,
) -> None:  # fmt: skip
    on_the_log = log_headers(own, time_us=time, position=7, timestamp_ms=timestamp, path=b"far", kind=kind)
    retried = [*on_the_log[:4], ("walstream-attempt", b"3"), *on_the_log[4:]]
    for logged in (on_the_log, retried):
        (record,) = read(module, filled(module, [(1, key, value, logged)]))
        writer = module.RecordWriter(1 << 20)
        assert writer.append_sent(record, timestamp, path)
        (sent,) = read(module, writer, base=41)
        assert (sent.key, sent.value, sent.timestamp) == (key, value, timestamp)
        assert sent.headers == sent_headers(
            own, time=b"%d" % time, timestamp=b"%d" % timestamp, path=path, kind=kind
        )  # fmt: skip
        assert read_replica(sent.headers) == Replica(time, timestamp, path, kind)
        writer = module.RecordWriter(1 << 20)
        assert writer.append_received(sent)
        (there,) = read(module, writer)
        assert there.headers == log_headers(
            own, time_us=time, position=41, timestamp_ms=timestamp, path=path, kind=kind
        )  # fmt: skip
        entry = Entry.from_log(0, 0, there.key, there.value, there.headers, 0)
        assert (entry.key, entry.value, list(entry.headers), entry.timestamp) == (key, value, own, timestamp)
        assert (entry.time, entry.path, entry.kind) == (time, path, kind)


@both
def test_what_was_never_on_a_log_is_not_sent(module: Any) -> None:
    (record,) = read(module, filled(module, [(1, b"k", b"v", COMMON_KIND)]))
    writer = module.RecordWriter(1 << 20)
    with pytest.raises((ValueError, KeyError)):
        writer.append_sent(record, 1, b"east")
    with pytest.raises((ValueError, KeyError)):
        writer.append_received(record)


@both
def test_a_sent_record_that_does_not_fit_is_left_out(module: Any) -> None:
    logged = log_headers(COMMON_KIND, time_us=1, position=2, timestamp_ms=3)
    (record,) = read(module, filled(module, [(1, b"k", bytes(500), logged)]))
    writer = module.RecordWriter(1_000)
    assert writer.append_sent(record, 3, b"east")
    assert not writer.append_sent(record, 3, b"east")
    assert writer.count == 1


travelling = st.lists(
    st.tuples(
        st.sampled_from(["walstream-version", "walstream-time", "walstream-timestamp", "walstream-path",
                         "walstream-kind", "walstream-position"]),
        st.none() | st.sampled_from([b"1", b"-5", b"", b"x", b"12", b"east"]),
    ),
    max_size=6,
)  # fmt: skip
ordinary = st.permutations([
    ("walstream-version", b"1"), ("walstream-time", b"12"), ("walstream-timestamp", b"-5"), ("walstream-path", b"east"),
])  # fmt: skip


@needs_compiler
@given(blocks, travelling | ordinary | st.tuples(ordinary, travelling).map(lambda two: [*two[0], *two[1]]), events)
def test_what_another_region_sent_is_read_where_it_stands_as_it_is_read_by_parsing(
    key: bytes | None, ours: list[Any], own: list[Any]
) -> None:
    (record,) = read(compiled, filled(compiled, [(77, key, b"v", [*ours, *own])]))
    found = compiled.plain_replica(record)
    if found is None:
        return
    event = parse(key, b"v", record.headers, 77)
    assert event.action == "write" and not event.structured and event.headers == own
    assert found[0] == identity(event.key, event.source, event.id)
    assert read_replica(record.headers) == Replica(*found[1:])


@needs_compiler
def test_the_common_kind_is_read_where_it_stands() -> None:
    headers = sent_headers(COMMON_KIND, time=b"12", timestamp=b"5", path=b"east,north")
    (record,) = read(compiled, filled(compiled, [(77, b"key", b"v", headers)]))
    found = compiled.plain_replica(record)
    assert found is not None and found[1:] == (12, 5, b"east,north")
    assert compiled.plain_event(record) is None


@both
@given(st.none() | st.binary(max_size=40), st.integers(1, 10_000))
def test_a_key_has_the_same_partition_everywhere(module: Any, key: bytes | None, partitions: int) -> None:
    (record,) = read(module, filled(module, [(1, key, b"v", [])]))
    assert module.partition_of(record, partitions) == (-1 if key is None else partition_for(key, partitions))
